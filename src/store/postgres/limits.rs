//! Limits of a fleet in PostgreSQL: decided in this process, under locks of the rows.
//!
//! | step | in one transaction |
//! |---|---|
//! | 1 | locks the rows of all keys of a call, in the order of their names, and reads them |
//! | 2 | this process decides, with the engine of the limits in memory |
//! | 3 | writes what changed, and commits |
//!
//! Steps 1 and 3 are a round trip each. Processes that wait for a row get it in the order in which they asked; one that did not
//! get it by its deadline refuses, and never admits. A process that hangs within a transaction loses its session after a second.
//! Nodes lease blocks of hot keys, which then need no transaction.
//!
//! Commits do not wait for the disk, or all who wait for a key would wait for it in turn: a crash of the server loses at most
//! the last second. Each process still binds by what it decided itself.

mod evaluation;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::connect::{Link, Parameter, column};
use super::schema::Statements;
use super::settings::Postgres;
use crate::base::clock::{Timestamp, nanos, runtime_now};
use crate::base::error::Error;
use crate::resilience::guard::Fault;
use crate::store::remote_limits::backend::{CallReply, LimitBackend, PublishedRecords, max_records};
use crate::store::remote_limits::engine::LimitEngine;
use crate::store::remote_limits::group::CheckGroup;
use crate::store::remote_limits::handle::RemoteLimits;
use evaluation::{ChangedRecord, Records, contended};

/// Number of calls after which rows of idle keys are removed.
const SWEEP_EVERY: u32 = 256;
/// Locks no row: the first call of a session takes longer than a decision may.
const WARM_UP: &str = "SELECT {schema}.tollgate_lock_limits('{}')";
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
        let (guard, secret) = postgres.guard("postgres limits", WARM_UP);
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

    // Concurrent calls of one process would only wait for one another.
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
        let _turn = link.turn().await;
        let row = link.query_one(&self.statements.publish_override, &parameters).await.map_err(Fault::from)?;
        Ok(column::<i64>(&row, 0).map_err(Fault::from)?.unsigned_abs())
    }

    async fn published(&self, link: Arc<Link>, known: u64, now: Option<u64>) -> Result<PublishedRecords, Fault> {
        let (known, now) = (known.cast_signed(), now.map(u64::cast_signed));
        let parameters = [(&known as _, Type::INT8), (&now as _, Type::INT8)];
        let _turn = link.turn().await;
        let rows = link.query(&self.statements.overrides, &parameters).await.map_err(Fault::from)?;
        let (mut version, mut records) = (0, Vec::new());
        for row in &rows {
            version = column::<i64>(row, 0).map_err(Fault::from)?.unsigned_abs();
            // The first row is there for the version alone.
            if let Some(name) = column::<Option<i64>>(row, 1).map_err(Fault::from)? {
                let left: i64 = column(row, 3).map_err(Fault::from)?;
                let record = column(row, 2).map_err(Fault::from)?;
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
        let groups: Vec<CheckGroup> = groups.iter().map(|group| (*group).clone()).collect();
        let transaction = Transaction { link, statements: self.statements.clone(), now, by };
        // A task: a caller that leaves would leave its transaction open.
        let decided = tokio::spawn(async move { transaction.decide(&groups).await });
        decided.await.unwrap_or_else(|error| Err(Fault::Lost(Error::disconnected(error))))
    }
}

/// One transaction of a process.
struct Transaction {
    link: Arc<Link>,
    statements: Arc<Statements>,
    now: Option<u64>,
    by: Instant,
}

impl Transaction {
    async fn decide(&self, groups: &[CheckGroup]) -> Result<CallReply, Fault> {
        let _turn = self.link.turn().await;
        let names: Vec<i64> = evaluation::keys(groups).into_iter().map(u64::cast_signed).collect();
        let names: [Parameter<'_>; 1] = [(&names, Type::INT8_ARRAY)];
        let begin = begin(self.by.saturating_duration_since(runtime_now()));
        let (begun, locked) =
            join(self.link.batch(&begin), self.link.query(&self.statements.lock_limits, &names)).await;
        begun.map_err(Fault::from)?;
        let rows = match locked {
            Ok(rows) => rows,
            Err(error) => return self.give_up(groups, error).await,
        };
        let (mut records, mut at) = (Records::default(), 0);
        for row in &rows {
            at = column::<i64>(row, 0).map_err(Fault::from)?.unsigned_abs();
            let name: i64 = column(row, 1).map_err(Fault::from)?;
            records.read(name.cast_unsigned(), column(row, 2).map_err(Fault::from)?);
        }
        let at = self.now.unwrap_or(at);
        let time = Timestamp::from_nanos(at.saturating_mul(1_000));
        let results = groups.iter().map(|group| records.evaluate(group, time)).collect();
        self.end(&records.into_changes(time)).await.map_err(Fault::from)?;
        Ok((at, results))
    }

    /// Refuses if other processes held the rows for too long.
    async fn give_up(&self, groups: &[CheckGroup], error: Error) -> Result<CallReply, Fault> {
        self.link.batch("ROLLBACK").await.map_err(Fault::from)?;
        match is_lock_timeout(&error) {
            true => Ok((self.now.unwrap_or_default(), groups.iter().map(contended).collect())),
            false => Err(Fault::from(error)),
        }
    }

    /// Writes what changed, and ends the transaction.
    async fn end(&self, changes: &[ChangedRecord]) -> Result<(), Error> {
        if changes.is_empty() {
            return self.link.batch("ROLLBACK").await;
        }
        let names: Vec<i64> = changes.iter().map(|change| change.key.cast_signed()).collect();
        let states: Vec<&[u8]> = changes.iter().map(|change| &change.bytes[..]).collect();
        let grace = if self.now.is_some() { TURNED_CLOCK } else { Duration::ZERO };
        let micros = |change: &ChangedRecord| (nanos(change.ttl.saturating_add(grace)) / 1_000).cast_signed();
        let ttls: Vec<i64> = changes.iter().map(micros).collect();
        let parameters: [Parameter<'_>; 3] =
            [(&names, Type::INT8_ARRAY), (&states, Type::BYTEA_ARRAY), (&ttls, Type::INT8_ARRAY)];
        let written = self.link.query(&self.statements.write_limits, &parameters);
        let (written, committed) = join(written, self.link.batch("COMMIT")).await;
        written.map(drop).and(committed)
    }
}

/// Returns the statements that begin a transaction whose locks are waited for no longer than this.
fn begin(wait: Duration) -> String {
    let wait = wait.as_millis().max(1);
    format!(
        "BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = {wait}; \
         SET LOCAL idle_in_transaction_session_timeout = 1000"
    )
}

fn is_lock_timeout(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
    source.and_then(tokio_postgres::Error::code) == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

impl PostgresRows {
    fn new(postgres: &Postgres) -> Self {
        Self { statements: Arc::new(Statements::new(&postgres.schema)), calls: AtomicU32::new(0) }
    }

    /// Removes rows of idle keys, once in a while and in the background.
    fn sweep_seldom(&self, link: &Arc<Link>) {
        if self.calls.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY != SWEEP_EVERY - 1 {
            return;
        }
        let (link, statements) = (link.clone(), self.statements.clone());
        tokio::spawn(async move {
            let _turn = link.turn().await;
            // If it fails, the next one removes them.
            drop(link.query(&statements.sweep_limits, &[]).await);
        });
    }
}

#[cfg(test)]
mod tests;
