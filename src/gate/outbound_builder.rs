//! [`UpstreamGateBuilder`]: configuration of a gate around a client.

use std::fmt;
use std::path::PathBuf;

use http::header::{HeaderName, HeaderValue};

#[cfg(any(feature = "postgres", feature = "redis"))]
use super::given_once::given_once;
use super::outbound::{UpstreamGate, UpstreamGateLayer};
#[cfg(feature = "postgres")]
use super::usage::{UsageRecorder, upstream_usage};
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Event, Hook};
use crate::cache::{CacheBuilder, CacheLayer, Rules};
#[cfg(any(feature = "postgres", feature = "redis"))]
use crate::store::RemoteCredits;
#[cfg(feature = "memcached")]
use crate::store::memcached::Memcached;
#[cfg(feature = "postgres")]
use crate::store::postgres::{Postgres, usage::UsageTable};
#[cfg(feature = "redis")]
use crate::store::redis::Redis;
use crate::timing::{TimingBuilder, TimingLayer};
use crate::upstream::{Credits, OnLimit, UpstreamBuilder, UpstreamLayer, Weights};

/// Builds an [`UpstreamGate`]. The methods here cover common settings; [`upstream_with`](Self::upstream_with),
/// [`cache_with`](Self::cache_with) and [`timing_with`](Self::timing_with) give access to all others.
///
/// ```
/// use std::time::Duration;
/// use tollgate::Tollgate;
/// use tollgate::upstream::{Credits, OnLimit};
///
/// let search = Tollgate::upstream("search")
///     .quota(Credits::per_minute(100))
///     .on_limit(OnLimit::Wait(Duration::from_secs(2)))
///     .cost(|head| if head.uri().path() == "/search" { 5 } else { 1 })
///     .routes(["/search", "/items/{id}"])
///     .build()?;
/// # let _ = search;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[must_use = "a builder does nothing until it is built"]
pub struct UpstreamGateBuilder {
    upstream: UpstreamBuilder,
    cache: CacheBuilder,
    cached: bool,
    timing: TimingBuilder,
    credential: Option<Result<(HeaderName, HeaderValue), Error>>,
    rules_decide: bool,
    weights: Weights,
    price: Option<f64>,
    #[cfg(feature = "postgres")]
    postgres: Option<Result<Postgres, Error>>,
    #[cfg(feature = "postgres")]
    usage: Option<UsageTable>,
    #[cfg(feature = "redis")]
    redis: Option<Result<Redis, Error>>,
}

impl UpstreamGateBuilder {
    pub(super) fn new(name: String) -> Self {
        Self {
            timing: TimingLayer::builder().outbound(&name),
            upstream: UpstreamLayer::builder(name),
            cache: CacheLayer::builder().outbound(),
            cached: false,
            credential: None,
            rules_decide: false,
            weights: Weights::default(),
            price: None,
            #[cfg(feature = "postgres")]
            postgres: None,
            #[cfg(feature = "postgres")]
            usage: None,
            #[cfg(feature = "redis")]
            redis: None,
        }
    }

    /// Adds a quota for a window. Without one, only the upstream's reported limits apply.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::upstream::Credits;
    ///
    /// let gate = Tollgate::upstream("search").quota(Credits::per_minute(100)).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn quota(self, credits: Credits) -> Self {
        self.upstream_with(|upstream| upstream.quota(credits))
    }

    /// Sets the treatment of calls beyond the quota. Defaults to [`OnLimit::Reject`].
    ///
    /// A rejected call is answered by a stale response if one is cached and its rule has
    /// [`stale_if_error`](crate::cache::Rule::stale_if_error).
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::upstream::OnLimit;
    ///
    /// let gate = Tollgate::upstream("search").on_limit(OnLimit::Reject).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn on_limit(self, on_limit: OnLimit) -> Self {
        self.upstream_with(|upstream| upstream.on_limit(on_limit))
    }

    /// Sets the cost of a call in credits. Defaults to 1.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::upstream("search").cost(|head| if head.uri().path() == "/search" { 5 } else { 1 }).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn cost(self, cost: impl Fn(&crate::RequestHead<'_>) -> u64 + Send + Sync + 'static) -> Self {
        self.upstream_with(|upstream| upstream.cost(cost))
    }

    /// Sets the price of a credit, in any currency, for reports of cost and savings.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::upstream::Credits;
    ///
    /// let market = Tollgate::upstream("market").quota(Credits::per_month(60_000)).price(0.002).build()?;
    /// # let _ = market;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub const fn price(mut self, per_credit: f64) -> Self {
        self.price = Some(per_credit);
        self
    }

    /// Sets the weights of an endpoint's score.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::upstream::Weights;
    ///
    /// let gate = Tollgate::upstream("search").weights(Weights::default()).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub const fn weights(mut self, weights: Weights) -> Self {
        self.weights = weights;
        self
    }

    /// Enables the cache with these rules, whose patterns also name the endpoints. By default nothing is cached. As
    /// the quota runs low, lifetimes are extended: see [`Budget`](crate::Budget).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::Tollgate;
    /// use tollgate::cache::{Rule, Rules};
    ///
    /// let rules = Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(900)));
    /// let market = Tollgate::upstream("market").cache(rules).rules_decide().build()?;
    /// # let _ = market;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn cache(self, rules: Rules) -> Self {
        let names: Vec<String> = rules.patterns().map(str::to_owned).collect();
        self.named(&names).cache_with(|cache| cache.rules(rules))
    }

    /// Makes the rules take precedence over the upstream's `Cache-Control` and `Expires`, except `no-store`.
    ///
    /// By default a rule's TTL applies only to responses without explicit freshness. Clients receive the upstream's
    /// fields unchanged.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::cache::Rules;
    ///
    /// let gate = Tollgate::upstream("search").cache(Rules::new()).rules_decide().build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub const fn rules_decide(mut self) -> Self {
        self.rules_decide = true;
        self
    }

    /// Declares the upstream's endpoints, in axum's syntax: they name calls in statistics, in addition to the
    /// patterns of the cache's rules, and select the rule of a call
    /// ([`CacheBuilder::routes`](crate::cache::CacheBuilder::routes)).
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::upstream("search").routes(["/search", "/items/{id}"]).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn routes(self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        let patterns: Vec<_> = patterns.into_iter().collect();
        let names: Vec<&str> = patterns.iter().map(AsRef::as_ref).collect();
        let gate = self.named(&names);
        Self { cache: gate.cache.routes(&names), ..gate }
    }

    fn named(self, names: &[impl AsRef<str>]) -> Self {
        self.upstream_with(|upstream| upstream.routes(names)).timing_with(|timing| timing.routes(names))
    }

    /// Sets the gate's own credential, sent as `Authorization: Bearer …` with every call without `Authorization`.
    ///
    /// It is added below the cache, so responses to it are shared by all clients. Requests with their own
    /// `Authorization` bypass the cache unless a rule has
    /// [`same_for_everyone`](crate::cache::Rule::same_for_everyone).
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let market = Tollgate::upstream("market").bearer("token").build()?;
    /// # let _ = market;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn bearer(self, token: &str) -> Self {
        self.credential(http::header::AUTHORIZATION, format!("Bearer {token}"))
    }

    /// Sets the gate's own credential in any field, such as `X-Api-Key`.
    ///
    /// ```
    /// use http::HeaderName;
    /// use tollgate::Tollgate;
    ///
    /// let market = Tollgate::upstream("market").credential(HeaderName::from_static("x-api-key"), "key").build()?;
    /// # let _ = market;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn credential(mut self, field: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        let value = value
            .try_into()
            .map_err(|_| Error::config(format!("the credential in {field} is not a valid field value")));
        self.credential = Some(value.map(|mut value| {
            value.set_sensitive(true);
            (field, value)
        }));
        self
    }

    /// Sets the capacity of the cache in this process's memory, in bytes. Defaults to 64 MiB.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::cache::Rules;
    ///
    /// let gate = Tollgate::upstream("github").cache(Rules::new()).memory(256 << 20).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn memory(mut self, bytes: u64) -> Self {
        self.cache = self.cache.memory(bytes);
        self
    }

    /// Keeps cached responses in a directory as well, so that a restart pays no call again: at most `bytes` on disk, 16 MiB
    /// or more. See [`CacheBuilder::file`].
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::cache::Rules;
    ///
    /// let github = Tollgate::upstream("github").cache(Rules::new()).file("/var/cache/github", 2 << 30).build()?;
    /// # let _ = github;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn file(mut self, directory: impl Into<PathBuf>, bytes: u64) -> Self {
        self.cache = self.cache.file(directory, bytes);
        self
    }

    /// Sets the Redis that the fleet shares: its URL, or a [`Redis`] with settings. Cached responses are shared, and
    /// credits are booked before they are spent, so that restarts and other nodes lose none. During an outage calls
    /// are sent without it, and booked afterwards.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::upstream::Credits;
    ///
    /// let github = Tollgate::upstream("github").quota(Credits::per_hour(5_000)).redis("redis://127.0.0.1").build()?;
    /// # let _ = github;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[cfg(feature = "redis")]
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

    /// Sets the PostgreSQL that the fleet shares: its URL, or a [`Postgres`] with settings. Cached responses are shared and
    /// survive restarts, and all nodes spend the same credits. Calls never fail because of it.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::cache::Rules;
    ///
    /// let github = Tollgate::upstream("github").cache(Rules::new()).postgres("postgres://app@127.0.0.1/app").build()?;
    /// # let _ = github;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[cfg(feature = "postgres")]
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
    /// let gate = Tollgate::upstream("github").cache(Rules::new()).memcached(servers).redis("redis://127.0.0.1").build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[cfg(feature = "memcached")]
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
    /// let gate = Tollgate::upstream("search").clock(Clock::Manual(ManualClock::new())).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn clock(self, clock: Clock) -> Self {
        let (for_upstream, for_cache) = (clock.clone(), clock.clone());
        let gate =
            self.upstream_with(|upstream| upstream.clock(for_upstream)).timing_with(|timing| timing.clock(clock));
        Self { cache: gate.cache.clock(for_cache), ..gate }
    }

    /// Adds a callback for every [`Event`] of every layer.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::upstream("search").hook(|event| eprintln!("{event:?}")).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn hook(self, hook: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        let hook: Hook = std::sync::Arc::new(hook);
        let (for_upstream, for_cache) = (hook.clone(), hook.clone());
        let gate = self
            .upstream_with(|upstream| upstream.hook(move |event| for_upstream(event)))
            .timing_with(|timing| timing.hook(move |event| hook(event)));
        Self { cache: gate.cache.hook(for_cache), ..gate }
    }

    /// Configures all other settings of the quota and the circuit.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::upstream("search").upstream_with(|upstream| upstream.free_not_modified()).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn upstream_with(self, f: impl FnOnce(UpstreamBuilder) -> UpstreamBuilder) -> Self {
        Self { upstream: f(self.upstream), ..self }
    }

    /// Configures all other settings of the cache, and enables it.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::upstream("search").cache_with(|cache| cache.memory(64 << 20)).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn cache_with(self, f: impl FnOnce(CacheBuilder) -> CacheBuilder) -> Self {
        Self { cache: f(self.cache), cached: true, ..self }
    }

    /// Configures all other settings of timing.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::upstream("search").timing_with(|timing| timing.max_routes(100)).build()?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn timing_with(self, f: impl FnOnce(TimingBuilder) -> TimingBuilder) -> Self {
        Self { timing: f(self.timing), ..self }
    }

    /// Builds the gate.
    ///
    /// # Errors
    /// Returns the errors of the layers' builders, or an error if the credential is not a valid field value, or a
    /// price or weight is not a finite, non-negative number. The message names the value, but never the credential.
    pub fn build(self) -> Result<UpstreamGate, Error> {
        if let Some(price) = self.price.filter(|price| !(price.is_finite() && *price >= 0.0)) {
            return Err(Error::config(format!(
                "the price per credit must be a finite amount of at least 0, not {price}"
            )));
        }
        let this = self;
        #[cfg(feature = "postgres")]
        let this = this.sharing_postgres()?;
        #[cfg(feature = "redis")]
        let this = this.sharing()?;
        let weights = this.weights.check()?;
        let upstream = this.upstream.build()?;
        let cache = if this.cached { this.cache.budget(upstream.budget()) } else { this.cache.enabled(false) };
        let layer = UpstreamGateLayer {
            timing: this.timing.build()?,
            cache: cache.build()?,
            upstream,
            credential: this.credential.transpose()?,
            rules_decide: this.rules_decide,
        };
        #[cfg(feature = "postgres")]
        let usage = this.usage.map(|table| {
            let (timing, upstream) = (layer.timing.clone(), layer.upstream.clone());
            let collect = Box::new(move || upstream_usage(&timing.stats(), &upstream.stats()));
            std::sync::Arc::new(UsageRecorder::new(table, collect))
        });
        Ok(UpstreamGate {
            layer,
            weights,
            price: this.price,
            #[cfg(feature = "postgres")]
            usage,
        })
    }

    /// Shares credits through PostgreSQL, if there is one and no Redis.
    #[cfg(feature = "postgres")]
    fn sharing_postgres(mut self) -> Result<Self, Error> {
        let Some(postgres) = self.postgres.take().transpose()? else { return Ok(self) };
        self.usage = Some(UsageTable::new(&postgres));
        #[cfg(feature = "redis")]
        if self.redis.is_some() {
            return postgres.check().map(|()| self);
        }
        self.upstream = self.upstream.store(std::sync::Arc::new(RemoteCredits::postgres(&postgres)?));
        Ok(self)
    }

    /// Connects the enabled layers to Redis, if there is one.
    #[cfg(feature = "redis")]
    fn sharing(mut self) -> Result<Self, Error> {
        let Some(redis) = self.redis.take().transpose()? else { return Ok(self) };
        redis.check()?;
        self.upstream = self.upstream.store(std::sync::Arc::new(RemoteCredits::redis(&redis)?));
        Ok(self)
    }
}

impl fmt::Debug for UpstreamGateBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamGateBuilder").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}
