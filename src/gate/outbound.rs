//! [`UpstreamGate`]: the layers of this crate around a client, in the right order.
//!
//! ```text
//! timing → cache with request coalescing → quota and circuit → credential → client
//! ```
//!
//! Reasons for this order: requests are timed as their callers experience them; cache hits cost nothing; a rejection
//! by the quota is an error to the cache, which can serve a stale response instead; and the credential is added where
//! no cache can mistake it for a user's.

use std::fmt;
#[cfg(feature = "postgres")]
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use serde::Serialize;
use tower_layer::Layer;

use super::outbound_builder::UpstreamGateBuilder;
#[cfg(feature = "postgres")]
use super::usage::UsageRecorder;
use crate::base::body::Keep;
use crate::base::metrics::samples::Samples;
use crate::base::metrics::text::{TextFormat, TextPage};
use crate::cache::{Cache, CacheLayer, CacheStats, DataCache, Invalidate};
use crate::context::GatePlace;
use crate::timing::{Timing, TimingLayer, TimingStats};
use crate::upstream::{Credential, EfficiencyReport, Upstream, UpstreamLayer, UpstreamStats, Usage, Weights};

/// Cache, quota and circuit breaker around a client of one upstream. Made by
/// [`Tollgate::upstream`](crate::Tollgate::upstream); clones share all state.
///
/// ```
/// use std::time::Duration;
///
/// use bytes::Bytes;
/// use http_body_util::Empty;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tollgate::Tollgate;
/// use tollgate::cache::{Rule, Rules};
/// use tollgate::upstream::{Credits, OnLimit};
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
    pub(super) layer: UpstreamGateLayer,
    pub(super) weights: Weights,
    pub(super) price: Option<f64>,
    #[cfg(feature = "postgres")]
    pub(super) usage: Option<Arc<UsageRecorder>>,
}

impl UpstreamGate {
    pub(super) fn builder(name: String) -> UpstreamGateBuilder {
        UpstreamGateBuilder::new(name)
    }

    /// Returns the layer to wrap the client in. Its clones share this gate's state.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tower::Layer;
    ///
    /// let gate = Tollgate::upstream("search").build()?;
    /// let client = gate.layer().layer(tower::service_fn(async |_: http::Request<()>| {
    ///     Ok::<_, std::io::Error>(http::Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
    /// }));
    /// # let _ = client;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn layer(&self) -> UpstreamGateLayer {
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
    /// let gate = Tollgate::upstream("search").cache(Rules::new()).build()?;
    /// gate.invalidate().tag("prices").await?;
    /// # Ok(()) }
    /// ```
    pub fn invalidate(&self) -> Invalidate {
        self.layer.cache.invalidate()
    }

    /// Returns a cache of typed values that shares memory, Redis and tags with the cached responses.
    ///
    /// ```
    /// use tollgate::{Tollgate, cache::Rules};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let gate = Tollgate::upstream("search").cache(Rules::new()).build()?;
    /// let rates: tollgate::cache::Cached<f64> = gate.data().cached("rates").build()?;
    /// # let _ = rates;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn data(&self) -> DataCache {
        self.layer.cache.data()
    }

    /// Returns the statistics of the upstream, the cache and the endpoints.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::upstream::Credits;
    ///
    /// let github = Tollgate::upstream("github").quota(Credits::per_hour(5_000)).build()?;
    /// assert_eq!(github.stats().upstream.windows[0].remaining, 5_000);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
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

    /// Renders the metrics of all layers in Prometheus text format. [`Metrics`](crate::Metrics) also offers OpenMetrics, and joins the
    /// metrics of several gates.
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let market = Tollgate::upstream("market").build()?;
    /// assert!(market.prometheus().contains("tollgate_upstream_waits_total{upstream=\"market\"} 0"));
    /// # Ok::<(), tollgate::Error>(())
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
        self.layer.cache.fill_metrics(self.layer.upstream.name(), out);
        self.layer.upstream.fill_metrics(out);
    }

    /// Returns the efficiency of the endpoints, lowest score first. Prints as aligned text.
    ///
    /// ```
    /// use tollgate::Tollgate;
    /// use tollgate::upstream::Credits;
    ///
    /// let github = Tollgate::upstream("github").quota(Credits::per_hour(5_000)).build()?;
    /// println!("{}", github.report());
    /// # Ok::<(), tollgate::Error>(())
    /// ```
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

    /// Waits until detached fetches are done, at most a second, returns unspent bookings, and writes usage that was counted
    /// since the last minute. Call it after the last request.
    ///
    /// ```
    /// use tollgate::{Tollgate, cache::Rules};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let gate = Tollgate::upstream("search").cache(Rules::new()).build()?;
    /// gate.shutdown().await;
    /// # Ok(()) }
    /// ```
    pub async fn shutdown(&self) {
        self.layer.cache.drain().await;
        self.layer.upstream.shutdown().await;
        #[cfg(feature = "postgres")]
        if let Some(usage) = &self.usage {
            usage.flush().await;
        }
    }
}

impl AsRef<UpstreamLayer> for UpstreamGate {
    fn as_ref(&self) -> &UpstreamLayer {
        &self.layer.upstream
    }
}

impl fmt::Debug for UpstreamGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamGate").field("layer", &self.layer).finish_non_exhaustive()
    }
}

/// Statistics of an [`UpstreamGate`] since it was built. Serialises to JSON.
///
/// ```
/// use tollgate::Tollgate;
///
/// let market = Tollgate::upstream("market").build()?;
/// assert_eq!(market.stats().calls, 0);
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct UpstreamGateStats {
    /// Requests received.
    #[serde(rename = "requests_total")]
    pub requests: u64,
    /// Calls sent to the upstream.
    #[serde(rename = "calls_total")]
    pub calls: u64,
    /// Requests answered without a call.
    #[serde(rename = "calls_avoided_total")]
    pub calls_avoided: u64,
    /// Statistics of the quota: spent and remaining credits, reported limits, projected end.
    pub upstream: UpstreamStats,
    /// Efficiency of the endpoints, lowest score first.
    pub efficiency: EfficiencyReport,
    /// Statistics of the cache.
    pub cache: CacheStats,
    /// Statistics of timing.
    pub timing: TimingStats,
}

/// Layer of an [`UpstreamGate`].
///
/// ```
/// use tollgate::{Tollgate, UpstreamGateLayer};
///
/// let layer: UpstreamGateLayer = Tollgate::upstream("market").build()?.layer();
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone)]
pub struct UpstreamGateLayer {
    pub(super) timing: TimingLayer,
    pub(super) cache: CacheLayer,
    pub(super) upstream: UpstreamLayer,
    pub(super) credential: Option<(HeaderName, HeaderValue)>,
    pub(super) rules_decide: bool,
}

/// Service of an [`UpstreamGate`]: the response body is wrapped once, by the innermost layer.
///
/// ```
/// use tollgate::{Tollgate, UpstreamGateService};
/// use tower::Layer;
///
/// let client: UpstreamGateService<&str> = Tollgate::upstream("market").build()?.layer().layer("a client");
/// # let _ = client;
/// # Ok::<(), tollgate::Error>(())
/// ```
pub type UpstreamGateService<S> = Timing<Cache<Upstream<Credential<S>>, Keep>, Keep>;

impl<S> Layer<S> for UpstreamGateLayer {
    type Service = UpstreamGateService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let called = self.upstream.layer(Credential::new(inner, self.credential.clone(), self.rules_decide));
        self.timing.wrap(self.cache.wrap(called, 0), GatePlace::NONE)
    }
}

impl fmt::Debug for UpstreamGateLayer {
    /// Never prints the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamGateLayer").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}
