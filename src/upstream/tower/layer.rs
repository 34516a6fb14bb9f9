//! [`UpstreamLayer`]: what puts a quota around a client, and the handle to it.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tower_layer::Layer;

use super::builder::UpstreamBuilder;
use super::service::Upstream;
use crate::base::body::Wrap;
use crate::base::budget::Budget;
use crate::base::error::Error;
use crate::upstream::engine::shared::UpstreamShared;
use crate::upstream::engine::stats::{EndpointStats, UpstreamStats};
use crate::upstream::engine::wait;
use crate::upstream::quota::credit::Credits;
use crate::upstream::report::efficiency::{EfficiencyReport, Usage};
use crate::upstream::report::score::Weights;

/// Counts, paces and sheds the calls of one upstream. Clones, and all services made by them, share one account.
///
/// It goes around any tower service that takes `http` requests: hyper-util's client, reqwest's, a mock.
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
///     Err(Error::Rejected(shed)) => println!("{shed}"),          // not called: try again after shed.retry_after
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
    /// A quota that is kept: what goes beyond it, or what the upstream itself says no to, is
    /// [shed](crate::upstream::Mode::Reject).
    ///
    /// # Errors
    /// Where the quota is impossible, or the name empty.
    pub fn with_quota(name: &str, credits: Credits) -> Result<Self, Error> {
        Self::builder(name).quota(credits).build()
    }

    /// Everything that can be set. The name stands in statistics, events and the store.
    pub fn builder(name: impl Into<String>) -> UpstreamBuilder {
        UpstreamBuilder::new(name.into())
    }

    /// Returns the statistics of the upstream. Takes some microseconds: for a page or a scrape.
    #[must_use]
    pub fn stats(&self) -> UpstreamStats {
        UpstreamStats::of(&self.core)
    }

    /// How its endpoints are used, by the [default weights](crate::upstream::Weights) and without prices, those with
    /// the lowest score
    /// first. Behind a cache that it does not know of, every call is a request.
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

    /// Returns the remaining quota for the caches in front, which extend lifetimes as it runs low.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.core.budget.clone()
    }

    /// Books what is owed and gives back what was booked and not spent. Call it when no more calls are made; without
    /// it the
    /// store counts a block too much, never too little.
    pub async fn shutdown(&self) {
        if self.core.store.is_some() && !self.core.stopped.swap(true, Ordering::Relaxed) {
            wait::close(&self.core).await;
        }
    }

    /// The service around `inner`; `W` says whether its response body is still to be wrapped.
    pub(crate) fn wrap<S, W>(&self, inner: S) -> Upstream<S, W> {
        Upstream { inner, core: self.core.clone(), body: PhantomData }
    }
}

impl<S> Layer<S> for UpstreamLayer {
    type Service = Upstream<S>;

    fn layer(&self, inner: S) -> Upstream<S> {
        self.wrap::<S, Wrap>(inner)
    }
}
