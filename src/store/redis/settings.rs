//! [`Redis`]: address, deadlines and circuits of a Redis.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::connect::{Address, Authority, Conn, SentinelAuth, without_password};
use super::limit_mode::LimitMode;
use super::secret;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::Events;
use crate::base::maybe_ready::BoxFuture;
use crate::identity::FleetSecret;
use crate::resilience::circuit::Circuit;
use crate::resilience::guard::{FailOpen, Fault, GuardSettings};
use crate::store::remote::names::SecretAgreement;
use crate::store::remote::{LogRank, MAX_TTL, RemoteSettings};

/// Deadline of a decision on limits.
const LIMIT_DEADLINE: Duration = Duration::from_millis(25);
/// Deadline of a cache look-up.
const CACHE_DEADLINE: Duration = Duration::from_millis(50);
/// Deadline of calls that no request waits for.
const RECORDS_DEADLINE: Duration = Duration::from_secs(1);

/// Configuration of a Redis shared by a fleet. Connections are opened on first use; an unavailable Redis is not an
/// error.
///
/// ```
/// use std::time::Duration;
/// use tollgate::Tollgate;
/// use tollgate::limit::{Limit, Quota};
/// use tollgate::store::redis::Redis;
///
/// let redis = Redis::new("redis://127.0.0.1")?
///     .limit_deadline(Duration::from_millis(10))
///     .prefix("shop")
///     .secret("the same on every node");
/// let gate = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(100))).redis(redis).build()?;
/// # let _ = gate;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone)]
pub struct Redis {
    shown: String,
    pub(super) address: Address,
    pub(super) authority: Authority,
    limit_deadline: Duration,
    cache_deadline: Duration,
    limit_circuit: Circuit,
    cache_circuit: Circuit,
    pub(super) prefix: String,
    pub(super) secret: Option<Arc<[u8]>>,
    max_entry: usize,
    max_ttl: Duration,
    #[cfg(feature = "lz4")]
    compress_over: usize,
    pub(super) mode: LimitMode,
    pub(super) time: Option<Clock>,
}

impl Redis {
    /// Creates a configuration from a URL: see the [module](super) for its forms.
    ///
    /// # Errors
    /// If the URL has none of these forms, or needs a disabled feature.
    ///
    /// # Examples
    /// ```
    /// use tollgate::store::redis::Redis;
    ///
    /// assert!(Redis::new("redis+sentinel://s1:26379,s2:26379/mymaster").is_ok());
    /// assert!(Redis::new("http://127.0.0.1").is_err());
    /// ```
    pub fn new(url: &str) -> Result<Self, Error> {
        Ok(Self {
            shown: without_password(url),
            address: Address::parse(url)?,
            authority: None,
            limit_deadline: LIMIT_DEADLINE,
            cache_deadline: CACHE_DEADLINE,
            limit_circuit: Circuit::default(),
            cache_circuit: Circuit::default(),
            prefix: "tollgate".to_owned(),
            secret: None,
            max_entry: 8 << 20,
            max_ttl: MAX_TTL,
            #[cfg(feature = "lz4")]
            compress_over: usize::MAX,
            mode: LimitMode::default(),
            time: None,
        })
    }

    /// Sets the deadline of a decision, after which this process decides by itself. Defaults to 25 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::store::redis::Redis;
    ///
    /// let redis = Redis::new("redis://127.0.0.1")?.limit_deadline(Duration::from_millis(10));
    /// # let _ = redis;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn limit_deadline(mut self, span: Duration) -> Self {
        self.limit_deadline = span;
        self
    }

    /// Sets the deadline of a look-up, after which it is a miss. Defaults to 50 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::store::redis::Redis;
    ///
    /// let redis = Redis::new("redis://127.0.0.1")?.cache_deadline(Duration::from_millis(100));
    /// # let _ = redis;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn cache_deadline(mut self, span: Duration) -> Self {
        self.cache_deadline = span;
        self
    }

    /// Sets the circuit of limits. Defaults to [`Circuit`]'s defaults.
    #[must_use]
    pub fn limit_circuit(mut self, circuit: Circuit) -> Self {
        self.limit_circuit = circuit;
        self
    }

    /// Sets the circuit of the cache. Defaults to [`Circuit`]'s defaults.
    #[must_use]
    pub fn cache_circuit(mut self, circuit: Circuit) -> Self {
        self.cache_circuit = circuit;
        self
    }

    /// Sets the prefix of all keys. Defaults to `tollgate`. Fleets that share a Redis need different ones.
    ///
    /// ```
    /// use tollgate::store::redis::Redis;
    ///
    /// let redis = Redis::new("redis://127.0.0.1")?.prefix("shop");
    /// # let _ = redis;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the secret under which key names are hashed, the same on every node. By default the first node draws one
    /// and stores it in Redis for the others.
    ///
    /// ```
    /// use tollgate::store::redis::Redis;
    ///
    /// let redis = Redis::new("redis://127.0.0.1")?.secret("the same on every node");
    /// # let _ = redis;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.secret = Some(secret.as_ref().into());
        self
    }

    /// Sets the credentials of the sentinels; an empty `username` is the default user. Without them, sentinels are asked
    /// with the credentials of the URL, and if they refuse those, with none.
    ///
    /// ```
    /// use tollgate::store::redis::Redis;
    ///
    /// let redis = Redis::new("redis+sentinel://:primarys@s1:26379,s2:26379/mymaster")?
    ///     .sentinel_credentials("", "the sentinels' own");
    /// # let _ = redis;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn sentinel_credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        if let Address::Sentinel { own, .. } = &mut self.address {
            *own = Some(SentinelAuth { username: username.into(), password: password.into() });
        }
        self
    }

    /// Sets the certificate authority for TLS, in PEM. Defaults to the system's.
    #[cfg(feature = "redis-tls")]
    #[must_use]
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority = Some(pem.into());
        self
    }

    /// Sets the mode of limits, the same on every node. Defaults to [`LimitMode::Exact`].
    ///
    /// ```
    /// use tollgate::store::redis::{LimitMode, Redis};
    ///
    /// let redis = Redis::new("redis://127.0.0.1")?.limit_mode(LimitMode::Leased);
    /// # let _ = redis;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn limit_mode(mut self, mode: LimitMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the maximum size of a cached entry in bytes; larger ones stay in memory. At least 1 KiB; defaults to 8 MiB.
    ///
    /// ```
    /// use tollgate::store::redis::Redis;
    ///
    /// let redis = Redis::new("redis://127.0.0.1")?.max_entry(1 << 20);
    /// # let _ = redis;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn max_entry(mut self, bytes: usize) -> Self {
        self.max_entry = bytes;
        self
    }

    /// Limits how long Redis keeps an entry; other levels may keep it for longer. Defaults to a year.
    ///
    /// ```
    /// use tollgate::store::redis::Redis;
    ///
    /// let redis = Redis::new("redis://127.0.0.1")?.max_ttl(std::time::Duration::from_secs(300));
    /// # let _ = redis;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn max_ttl(mut self, span: Duration) -> Self {
        self.max_ttl = span;
        self
    }

    /// Compresses cached entries of more than this many bytes. They are misses for processes without the feature `lz4`.
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

    /// Creates the guard of the limits, which connects once the fleet's secret is known.
    pub(super) fn guard_limits(&self) -> (FailOpen<Conn>, FleetSecret) {
        let settings = GuardSettings::new(self.limit_deadline).circuit(self.limit_circuit);
        self.guard_agreed("redis limits", settings)
    }

    /// Creates the guard of upstream credits, likewise.
    pub(super) fn guard_credits(&self) -> (FailOpen<Conn>, FleetSecret) {
        self.guard_agreed("redis credits", GuardSettings::new(self.cache_deadline))
    }

    /// Creates the guard of records, whose names are not hashed.
    pub(super) fn guard_records(&self) -> FailOpen<Conn> {
        let settings = GuardSettings::new(RECORDS_DEADLINE);
        FailOpen::new("redis records", settings, self.connector(), Events::default())
    }

    fn guard_agreed(&self, guard: &'static str, settings: GuardSettings) -> (FailOpen<Conn>, FleetSecret) {
        let (connector, name) = (self.connector(), format!("{}:secret", self.prefix));
        let agreement = Arc::new(SecretAgreement::new(self.secret.as_deref()));
        let secret = agreement.secret();
        let agreeing = move || -> BoxFuture<Result<Conn, Error>> {
            let (connecting, name, agreement) = (connector(), name.clone(), agreement.clone());
            Box::pin(async move {
                let mut connection = connecting.await?;
                if let Some(proposal) = agreement.proposal() {
                    let agreed = secret::agree(&mut connection, &name, &proposal).await.map_err(Fault::into_error)?;
                    agreement.set(&agreed)?;
                }
                Ok(connection)
            })
        };
        (FailOpen::new(guard, settings, agreeing, Events::default()), secret)
    }

    /// Returns the settings of the cache.
    pub(super) fn cache_settings(&self) -> RemoteSettings {
        let settings = RemoteSettings::new("redis").guard_name("redis cache").deadline(self.cache_deadline);
        let settings = settings.log_rank(LogRank::Redis).max_ttl(self.max_ttl);
        let settings = settings.circuit(self.cache_circuit).prefix(self.prefix.clone()).max_entry(self.max_entry);
        let settings = match &self.secret {
            Some(secret) => settings.secret(secret),
            None => settings,
        };
        #[cfg(feature = "lz4")]
        let settings = settings.compress_over(self.compress_over);
        settings
    }

    pub(super) fn connector(&self) -> impl Fn() -> BoxFuture<Result<Conn, Error>> + Send + Sync + use<> + 'static {
        let (address, authority) = (Arc::new(self.address.clone()), self.authority.clone());
        move || {
            let (address, authority) = (address.clone(), authority.clone());
            Box::pin(async move { address.connect(&authority).await })
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.limit_deadline.is_zero() || self.cache_deadline.is_zero() {
            return Err(Error::config("a Redis deadline of 0 is too short; set a longer one"));
        }
        self.limit_circuit.check()?;
        self.cache_circuit.check()?;
        let printable = |b: u8| b.is_ascii_graphic() && !b"{}*?[]\\".contains(&b);
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.bytes().all(printable) {
            return Err(Error::config(format!(
                "redis prefix {:?} must be 1 to 64 printable ASCII characters without {{}}*?[]\\",
                self.prefix
            )));
        }
        if self.secret.as_ref().is_some_and(|secret| secret.len() < 8) {
            return Err(Error::config("redis secret must have at least 8 bytes"));
        }
        Ok(())
    }
}

crate::store::from_url::from_url!(Redis);

impl fmt::Debug for Redis {
    /// Omits password and secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("url", &self.shown)
            .field("limit_deadline", &self.limit_deadline)
            .field("cache_deadline", &self.cache_deadline)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_settings_are_named() {
        let redis = || Redis::new("redis://127.0.0.1").expect("a URL");
        assert!(redis().check().is_ok());
        for (redis, named) in [
            (redis().limit_deadline(Duration::ZERO), "deadline of 0"),
            (redis().cache_deadline(Duration::ZERO), "deadline of 0"),
            (redis().limit_circuit(Circuit::default().percent(101)), "101"),
            (redis().cache_circuit(Circuit::default().probe_every(Duration::ZERO)), "0s"),
            (redis().cache_circuit(Circuit::default().window(Duration::ZERO)), "0s"),
            (redis().prefix(""), "\"\""),
            (redis().prefix("a{b}"), "a{b}"),
            (redis().prefix("a b"), "a b"),
            (redis().secret("short"), "8 bytes"),
        ] {
            let error = redis.check().expect_err("impossible").to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
