//! [`Postgres`]: address, deadline, circuit and bounds of a PostgreSQL.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::connect::{self, Link, ServerAddress};
use super::schema;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::resilience::circuit::Circuit;
use crate::store::remote::{LogRank, MAX_TTL, RemoteSettings};

/// Deadline of a look-up.
const DEADLINE: Duration = Duration::from_millis(50);
/// Default bound of the bytes of all values.
const MAX_BYTES: u64 = 4 << 30;
/// Number of the largest entries that fit the bound.
const ENTRIES: u64 = 16;
const MIB: u64 = 1 << 20;

/// Configuration of a PostgreSQL shared by a fleet. Connections are opened on first use; an unavailable server is not an
/// error.
///
/// ```
/// use std::time::Duration;
/// use tollgate::Tollgate;
/// use tollgate::cache::Rules;
/// use tollgate::store::postgres::Postgres;
///
/// let postgres = Postgres::new("postgres://app@127.0.0.1/app")?
///     .deadline(Duration::from_millis(20))
///     .max_bytes(1 << 30)
///     .schema("shop");
/// let gate = Tollgate::builder().cache(Rules::new()).postgres(postgres).build()?;
/// # let _ = gate;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone)]
pub struct Postgres {
    shown: String,
    pub(super) address: Arc<ServerAddress>,
    pub(super) schema: String,
    pub(super) deadline: Duration,
    pub(super) circuit: Circuit,
    pub(super) secret: Option<Arc<[u8]>>,
    max_entry: usize,
    pub(super) max_bytes: u64,
    max_ttl: Duration,
    #[cfg(feature = "lz4")]
    compress_over: usize,
    /// Clock of limits, in tests.
    pub(super) time: Option<Clock>,
}

impl Postgres {
    /// Creates a configuration from a URL: `postgres://user:password@host:5432/database`, with the options of libpq.
    ///
    /// # Errors
    /// If the URL has another form, or asks for TLS without the feature `postgres-tls`.
    ///
    /// # Examples
    /// ```
    /// use tollgate::store::postgres::Postgres;
    ///
    /// assert!(Postgres::new("postgres://app:password@db1,db2/app?target_session_attrs=read-write").is_ok());
    /// assert!(Postgres::new("redis://127.0.0.1").is_err());
    /// ```
    pub fn new(url: &str) -> Result<Self, Error> {
        Ok(Self {
            shown: connect::without_password(url),
            address: Arc::new(connect::parse(url)?),
            schema: "public".to_owned(),
            deadline: DEADLINE,
            circuit: Circuit::default(),
            secret: None,
            max_entry: 8 << 20,
            max_bytes: MAX_BYTES,
            max_ttl: MAX_TTL,
            #[cfg(feature = "lz4")]
            compress_over: usize::MAX,
            time: None,
        })
    }

    /// Sets the schema of the tables. Defaults to `public`. Fleets that share a database need different ones.
    ///
    /// ```
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let postgres = Postgres::new("postgres://127.0.0.1")?.schema("shop");
    /// # let _ = postgres;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets the deadline of a look-up, after which it is a miss, and of a decision on a limit, after which this process decides.
    /// Defaults to 50 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let postgres = Postgres::new("postgres://127.0.0.1")?.deadline(Duration::from_millis(100));
    /// # let _ = postgres;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn deadline(mut self, span: Duration) -> Self {
        self.deadline = span;
        self
    }

    /// Sets the certificate authority for TLS (`sslmode=require`), in PEM. Defaults to the system's.
    #[cfg(feature = "postgres-tls")]
    #[must_use]
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        Arc::make_mut(&mut self.address).authority = Some(pem.into());
        self
    }

    /// Sets the circuit breaker. Defaults to [`Circuit`]'s defaults.
    ///
    /// ```
    /// use tollgate::Circuit;
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let postgres = Postgres::new("postgres://127.0.0.1")?.circuit(Circuit::default().percent(80));
    /// # let _ = postgres;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn circuit(mut self, circuit: Circuit) -> Self {
        self.circuit = circuit;
        self
    }

    /// Sets the secret under which names are hashed, the same on every node. By default the first node draws one and
    /// stores it in the database for the others.
    ///
    /// ```
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let postgres = Postgres::new("postgres://127.0.0.1")?.secret("the same on every node");
    /// # let _ = postgres;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.secret = Some(secret.as_ref().into());
        self
    }

    /// Sets the maximum size of an entry in bytes; larger ones stay in memory. At least 1 KiB; defaults to 8 MiB. An entry never takes more
    /// than a sixteenth of [`max_bytes`](Self::max_bytes).
    ///
    /// ```
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let postgres = Postgres::new("postgres://127.0.0.1")?.max_entry(1 << 20);
    /// # let _ = postgres;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn max_entry(mut self, bytes: usize) -> Self {
        self.max_entry = bytes;
        self
    }

    /// Sets the maximum size of all values in bytes, 1 MiB or more. Defaults to 4 GiB. What expires first is removed first,
    /// before the bound is reached; a put for which there is no room yet is not stored.
    ///
    /// A process never exceeds the bound by itself. It learns of the puts of others when it counts, so that each further
    /// process may add a sixteenth, or 512 KiB if that is more (at most a quarter). Values are counted, not the space that
    /// their rows take on disk: see the [guide](crate::docs::fleets#postgresql).
    ///
    /// ```
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let postgres = Postgres::new("postgres://127.0.0.1")?.max_bytes(1 << 30);
    /// # let _ = postgres;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Limits how long the database keeps an entry; other levels may keep it for longer. Defaults to a year.
    ///
    /// ```
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let postgres = Postgres::new("postgres://127.0.0.1")?.max_ttl(std::time::Duration::from_secs(3_600));
    /// # let _ = postgres;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn max_ttl(mut self, span: Duration) -> Self {
        self.max_ttl = span;
        self
    }

    /// Compresses entries of more than this many bytes. They are misses for processes without the feature `lz4`.
    ///
    /// ```
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let postgres = Postgres::new("postgres://127.0.0.1")?.compress_over(16 << 10);
    /// # let _ = postgres;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[cfg(feature = "lz4")]
    #[must_use]
    pub fn compress_over(mut self, bytes: usize) -> Self {
        self.compress_over = bytes;
        self
    }

    /// Sets the clock of limits, for tests. Defaults to the server's.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.time = Some(clock);
        self
    }

    /// Creates the tables if they are missing. May be called again, and by several processes at once. Without a call the
    /// first connection does so.
    ///
    /// # Errors
    /// If a setting is invalid, the server is unavailable, or the role may not create tables.
    ///
    /// # Examples
    /// ```no_run
    /// use tollgate::store::postgres::Postgres;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// Postgres::new("postgres://owner@127.0.0.1/app")?.migrate().await?;
    /// # Ok(()) }
    /// ```
    pub async fn migrate(&self) -> Result<(), Error> {
        self.check()?;
        Link::open(&self.address, None).await?.batch(&self.sql()).await
    }

    /// Returns the statements of [`migrate`](Self::migrate), for a migration tool of your own.
    ///
    /// ```
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let sql = Postgres::new("postgres://127.0.0.1")?.schema("shop").sql();
    /// assert!(sql.contains("CREATE TABLE shop.tollgate_cache"));
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn sql(&self) -> String {
        schema::schema_sql(&self.schema)
    }

    /// Returns the settings of the store above.
    pub(super) fn remote_settings(&self) -> RemoteSettings {
        let largest = usize::try_from(self.max_bytes / ENTRIES).unwrap_or(usize::MAX);
        let settings = RemoteSettings::new("postgres").guard_name("postgres cache").deadline(self.deadline);
        let settings = settings.log_rank(LogRank::Postgres).max_ttl(self.max_ttl);
        let settings = settings.circuit(self.circuit).max_entry(self.max_entry.min(largest));
        let settings = match &self.secret {
            Some(secret) => settings.secret(secret),
            None => settings,
        };
        #[cfg(feature = "lz4")]
        let settings = settings.compress_over(self.compress_over);
        settings
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let schema = self.schema.as_bytes();
        if !schema.iter().copied().all(letters)
            || !(1..=40).contains(&schema.len())
            || schema.first().is_some_and(u8::is_ascii_digit)
        {
            return Err(Error::config(format!(
                "postgres schema {:?} must be 1 to 40 lower-case letters, digits and _, and not begin with a digit",
                self.schema
            )));
        }
        if self.max_bytes < MIB {
            return Err(Error::config(format!("postgres max_bytes {} must be at least {MIB}", self.max_bytes)));
        }
        Ok(())
    }
}

crate::store::from_url::from_url!(Postgres);

impl fmt::Debug for Postgres {
    /// Omits password and secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("url", &self.shown)
            .field("schema", &self.schema)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_settings_are_named() {
        let postgres = || Postgres::new("postgres://u:hunter2@127.0.0.1").expect("a URL");
        assert!(postgres().check().is_ok());
        for (postgres, named) in [
            (postgres().schema(""), "\"\""),
            (postgres().schema("Shop"), "Shop"),
            (postgres().schema("1a"), "1a"),
            (postgres().schema("a\"; DROP"), "DROP"),
            (postgres().max_bytes(1), "max_bytes 1"),
        ] {
            let error = postgres.check().expect_err("invalid").to_string();
            assert!(error.contains(named), "{error}");
        }
        assert!(!format!("{:?}", postgres()).contains("hunter2"));
    }
}
