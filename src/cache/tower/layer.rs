//! [`CacheLayer`]: tower layer that caches responses, and the handle to the cache.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::builder::CacheBuilder;
use super::invalidate::Invalidate;
use super::metrics;
use super::service::Cache;
use super::shared::CacheShared;
use super::stats::CacheStats;
use crate::base::body::Wrap;
use crate::base::error::Error;
use crate::base::metrics::samples::Samples;
use crate::base::metrics::text::{TextFormat, TextPage};
use crate::base::mode::Mode;
use crate::cache::data::DataCache;
use crate::cache::http::rules::{CompiledRules, Routing, Rules};
#[cfg(feature = "admin")]
use crate::context::{GatePlace, RequestContext};
use crate::resilience::outage_switch::StoreSwitch;

const MIB: u64 = 1 << 20;
/// Maximum duration of a graceful shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval of polls for fetches under way.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Layer that puts a response cache in front of a service. Clones share one cache.
///
/// ```
/// use tollgate::cache::CacheLayer;
/// use tower::ServiceBuilder;
///
/// let cache = CacheLayer::in_memory(64 << 20);
/// let service = ServiceBuilder::new().layer(cache.clone()).service_fn(handler);
/// # let _ = service;
/// # type Bytes = http_body_util::Full<bytes::Bytes>;
/// # async fn handler(_: http::Request<Bytes>) -> Result<http::Response<Bytes>, std::convert::Infallible> { todo!() }
/// ```
#[derive(Clone)]
#[must_use]
pub struct CacheLayer {
    core: Arc<CacheShared>,
}

impl CacheLayer {
    pub(super) fn new(core: CacheShared) -> Self {
        Self { core: Arc::new(core) }
    }

    /// Creates a cache of this capacity in bytes, with the conservative defaults: profile `app`, no rules.
    ///
    /// The maximum body length is 1 MiB, or `bytes` if that is less.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// let cache = CacheLayer::in_memory(64 << 20);
    /// assert_eq!(cache.stats().levels[0].capacity_bytes, 64 << 20);
    /// ```
    pub fn in_memory(bytes: u64) -> Self {
        let builder = Self::builder().memory(bytes).max_entry(bytes.min(MIB));
        Self::new(builder.assemble(None, CompiledRules::empty(), Routing::default(), Vec::new(), Vec::new()))
    }

    /// Returns a builder with all settings.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// let cache = CacheLayer::builder().memory(64 << 20).cache_status(true).build()?;
    /// # let _ = cache;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn builder() -> CacheBuilder {
        CacheBuilder::default()
    }

    /// Returns the handle for invalidations. Cheap to clone.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// CacheLayer::in_memory(1 << 20).invalidate().tag("prices").await?;
    /// # Ok(()) }
    /// ```
    pub fn invalidate(&self) -> Invalidate {
        Invalidate::new(self.core.clone())
    }

    /// Returns the cache of typed values in the same memory and shared store, invalidated by the same tags. See
    /// [`Cached`](crate::cache::Cached).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::cache::{CacheLayer, Cached};
    ///
    /// let layer = CacheLayer::in_memory(64 << 20);
    /// let prices: Cached<u64> = layer.data().cached("prices").ttl(Duration::from_secs(15)).build()?;
    /// # let _ = prices;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn data(&self) -> DataCache {
        self.core.data.get_or_init(|| DataCache::over(self.core.engine())).clone()
    }

    /// Returns the statistics of the cache.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// assert_eq!(CacheLayer::in_memory(1 << 20).stats().inner_calls, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.core.stats()
    }

    /// Renders the statistics in Prometheus text format: requests by route, the [levels](crate::cache::LevelStats) and the
    /// namespaces of typed values. See the guide [`metrics`](crate::docs::metrics).
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// let text = CacheLayer::in_memory(1 << 20).prometheus();
    /// assert!(text.contains("tollgate_cache_level_capacity_bytes{level=\"memory\"} 1048576"));
    /// ```
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut page = TextPage::new(TextFormat::Prometheus);
        self.fill_metrics("", &mut page);
        page.finish()
    }

    /// Adds the values of all metrics, of the gate of this upstream; it is empty for incoming requests.
    pub(crate) fn fill_metrics(&self, upstream: &str, out: &mut dyn Samples) {
        metrics::fill(&self.stats(), upstream, out);
    }

    /// Changes the mode of the cache: on, off or shadow. A cache that was not [enabled](CacheBuilder::enabled) stays off.
    ///
    /// | | requests | entries |
    /// |---|---|---|
    /// | [`Off`](Mode::Off) | bypass the cache | are retained; unsafe methods still invalidate them |
    /// | [`Shadow`](Mode::Shadow) | get the inner service's response, unchanged; those that could have been served from the store are counted as [`shadowed`](crate::cache::CacheRouteStats::shadowed) | are created and invalidated as with [`On`](Mode::On) |
    ///
    /// In shadow mode requests are not coalesced, entries are not refreshed in the background, and stale entries do not
    /// replace failures.
    ///
    /// ```
    /// use tollgate::Mode;
    /// use tollgate::cache::CacheLayer;
    ///
    /// let cache = CacheLayer::in_memory(1 << 20);
    /// cache.set_mode(Mode::Shadow);
    /// assert_eq!(cache.stats().mode, Mode::Shadow);
    /// ```
    pub fn set_mode(&self, mode: Mode) {
        self.core.mode.set(mode);
    }

    /// Returns the patterns of the rules in force.
    #[cfg(feature = "admin")]
    pub(crate) fn rule_patterns(&self) -> Vec<String> {
        self.core.rules.patterns()
    }

    /// Returns what the cache would do with a request.
    #[cfg(feature = "admin")]
    pub(crate) async fn explain(&self, request: &http::Request<()>) -> super::explain::CacheExplanation {
        let mut context = RequestContext::new(GatePlace::NONE);
        let head = self.core.head(request, &mut context);
        self.core.explain(&head).await
    }

    /// Checks that a rule has this pattern.
    ///
    /// # Errors
    /// If none has.
    pub(crate) fn check_override(&self, pattern: &str) -> Result<(), Error> {
        let unknown = || Error::config(format!("unknown cache rule {pattern:?}; use the route of a rule"));
        self.core.rules.has_pattern(pattern).then_some(()).ok_or_else(unknown)
    }

    /// Returns the switches of the levels' servers.
    pub(crate) fn switches(&self) -> &[StoreSwitch] {
        &self.core.switches
    }

    /// Whether a budget can be conserved.
    pub(crate) fn has_budget(&self) -> bool {
        self.core.settings.budget.is_some()
    }

    /// Saves calls as if nothing of the budget were left, or ends that.
    pub(crate) fn conserve(&self, conserves: bool) {
        if let Some(budget) = &self.core.settings.budget {
            budget.conserve(conserves);
        }
    }

    /// Replaces the overrides of the layer's mode, and of those of rules by their pattern.
    pub(crate) fn override_with(&self, mode: Option<Mode>, rules: &[(&str, Mode)]) {
        self.core.mode.override_with(mode);
        self.core.rules.override_with(rules);
    }

    /// Replaces the caching rules for requests that arrive from now on. Stored entries keep their lifetimes;
    /// [invalidate](Self::invalidate) those that should expire sooner. The counts of rules
    /// ([`unmatched_rules`](CacheStats::unmatched_rules)) restart.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::cache::{CacheLayer, Rule, Rules};
    ///
    /// let cache = CacheLayer::in_memory(1 << 20);
    /// cache.set_rules(Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(5))))?;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    ///
    /// # Errors
    /// Names the first invalid value; the old rules remain in force.
    pub fn set_rules(&self, rules: Rules) -> Result<(), Error> {
        self.core.rules.replace(rules.compile(&self.core.routing)?);
        Ok(())
    }

    /// Waits until detached fetches have completed, at most a second.
    pub(crate) async fn drain(&self) {
        let drained = async {
            while self.fetches() > 0 {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        drop(tokio::time::timeout(SHUTDOWN_TIMEOUT, drained).await);
    }

    fn fetches(&self) -> u64 {
        self.core.fetches.count() + self.core.data.get().map_or(0, DataCache::fetches)
    }

    /// Wraps `inner`, with bodies wrapped by `W`.
    pub(crate) fn wrap<S, W>(&self, inner: S, gate: u16) -> Cache<S, W> {
        Cache::new(inner, self.core.clone(), gate)
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = Cache<S, Wrap>;

    fn layer(&self, inner: S) -> Self::Service {
        self.wrap(inner, 0)
    }
}

impl fmt::Debug for CacheLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = &self.core;
        f.debug_struct("CacheLayer")
            .field("enabled", &core.enabled)
            .field("settings", &core.settings)
            .field("rules", &core.rules)
            .field("identity", &!core.credentials.is_empty())
            .finish_non_exhaustive()
    }
}
