//! [`Sweeper`]: removal of expired rows, and the bound, paced by the puts of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio_postgres::types::Type;

use super::connect::{Link, column};
use super::schema::Statements;
use crate::base::error::Error;
use crate::cache::LevelStats;
use crate::store::remote::LocalEngine;

/// Number of puts between two sweeps.
const PUTS_PER_SWEEP: u64 = 128;
/// Part of the bound that is written between two counts of the bytes.
const PARTS: u64 = 32;

/// Removes what has expired or exceeds the bound. Each statement removes at most a thousand rows.
#[derive(Debug)]
pub(super) struct Sweeper {
    max_bytes: u64,
    puts: AtomicU64,
    /// Bytes written since they were counted; the first put counts.
    written: AtomicU64,
    /// Bytes of all values when they were counted; 0 before.
    live: AtomicU64,
    running: AtomicBool,
}

impl Sweeper {
    pub(super) const fn new(max_bytes: u64) -> Self {
        let (puts, written, live) = (AtomicU64::new(0), AtomicU64::new(max_bytes), AtomicU64::new(0));
        Self { max_bytes, puts, written, live, running: AtomicBool::new(false) }
    }

    /// Notes a put; sweeps in the background if it is time.
    pub(super) fn wrote(self: &Arc<Self>, bytes: usize, link: &Arc<Link>, statements: &Arc<Statements>) {
        let puts = self.puts.fetch_add(1, Ordering::Relaxed) + 1;
        let written = self.written.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let counts = written >= self.max_bytes / PARTS;
        if !(counts || puts.is_multiple_of(PUTS_PER_SWEEP)) || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        if counts {
            self.written.store(0, Ordering::Relaxed);
        }
        let (running, link, statements) = (SweepRun(self.clone()), link.clone(), statements.clone());
        tokio::spawn(async move {
            // An error is that of the connection, which the next call reports.
            let _ = running.0.sweep(&link, &statements, counts).await;
        });
    }

    async fn sweep(&self, link: &Link, statements: &Statements, counts: bool) -> Result<(), Error> {
        while column::<i64>(&link.query_one(&statements.sweep, &[]).await?, 0)? >= 1_000 {}
        if !counts {
            return Ok(());
        }
        let live = column::<i64>(&link.query_one(&statements.live_bytes, &[]).await?, 0)?;
        self.live.store(u64::try_from(live).unwrap_or(0), Ordering::Relaxed);
        let mut excess = live.saturating_sub(i64::try_from(self.max_bytes).unwrap_or(i64::MAX));
        if excess > 0 {
            // Room for what is written until the next count.
            excess = excess.saturating_add(i64::try_from(self.max_bytes / PARTS).unwrap_or(i64::MAX));
        }
        while excess > 0 {
            let row = link.query_one(&statements.evict, &[(&excess, Type::INT8)]).await?;
            if column::<i64>(&row, 0)? == 0 {
                break;
            }
            excess = excess.saturating_sub(column::<i64>(&row, 1)?);
        }
        Ok(())
    }
}

impl LocalEngine for Sweeper {
    fn report(&self, stats: &mut LevelStats) {
        stats.capacity_bytes = self.max_bytes;
        stats.bytes = self.live.load(Ordering::Relaxed).min(self.max_bytes);
    }
}

/// Sweep that is running; ends with its task, also if its runtime ends first.
struct SweepRun(Arc<Sweeper>);

impl Drop for SweepRun {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}
