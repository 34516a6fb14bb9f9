//! [`Sweeper`]: removal of expired rows, and the bound, paced by the puts of this process.
//!
//! A put is admitted if the bytes that were counted last, and those admitted since, leave room for it: the sum is never too
//! low, but for what other processes have put since.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::types::Type;

use super::connect::{Link, column};
use super::schema::Statements;
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::cache::LevelStats;
use crate::store::remote::LocalEngine;

/// Number of puts between two sweeps.
const PUTS_PER_SWEEP: u64 = 128;
/// Part of the bound that a sweep leaves free at least.
const ROOM_PARTS: u64 = 16;
/// The same where the bound is small, up to a quarter of it: puts go on while the next sweep runs.
const MIN_ROOM: u64 = 512 << 10;

/// Removes what has expired or exceeds the bound. Each statement removes at most a thousand rows.
#[derive(Debug)]
pub(super) struct Sweeper {
    account: Mutex<Account>,
    running: AtomicBool,
}

/// Bytes of all values, as far as this process knows.
#[derive(Debug)]
struct Account {
    max_bytes: u64,
    /// Least room after a sweep.
    room: u64,
    /// The bytes that were counted last; `None` before.
    counted: Option<u64>,
    /// Bytes admitted that the count may have missed.
    since: u64,
    /// The part of these whose put has not ended.
    pending: u64,
    puts: u64,
}

/// Kind of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// Removes expired rows.
    Expired,
    /// Counts the bytes too, and evicts beyond the bound.
    Bound,
}

impl Account {
    fn new(max_bytes: u64) -> Self {
        let room = (max_bytes / ROOM_PARTS).max(MIN_ROOM.min(max_bytes / 4));
        Self { max_bytes, room, counted: None, since: 0, pending: 0, puts: 0 }
    }

    /// Admits a put if there is room for it; before the first count, as after a sweep.
    fn admit(&mut self, bytes: u64) -> bool {
        let counted = self.counted.unwrap_or(self.max_bytes - self.room);
        let is_admitted = counted.saturating_add(self.since).saturating_add(bytes) <= self.max_bytes;
        if is_admitted {
            self.since += bytes;
            self.pending += bytes;
        }
        is_admitted
    }

    /// Returns the sweep that is due after a put.
    fn due(&mut self, is_admitted: bool) -> Option<Sweep> {
        self.puts += 1;
        if !is_admitted || self.counted.is_none() || self.since >= self.room / 2 {
            return Some(Sweep::Bound);
        }
        self.puts.is_multiple_of(PUTS_PER_SWEEP).then_some(Sweep::Expired)
    }

    /// Returns the bytes whose puts have ended: a count that begins now has them.
    const fn visible(&self) -> u64 {
        self.since - self.pending
    }

    /// Notes a count that began when these bytes were visible; returns the excess.
    fn count(&mut self, live: u64, visible: u64) -> u64 {
        self.counted = Some(live);
        self.since -= visible;
        match live > self.max_bytes - self.room {
            // Twice the room: a sweep for each few puts would count for ever.
            true => live - (self.max_bytes - 2 * self.room),
            false => 0,
        }
    }

    fn evicted(&mut self, bytes: u64) {
        self.counted = self.counted.map(|counted| counted.saturating_sub(bytes));
    }
}

/// Put in progress, for which there is room.
pub(super) struct AdmittedPut {
    sweeper: Arc<Sweeper>,
    bytes: u64,
}

impl Drop for AdmittedPut {
    fn drop(&mut self) {
        self.sweeper.account.lock().pending -= self.bytes;
    }
}

impl Sweeper {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { account: Mutex::new(Account::new(max_bytes)), running: AtomicBool::new(false) }
    }

    /// Admits a put of so many bytes; `None` if it would exceed the bound.
    pub(super) fn admit(self: &Arc<Self>, bytes: usize) -> Option<AdmittedPut> {
        let bytes = bytes as u64;
        self.account.lock().admit(bytes).then(|| AdmittedPut { sweeper: self.clone(), bytes })
    }

    /// Sweeps in the background if it is time, after a put that was admitted or not.
    pub(super) fn after_put(self: &Arc<Self>, is_admitted: bool, link: &Arc<Link>, statements: &Arc<Statements>) {
        let Some(due) = self.account.lock().due(is_admitted) else { return };
        if self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let (running, link, statements) = (SweepRun(self.clone()), link.clone(), statements.clone());
        tokio::spawn(async move {
            // An error is that of the connection, which the next call reports.
            let _ = running.0.sweep(&link, &statements, due).await;
        });
    }

    async fn sweep(&self, link: &Link, statements: &Statements, due: Sweep) -> Result<(), Error> {
        while column::<i64>(&link.query_one(&statements.sweep, &[]).await?, 0)? >= 1_000 {}
        if due == Sweep::Expired {
            return Ok(());
        }
        let visible = self.account.lock().visible();
        let live = column::<i64>(&link.query_one(&statements.live_bytes, &[]).await?, 0)?;
        let mut excess = self.account.lock().count(live.unsigned_abs(), visible).cast_signed();
        while excess > 0 {
            let row = link.query_one(&statements.evict, &[(&excess, Type::INT8)]).await?;
            if column::<i64>(&row, 0)? == 0 {
                break;
            }
            let evicted = column::<i64>(&row, 1)?;
            self.account.lock().evicted(evicted.unsigned_abs());
            excess = excess.saturating_sub(evicted);
        }
        Ok(())
    }
}

impl LocalEngine for Sweeper {
    fn report(&self, stats: &mut LevelStats) {
        let account = self.account.lock();
        stats.capacity_bytes = account.max_bytes;
        stats.bytes = account.counted.unwrap_or(0);
    }
}

/// Sweep that is running; ends with its task, also if its runtime ends first.
struct SweepRun(Arc<Sweeper>);

impl Drop for SweepRun {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_never_exceed_the_bound_whatever_a_count_misses() {
        let mut account = Account::new(64 << 20);
        let room = 4 << 20;
        assert!(account.admit(room) && !account.admit(1), "unknown: as after a sweep");
        assert_eq!(account.due(false), Some(Sweep::Bound));
        // Half of it has ended when the count begins; the rest is not in it, nor what comes meanwhile.
        account.pending = room / 2;
        let visible = account.visible();
        assert_eq!(account.count(10 << 20, visible), 0);
        assert!(account.admit((54 << 20) - room / 2) && !account.admit(1));
        let visible = account.visible();
        assert_eq!(account.count(62 << 20, visible), 6 << 20, "twice the room below the bound");
        account.evicted(6 << 20);
        account.since = 0;
        assert!(account.admit(8 << 20) && !account.admit(1));
    }

    #[test]
    fn a_sweep_is_due_before_the_room_is_used() {
        let mut account = Account::new(1 << 20);
        assert_eq!(account.room, 256 << 10, "a quarter of a small bound");
        account.count(0, 0);
        let due: Vec<_> = (0..256).filter_map(|_| (account.admit(0), account.due(true)).1).collect();
        assert_eq!(due, [Sweep::Expired; 2]);
        assert!(account.admit(128 << 10));
        assert_eq!(account.due(true), Some(Sweep::Bound));
    }
}
