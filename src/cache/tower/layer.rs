//! [`CacheLayer`]: what puts a cache in front of a service, and the handle to it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::builder::CacheBuilder;
use super::invalidate::Invalidate;
use super::service::Cache;
use super::shared::CacheShared;
use super::stats::CacheStats;
use crate::base::body::Wrap;
use crate::base::error::Error;
use crate::base::mode::Switch;
use crate::cache::data::DataCache;
use crate::cache::http::rules::{CompiledRules, Routing, Rules};

const MIB: u64 = 1 << 20;
/// How long a shutdown waits for fetches in progress.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks whether there are any.
const GLANCE: Duration = Duration::from_millis(5);

/// Puts a response cache in front of a service. Clones share one cache.
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
    pub(crate) fn new(core: CacheShared) -> Self {
        Self { core: Arc::new(core) }
    }

    /// A cache of this many bytes in this process, with the safe defaults: profile `app`, no rules.
    ///
    /// An entry may take 1 MiB, or all of `bytes` where that is less.
    pub fn in_memory(bytes: u64) -> Self {
        let builder = Self::builder().memory(bytes).max_entry(bytes.min(MIB));
        Self::new(builder.assemble(CompiledRules::empty(), Routing::default(), Vec::new(), Vec::new()))
    }

    /// Everything that can be set.
    pub fn builder() -> CacheBuilder {
        CacheBuilder::default()
    }

    /// The handle to invalidate entries with. Cheap to clone; works from anywhere.
    pub fn invalidate(&self) -> Invalidate {
        Invalidate::new(self.core.clone())
    }

    /// Caches of typed values beside the responses: in the same memory, behind the same shared store, taken back by the
    /// same tags. See [`Cached`](crate::cache::Cached).
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

    /// What the cache did so far.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.core.stats()
    }

    /// Switches the cache on, off or to looking only, from now on. A cache that was built not
    /// [enabled](CacheBuilder::enabled) stays off.
    ///
    /// | | requests | entries |
    /// |---|---|---|
    /// | [`Off`](Switch::Off) | pass as if it were not there | are kept; unsafe methods still invalidate them |
    /// | [`Shadow`](Switch::Shadow) | are all answered by the inner service, with what it says, unchanged; those that the store could have answered are counted as [`shadowed`](crate::cache::RouteStats::shadowed) | are made and invalidated as if it were on |
    ///
    /// While it only looks, nobody waits for another's fetch, nothing is refreshed in the background, and no stale
    /// entry
    /// stands in for a failure.
    pub fn switch(&self, switch: Switch) {
        self.core.switch.set(switch);
    }

    /// Judges requests that come from now on by these rules, in place of those the layer was built with. What is stored
    /// is kept, with the life it was given; [invalidate](Self::invalidate) what should go sooner. The figures of rules
    /// ([`unmatched_rules`](CacheStats::unmatched_rules)) begin anew.
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
    /// Names the first value of the rules that is wrong; the old rules stay.
    pub fn set_rules(&self, rules: Rules) -> Result<(), Error> {
        self.core.rules.replace(rules.compile(&self.core.routing)?);
        Ok(())
    }

    /// Waits until fetches that outlived their requests have landed, at most a second; what takes longer is left to the
    /// runtime.
    pub(crate) async fn landed(&self) {
        let landed = async {
            while self.fetches() > 0 {
                tokio::time::sleep(GLANCE).await;
            }
        };
        drop(tokio::time::timeout(PATIENCE, landed).await);
    }

    fn fetches(&self) -> u64 {
        self.core.fetches.count() + self.core.data.get().map_or(0, DataCache::fetches)
    }

    /// Wraps `inner`, its response bodies adopted as `W` says.
    pub(crate) fn wrap<S, W>(&self, inner: S) -> Cache<S, W> {
        Cache::new(inner, self.core.clone())
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = Cache<S, Wrap>;

    fn layer(&self, inner: S) -> Self::Service {
        self.wrap(inner)
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
