//! [`TollgateBuilder`]: configuration of a gate.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(any(feature = "postgres", feature = "redis"))]
use super::given_once::given_once;
use super::health::settings::HealthBuilder;
#[cfg(doc)]
use super::inbound::Tollgate;
use crate::base::clock::Clock;
#[cfg(any(feature = "postgres", feature = "redis"))]
use crate::base::error::Error;
use crate::base::event::{Event, Events, Hook};
use crate::cache::{CacheBuilder, CacheLayer, Rules};
use crate::identity::KeyExtractor;
use crate::limit::{Limit, RateLimitBuilder, RateLimitLayer};
use crate::resilience::outage_switch::StoreSwitch;
use crate::store::fleet_records::port::FleetRecords;
#[cfg(feature = "memcached")]
use crate::store::memcached::Memcached;
#[cfg(feature = "postgres")]
use crate::store::postgres::{Postgres, usage::UsageTable};
#[cfg(feature = "redis")]
use crate::store::redis::Redis;
use crate::timing::{TimingBuilder, TimingLayer};
use crate::upstream::UpstreamLayer;

/// Builds a [`Tollgate`]. The methods here cover common settings; [`limits_with`](Self::limits_with),
/// [`cache_with`](Self::cache_with) and [`timing_with`](Self::timing_with) give access to all others.
///
/// ```
/// use std::time::Duration;
/// use tollgate::Tollgate;
/// use tollgate::cache::{Rule, Rules};
/// use tollgate::limit::{Limit, Quota};
///
/// let gate = Tollgate::builder()
///     .limit(Limit::per_ip(Quota::per_minute(100)))
///     .cache(Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15))))
///     .limits_with(|limits| limits.exempt(|head| head.uri().path() == "/healthz"))
///     .cache_with(|cache| cache.memory(64 << 20))
///     .timing_with(|timing| timing.server_timing(true))
///     .build()?;
/// # let _ = gate;
/// # Ok::<(), tollgate::Error>(())
/// ```
pub struct TollgateBuilder {
    pub(super) limits: RateLimitBuilder,
    pub(super) limited: bool,
    pub(super) cache: CacheBuilder,
    pub(super) cached: bool,
    pub(super) timing: TimingBuilder,
    pub(super) routes: Vec<Box<str>>,
    pub(super) cost_per_call: Option<f64>,
    pub(super) events: Events,
    pub(super) health: HealthBuilder,
    /// Upstreams whose quotas belong to the health of the gate.
    pub(super) upstreams: Vec<UpstreamLayer>,
    /// Directory of the file level.
    pub(super) directory: Option<PathBuf>,
    /// Switches of the servers of limits.
    pub(super) switches: Vec<StoreSwitch>,
    /// Store of overrides.
    pub(super) records: Option<Arc<dyn FleetRecords>>,
    #[cfg(feature = "postgres")]
    pub(super) postgres: Option<Result<Postgres, Error>>,
    #[cfg(feature = "postgres")]
    pub(super) usage: Option<UsageTable>,
    #[cfg(feature = "redis")]
    pub(super) redis: Option<Result<Redis, Error>>,
}

impl Default for TollgateBuilder {
    fn default() -> Self {
        Self {
            limits: RateLimitLayer::builder(),
            limited: false,
            cache: CacheLayer::builder(),
            cached: false,
            timing: TimingLayer::builder(),
            routes: Vec::new(),
            cost_per_call: None,
            events: Events::default(),
            health: HealthBuilder::default(),
            upstreams: Vec::new(),
            directory: None,
            switches: Vec::new(),
            records: None,
            #[cfg(feature = "postgres")]
            postgres: None,
            #[cfg(feature = "postgres")]
            usage: None,
            #[cfg(feature = "redis")]
            redis: None,
        }
    }
}

impl TollgateBuilder {
    /// Sets the extractor of identities for all limits and for the cache. Defaults to the socket peer's address. Setting it
    /// twice is an error.
    ///
    /// Requests that carry a credential of this kind ([`KeyExtractor::carries`]), or of a kind that a
    /// [limit](Limit::by) counts by, are answered from the cache only if their rule has
    /// [`same_for_everyone`](crate::cache::Rule::same_for_everyone) or
    /// [`per_identity`](crate::cache::Rule::per_identity).
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::identity::{KeyExtractor, TrustedProxies, by};
    /// use tollgate::limit::Tiers;
    ///
    /// let gate = Tollgate::builder()
    ///     .identify(by::bearer().or(by::client_ip(TrustedProxies::none())))
    ///     .limit(Tiers::default())
    ///     .build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn identify(self, extractor: impl KeyExtractor) -> Self {
        self.limits_with(|limits| limits.identify(extractor))
    }

    /// Declares the routes of the service, in axum's syntax, for all layers: see
    /// [`CacheBuilder::routes`](crate::cache::CacheBuilder::routes). All of them count a request under its declared route, so
    /// that it has one row in [`Tollgate::stats`].
    ///
    /// Needed for requests that axum has not routed: around a whole Router, in its fallbacks, and around hyper and
    /// tonic services.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let gate = Tollgate::builder()
    ///     .routes(["/users/{name}", "/users/me"])
    ///     .limit(Limit::per_ip(Quota::per_minute(20)).on("/users/{name}"))
    ///     .build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn routes(mut self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.routes.extend(patterns.into_iter().map(|pattern| pattern.as_ref().into()));
        self
    }

    /// Adds a limit, or [`Tiers`](crate::limit::Tiers). All limits make one decision.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let gate = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(100))).build()?;
    /// assert_eq!(gate.stats().limits.len(), 1);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn limit(mut self, limit: impl Into<Limit>) -> Self {
        self.limited = true;
        self.limits_with(|limits| limits.limit(limit))
    }

    /// Enables the cache with these rules, in addition to those given before. By default nothing is cached.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::Tollgate;
    /// use tollgate::cache::{Rule, Rules};
    ///
    /// let rules = Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15)));
    /// let gate = Tollgate::builder().cache(rules).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn cache(self, rules: Rules) -> Self {
        self.cache_with(|cache| cache.more_rules(rules))
    }

    /// Sets the duration from which a request is slow. Defaults to 250 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().slow_after(Duration::from_millis(500)).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn slow_after(self, span: Duration) -> Self {
        self.timing_with(|timing| timing.slow_after(span))
    }

    /// Sets the cost of one call of the inner service, in any currency, for [`Stats::money_saved`](crate::Stats::money_saved).
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// assert!(Tollgate::builder().cost_per_call(0.002).build().is_ok());
    /// assert!(Tollgate::builder().cost_per_call(f64::NAN).build().is_err());
    /// ```
    #[must_use]
    pub fn cost_per_call(mut self, cost: f64) -> Self {
        self.cost_per_call = Some(cost);
        self
    }

    /// Sets the capacity of the cache in this process's memory, in bytes. Defaults to 64 MiB.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::cache::Rules;
    ///
    /// let gate = Tollgate::builder().cache(Rules::new()).memory(256 << 20).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.cache = self.cache.memory(bytes);
        self
    }

    /// Keeps cached responses and values in a directory as well, so that they survive a restart: at most `bytes` on disk, 16
    /// MiB or more. For a service of one process; a fleet shares [`redis`](Self::redis) instead, or as well: levels
    /// are asked in the order of the calls. See [`CacheBuilder::file`].
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::cache::Rules;
    ///
    /// let gate = Tollgate::builder().cache(Rules::new()).file("/var/cache/app", 2 << 30).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn file(mut self, directory: impl Into<PathBuf>, bytes: u64) -> Self {
        let directory = directory.into();
        self.directory = Some(directory.clone());
        self.cache = self.cache.file(directory, bytes);
        self
    }

    /// Sets the Redis that the fleet shares: its URL, or a [`Redis`] with settings. Requests never fail because of
    /// it: during an outage they are processed without it.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let limit = Limit::per_ip(Quota::per_minute(100));
    /// let gate = Tollgate::builder().limit(limit).redis("redis://127.0.0.1").build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn redis<R>(mut self, redis: R) -> Self
    where
        R: TryInto<Redis>,
        R::Error: Into<Error>,
    {
        let redis = redis.try_into().map_err(Into::into);
        if let Ok(redis) = &redis {
            self.cache = self.cache.redis(redis.clone());
        }
        self.redis = Some(given_once(self.redis.take(), redis, "redis"));
        self
    }

    /// Sets the PostgreSQL that the fleet shares: its URL, or a [`Postgres`] with settings. Cached responses are shared, after
    /// [`redis`](Self::redis) asked second,
    /// survive restarts, and are invalidated by [rows of your own transactions](crate::store::postgres); all nodes share one
    /// limit, of which they [lease](crate::store::RemoteLimits::postgres) blocks. With Redis as well, Redis decides
    /// limits. Requests never fail because of it.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::cache::Rules;
    ///
    /// let gate = Tollgate::builder().cache(Rules::new()).postgres("postgres://app@127.0.0.1/app").build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[cfg(feature = "postgres")]
    #[must_use]
    pub fn postgres<P>(mut self, postgres: P) -> Self
    where
        P: TryInto<Postgres>,
        P::Error: Into<Error>,
    {
        let postgres = postgres.try_into().map_err(Into::into);
        if let Ok(postgres) = &postgres {
            self.cache = self.cache.postgres(postgres.clone());
        }
        self.postgres = Some(given_once(self.postgres.take(), postgres, "postgres"));
        self
    }

    /// Keeps cached responses in memcached as well, shared by a fleet. Beside a level with a log (PostgreSQL, Redis, a
    /// directory) it is invalidated by that log; alone, tags, prefixes and soft purges stay in their process.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::cache::Rules;
    /// use tollgate::store::memcached::Memcached;
    ///
    /// let servers = Memcached::new(["10.0.0.1:11211"]).secret("the same on every node");
    /// let gate = Tollgate::builder().cache(Rules::new()).memcached(servers).redis("redis://127.0.0.1").build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[cfg(feature = "memcached")]
    #[must_use]
    pub fn memcached(mut self, memcached: Memcached) -> Self {
        self.cache = self.cache.memcached(memcached);
        self
    }

    /// Sets the clock of all layers.
    ///
    /// ```
    /// use tollgate::{Clock, ManualClock};
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().clock(Clock::Manual(ManualClock::new())).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn clock(self, clock: Clock) -> Self {
        let (for_limits, for_cache) = (clock.clone(), clock.clone());
        let gate = self.limits_with(|limits| limits.clock(for_limits)).timing_with(|timing| timing.clock(clock));
        Self { cache: gate.cache.clock(for_cache), ..gate }
    }

    /// Adds a callback for every [`Event`] of every layer.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().hook(|event| eprintln!("{event:?}")).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn hook(self, hook: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        let hook: Hook = Arc::new(hook);
        let mut this = self;
        this.events.add(hook.clone());
        let (for_limits, for_cache) = (hook.clone(), hook.clone());
        let gate = this
            .limits_with(|limits| limits.hook(move |event| for_limits(event)))
            .timing_with(|timing| timing.hook(move |event| hook(event)));
        Self { cache: gate.cache.hook(for_cache), ..gate }
    }

    /// Configures all other settings of the limits.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::limit::{Limit, OnOutage, Quota};
    ///
    /// let gate = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(20))).limits_with(|limits| limits.on_outage(OnOutage::Deny)).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn limits_with(self, f: impl FnOnce(RateLimitBuilder) -> RateLimitBuilder) -> Self {
        Self { limits: f(self.limits), ..self }
    }

    /// Configures all other settings of the cache, and enables it.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().cache_with(|cache| cache.memory(64 << 20)).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn cache_with(self, f: impl FnOnce(CacheBuilder) -> CacheBuilder) -> Self {
        Self { cache: f(self.cache), cached: true, ..self }
    }

    /// Configures the targets and checks of [`Tollgate::health`].
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().health_with(|health| health.error_target(0.001)).build()?;
    /// assert_eq!(gate.health().slos[1].objective, 0.999);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn health_with(self, f: impl FnOnce(HealthBuilder) -> HealthBuilder) -> Self {
        Self { health: f(self.health), ..self }
    }

    /// Adds an upstream, a gate or a layer, whose quotas belong to the health of this gate, its report and its dashboard.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::upstream::Credits;
    ///
    /// let market = Tollgate::upstream("market").quota(Credits::per_month(60_000)).build()?;
    /// let gate = Tollgate::builder().watch_upstream(&market).build()?;
    /// assert_eq!(gate.health().checks[0].name, "quota market month");
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn watch_upstream(mut self, upstream: &impl AsRef<UpstreamLayer>) -> Self {
        self.upstreams.push(upstream.as_ref().clone());
        self
    }

    /// Configures all other settings of timing.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().timing_with(|timing| timing.server_timing(true)).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn timing_with(self, f: impl FnOnce(TimingBuilder) -> TimingBuilder) -> Self {
        Self { timing: f(self.timing), ..self }
    }
}

impl fmt::Debug for TollgateBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TollgateBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}
