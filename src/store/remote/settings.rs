//! [`RemoteSettings`]: deadline, circuit, names and bounds of a remote store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::Error;
use crate::resilience::circuit::Circuit;
use crate::resilience::guard::GuardSettings;

/// Deadline of a look-up.
const DEADLINE: Duration = Duration::from_millis(50);
/// Longest deadline: requests wait for it.
const LONGEST_DEADLINE: Duration = Duration::from_secs(60);
/// Upper bound of a lifetime.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(365 * 86_400);
/// Smallest bound of an entry: less has no room for the fields of a response.
const MIN_ENTRY: usize = 1_024;
const MIB: usize = 1 << 20;

/// Settings of a [`RemoteStore`](super::RemoteStore).
///
/// ```
/// use std::time::Duration;
/// use tollgate::store::RemoteSettings;
///
/// let settings = RemoteSettings::new("dynamodb")
///     .deadline(Duration::from_millis(20))
///     .secret("the same on every node");
/// # let _ = settings;
/// ```
#[derive(Clone)]
#[must_use]
pub struct RemoteSettings {
    pub(super) name: &'static str,
    pub(super) guard_name: &'static str,
    pub(super) guard: GuardSettings,
    pub(super) prefix: String,
    pub(super) secret: Option<Arc<[u8]>>,
    pub(super) max_entry: usize,
    pub(super) compress_over: usize,
    pub(super) max_ttl: Duration,
    pub(super) log_rank: LogRank,
}

/// Preference among the logs of a cache's levels, the highest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogRank {
    /// No log.
    Absent,
    /// Journal of a directory, which processes of one host share.
    File,
    /// Log of a user-supplied store.
    Custom,
    /// Log in Redis.
    #[cfg(feature = "redis")]
    Redis,
    /// Log in PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres,
}

impl RemoteSettings {
    /// Creates the defaults of a store with this name in statistics and events.
    ///
    /// ```
    /// use tollgate::store::RemoteSettings;
    ///
    /// let settings = RemoteSettings::new("kv");
    /// # let _ = settings;
    /// ```
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            guard_name: name,
            guard: GuardSettings::new(DEADLINE),
            prefix: "tollgate".to_owned(),
            secret: None,
            max_entry: 8 * MIB,
            compress_over: usize::MAX,
            max_ttl: MAX_TTL,
            log_rank: LogRank::Custom,
        }
    }

    /// Sets the deadline of a call, after which it is a miss. Defaults to 50 ms.
    ///
    /// ```
    /// use tollgate::store::RemoteSettings;
    ///
    /// let settings = RemoteSettings::new("kv").deadline(std::time::Duration::from_millis(20));
    /// # let _ = settings;
    /// ```
    pub const fn deadline(mut self, span: Duration) -> Self {
        self.guard.deadline = span;
        self
    }

    /// Sets the circuit breaker. Defaults to [`Circuit`]'s defaults.
    ///
    /// ```
    /// use tollgate::store::RemoteSettings;
    ///
    /// let settings = RemoteSettings::new("kv").circuit(tollgate::Circuit::default().percent(80));
    /// # let _ = settings;
    /// ```
    pub const fn circuit(mut self, circuit: Circuit) -> Self {
        self.guard.circuit = circuit;
        self
    }

    /// Sets the prefix of all names. Defaults to `tollgate`.
    ///
    /// ```
    /// use tollgate::store::RemoteSettings;
    ///
    /// let settings = RemoteSettings::new("kv").prefix("shop");
    /// # let _ = settings;
    /// ```
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the secret under which names are hashed, the same on every node; at least 8 bytes. By default the first node
    /// draws one and stores it in the log of the store; a store without a log needs one.
    ///
    /// ```
    /// use tollgate::store::RemoteSettings;
    ///
    /// let settings = RemoteSettings::new("kv").secret("the same on every node");
    /// # let _ = settings;
    /// ```
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.secret = Some(secret.as_ref().into());
        self
    }

    /// Sets the maximum size of an encoded entry in bytes; larger ones stay in memory. At least 1 KiB; defaults to 8 MiB.
    ///
    /// ```
    /// use tollgate::store::RemoteSettings;
    ///
    /// let settings = RemoteSettings::new("kv").max_entry(1 << 20);
    /// # let _ = settings;
    /// ```
    pub const fn max_entry(mut self, bytes: usize) -> Self {
        self.max_entry = bytes;
        self
    }

    /// Limits how long the level keeps an entry; other levels may keep it for longer. Defaults to a year.
    ///
    /// ```
    /// use tollgate::store::RemoteSettings;
    ///
    /// let settings = RemoteSettings::new("kv").max_ttl(std::time::Duration::from_secs(300));
    /// # let _ = settings;
    /// ```
    pub const fn max_ttl(mut self, span: Duration) -> Self {
        self.max_ttl = span;
        self
    }

    /// Compresses entries of more than this many bytes. They are misses for processes without the feature `lz4`.
    ///
    /// ```
    /// use tollgate::store::RemoteSettings;
    ///
    /// let settings = RemoteSettings::new("kv").compress_over(16 << 10);
    /// # let _ = settings;
    /// ```
    #[cfg(feature = "lz4")]
    pub const fn compress_over(mut self, bytes: usize) -> Self {
        self.compress_over = bytes;
        self
    }

    /// Sets the preference of the store's log among those of a cache's levels.
    pub(crate) const fn log_rank(mut self, rank: LogRank) -> Self {
        self.log_rank = rank;
        self
    }

    /// Sets the interval between attempts to connect, and their timeout.
    pub(crate) const fn dialling(mut self, retry_every: Duration, timeout: Duration) -> Self {
        self.guard.retry_every = retry_every;
        self.guard.dial_timeout = timeout;
        self
    }

    /// Sets the name in events of outages.
    #[cfg(any(feature = "redis", feature = "postgres"))]
    pub(crate) const fn guard_name(mut self, name: &'static str) -> Self {
        self.guard_name = name;
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let name = self.name;
        if self.guard.deadline > LONGEST_DEADLINE {
            let deadline = self.guard.deadline;
            return Err(Error::config(format!(
                "{name}: a deadline of {deadline:?} is too long; at most {LONGEST_DEADLINE:?}"
            )));
        }
        if self.guard.deadline.is_zero() {
            return Err(Error::config(format!("{name}: a deadline of 0 is too short; set a longer one")));
        }
        if self.max_entry < MIN_ENTRY {
            let bytes = self.max_entry;
            return Err(Error::config(format!("{name}: max_entry {bytes} must be at least {MIN_ENTRY} bytes")));
        }
        if self.max_ttl < Duration::from_millis(1) {
            return Err(Error::config(format!("{name}: max_ttl {:?} must be at least 1 ms", self.max_ttl)));
        }
        self.guard.circuit.check()?;
        let printable = |b: u8| b.is_ascii_graphic() && !b"{}*?[]\\".contains(&b);
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.bytes().all(printable) {
            return Err(Error::config(format!(
                "{name}: prefix {:?} must be 1 to 64 printable ASCII characters without {{}}*?[]\\",
                self.prefix
            )));
        }
        if self.secret.as_ref().is_some_and(|secret| secret.len() < 8) {
            return Err(Error::config(format!("{name}: the secret must have at least 8 bytes")));
        }
        Ok(())
    }

    pub(super) fn check_log(&self, has_log: bool) -> Result<(), Error> {
        match has_log || self.secret.is_some() {
            true => Ok(()),
            false => Err(Error::config(format!(
                "{}: a store without a log needs a secret for its names; set one with .secret(…), the same on every node",
                self.name
            ))),
        }
    }
}

impl fmt::Debug for RemoteSettings {
    /// Omits the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSettings")
            .field("name", &self.name)
            .field("deadline", &self.guard.deadline)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
