//! [`UpstreamGate`]: the layers of this crate around a client, in the right order, built as one.
//!
//! ```text
//! timing → cache, with one fetch for all who ask → quota and circuit → credential → client
//! ```
//!
//! This order, because: requests are timed as their callers feel them; what the cache answers costs nothing; what the
//! quota
//! refuses is an error to the cache, which serves a stale answer in its place; and the credential is added where no
//! cache
//! can mistake it for a user's.

use std::fmt;

use http::header::{HeaderName, HeaderValue};
use serde::Serialize;
use tower_layer::Layer;

use crate::base::body::Keep;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Event, Hook};
use crate::cache::{Cache, CacheBuilder, CacheLayer, CacheStats, DataCache, Invalidate, Rules};
#[cfg(feature = "redis")]
use crate::store::redis::{Redis, RedisCache, RedisCredits};
use crate::timing::{Timing, TimingBuilder, TimingLayer, TimingStats};
use crate::upstream::{
    Credential, Credits, EfficiencyReport, Mode, Upstream, UpstreamBuilder, UpstreamLayer, UpstreamStats, Usage,
    Weights,
};

/// One upstream, asked no more than needed and never more than is paid for. Made by
/// [`Tollgate::upstream`](crate::Tollgate::upstream); clones share everything.
///
/// ```
/// use std::time::Duration;
///
/// use bytes::Bytes;
/// use http_body_util::Empty;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tollgate::Tollgate;
/// use tollgate::cache::{Rule, Rules};
/// use tollgate::upstream::{Credits, Mode};
/// use tower::Layer;
///
/// # fn example() -> Result<(), tollgate::Error> {
/// let prices = Rule::ttl(Duration::from_secs(900)).stale_if_error(Duration::from_secs(86_400));
/// let market = Tollgate::upstream("market")
///     .quota(Credits::per_month(60_000).reset_day(1))
///     .cache(Rules::new().route("/prices/{symbol}", prices))
///     .bearer("our-own-key")
///     .build()?;
/// let client = market.layer().layer(Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>());
/// println!("{}", market.report());
/// # let _ = client;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct UpstreamGate {
    layer: UpstreamGateLayer,
    weights: Weights,
    price: Option<f64>,
}

impl UpstreamGate {
    pub(crate) fn builder(name: String) -> UpstreamGateBuilder {
        UpstreamGateBuilder::new(name)
    }

    /// The layer to wrap the client in. Every clone of it shares this gate's state.
    #[must_use]
    pub fn layer(&self) -> UpstreamGateLayer {
        self.layer.clone()
    }

    /// Removes cached answers by tag, key or prefix.
    pub fn invalidate(&self) -> Invalidate {
        self.layer.cache.invalidate()
    }

    /// Typed values over the same cache: the same memory, Redis and tags.
    #[must_use]
    pub fn data(&self) -> DataCache {
        self.layer.cache.data()
    }

    /// What is known of the upstream, what the cache spared it, and how each endpoint is used.
    #[must_use]
    pub fn stats(&self) -> UpstreamGateStats {
        let UpstreamGateLayer { timing, cache, upstream, .. } = &self.layer;
        let (timing, cache, upstream) = (timing.stats(), cache.stats(), upstream.stats());
        let efficiency = self.efficiency(&timing, &upstream);
        UpstreamGateStats {
            requests: timing.requests,
            calls: upstream.calls,
            calls_avoided: cache.inner_calls_avoided,
            upstream,
            efficiency,
            cache,
            timing,
        }
    }

    /// How each endpoint is used, the one with the lowest score first. Prints as aligned text.
    #[must_use]
    pub fn report(&self) -> EfficiencyReport {
        self.efficiency(&self.layer.timing.stats(), &self.layer.upstream.stats())
    }

    fn efficiency(&self, timing: &TimingStats, upstream: &UpstreamStats) -> EfficiencyReport {
        let usages = timing.routes.iter().map(|route| {
            let called = upstream.endpoints.iter().find(|endpoint| endpoint.endpoint == route.route);
            Usage {
                upstream: upstream.upstream.clone(),
                endpoint: route.route.clone(),
                requests: route.requests,
                calls: called.map_or(0, |endpoint| endpoint.calls),
                credits: called.map_or(0, |endpoint| endpoint.credits),
                mean_latency: route.latency.mean,
            }
        });
        EfficiencyReport::of(usages, &self.weights, self.price)
    }

    /// Waits until fetches that outlived their requests are done, at most a second, and gives back what was booked and
    /// not
    /// spent. Call it when no more requests are made.
    pub async fn shutdown(&self) {
        self.layer.cache.drain().await;
        self.layer.upstream.shutdown().await;
    }
}

impl fmt::Debug for UpstreamGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamGate").field("layer", &self.layer).finish_non_exhaustive()
    }
}

/// What an [`UpstreamGate`] has done since it was built. Serialises to JSON.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct UpstreamGateStats {
    /// Requests that came in.
    pub requests: u64,
    /// Calls of the upstream that were made.
    pub calls: u64,
    /// Calls that the cache made unnecessary.
    pub calls_avoided: u64,
    /// The quota: what is spent and left, what the upstream says, when it ends at this rate.
    pub upstream: UpstreamStats,
    /// How each endpoint is used, the one with the lowest score first.
    pub efficiency: EfficiencyReport,
    /// Everything the cache knows.
    pub cache: CacheStats,
    /// Everything the timing layer knows.
    pub timing: TimingStats,
}

/// The layer of an [`UpstreamGate`].
#[derive(Clone)]
pub struct UpstreamGateLayer {
    timing: TimingLayer,
    cache: CacheLayer,
    upstream: UpstreamLayer,
    credential: Option<(HeaderName, HeaderValue)>,
    rules_decide: bool,
}

/// The service of an [`UpstreamGate`]: the response body is wrapped once, by the innermost layer.
pub type UpstreamGateService<S> = Timing<Cache<Upstream<Credential<S>>, Keep>, Keep>;

impl<S> Layer<S> for UpstreamGateLayer {
    type Service = UpstreamGateService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let called = self.upstream.layer(Credential::new(inner, self.credential.clone(), self.rules_decide));
        self.timing.wrap(self.cache.wrap(called))
    }
}

impl fmt::Debug for UpstreamGateLayer {
    /// Never shows the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamGateLayer").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

/// Builds an [`UpstreamGate`]. What is set here is what most set; [`upstream_with`](Self::upstream_with),
/// [`cache_with`](Self::cache_with) and [`timing_with`](Self::timing_with) reach everything else.
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
    #[cfg(feature = "redis")]
    redis: Option<Result<Redis, Error>>,
}

impl UpstreamGateBuilder {
    fn new(name: String) -> Self {
        Self {
            upstream: UpstreamLayer::builder(name),
            cache: CacheLayer::builder().outbound(),
            cached: false,
            timing: TimingLayer::builder().outbound(),
            credential: None,
            rules_decide: false,
            weights: Weights::default(),
            price: None,
            #[cfg(feature = "redis")]
            redis: None,
        }
    }

    /// Adds a window and what may be spent in it. Without one, only what the upstream says counts.
    pub fn quota(self, credits: Credits) -> Self {
        self.upstream_with(|upstream| upstream.quota(credits))
    }

    /// What becomes of a call that may not be made now: [`Mode::Reject`] unless told. Where an answer is cached, and
    /// its rule
    /// has [`stale_if_error`](crate::cache::Rule::stale_if_error), it is served in place of one that was shed.
    pub fn mode(self, mode: Mode) -> Self {
        self.upstream_with(|upstream| upstream.mode(mode))
    }

    /// Sets the cost of a call in credits. Defaults to 1.
    pub fn cost(self, cost: impl Fn(&crate::RequestHead<'_>) -> u64 + Send + Sync + 'static) -> Self {
        self.upstream_with(|upstream| upstream.cost(cost))
    }

    /// What a credit costs, in any currency: reports say what was paid and what was saved.
    pub const fn price(mut self, per_credit: f64) -> Self {
        self.price = Some(per_credit);
        self
    }

    /// What the score of an endpoint is made of.
    pub const fn weights(mut self, weights: Weights) -> Self {
        self.weights = weights;
        self
    }

    /// Caches by these rules, whose patterns also name the endpoints; without it nothing is cached. As the quota runs
    /// low,
    /// entries live longer: see [`Budget`](crate::Budget).
    pub fn cache(self, rules: Rules) -> Self {
        let names: Vec<String> = rules.patterns().map(str::to_owned).collect();
        self.named(&names).cache_with(|cache| cache.rules(rules))
    }

    /// The rules' word on freshness against the upstream's: what it says in `Cache-Control` and `Expires` is not
    /// obeyed, but
    /// for `no-store`. Without it a rule's TTL is for answers that say nothing of freshness themselves. Users are sent
    /// what
    /// the upstream says.
    pub const fn rules_decide(mut self) -> Self {
        self.rules_decide = true;
        self
    }

    /// Declares the upstream's endpoints, in axum's syntax: they name calls in statistics, besides the patterns of the
    /// cache's rules, and decide which rule a call falls under
    /// ([`CacheBuilder::routes`](crate::cache::CacheBuilder::routes)).
    pub fn routes(self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        let patterns: Vec<_> = patterns.into_iter().collect();
        let names: Vec<&str> = patterns.iter().map(AsRef::as_ref).collect();
        let gate = self.named(&names);
        Self { cache: gate.cache.routes(&names), ..gate }
    }

    fn named(self, names: &[impl AsRef<str>]) -> Self {
        self.upstream_with(|upstream| upstream.routes(names)).timing_with(|timing| timing.routes(names))
    }

    /// Our own key, sent as `Authorization: Bearer …` with every call that has no `Authorization` yet.
    ///
    /// It is added below the cache: what is asked with it is asked for everybody, and shared. Requests that bring an
    /// `Authorization` of their own, a user's, pass the cache by unless a rule says
    /// [`same_for_everyone`](crate::cache::Rule::same_for_everyone).
    pub fn bearer(self, token: &str) -> Self {
        self.credential(http::header::AUTHORIZATION, format!("Bearer {token}"))
    }

    /// The same in any field, such as `X-Api-Key`.
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

    /// A Redis that the whole fleet shares: its URL, or a [`Redis`] with settings. Credits are booked there before
    /// they are
    /// spent, so that neither a restart nor a second node forgets any, and cached answers are shared. While it is away,
    /// calls go on without it, and what they cost is booked afterwards.
    #[cfg(feature = "redis")]
    pub fn redis<R>(mut self, redis: R) -> Self
    where
        R: TryInto<Redis>,
        R::Error: Into<Error>,
    {
        self.redis = Some(redis.try_into().map_err(Into::into));
        self
    }

    /// Where all layers read the time.
    pub fn clock(self, clock: Clock) -> Self {
        let (for_upstream, for_cache) = (clock.clone(), clock.clone());
        let gate =
            self.upstream_with(|upstream| upstream.clock(for_upstream)).timing_with(|timing| timing.clock(clock));
        Self { cache: gate.cache.clock(for_cache), ..gate }
    }

    /// Is called with every [`Event`] of every layer.
    pub fn hook(self, hook: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        let hook: Hook = std::sync::Arc::new(hook);
        let (for_upstream, for_cache) = (hook.clone(), hook.clone());
        let gate = self
            .upstream_with(|upstream| upstream.hook(move |event| for_upstream(event)))
            .timing_with(|timing| timing.hook(move |event| hook(event)));
        Self { cache: gate.cache.hook(for_cache), ..gate }
    }

    /// Everything else of the quota and the circuit.
    pub fn upstream_with(self, f: impl FnOnce(UpstreamBuilder) -> UpstreamBuilder) -> Self {
        Self { upstream: f(self.upstream), ..self }
    }

    /// Everything else of the cache, which this switches on.
    pub fn cache_with(self, f: impl FnOnce(CacheBuilder) -> CacheBuilder) -> Self {
        Self { cache: f(self.cache), cached: true, ..self }
    }

    /// Everything else of the timing.
    pub fn timing_with(self, f: impl FnOnce(TimingBuilder) -> TimingBuilder) -> Self {
        Self { timing: f(self.timing), ..self }
    }

    /// # Errors
    /// What the layers' own builders refuse, a credential that is no field value, a price or weights that are not
    /// finite,
    /// positive numbers. The message names the value, but never the credential.
    pub fn build(self) -> Result<UpstreamGate, Error> {
        if let Some(price) = self.price.filter(|price| !(price.is_finite() && *price >= 0.0)) {
            return Err(Error::config(format!(
                "the price per credit must be a finite amount of at least 0, not {price}"
            )));
        }
        #[cfg(feature = "redis")]
        let this = self.sharing()?;
        #[cfg(not(feature = "redis"))]
        let this = self;
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
        Ok(UpstreamGate { layer, weights, price: this.price })
    }

    /// Puts the Redis behind what is switched on, if there is one.
    #[cfg(feature = "redis")]
    fn sharing(mut self) -> Result<Self, Error> {
        let Some(redis) = self.redis.take().transpose()? else { return Ok(self) };
        redis.check()?;
        if self.cached {
            self.cache = self.cache.level_2(std::sync::Arc::new(RedisCache::new(redis.clone())?));
        }
        self.upstream = self.upstream.store(std::sync::Arc::new(RedisCredits::new(&redis)?));
        Ok(self)
    }
}

impl fmt::Debug for UpstreamGateBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamGateBuilder").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}
