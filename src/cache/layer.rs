//! [`CacheLayer`]: what puts a cache in front of a service, and the handle to it.

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::builder::CacheBuilder;
use super::core::Core;
use super::invalidate::Invalidate;
use super::service::Cache;
use super::stats::CacheStats;
use crate::body::Wrap;
use crate::error::Error;
use crate::switch::Switch;

const MIB: u64 = 1 << 20;

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
    core: Arc<Core>,
}

impl CacheLayer {
    pub(super) fn new(core: Core) -> Self {
        Self { core: Arc::new(core) }
    }

    /// A cache of this many bytes in this process, with the safe defaults: profile `app`, no rules.
    ///
    /// An entry may take 1 MiB, or all of `bytes` where that is less.
    pub fn in_memory(bytes: u64) -> Self {
        let builder = Self::builder().memory(bytes).max_entry(bytes.min(MIB));
        Self::new(builder.assemble(super::rules::RuleBook::empty(), Vec::new(), Vec::new()))
    }

    /// Everything that can be set.
    pub fn builder() -> CacheBuilder {
        CacheBuilder::default()
    }

    /// The handle to invalidate entries with. Cheap to clone; works from anywhere.
    pub fn invalidate(&self) -> Invalidate {
        Invalidate::new(self.core.clone())
    }

    /// What the cache did so far.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.core.stats()
    }

    /// Switches the cache on or off from now on. While it is off, requests pass as if it were not there, entries are
    /// kept, and unsafe methods still invalidate them. A cache that was built not [enabled](CacheBuilder::enabled)
    /// stays off.
    ///
    /// # Errors
    /// [`Switch::Shadow`]: a cache cannot only look.
    pub fn switch(&self, switch: Switch) -> Result<(), Error> {
        if switch == Switch::Shadow {
            return Err(Error::config("a cache is on or off: it has no shadow"));
        }
        self.core.switch.set(switch);
        Ok(())
    }

    /// Fetches in progress: detached work that outlives its request.
    pub(crate) fn flights(&self) -> u64 {
        self.core.flights.count()
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
            .field("rules", &core.rules.patterns)
            .field("identity", &core.identity.is_some())
            .finish_non_exhaustive()
    }
}
