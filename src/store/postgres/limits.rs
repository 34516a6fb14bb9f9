//! Limits of a fleet in PostgreSQL: decided in this process, written if no other process wrote meanwhile.
//!
//! | step | statement |
//! |---|---|
//! | 1 | one `SELECT` reads the records of all keys of a call, with their versions and the server's time |
//! | 2 | this process decides, and encodes what it changed |
//! | 3 | one function locks the rows in the order of their names, and writes each set of groups whose versions are unchanged |
//! | 4 | groups of the other sets are decided again, until shortly before the deadline; then they are refused |
//!
//! Contention never admits. Writes wait for the disk: a crash of the server forgives nothing that it has acknowledged. Nodes
//! lease blocks of hot keys, which then need neither reads nor writes.

mod evaluation;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::Type;

use super::connect::{Link, column};
use super::guarded::into_fault;
use super::schema::Statements;
use super::settings::Postgres;
use crate::base::clock::{Timestamp, nanos, runtime_now};
use crate::base::error::Error;
use crate::base::random::random;
use crate::resilience::guard::Fault;
use crate::store::remote_limits::backend::{CallReply, LimitBackend, PublishedRecords, max_records};
use crate::store::remote_limits::engine::LimitEngine;
use crate::store::remote_limits::group::{CheckGroup, GroupResult};
use crate::store::remote_limits::handle::RemoteLimits;
use evaluation::{ChangedRecord, Records, Sets, contended};

/// Number of calls after which rows of idle keys are removed.
const SWEEP_EVERY: u32 = 256;
/// Time for which rows stay where a test turns the clock: the server's does not pass with it.
const TURNED_CLOCK: Duration = Duration::from_secs(3_600);

impl RemoteLimits {
    /// Creates a limit store in PostgreSQL; connects on first use, and does not fail while the server is down. Nodes lease
    /// blocks of hot keys: the limit is never exceeded, and up to a quarter of the remaining units may temporarily be held by
    /// nodes that do not need them.
    ///
    /// # Errors
    /// If a setting is invalid.
    ///
    /// # Examples
    /// ```
    /// use std::sync::Arc;
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    /// use tollgate::store::RemoteLimits;
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(100)))
    ///     .store(Arc::new(RemoteLimits::postgres(&Postgres::new("postgres://127.0.0.1")?)?))
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn postgres(postgres: &Postgres) -> Result<Self, Error> {
        postgres.check()?;
        let (guard, secret) = postgres.guard("postgres limits");
        Ok(Self::new(LimitEngine::new(PostgresRows::new(postgres), guard, secret, true, postgres.time.clone())))
    }
}

/// Limits as rows.
struct PostgresRows {
    statements: Arc<Statements>,
    calls: AtomicU32,
}

impl LimitBackend for PostgresRows {
    type Connection = Arc<Link>;

    // Concurrent calls of one process would only contend.
    const WORKERS: usize = 1;
    const SHARES_RECORDS: bool = true;

    async fn publish(
        &self,
        link: Arc<Link>,
        (name, record): (u64, Vec<u8>),
        ttl: Duration,
        now: Option<u64>,
    ) -> Result<u64, Fault> {
        let (name, ttl, most) = (name.cast_signed(), (nanos(ttl) / 1_000).cast_signed(), max_records(&record) as i64);
        let now = now.map(u64::cast_signed);
        let parameters = [
            (&name as _, Type::INT8),
            (&record as _, Type::BYTEA),
            (&ttl as _, Type::INT8),
            (&now as _, Type::INT8),
            (&most as _, Type::INT8),
        ];
        let row = link.query_one(&self.statements.publish_override, &parameters).await.map_err(into_fault)?;
        Ok(column::<i64>(&row, 0).map_err(into_fault)?.unsigned_abs())
    }

    async fn published(&self, link: Arc<Link>, known: u64, now: Option<u64>) -> Result<PublishedRecords, Fault> {
        let (known, now) = (known.cast_signed(), now.map(u64::cast_signed));
        let parameters = [(&known as _, Type::INT8), (&now as _, Type::INT8)];
        let rows = link.query(&self.statements.overrides, &parameters).await.map_err(into_fault)?;
        let (mut version, mut records) = (0, Vec::new());
        for row in &rows {
            version = column::<i64>(row, 0).map_err(into_fault)?.unsigned_abs();
            // The first row is there for the version alone.
            if let Some(name) = column::<Option<i64>>(row, 1).map_err(into_fault)? {
                let left: i64 = column(row, 3).map_err(into_fault)?;
                let record = column(row, 2).map_err(into_fault)?;
                records.push((name.cast_unsigned(), record, Duration::from_micros(left.unsigned_abs())));
            }
        }
        Ok((version, records))
    }

    async fn call(
        &self,
        link: Arc<Link>,
        groups: &[&CheckGroup],
        now: Option<u64>,
        by: Instant,
    ) -> Result<CallReply, Fault> {
        self.sweep_seldom(&link);
        let mut results: Vec<Option<GroupResult>> = groups.iter().map(|_| None).collect();
        let mut undecided: Vec<usize> = (0..groups.len()).collect();
        loop {
            let began = runtime_now();
            let asked: Vec<&CheckGroup> = undecided.iter().map(|at| groups[*at]).collect();
            let sets = Sets::of(&asked);
            let (mut records, at) = self.read(&link, &sets, now).await?;
            let time = Timestamp::from_nanos(at.saturating_mul(1_000));
            let decided: Vec<GroupResult> = asked.iter().map(|group| records.evaluate(group, time)).collect();
            let stale = self.write(&link, records.into_changes(&sets, time), now.is_some()).await?;
            let mut left = Vec::new();
            for ((index, group), result) in undecided.into_iter().zip(asked).zip(decided) {
                match stale.contains(&sets.of_group(group)) {
                    true => left.push(index),
                    false => results[index] = Some(result),
                }
            }
            let is_late = runtime_now() + 2 * (runtime_now() - began) > by;
            if left.is_empty() || is_late {
                let result =
                    |(result, group): (Option<GroupResult>, &&CheckGroup)| result.unwrap_or_else(|| contended(group));
                return Ok((at, results.into_iter().zip(groups).map(result).collect()));
            }
            undecided = left;
        }
    }
}

impl PostgresRows {
    fn new(postgres: &Postgres) -> Self {
        Self { statements: Arc::new(Statements::new(&postgres.schema)), calls: AtomicU32::new(0) }
    }

    /// Reads the records of all keys, and the server's time in microseconds.
    async fn read(&self, link: &Link, sets: &Sets, now: Option<u64>) -> Result<(Records, u64), Fault> {
        let names: Vec<i64> = sets.keys().map(u64::cast_signed).collect();
        let rows = link.query(&self.statements.limits, &[(&names, Type::INT8_ARRAY)]).await.map_err(into_fault)?;
        let (mut records, mut at) = (Records::default(), 0);
        for row in &rows {
            at = column::<i64>(row, 0).map_err(into_fault)?.unsigned_abs();
            // The first row is there for the time alone.
            if let Some(name) = column::<Option<i64>>(row, 1).map_err(into_fault)? {
                let (bytes, version) = (column(row, 2).map_err(into_fault)?, column(row, 3).map_err(into_fault)?);
                records.read(name.cast_unsigned(), bytes, version);
            }
        }
        Ok((records, now.unwrap_or(at)))
    }

    /// Writes records whose version is unchanged; returns the sets that were not written.
    async fn write(&self, link: &Link, changes: Vec<ChangedRecord>, is_turned: bool) -> Result<HashSet<usize>, Fault> {
        if changes.is_empty() {
            return Ok(HashSet::new());
        }
        let names: Vec<i64> = changes.iter().map(|change| change.key.cast_signed()).collect();
        let sets: Vec<i32> = changes.iter().map(|change| change.set as i32).collect();
        let states: Vec<&[u8]> = changes.iter().map(|change| &change.bytes[..]).collect();
        let seen: Vec<i64> = changes.iter().map(|change| change.version).collect();
        let written: Vec<i64> = changes.iter().map(|_| version()).collect();
        let grace = if is_turned { TURNED_CLOCK } else { Duration::ZERO };
        let micros = |change: &ChangedRecord| (nanos(change.ttl.saturating_add(grace)) / 1_000).cast_signed();
        let ttls: Vec<i64> = changes.iter().map(micros).collect();
        let parameters = [
            (&names as _, Type::INT8_ARRAY),
            (&sets as _, Type::INT4_ARRAY),
            (&states as _, Type::BYTEA_ARRAY),
            (&seen as _, Type::INT8_ARRAY),
            (&written as _, Type::INT8_ARRAY),
            (&ttls as _, Type::INT8_ARRAY),
        ];
        let row = link.query_one(&self.statements.write_limits, &parameters).await.map_err(into_fault)?;
        let stale: Vec<i32> = column(&row, 0).map_err(into_fault)?;
        Ok(stale.into_iter().map(|set| set as usize).collect())
    }

    /// Removes rows of idle keys, once in a while and in the background.
    fn sweep_seldom(&self, link: &Arc<Link>) {
        if self.calls.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY != SWEEP_EVERY - 1 {
            return;
        }
        let (link, statements) = (link.clone(), self.statements.clone());
        tokio::spawn(async move {
            // If it fails, the next one removes them.
            drop(link.query(&statements.sweep_limits, &[]).await);
        });
    }
}

/// Returns a version that no row has had: rows may be removed and made anew between a read and a write.
fn version() -> i64 {
    (random() >> 1).cast_signed().max(1)
}

#[cfg(test)]
mod tests;
