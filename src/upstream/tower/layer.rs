//! [`UpstreamLayer`]: the layer, and the handle to its account.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tower_layer::Layer;

use super::builder::UpstreamBuilder;
use super::service::Upstream;
use crate::base::body::Wrap;
use crate::base::budget::Budget;
use crate::base::error::Error;
use crate::base::metrics::samples::Samples;
use crate::base::metrics::text::{TextFormat, TextPage};
use crate::upstream::engine::metrics;
use crate::upstream::engine::shared::UpstreamShared;
use crate::upstream::engine::stats::{EndpointStats, UpstreamStats};
use crate::upstream::engine::wait;
use crate::upstream::quota::account::Correction;
use crate::upstream::quota::credit::Credits;
use crate::upstream::report::efficiency::{EfficiencyReport, Usage};
use crate::upstream::report::score::Weights;

/// Counts, paces and rejects the calls of one upstream. Clones, and all services made by them, share one account.
///
/// It wraps any tower service that takes `http` requests: hyper-util's client, reqwest's, a mock.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Empty;
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use tollgate::upstream::{Credits, Error, UpstreamLayer};
/// use tower::{Layer, Service};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let github = UpstreamLayer::with_quota("github", Credits::per_hour(5_000))?;
/// let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
/// let mut client = github.layer(client);
///
/// let request = http::Request::get("http://api.example.com/repos").body(Empty::new())?;
/// match client.call(request).await {
///     Ok(response) => println!("{}", response.status()),
///     Err(Error::Rejected(rejected)) => println!("{rejected}"), // not sent: retry after rejected.retry_after
///     Err(Error::Inner(error)) => return Err(error.into()),
/// }
/// println!("{} left", github.stats().windows[0].remaining);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct UpstreamLayer {
    pub(crate) core: Arc<UpstreamShared>,
}

impl UpstreamLayer {
    /// Creates a layer with one quota; calls beyond it, or rejected by the upstream itself, are
    /// [rejected](crate::upstream::OnLimit::Reject).
    ///
    /// ```
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// assert!(UpstreamLayer::with_quota("github", Credits::per_hour(5_000)).is_ok());
    /// assert!(UpstreamLayer::with_quota("github", Credits::per_hour(0)).is_err());
    /// ```
    ///
    /// # Errors
    /// Returns an error if the quota is impossible or the name is empty.
    pub fn with_quota(name: &str, credits: Credits) -> Result<Self, Error> {
        Self::builder(name).quota(credits).build()
    }

    /// Returns a builder. The name appears in statistics, events and the store.
    ///
    /// ```
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// let github = UpstreamLayer::builder("github").quota(Credits::per_hour(5_000)).build()?;
    /// assert_eq!(github.stats().windows[0].remaining, 5_000);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn builder(name: impl Into<String>) -> UpstreamBuilder {
        UpstreamBuilder::new(name.into())
    }

    /// Returns the statistics of the upstream. Takes some microseconds: intended for a page or a scrape.
    ///
    /// ```
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// let github = UpstreamLayer::with_quota("github", Credits::per_hour(5_000))?;
    /// assert_eq!(github.stats().calls, 0);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> UpstreamStats {
        UpstreamStats::of(&self.core)
    }

    /// Renders the statistics in Prometheus text format. See the guide [`metrics`](crate::docs::metrics).
    ///
    /// ```
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// let github = UpstreamLayer::with_quota("github", Credits::per_hour(5_000))?;
    /// let text = github.prometheus();
    /// assert!(text.contains("tollgate_upstream_credits_remaining{window=\"hour\",upstream=\"github\"} 5000"));
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut page = TextPage::new(TextFormat::Prometheus);
        self.fill_metrics(&mut page);
        page.finish()
    }

    /// Returns the name of the upstream.
    pub(crate) fn name(&self) -> &str {
        &self.core.name
    }

    /// Adds the values of all metrics.
    pub(crate) fn fill_metrics(&self, out: &mut dyn Samples) {
        metrics::fill(&self.core, out);
    }

    /// Returns the efficiency of its endpoints, by the [default weights](crate::upstream::Weights) and without
    /// prices, lowest score first. A cache in front is unknown here: every call counts as a request.
    ///
    /// ```
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// let github = UpstreamLayer::with_quota("github", Credits::per_hour(5_000))?;
    /// println!("{}", github.report());
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn report(&self) -> EfficiencyReport {
        let stats = self.stats();
        let usage = |endpoint: EndpointStats| Usage {
            upstream: stats.upstream.clone(),
            requests: endpoint.calls,
            calls: endpoint.calls,
            credits: endpoint.credits,
            mean_latency: endpoint.mean_latency,
            endpoint: endpoint.endpoint,
        };
        EfficiencyReport::of(stats.endpoints.iter().cloned().map(usage), &Weights::default(), None)
    }

    /// Returns the remaining quota for caches in front, which extend lifetimes as it runs low.
    ///
    /// ```
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// let github = UpstreamLayer::with_quota("github", Credits::per_hour(5_000))?;
    /// let budget = github.budget();
    /// # let _ = budget;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.core.budget.clone()
    }

    /// Corrects the number of credits that are spent in the current window, such as `month`: what the upstream's own page says.
    /// With a store, all processes follow; while it is away, only this one. What other processes have booked and not spent yet is
    /// part of the number.
    ///
    /// # Errors
    /// If there is no such [quota](Credits), or it has fewer credits.
    ///
    /// # Examples
    /// ```
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let market = UpstreamLayer::with_quota("market", Credits::per_month(60_000))?;
    /// market.set_spent("month", 41_000).await?;
    /// assert_eq!(market.stats().windows[0].spent, 41_000);
    /// # Ok(()) }
    /// ```
    pub async fn set_spent(&self, window: &str, spent: u64) -> Result<(), Error> {
        self.correct(window, Correction::Spent(spent)).await
    }

    /// Lets this many more credits be spent until the current window ends: they were bought. With a store, all processes follow;
    /// while it is away, only this one.
    ///
    /// # Errors
    /// If there is no such [quota](Credits), or it has fewer credits.
    ///
    /// # Examples
    /// ```
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let market = UpstreamLayer::with_quota("market", Credits::per_month(60_000))?;
    /// market.set_spent("month", 60_000).await?;
    /// market.add_credits("month", 10_000).await?;
    /// assert_eq!(market.stats().windows[0].spent, 50_000);
    /// # Ok(()) }
    /// ```
    pub async fn add_credits(&self, window: &str, credits: u64) -> Result<(), Error> {
        self.correct(window, Correction::Added(credits)).await
    }

    async fn correct(&self, window: &str, correction: Correction) -> Result<(), Error> {
        wait::correct(&self.core, window, correction).await
    }

    /// Books unbooked credits and returns unspent bookings. Call it after the last call; without it, the store counts
    /// a block too much, never too little.
    ///
    /// ```
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let github = UpstreamLayer::with_quota("github", Credits::per_hour(5_000))?;
    /// github.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn shutdown(&self) {
        if self.core.store.is_some() && !self.core.stopped.swap(true, Ordering::Relaxed) {
            wait::close(&self.core).await;
        }
    }

    /// Wraps `inner`; `W` selects how its response body is wrapped.
    pub(crate) fn wrap<S, W>(&self, inner: S) -> Upstream<S, W> {
        Upstream { inner, core: self.core.clone(), body: PhantomData }
    }
}

impl AsRef<Self> for UpstreamLayer {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl<S> Layer<S> for UpstreamLayer {
    type Service = Upstream<S>;

    fn layer(&self, inner: S) -> Upstream<S> {
        self.wrap::<S, Wrap>(inner)
    }
}
