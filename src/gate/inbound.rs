//! [`Tollgate`]: the layers in the right order, with one handle.
//!
//! | from the outside in | reason |
//! |---|---|
//! | timing | measures every request, including those that are rejected or answered from the cache |
//! | limit | rejects before anything costs; cache hits are counted too |
//! | cache | is next to the service, so that stored responses contain no client's rate-limit fields |
//!
//! The layers meet only here and do not know one another.

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::health::HealthEngine;
use super::health::status::Health;
use super::inbound_builder::TollgateBuilder;
#[cfg(feature = "jobs")]
use super::jobs::Jobs;
use super::overrides::OverrideEngine;
use super::overrides::handle::Overrides;
use super::stats::Stats;
#[cfg(feature = "postgres")]
use super::usage::UsageRecorder;
use crate::base::body::{Keep, Wrap};
use crate::base::error::Error;
use crate::base::metrics::family::Metric;
use crate::base::metrics::samples::Samples;
use crate::base::metrics::text::{TextFormat, TextPage};
use crate::base::mode::Mode;
use crate::cache::{Cache, CacheLayer, DataCache, Invalidate, Rules};
use crate::context::GatePlace;
#[cfg(feature = "jobs")]
use crate::jobs::engine::job_engine::JobEngine;
use crate::limit::{Quota, RateLimit, RateLimitLayer};
#[cfg(feature = "admin")]
use crate::store::fleet_records::port::FleetRecords;
use crate::timing::{Timing, TimingLayer};

/// Combines timing, limits and cache into one layer. Clones share all state.
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
    pub(crate) layer: TollgateLayer,
    pub(crate) cost_per_call: Option<f64>,
    pub(super) overrides: Arc<OverrideEngine>,
    pub(crate) health: Arc<HealthEngine>,
    #[cfg(feature = "jobs")]
    pub(super) jobs: Arc<JobEngine>,
    #[cfg(feature = "postgres")]
    pub(super) usage: Option<Arc<UsageRecorder>>,
}

impl Tollgate {
    /// Returns a builder; only timing is enabled by default.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().build()?;
    /// assert_eq!(gate.stats().requests, 0);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn builder() -> TollgateBuilder {
        TollgateBuilder::default()
    }

    /// Returns a builder of the layers around a *client*: timing → cache → quota and circuit → client. See
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

    /// Returns the layer to wrap services in. Its clones share this gate's state.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().build()?;
    /// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(gate.layer());
    /// # let _ = app;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn layer(&self) -> TollgateLayer {
        self.overrides.start();
        self.health.start();
        #[cfg(feature = "postgres")]
        self.usage.iter().for_each(|usage| usage.start());
        self.layer.clone()
    }

    /// Invalidates cached responses by tag, key or prefix.
    ///
    /// ```
    /// use tollgate::{Tollgate, cache::Rules};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let gate = Tollgate::builder().cache(Rules::new()).build()?;
    /// gate.invalidate().tag("prices").await?;
    /// # Ok(()) }
    /// ```
    pub fn invalidate(&self) -> Invalidate {
        self.layer.cache.invalidate()
    }

    /// Returns a cache of typed values that shares memory, Redis and tags with the cached responses. See
    /// [`Cached`](crate::cache::Cached). Without [`cache`](crate::TollgateBuilder::cache) on the builder, it is in memory alone.
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

    /// Returns the statistics of all layers, joined by route.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().build()?;
    /// let json = serde_json::to_string(&gate.stats()).expect("statistics serialise");
    /// assert!(json.contains("\"requests_total\":0"));
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        let TollgateLayer { timing, limit, cache, .. } = &self.layer;
        let stats = Stats::of(timing.stats(), limit.stats(), cache.stats(), self.cost_per_call);
        #[cfg(feature = "jobs")]
        let stats = Stats { jobs: self.jobs.list(), ..stats };
        stats
    }

    /// Returns the layer of the limits: their statistics and subjects, without a request.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::identity::Key;
    /// use tollgate::limit::Limit;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let gate = Tollgate::builder().limit(Limit::per_user("100/min").on("/ws")).build()?;
    /// let message = gate.limits().subject(Key::number("user", 42)).route("/ws").check(1).await;
    /// assert!(message.admits());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub const fn limits(&self) -> &RateLimitLayer {
        &self.layer.limit
    }

    /// Judges how the service is doing, from the last five minutes and the last hour: status, score, objectives, advice. Costs
    /// a reading of all counters.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().build()?;
    /// let health = gate.health();
    /// assert_eq!((health.status, health.degraded), ("pass", false));
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.health()
    }

    /// Writes a report for people: the last 24 hours, or the time since the start, in aligned columns.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().build()?;
    /// assert!(gate.report().contains("answered from the cache"));
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn report(&self) -> String {
        self.health.report()
    }

    /// Returns the store of records that the nodes share.
    #[cfg(feature = "admin")]
    pub(crate) fn records(&self) -> Option<Arc<dyn FleetRecords>> {
        self.overrides.records()
    }

    /// Returns the patterns of the cache rules.
    #[cfg(feature = "admin")]
    pub(crate) fn rule_patterns(&self) -> Vec<String> {
        self.layer.cache.rule_patterns()
    }

    /// Returns the overrides: settings that operators change for a time, on this node or on all.
    ///
    /// ```
    /// use tollgate::{Mode, Override, Tollgate};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let gate = Tollgate::builder().build()?;
    /// gate.overrides().apply(Override::mode("cache", Mode::Off).because("stale prices")).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides::new(self.overrides.clone())
    }

    /// Changes a limit's quota from now on: see [`RateLimitLayer::set_quota`].
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let gate = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(20)).named("ip")).build()?;
    /// gate.set_quota("ip", Quota::per_minute(40))?;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if there is no limit of that name, or the quota is impossible.
    pub fn set_quota(&self, name: &str, quota: impl TryInto<Quota, Error: Into<Error>>) -> Result<(), Error> {
        self.layer.limit.set_quota(name, quota)
    }

    /// Changes the mode of the limits (on, off, shadow) from now on: see [`RateLimitLayer::set_mode`].
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota};
    /// use tollgate::{Mode, Tollgate};
    ///
    /// let gate = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(20))).build()?;
    /// gate.set_limits_mode(Mode::Shadow);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn set_limits_mode(&self, mode: Mode) {
        self.layer.limit.set_mode(mode);
    }

    /// Replaces the cache rules for future requests: see [`CacheLayer::set_rules`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::Tollgate;
    /// use tollgate::cache::{Rule, Rules};
    ///
    /// let gate = Tollgate::builder().cache(Rules::new()).build()?;
    /// gate.set_rules(Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(60))))?;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error that names the first invalid value; the old rules stay in force.
    pub fn set_rules(&self, rules: Rules) -> Result<(), Error> {
        self.layer.cache.set_rules(rules)
    }

    /// Changes the mode of the cache (on, off, shadow) from now on: see [`CacheLayer::set_mode`].
    ///
    /// ```
    /// use tollgate::cache::Rules;
    /// use tollgate::{Mode, Tollgate};
    ///
    /// let gate = Tollgate::builder().cache(Rules::new()).build()?;
    /// gate.set_cache_mode(Mode::Off);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn set_cache_mode(&self, mode: Mode) {
        self.layer.cache.set_mode(mode);
    }

    /// Changes the mode of timing (on, off, shadow) from now on: see [`TimingLayer::set_mode`].
    ///
    /// ```
    /// use tollgate::{Mode, Tollgate};
    ///
    /// let gate = Tollgate::builder().build()?;
    /// gate.set_timing_mode(Mode::Off);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn set_timing_mode(&self, mode: Mode) {
        self.layer.timing.set_mode(mode);
    }

    /// Renders the metrics of all layers in Prometheus text format. [`Metrics`](crate::Metrics) also offers OpenMetrics, and joins the
    /// metrics of gates of upstreams.
    ///
    /// ```
    /// # fn example(gate: tollgate::Tollgate) {
    /// let metrics = axum::routing::get(async move || gate.prometheus());
    /// let app: axum::Router = axum::Router::new().route("/metrics", metrics);
    /// # }
    /// ```
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut page = TextPage::new(TextFormat::Prometheus);
        self.fill_metrics(&mut page);
        page.finish()
    }

    /// Adds the values of all metrics.
    pub(super) fn fill_metrics(&self, out: &mut dyn Samples) {
        self.layer.timing.fill_metrics(out);
        self.layer.limit.fill_metrics(out);
        self.layer.cache.fill_metrics("", out);
        self.health.fill_metrics(out);
        out.whole(Metric::OverridesActive, &[], self.overrides.count());
        #[cfg(feature = "jobs")]
        self.jobs.fill_metrics(out);
    }

    /// Returns the jobs, with which work is added that runs on a schedule.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let gate = tollgate::Tollgate::builder().build()?;
    /// gate.jobs().every("15m").job("coins", |_| async { Ok::<_, String>("250 coins") })?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "jobs")]
    #[must_use]
    pub fn jobs(&self) -> Jobs {
        Jobs::new(self.jobs.clone())
    }

    /// Waits until running jobs have ended, at most five seconds, and until detached fetches and revalidations are done, at most
    /// a second, returns leased blocks of limits, and writes
    /// usage that was counted since the last minute. Call it after the server has stopped accepting connections.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let gate = Tollgate::builder().build()?;
    /// gate.shutdown().await;
    /// # Ok(()) }
    /// ```
    pub async fn shutdown(&self) {
        #[cfg(feature = "jobs")]
        self.jobs.shutdown().await;
        self.layer.cache.drain().await;
        self.layer.limit.shutdown().await;
        #[cfg(feature = "postgres")]
        if let Some(usage) = &self.usage {
            usage.flush().await;
        }
    }
}

impl fmt::Debug for Tollgate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tollgate").field("layer", &self.layer).finish_non_exhaustive()
    }
}

/// Layer of a [`Tollgate`].
///
/// ```
/// use tollgate::{Tollgate, TollgateLayer};
///
/// let layer: TollgateLayer = Tollgate::builder().build()?.layer();
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TollgateLayer {
    pub(super) timing: TimingLayer,
    pub(super) limit: RateLimitLayer,
    pub(crate) cache: CacheLayer,
    /// Its number in this process, by which it recognizes itself where it is layered twice, and what its layers share.
    pub(super) place: GatePlace,
}

/// Service of a [`Tollgate`]: the response body is wrapped once, by the innermost layer.
///
/// ```
/// use tollgate::{Tollgate, TollgateService};
/// use tower::Layer;
///
/// let service: TollgateService<&str> = Tollgate::builder().build()?.layer().layer("the inner service");
/// # let _ = service;
/// # Ok::<(), tollgate::Error>(())
/// ```
pub type TollgateService<S> = Timing<RateLimit<Cache<S, Wrap>, Keep>, Keep>;

impl<S> Layer<S> for TollgateLayer {
    type Service = TollgateService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let number = self.place.number;
        self.timing.wrap(self.limit.wrap(self.cache.wrap(inner, number), number), self.place)
    }
}
