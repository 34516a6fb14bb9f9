//! [`Tollgate`]: the layers in the right order, with one handle.
//!
//! | from the outside in | why there |
//! |---|---|
//! | timing | sees every request, also those that a limit refuses or the cache answers |
//! | limit | refuses before anything costs; a cache hit is counted too |
//! | cache | stands next to the service, so that what it keeps has no trace of the client's limits |
//!
//! The layers meet here and nowhere else; none of them knows the others.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::stats::Stats;
use crate::base::body::{Keep, Wrap};
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Event, Hook};
use crate::base::mode::Switch;
use crate::cache::{Cache, CacheBuilder, CacheLayer, DataCache, Invalidate, Rules};
use crate::identity::KeyExtractor;
use crate::limit::{Limit, Quota, RateLimit, RateLimitBuilder, RateLimitLayer};
#[cfg(feature = "redis")]
use crate::store::redis::{Redis, RedisCache, RedisLimits};
use crate::timing::{Timing, TimingBuilder, TimingLayer};

/// The three layers as one: timing, then limits, then cache. Clones share everything.
///
/// ```
/// use std::time::Duration;
///
/// use axum::{Router, routing::get};
/// use tollgate::Tollgate;
/// use tollgate::cache::{Rule, Rules};
/// use tollgate::identity::{KeyExtractor, TrustedProxies, by};
/// use tollgate::limit::{Limit, Quota, Tiers};
///
/// # async fn example() -> Result<(), tollgate::Error> {
/// let gate = Tollgate::builder()
///     .identify(by::bearer().or(by::client_ip(TrustedProxies::none())))
///     .limit(Tiers::default())
///     .limit(Limit::per_ip(Quota::per_minute(20_000)))
///     .cache(Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15)).tag("prices")))
///     .slow_after(Duration::from_millis(250))
///     .build()?;
/// let app: Router = Router::new().route("/prices/{symbol}", get(|| async { "42" })).layer(gate.layer());
///
/// gate.invalidate().tag("prices").await?;
/// println!("{} calls avoided", gate.stats().inner_calls_avoided);
/// gate.shutdown().await;
/// # let _ = app;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tollgate {
    layer: TollgateLayer,
    cost_per_call: Option<f64>,
}

impl Tollgate {
    /// Nothing switched on yet but timing.
    #[must_use]
    pub fn builder() -> TollgateBuilder {
        TollgateBuilder::default()
    }

    /// The layers around a *client*, for calls out: timing → cache → quota and circuit → client. See
    /// [`UpstreamGate`](crate::UpstreamGate).
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::upstream::Credits;
    ///
    /// let github = Tollgate::upstream("github").quota(Credits::per_hour(5_000)).build()?;
    /// # let _ = github.layer();
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn upstream(name: impl Into<String>) -> crate::UpstreamGateBuilder {
        crate::UpstreamGate::builder(name.into())
    }

    /// The layer to wrap services in. Every clone of it shares this gate's state.
    #[must_use]
    pub fn layer(&self) -> TollgateLayer {
        self.layer.clone()
    }

    /// Removes cached responses by tag, key or prefix.
    pub fn invalidate(&self) -> Invalidate {
        self.layer.cache.invalidate()
    }

    /// Caches of typed values beside the responses: in the same memory, behind the same Redis, taken back by the same tags.
    /// See [`Cached`](crate::cache::Cached).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::{Tollgate, cache::{Cached, Rules}};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let gate = Tollgate::builder().cache(Rules::new()).build()?;
    /// let prices: Cached<u64> = gate.data().cached("prices").ttl(Duration::from_secs(15)).tag("prices").build()?;
    /// prices.put("ACME", 42_u64).await?;
    /// gate.invalidate().tag("prices").await?;
    /// assert!(prices.get("ACME").await.is_none());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn data(&self) -> DataCache {
        self.layer.cache.data()
    }

    /// What all layers have done so far, by route, and what it saved.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let TollgateLayer { timing, limit, cache } = &self.layer;
        Stats::of(timing.stats(), limit.stats(), cache.stats(), self.cost_per_call)
    }

    /// Changes a limit's quota from now on: see [`RateLimitLayer::set_quota`].
    ///
    /// # Errors
    /// Where there is no limit of that name, or the quota is impossible.
    pub fn set_quota(&self, name: &str, quota: Quota) -> Result<(), Error> {
        self.layer.limit.set_quota(name, quota)
    }

    /// Switches the limits on, off or to looking only, from now on: see [`RateLimitLayer::switch`].
    pub fn switch_limits(&self, switch: Switch) {
        self.layer.limit.switch(switch);
    }

    /// Judges requests that come from now on by these cache rules: see [`CacheLayer::set_rules`].
    ///
    /// # Errors
    /// Names the first value of the rules that is wrong; the old rules stay.
    pub fn set_rules(&self, rules: Rules) -> Result<(), Error> {
        self.layer.cache.set_rules(rules)
    }

    /// Switches the cache on, off or to looking only, from now on: see [`CacheLayer::switch`].
    pub fn switch_cache(&self, switch: Switch) {
        self.layer.cache.switch(switch);
    }

    /// Switches timing on, off or to measuring only, from now on: see [`TimingLayer::switch`].
    pub fn switch_timing(&self, switch: Switch) {
        self.layer.timing.switch(switch);
    }

    /// Requests, queries and findings for Prometheus, in its text format: see
    /// [`TimingLayer::prometheus`](crate::timing::TimingLayer::prometheus) for the metrics, their types, units and labels;
    /// and what limits decided, with and without their store:
    ///
    /// | metric | type | unit | labels |
    /// |---|---|---|---|
    /// | `tollgate_limit_decisions_total` | counter | requests | `outcome`: `admitted`, `refused` |
    /// | `tollgate_limit_refusals_total` | counter | refusals | `limit`: its name, or the tier's |
    /// | `tollgate_limit_degraded_total` | counter | decisions made without the store | |
    /// | `tollgate_limit_store_up` | gauge | 1 where the store that a fleet shares answers | |
    /// | `tollgate_limit_store_decisions_total` | counter | decisions made with it | |
    /// | `tollgate_limit_store_leased_total` | counter | of these, paid for in advance | |
    /// | `tollgate_limit_store_remembered_total` | counter | of these, refusals remembered | |
    /// | `tollgate_limit_store_commands_total` | counter | commands | |
    /// | `tollgate_limit_store_failures_total` | counter | commands that failed or came too late | |
    ///
    /// ```
    /// # fn example(gate: tollgate::Tollgate) {
    /// let metrics = axum::routing::get(async move || gate.prometheus());
    /// let app: axum::Router = axum::Router::new().route("/metrics", metrics);
    /// # }
    /// ```
    #[must_use]
    pub fn prometheus(&self) -> String {
        self.layer.timing.prometheus() + &self.layer.limit.prometheus()
    }

    /// Waits until fetches and revalidations that outlived their requests are done, at most a second. Call it after the
    /// server has stopped accepting.
    pub async fn shutdown(&self) {
        self.layer.cache.drain().await;
    }
}

impl fmt::Debug for Tollgate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tollgate").field("layer", &self.layer).finish_non_exhaustive()
    }
}

/// The layer of a [`Tollgate`].
#[derive(Clone, Debug)]
pub struct TollgateLayer {
    timing: TimingLayer,
    limit: RateLimitLayer,
    cache: CacheLayer,
}

/// The service of a [`Tollgate`]: the response body is wrapped once, by the innermost layer.
pub type TollgateService<S> = Timing<RateLimit<Cache<S, Wrap>, Keep>, Keep>;

impl<S> Layer<S> for TollgateLayer {
    type Service = TollgateService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        self.timing.wrap(self.limit.wrap(self.cache.wrap(inner)))
    }
}

/// Builds a [`Tollgate`]. What is set here is what most services set; [`limits_with`](Self::limits_with),
/// [`cache_with`](Self::cache_with) and [`timing_with`](Self::timing_with) reach everything else.
pub struct TollgateBuilder {
    limits: RateLimitBuilder,
    limited: bool,
    cache: CacheBuilder,
    cached: bool,
    timing: TimingBuilder,
    cost_per_call: Option<f64>,
    #[cfg(feature = "redis")]
    redis: Option<Result<Redis, Error>>,
}

impl Default for TollgateBuilder {
    fn default() -> Self {
        Self {
            limits: RateLimitLayer::builder(),
            limited: false,
            cache: CacheLayer::builder(),
            cached: false,
            timing: TimingLayer::builder(),
            cost_per_call: None,
            #[cfg(feature = "redis")]
            redis: None,
        }
    }
}

impl TollgateBuilder {
    /// Who is asking, for all limits and for the cache: the socket peer's address unless told. Requests that carry a
    /// credential of this kind ([`KeyExtractor::carries`]), or of a kind that a [limit of its own](Limit::by) counts by, are
    /// answered from the cache only where their rule says [`same_for_everyone`](crate::cache::Rule::same_for_everyone) or
    /// [`per_identity`](crate::cache::Rule::per_identity).
    #[must_use]
    pub fn identify(self, who: impl KeyExtractor) -> Self {
        self.limits_with(|limits| limits.identify(who))
    }

    /// Declares the routes of the service, in axum's syntax, for all layers: see
    /// [`CacheBuilder::routes`](crate::cache::CacheBuilder::routes). Needed where no router of axum has matched the
    /// requests: around a whole Router, in its fallbacks, and around hyper and tonic services.
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
    pub fn routes(self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        let patterns: Vec<_> = patterns.into_iter().collect();
        let routes: Vec<&str> = patterns.iter().map(AsRef::as_ref).collect();
        let gate = self.limits_with(|limits| limits.routes(&routes)).timing_with(|timing| timing.routes(&routes));
        Self { cache: gate.cache.routes(&routes), ..gate }
    }

    /// Adds a limit, or [`Tiers`](crate::limit::Tiers). All limits are one decision.
    #[must_use]
    pub fn limit(mut self, limit: impl Into<Limit>) -> Self {
        self.limited = true;
        self.limits_with(|limits| limits.limit(limit))
    }

    /// Caches by these rules; without it nothing is cached.
    #[must_use]
    pub fn cache(self, rules: Rules) -> Self {
        self.cache_with(|cache| cache.rules(rules))
    }

    /// From when on a request is slow.
    #[must_use]
    pub fn slow_after(self, span: Duration) -> Self {
        self.timing_with(|timing| timing.slow_after(span))
    }

    /// What one call of the inner service costs, in any currency: [`Stats::money_saved`] tells what the cache saved.
    #[must_use]
    pub fn cost_per_call(mut self, cost: f64) -> Self {
        self.cost_per_call = Some(cost);
        self
    }

    /// A Redis that the whole fleet shares: its URL, or a [`Redis`] with settings. While it is away, requests go on
    /// without it; nothing fails where it is down.
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
        self.redis = Some(redis.try_into().map_err(Into::into));
        self
    }

    /// Where all layers read the time.
    #[must_use]
    pub fn clock(self, clock: Clock) -> Self {
        let (for_limits, for_cache) = (clock.clone(), clock.clone());
        let gate = self.limits_with(|limits| limits.clock(for_limits)).timing_with(|timing| timing.clock(clock));
        Self { cache: gate.cache.clock(for_cache), ..gate }
    }

    /// Is called with every [`Event`] of every layer.
    #[must_use]
    pub fn hook(self, hook: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        let hook: Hook = Arc::new(hook);
        let (for_limits, for_cache) = (hook.clone(), hook.clone());
        let gate = self
            .limits_with(|limits| limits.hook(move |event| for_limits(event)))
            .timing_with(|timing| timing.hook(move |event| hook(event)));
        Self { cache: gate.cache.hook(for_cache), ..gate }
    }

    /// Everything else of the limits.
    #[must_use]
    pub fn limits_with(self, f: impl FnOnce(RateLimitBuilder) -> RateLimitBuilder) -> Self {
        Self { limits: f(self.limits), ..self }
    }

    /// Everything else of the cache, which this switches on.
    #[must_use]
    pub fn cache_with(self, f: impl FnOnce(CacheBuilder) -> CacheBuilder) -> Self {
        Self { cache: f(self.cache), cached: true, ..self }
    }

    /// Everything else of the timing.
    #[must_use]
    pub fn timing_with(self, f: impl FnOnce(TimingBuilder) -> TimingBuilder) -> Self {
        Self { timing: f(self.timing), ..self }
    }

    /// # Errors
    /// What the layers' own builders refuse, and a cost per call that is not a finite, positive number. The message names
    /// the value.
    pub fn build(self) -> Result<Tollgate, Error> {
        if let Some(cost) = self.cost_per_call.filter(|cost| !(cost.is_finite() && *cost >= 0.0)) {
            return Err(Error::config(format!("the cost per call must be a finite amount of at least 0, not {cost}")));
        }
        #[cfg(feature = "redis")]
        let this = self.sharing()?;
        #[cfg(not(feature = "redis"))]
        let this = self;
        // A gate without a limit keeps the type of one with: the limit is there, switched off.
        let limits = if this.limited { this.limits } else { this.limits.limit(Limit::unused()).enabled(false) };
        let (identify, own) = limits.extractors();
        let cache = this.cache.identified_by(identify, own);
        let cache = if this.cached { cache } else { cache.enabled(false) };
        let layer = TollgateLayer { timing: this.timing.build()?, limit: limits.build()?, cache: cache.build()? };
        Ok(Tollgate { layer, cost_per_call: this.cost_per_call })
    }

    /// Puts the Redis behind what is switched on, if there is one.
    #[cfg(feature = "redis")]
    fn sharing(mut self) -> Result<Self, Error> {
        let Some(redis) = self.redis.take().transpose()? else { return Ok(self) };
        if self.cached {
            self.cache = self.cache.level_2(Arc::new(RedisCache::new(redis.clone())?));
        }
        if self.limited {
            self.limits = self.limits.store(Arc::new(RedisLimits::new(&redis)?));
        }
        redis.check().map(|()| self)
    }
}

impl fmt::Debug for TollgateBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TollgateBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}
