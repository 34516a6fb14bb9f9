//! [`RateLimitBuilder`]: configuration of a layer.

mod address_lists;
mod in_gate;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{Method, Response};

use super::layer::RateLimitLayer;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Event, Events, Hook, both_hooks};
use crate::base::request_head::RequestHead;
use crate::base::route::Patterns;
use crate::identity::{IDENTIFIED_TWICE, Key, KeyExtractor, SharedExtractor, TrustedProxies, by};
use crate::limit::engine::concurrency::ConcurrencyPlaces;
use crate::limit::engine::fallback::{Fallback, OnOutage};
use crate::limit::engine::isolated_store::IsolatedLimitStore;
use crate::limit::engine::limiter::{Exempt, Limiter, NodeLimit, Warnings};
use crate::limit::engine::refusals::Refusals;
use crate::limit::engine::reload::ReloadedLimits;
use crate::limit::engine::stats::LimitCounters;
use crate::limit::engine::store::LimitStore;
use crate::limit::engine::tier_resolver::TierResolver;
use crate::limit::policy::compiled::CompiledLimits;
use crate::limit::policy::headers::{Draft, Reset, Style};
use crate::limit::policy::limit::Limit;
use crate::limit::policy::reject::{OnReject, Rejection};
use crate::store::governor::NodeCeiling;
use crate::store::memory::MemoryLimits;

/// Default capacity in keys.
const CAPACITY: usize = 100_000;
/// Maximum number of subjects whose refusals are counted.
const BAN_COUNTS: usize = 16_384;

/// Builds a [`RateLimitLayer`].
///
/// ```
/// use tollgate::identity::{KeyExtractor, TrustedProxies, by};
/// use tollgate::limit::{Limit, Quota, RateLimitLayer, Tiers};
///
/// let layer = RateLimitLayer::builder()
///     .identify(by::header("x-api-key").or(by::client_ip(TrustedProxies::cidrs(["10.0.0.0/8"]))))
///     .limit(Tiers::default())
///     .limit(Limit::per_ip(Quota::per_minute(20_000)))
///     .allow_ips(["192.0.2.0/24"])
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone)]
pub struct RateLimitBuilder {
    limits: Vec<Limit>,
    identify: Option<SharedExtractor>,
    store: Option<Arc<dyn LimitStore>>,
    capacity: usize,
    exempt: Vec<Exempt>,
    allowed: Vec<String>,
    denied: Vec<String>,
    denied_keys: Vec<Key<'static>>,
    reject: Option<OnReject>,
    style: Style,
    clock: Clock,
    hook: Option<Hook>,
    enabled: bool,
    outage: OnOutage,
    routes: Vec<Box<str>>,
    identified_twice: bool,
}

impl Default for RateLimitBuilder {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            identify: None,
            store: None,
            capacity: CAPACITY,
            exempt: Vec::new(),
            allowed: Vec::new(),
            denied: Vec::new(),
            denied_keys: Vec::new(),
            reject: None,
            style: Style::default(),
            clock: Clock::default(),
            hook: None,
            enabled: true,
            outage: OnOutage::default(),
            routes: Vec::new(),
            identified_twice: false,
        }
    }
}

impl RateLimitBuilder {
    /// Sets the extractor of identities. Defaults to the socket peer's address. Requests without a tier are counted
    /// by its last alternative. Setting it twice is an error.
    ///
    /// ```
    /// use tollgate::identity::{KeyExtractor, TrustedProxies, by};
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .identify(by::header("x-api-key").or(by::client_ip(TrustedProxies::none())))
    ///     .limit(Limit::per_user(Quota::per_minute(100)))
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn identify(mut self, extractor: impl KeyExtractor) -> Self {
        self.identified_twice |= self.identify.is_some();
        self.identify = Some(Arc::new(extractor));
        self
    }

    /// Declares the routes of the service, in axum's syntax, for requests that axum has not routed.
    ///
    /// That is needed where the layer wraps the whole Router, in fallbacks, and around hyper and tonic services.
    /// Without it, [`Limit::on`] matches such requests by path only, and a limit on `/users/{name}` also counts
    /// `/users/me`.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let limits = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(20)).on("/users/{name}"))
    ///     .routes(["/users/{name}", "/users/me"])
    ///     .build()?;
    /// # let _ = limits;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn routes(mut self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.routes.extend(patterns.into_iter().map(|pattern| pattern.as_ref().into()));
        self
    }

    /// Adds a limit, or [`Tiers`](crate::limit::Tiers). All limits of a layer make one decision.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer, Tiers};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Tiers::default())
    ///     .limit(Limit::per_ip(Quota::per_second(50)))
    ///     .build()?;
    /// assert_eq!(layer.stats().limits.len(), 5); // four tiers and one limit
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn limit(mut self, limit: impl Into<Limit>) -> Self {
        self.limits.push(limit.into());
        self
    }

    /// Sets the number of keys stored in process. Defaults to 100 000.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(20)))
    ///     .capacity(1_000_000)
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn capacity(mut self, keys: usize) -> Self {
        self.capacity = keys;
        self
    }

    /// Sets the store. If it fails, panics, or has not answered within 250 ms, this process decides locally.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    /// use tollgate::store::memory::MemoryLimits;
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(20)))
    ///     .store(Arc::new(MemoryLimits::new(10_000)))
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn store(mut self, store: Arc<dyn LimitStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets the policy while that store is unavailable. Defaults to [`OnOutage::Local`].
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer, OnOutage};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(20)))
    ///     .on_outage(OnOutage::Deny)
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn on_outage(mut self, policy: OnOutage) -> Self {
        self.outage = policy;
        self
    }

    /// Exempts requests from all limits, such as health checks. Their responses carry no rate-limit fields.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(20)))
    ///     .exempt(|head| head.uri().path() == "/healthz")
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn exempt<F>(mut self, f: F) -> Self
    where
        F: for<'a> Fn(&RequestHead<'a>) -> bool + Send + Sync + 'static,
    {
        self.exempt.push(Arc::new(move |head, _| f(head)));
        self
    }

    /// Exempts CORS preflight requests: `OPTIONS` with `Origin` and `Access-Control-Request-Method`
    /// (<https://fetch.spec.whatwg.org/#cors-preflight-request>). A browser sends them on its own.
    ///
    /// Any client can send such requests, so let a layer inside answer them without work. A CORS layer outside of this one
    /// answers them itself, and also adds its fields to rejections.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let layer =
    ///     RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(20))).exempt_preflight().build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn exempt_preflight(self) -> Self {
        self.exempt(|head| {
            let has = |name| head.headers().contains_key(name);
            head.method() == Method::OPTIONS && has(ORIGIN) && has(ACCESS_CONTROL_REQUEST_METHOD)
        })
    }

    /// Sets the response to rejected requests. Where the function returns `None`, and by default, that is the protocol's: problem
    /// details (RFC 9457), or a gRPC status. The layer adds `Retry-After` and the rate-limit fields.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::Response;
    /// use tollgate::limit::{Limit, RateLimitLayer, Rejection};
    ///
    /// fn json(rejection: &Rejection<'_>) -> Option<Response<Bytes>> {
    ///     let is_api = rejection.route().starts_with("/api/"); // gRPC clients get what they understand
    ///     let body = format!("{{\"error\":\"slow down\",\"reference\":\"{}\"}}", rejection.reference());
    ///     is_api.then(|| Response::builder().status(429).body(body.into()).ok()).flatten()
    /// }
    /// let layer = RateLimitLayer::builder().limit(Limit::per_ip("20/min")).on_reject(json).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn on_reject(
        mut self,
        reject: impl Fn(&Rejection<'_>) -> Option<Response<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        self.reject = Some(Arc::new(reject));
        self
    }

    /// Also sends the IETF's `RateLimit` and `RateLimit-Policy` fields, in that revision.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer, Draft};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(20)))
    ///     .ietf_fields(Draft::Eleven)
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn ietf_fields(mut self, draft: Draft) -> Self {
        self.style.draft = Some(draft);
        self
    }

    /// Sets the format of `X-RateLimit-Reset`. Defaults to seconds from now.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer, Reset};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(20)))
    ///     .reset(Reset::Epoch)
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn reset(mut self, reset: Reset) -> Self {
        self.style.reset = reset;
        self
    }

    /// Sets the clock.
    ///
    /// ```
    /// use tollgate::{Clock, ManualClock};
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(20)))
    ///     .clock(Clock::Manual(ManualClock::new()))
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Adds a callback for every [`Event`].
    ///
    /// ```
    /// use tollgate::Event;
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(20)))
    ///     .hook(|event| {
    ///         if let Event::NearLimit { limit } = event {
    ///             eprintln!("a key passed 80 % of {limit}");
    ///         }
    ///     })
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn hook(mut self, hook: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.hook = Some(both_hooks(self.hook, Arc::new(hook)));
        self
    }

    /// Enables the layer. Defaults to `true`; `false` makes a layer of the same type that admits every request. It still verifies
    /// the identity of [`by::verify`](crate::identity::by::verify) and leaves it for the handler.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(20)))
    ///     .enabled(false)
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Builds the layer.
    ///
    /// ```
    /// use tollgate::limit::RateLimitLayer;
    ///
    /// let error = RateLimitLayer::builder().build().unwrap_err();
    /// assert!(error.is_config());
    /// ```
    ///
    /// # Errors
    /// Returns an error that names the invalid quota, name, route, network or identity, or if there is no limit.
    pub fn build(mut self) -> Result<RateLimitLayer, Error> {
        self.check()?;
        if let Some(allowed) = self.within("allowed", &self.allowed)? {
            self.exempt.push(allowed);
        }
        let denied = self.denials()?;
        // A remote store applies its own deadline.
        let contained = |store: Arc<dyn LimitStore>| match store.remote() {
            Some(_) => store,
            None => Arc::new(IsolatedLimitStore(store)) as Arc<dyn LimitStore>,
        };
        self.store = self.store.map(contained);
        if let (Some(store), Some(hook)) = (&self.store, &self.hook) {
            store.listen(hook.clone());
        }
        let secret = self.store.as_ref().and_then(|store| store.secret());
        let routes = if self.routes.is_empty() { None } else { Some(Arc::new(Patterns::of(&self.routes)?)) };
        let verifiers = self.verifiers();
        let identify = self.identify.unwrap_or_else(socket_peer);
        let limits = CompiledLimits::new(&self.limits, identify, secret, routes, TierResolver::start)?;
        let places = |(_, policy)| Arc::new(ConcurrencyPlaces::new(policy));
        let concurrency: Vec<_> = limits.concurrency().map(places).collect();
        let is_slow = limits.has_lookups() || !denied.is_empty() || !concurrency.is_empty();
        let reloaded = ReloadedLimits::new(is_slow);
        self.clock.warm_up();
        let ceiling = |(label, quota, cost)| NodeLimit {
            ceiling: NodeCeiling::new(quota, self.clock.clone()),
            label,
            quota,
            cost,
        };
        let local: Arc<dyn LimitStore> = Arc::new(MemoryLimits::new(self.capacity));
        let counts = || Arc::new(MemoryLimits::new(self.capacity.min(BAN_COUNTS))) as Arc<dyn LimitStore>;
        let ban_counts = limits.bans().then(counts);
        let limiter = Limiter {
            node: limits.node().map(ceiling),
            counters: LimitCounters::new(&limits),
            limits,
            fallback: self.store.as_ref().map(|_| Fallback::new(self.outage, local.clone())),
            store: self.store.unwrap_or(local),
            exempt: self.exempt,
            verifiers,
            denied,
            ban_counts,
            reject: self.reject,
            refusals: Refusals::default(),
            style: self.style,
            clock: self.clock,
            events: Events::new(self.hook),
            warnings: Warnings::default(),
            reloaded,
            overrides: Arc::default(),
            concurrency,
            unsettled: Arc::default(),
        };
        if let Some(message) = limiter.limits.explain_undeclared().filter(|_| self.enabled) {
            limiter.events.emit(&Event::Warning { code: "undeclared-route", message: &message });
        }
        Ok(RateLimitLayer::new(limiter, self.enabled))
    }

    /// Whether an identity was set.
    #[cfg(feature = "config")]
    pub(crate) fn is_identified(&self) -> bool {
        self.identify.is_some()
    }

    /// Checks what does not depend on the limits.
    fn check(&self) -> Result<(), Error> {
        if self.limits.is_empty() {
            return Err(Error::config("a rate-limit layer without a limit; add one with `.limit()`"));
        }
        if self.identified_twice {
            return Err(Error::config(IDENTIFIED_TWICE));
        }
        if self.capacity == 0 {
            return Err(Error::config("a capacity of 0 keys is too small; it must be at least 1 key"));
        }
        self.outage.check()
    }
}

/// Returns the default identity.
fn socket_peer() -> SharedExtractor {
    Arc::new(by::client_ip(TrustedProxies::none()))
}

impl std::fmt::Debug for RateLimitBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimitBuilder")
            .field("limits", &self.limits)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
