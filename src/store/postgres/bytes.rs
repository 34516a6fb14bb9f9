//! PostgreSQL as a [`ByteStore`].
//!
//! | operation | statement |
//! |---|---|
//! | look-up | one `SELECT`, of a function whose plan the session keeps |
//! | storing | one upsert, whose `WHERE` compares the order of the fetches; without room, a `DELETE` of what it would replace |
//! | removal | one `DELETE` |
//! | lease | one upsert, whose `WHERE` compares the token and the end; in one statement with a look-up |
//! | scan | pages by name |
//!
//! Look-ups and leases, puts, and the log have a connection each: a large value delays no look-up.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connect::{Link, Parameter, column};
use super::description::Description;
use super::schema::Statements;
use super::settings::Postgres;
use super::sweep::Sweeper;
use crate::base::clock::nanos;
use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::engine::codec::FetchOrder;
use crate::cache::{ByteLog, ByteStore, GetOrClaim, Lease, LeaseState, ScanPage};
use crate::store::remote::RemoteStore;

impl RemoteStore {
    /// Creates a cache store in a PostgreSQL shared by a fleet, to be used behind a local memory; connects in the background.
    /// [`TollgateBuilder::postgres`](crate::TollgateBuilder::postgres) configures one; manually, for a layer or typed values:
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tollgate::cache::CacheLayer;
    /// use tollgate::store::RemoteStore;
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let postgres = RemoteStore::postgres(Postgres::new("postgres://127.0.0.1")?)?;
    /// let layer = CacheLayer::builder().level_2(Arc::new(postgres)).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    ///
    /// # Errors
    /// If a setting is invalid: see [`Postgres`].
    pub fn postgres(postgres: Postgres) -> Result<Self, Error> {
        postgres.check()?;
        let settings = postgres.remote_settings();
        let shared = Shared::new(&postgres);
        let sweeper = shared.sweeper.clone();
        let dial = move || -> BoxFuture<Result<Arc<dyn ByteStore>, Error>> {
            let (postgres, shared) = (postgres.clone(), shared.clone());
            Box::pin(async move {
                let store: Arc<dyn ByteStore> = Arc::new(PostgresBytes::open(postgres, shared).await?);
                Ok(store)
            })
        };
        Ok(Self::dialled(dial, true, settings)?.over(sweeper))
    }
}

/// Parts that the connections of a store share.
#[derive(Clone)]
struct Shared {
    statements: Arc<Statements>,
    sweeper: Arc<Sweeper>,
}

impl Shared {
    fn new(postgres: &Postgres) -> Self {
        let statements = Arc::new(Statements::new(&postgres.schema));
        Self { statements, sweeper: Arc::new(Sweeper::new(postgres.max_bytes)) }
    }
}

/// Byte store with a log over three connections to PostgreSQL.
#[derive(Clone)]
pub(super) struct PostgresBytes {
    pub(super) postgres: Postgres,
    pub(super) statements: Arc<Statements>,
    /// Look-ups and leases.
    reads: Arc<Link>,
    /// Puts, removals and sweeps.
    writes: Arc<Link>,
    /// The log.
    pub(super) log: Arc<Link>,
    sweeper: Arc<Sweeper>,
}

impl Postgres {
    /// Connects without what [`RemoteStore::postgres`] adds: encoding, names, deadlines, reconnection. Creates the tables if
    /// they are missing.
    ///
    /// # Errors
    /// If a setting is invalid, the server is unavailable, or tables are missing that the role may not create.
    ///
    /// # Examples
    /// ```no_run
    /// use tollgate::cache::ByteStore;
    /// use tollgate::store::postgres::Postgres;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let bytes = Postgres::new("postgres://127.0.0.1")?.connect().await?;
    /// assert_eq!(bytes.get_many(vec!["missing".to_owned()]).await?, [None]);
    /// # Ok(()) }
    /// ```
    pub async fn connect(self) -> Result<impl ByteStore + fmt::Debug, Error> {
        self.check()?;
        let shared = Shared::new(&self);
        PostgresBytes::open(self, shared).await
    }
}

impl PostgresBytes {
    /// Connects; creates the tables if they are missing.
    async fn open(postgres: Postgres, shared: Shared) -> Result<Self, Error> {
        let Shared { statements, sweeper } = shared;
        let open = || Link::open(&postgres.address, None);
        // One at first: a server that hangs later answers each attempt that was made meanwhile.
        let log = open().await?;
        postgres.ensure_tables(&log, &statements).await?;
        let (reads, writes) = try_join(open(), open()).await?;
        Ok(Self { postgres, statements, reads, writes, log, sweeper })
    }
}

impl fmt::Debug for PostgresBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBytes").field("postgres", &self.postgres).finish_non_exhaustive()
    }
}

/// Runs statements on a connection.
pub(super) fn run<T, F, Fut>(link: &Arc<Link>, statements: &Arc<Statements>, call: F) -> BoxFuture<Result<T, Error>>
where
    F: FnOnce(Arc<Link>, Arc<Statements>) -> Fut,
    Fut: Future<Output = Result<T, Error>> + Send + 'static,
{
    Box::pin(call(link.clone(), statements.clone()))
}

impl ByteStore for PostgresBytes {
    fn get_many(&self, names: Vec<String>) -> BoxFuture<Result<Vec<Option<Bytes>>, Error>> {
        run(&self.reads, &self.statements, async move |link: Arc<Link>, statements: Arc<Statements>| {
            if let [name] = &names[..] {
                let row = link.query_one(&statements.get, &[(name, Type::TEXT)]).await?;
                return Ok(vec![column::<Option<&[u8]>>(&row, 0)?.map(Bytes::copy_from_slice)]);
            }
            let rows = link.query(&statements.get_many, &[(&names, Type::TEXT_ARRAY)]).await?;
            let found: HashMap<&str, Bytes> =
                rows.iter().map(|row| Ok((column(row, 0)?, value(row, 1)?))).collect::<Result<_, Error>>()?;
            // Each in an allocation of its own, even if a name is asked for twice.
            let copy = |name: &String| found.get(&**name).map(|value| Bytes::copy_from_slice(value));
            Ok(names.iter().map(copy).collect())
        })
    }

    fn put(&self, name: String, value: Bytes, ttl: Duration) -> BoxFuture<Result<bool, Error>> {
        let sweeper = self.sweeper.clone();
        run(&self.writes, &self.statements, async move |link: Arc<Link>, statements: Arc<Statements>| {
            let Some(_admitted) = sweeper.admit(value.len()) else {
                // As if evicted at once, with what it would have replaced.
                link.query(&statements.discard, &[(&name, Type::TEXT)]).await?;
                sweeper.after_put(false, &link, &statements);
                return Ok(true);
            };
            let (format, order, shown) = (format(&value), FetchOrder::of(&value), Description::of(&value));
            let (started_at, position) = (signed(order.started_at), signed(order.position));
            let (bytes, ttl) = (&value[..], micros(ttl));
            let parameters: [Parameter<'_>; 12] = [
                (&name, Type::TEXT),
                (&bytes, Type::BYTEA),
                (&format, Type::INT4),
                (&started_at, Type::INT8),
                (&position, Type::INT8),
                (&ttl, Type::INT8),
                (&shown.namespace, Type::TEXT),
                (&shown.url, Type::TEXT),
                (&shown.status, Type::INT2),
                (&shown.content_type, Type::TEXT),
                (&shown.fresh_until, Type::FLOAT8),
                (&shown.body_start, Type::INT4),
            ];
            let stored = !link.query(&statements.put, &parameters).await?.is_empty();
            sweeper.after_put(true, &link, &statements);
            Ok(stored)
        })
    }

    fn remove(&self, names: Vec<String>) -> BoxFuture<Result<u64, Error>> {
        run(&self.writes, &self.statements, async move |link: Arc<Link>, statements: Arc<Statements>| {
            let row = link.query_one(&statements.remove, &[(&names, Type::TEXT_ARRAY)]).await?;
            Ok(column::<i64>(&row, 0)?.unsigned_abs())
        })
    }

    fn claim(&self, lease: Lease<String>) -> BoxFuture<Result<LeaseState, Error>> {
        run(&self.reads, &self.statements, async move |link: Arc<Link>, statements: Arc<Statements>| {
            let (token, ttl) = (lease.token.cast_signed(), micros(lease.ttl));
            let parameters = [(&lease.name as _, Type::TEXT), (&token as _, Type::INT8), (&ttl as _, Type::INT8)];
            lease_state(&link.query_one(&statements.claim, &parameters).await?, 0)
        })
    }

    fn release(&self, lease: Lease<String>, uncacheable: Option<Duration>) -> BoxFuture<Result<(), Error>> {
        // On the connection of puts: what was put before is visible when the lease is free.
        run(&self.writes, &self.statements, async move |link: Arc<Link>, statements: Arc<Statements>| {
            let token = lease.token.cast_signed();
            let held = [(&lease.name as _, Type::TEXT), (&token as _, Type::INT8)];
            let Some(span) = uncacheable else { return link.query(&statements.release, &held).await.map(drop) };
            let [name, token] = held;
            let parameters = [name, token, (&micros(span) as _, Type::INT8)];
            link.query(&statements.release_uncacheable, &parameters).await.map(drop)
        })
    }

    fn get_or_claim(&self, name: String, lease: Lease<String>) -> BoxFuture<Result<GetOrClaim<Bytes>, Error>> {
        run(&self.reads, &self.statements, async move |link: Arc<Link>, statements: Arc<Statements>| {
            let (token, ttl) = (lease.token.cast_signed(), micros(lease.ttl));
            let parameters = [
                (&lease.name as _, Type::TEXT),
                (&token as _, Type::INT8),
                (&ttl as _, Type::INT8),
                (&name as _, Type::TEXT),
            ];
            let row = link.query_one(&statements.get_or_claim, &parameters).await?;
            match column::<Option<&[u8]>>(&row, 0)? {
                Some(found) => Ok(GetOrClaim::Found(Bytes::copy_from_slice(found))),
                None => Ok(GetOrClaim::Missing(Some(lease_state(&row, 1)?))),
            }
        })
    }

    fn scan(&self, prefix: String, cursor: Option<String>) -> BoxFuture<Result<ScanPage, Error>> {
        run(&self.log, &self.statements, async move |link: Arc<Link>, statements: Arc<Statements>| {
            let after = cursor.unwrap_or_default();
            let rows = link.query(&statements.scan, &[(&after, Type::TEXT), (&prefix, Type::TEXT)]).await?;
            let heads: Vec<(String, Bytes)> =
                rows.iter().map(|row| Ok((column(row, 0)?, value(row, 1)?))).collect::<Result<_, Error>>()?;
            let next = heads.last().map(|(name, _)| name.clone());
            Ok(ScanPage::new(heads, next))
        })
    }

    fn log(&self) -> Option<&dyn ByteLog> {
        Some(self)
    }
}

fn value(row: &Row, at: usize) -> Result<Bytes, Error> {
    Ok(Bytes::copy_from_slice(column(row, at)?))
}

fn lease_state(row: &Row, at: usize) -> Result<LeaseState, Error> {
    Ok(match column::<i32>(row, at)? {
        0 => LeaseState::Held,
        2 => LeaseState::Uncacheable,
        _ => LeaseState::Granted,
    })
}

fn micros(span: Duration) -> i64 {
    signed((nanos(span) / 1_000).max(1))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the version of the encoding, which values must share to have an order: see
/// [`may_replace`](crate::cache::may_replace).
fn format(value: &[u8]) -> i32 {
    value.first_chunk().map_or(0, |format| i32::from_be_bytes(*format))
}
