//! [`RateLimitLayer`] and its builder.

use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tower_layer::Layer;

use super::service::RateLimit;
use crate::base::body::Wrap;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Event, Events, Hook};
use crate::base::mode::Switch;
use crate::base::request_head::RequestHead;
use crate::base::route::Patterns;
use crate::identity::{KeyExtractor, SharedExtractor, TrustedProxies, by};
use crate::limit::algorithm::quota::Quota;
use crate::limit::engine::fallback::{Fallback, OnOutage};
use crate::limit::engine::isolated_store::IsolatedLimitStore;
use crate::limit::engine::limiter::{Exempt, Limiter, NodeLimit, Warnings};
use crate::limit::engine::prometheus;
use crate::limit::engine::reload::ReloadedLimits;
use crate::limit::engine::stats::{LimitCounters, RateLimitStats};
use crate::limit::engine::store::LimitStore;
use crate::limit::engine::tier_resolver::TierResolver;
use crate::limit::policy::compiled::CompiledLimits;
use crate::limit::policy::headers::{Draft, Reset, Style};
use crate::limit::policy::limit::{Limit, Subject};
use crate::limit::policy::reject::{OnReject, Problem};
use crate::store::governor::NodeCeiling;
use crate::store::memory::MemoryLimits;

/// Default capacity in keys.
const CAPACITY: usize = 100_000;

/// Limits requests. Every clone, and every service it makes, shares one state: routes and connections count together.
///
/// ```
/// use axum::{Router, routing::get};
/// use tollgate::limit::{Quota, RateLimitLayer};
///
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(RateLimitLayer::per_ip(Quota::per_minute(20)));
/// ```
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    limiter: Option<Arc<Limiter>>,
}

impl RateLimitLayer {
    /// One limit per client address, the socket peer's.
    ///
    /// # Panics
    /// Where the quota is impossible, such as zero: a mistake in the program, found when it starts. Use
    /// [`builder`](Self::builder) for a quota that comes from outside.
    #[must_use]
    #[track_caller]
    #[expect(clippy::panic, reason = "documented: a constant quota that is impossible is a mistake in the program")]
    pub fn per_ip(quota: Quota) -> Self {
        match Self::builder().limit(Limit::per_ip(quota)).build() {
            Ok(layer) => layer,
            Err(error) => panic!("{error}"),
        }
    }

    /// Any limits, identities and stores.
    #[must_use]
    pub fn builder() -> RateLimitBuilder {
        RateLimitBuilder::default()
    }

    /// Returns counts of admitted and refused requests and the size of the store.
    #[must_use]
    pub fn stats(&self) -> RateLimitStats {
        let off = || RateLimitStats { switch: Switch::Off, ..RateLimitStats::default() };
        self.limiter.as_ref().map_or_else(off, |limiter| limiter.stats())
    }

    /// What has been admitted and refused, for Prometheus, in its text format; with a store that a fleet shares, also
    /// how
    /// that is doing. Empty where the layer is switched off.
    ///
    /// ```
    /// use tollgate::limit::{Quota, RateLimitLayer};
    ///
    /// let text = RateLimitLayer::per_ip(Quota::per_minute(20)).prometheus();
    /// assert!(text.contains("tollgate_limit_degraded_total 0"));
    /// ```
    #[must_use]
    pub fn prometheus(&self) -> String {
        self.limiter.as_ref().map(|limiter| prometheus::render(&limiter.stats())).unwrap_or_default()
    }

    /// Changes a limit's quota from now on, by its name or its tier's. Keys keep the share they have used.
    ///
    /// ```
    /// use tollgate::limit::{Quota, RateLimitLayer, Tiers};
    ///
    /// let layer = RateLimitLayer::builder().limit(Tiers::default()).build()?;
    /// layer.set_quota("pro", Quota::per_minute(2_000))?;
    /// assert_eq!(layer.stats().limits[2].quota, "2000/min");
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where there is no such limit, it is the per-node ceiling, or the quota is impossible.
    pub fn set_quota(&self, name: &str, quota: Quota) -> Result<(), Error> {
        match &self.limiter {
            Some(limiter) => limiter.set_quota(name, quota),
            None => Err(Error::config(format!("there is no limit {name:?} to change"))),
        }
    }

    /// Switches all limits of this layer from now on. States are kept, and are as they were when limits are on again;
    /// in [`Switch::Shadow`] they go on counting. A layer that was built switched off stays so.
    pub fn switch(&self, switch: Switch) {
        if let Some(limiter) = &self.limiter {
            limiter.set_switch(switch);
        }
    }

    /// A service whose response body is made by `W`.
    pub(crate) fn wrap<S, W>(&self, inner: S) -> RateLimit<S, W> {
        RateLimit { inner, limiter: self.limiter.clone(), body: PhantomData }
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S, Wrap>;

    fn layer(&self, inner: S) -> Self::Service {
        self.wrap(inner)
    }
}

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
    reject: Arc<dyn OnReject>,
    style: Style,
    clock: Clock,
    hook: Option<Hook>,
    enabled: bool,
    outage: OnOutage,
    routes: Vec<Box<str>>,
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
            reject: Arc::new(Problem),
            style: Style::default(),
            clock: Clock::default(),
            hook: None,
            enabled: true,
            outage: OnOutage::default(),
            routes: Vec::new(),
        }
    }
}

impl RateLimitBuilder {
    /// Sets the extractor of identities. Defaults to the socket peer's address. The last alternative counts requests
    /// without a tier.
    #[must_use]
    pub fn identify(mut self, who: impl KeyExtractor) -> Self {
        self.identify = Some(Arc::new(who));
        self
    }

    /// The extractor that was set to tell who sent a request, and those of limits that have their own.
    pub(crate) fn extractors(&self) -> (Option<SharedExtractor>, Vec<SharedExtractor>) {
        let own = self.limits.iter().filter_map(|limit| match &limit.subject {
            Subject::Own(who) => Some(who.clone()),
            _ => None,
        });
        (self.identify.clone(), own.collect())
    }

    /// Declares the routes of the service, in axum's syntax, for requests that no router of axum has matched: where the
    /// layer stands around the whole Router, in fallbacks, and around hyper and tonic services. Without it,
    /// [`Limit::on`] matches such requests by their path alone, and counts `/users/me` where it is on `/users/{name}`.
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

    /// Adds a limit, or [`Tiers`](crate::limit::Tiers). All limits of a layer are one decision.
    #[must_use]
    pub fn limit(mut self, limit: impl Into<Limit>) -> Self {
        self.limits.push(limit.into());
        self
    }

    /// Sets how many keys are held in process. Defaults to 100 000.
    #[must_use]
    pub fn capacity(mut self, keys: usize) -> Self {
        self.capacity = keys;
        self
    }

    /// Keeps keys elsewhere. Where that store errs, panics, or has not answered within 250 ms, this process decides by
    /// itself.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn LimitStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets the policy while that store is unavailable. Defaults to [`OnOutage::Local`].
    #[must_use]
    pub fn on_outage(mut self, policy: OnOutage) -> Self {
        self.outage = policy;
        self
    }

    /// Requests that no limit counts, such as health checks. They get no fields either.
    #[must_use]
    pub fn exempt<F>(mut self, f: F) -> Self
    where
        F: for<'a> Fn(&RequestHead<'a>) -> bool + Send + Sync + 'static,
    {
        self.exempt.push(Arc::new(f));
        self
    }

    /// Client addresses that no limit counts, as the identity finds them: addresses or CIDRs. One that does not parse
    /// fails when built.
    #[must_use]
    pub fn allow_ips<I>(mut self, networks: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.allowed.extend(networks.into_iter().map(Into::into));
        self
    }

    /// Sets the response to refused requests. Defaults to [`Problem`].
    #[must_use]
    pub fn on_reject(mut self, reject: impl OnReject) -> Self {
        self.reject = Arc::new(reject);
        self
    }

    /// Also sends the IETF's `RateLimit` and `RateLimit-BreakerPolicy` fields, in that revision.
    #[must_use]
    pub fn ietf_fields(mut self, draft: Draft) -> Self {
        self.style.draft = Some(draft);
        self
    }

    /// Sets the format of `X-RateLimit-Reset`. Defaults to seconds from now.
    #[must_use]
    pub fn reset(mut self, reset: Reset) -> Self {
        self.style.reset = reset;
        self
    }

    /// Where the time is read.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Is called with every [`Event`].
    #[must_use]
    pub fn hook(mut self, hook: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.hook = Some(Arc::new(hook));
        self
    }

    /// `false` makes a layer of the same type that lets everything through.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// # Errors
    /// Where a quota, name, route, network or identity is wrong, or there is no limit. The message names the value.
    pub fn build(mut self) -> Result<RateLimitLayer, Error> {
        if self.limits.is_empty() {
            return Err(Error::config("a rate-limit layer without a limit; add one with `.limit()`"));
        }
        if self.capacity == 0 {
            return Err(Error::config("a capacity of 0 keys is too small; it must be at least 1 key"));
        }
        self.exempt_allowed()?;
        self.outage.check()?;
        // One that says how it is doing brings a deadline of its own.
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
        let identify = self.identify.unwrap_or_else(socket_peer);
        let plan = CompiledLimits::new(&self.limits, identify, secret, routes, TierResolver::start)?;
        let live = ReloadedLimits::new(plan.looks_up());
        self.clock.wind();
        let ceiling = |(label, quota, cost)| NodeLimit {
            ceiling: NodeCeiling::new(quota, self.clock.clone()),
            label,
            quota,
            cost,
        };
        let local: Arc<dyn LimitStore> = Arc::new(MemoryLimits::new(self.capacity));
        let limiter = Limiter {
            node: plan.node().map(ceiling),
            counters: LimitCounters::new(&plan),
            plan,
            fallback: self.store.as_ref().map(|_| Fallback::new(self.outage, local.clone())),
            store: self.store.unwrap_or(local),
            exempt: self.exempt,
            reject: self.reject,
            style: self.style,
            clock: self.clock,
            events: Events::new(self.hook),
            warnings: Warnings::default(),
            live,
        };
        Ok(RateLimitLayer { limiter: self.enabled.then(|| Arc::new(limiter)) })
    }

    fn exempt_allowed(&mut self) -> Result<(), Error> {
        if self.allowed.is_empty() {
            return Ok(());
        }
        let parse = |text: &String| {
            let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| Error::config(format!("allowed address {text:?} is not an address or CIDR")))
        };
        let networks = self.allowed.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let (who, peer) = (self.identify.clone().unwrap_or_else(socket_peer), by::client_ip(TrustedProxies::none()));
        self.exempt.push(Arc::new(move |head| {
            let address = who.fallback(head).and_then(|key| key.as_ip()).or_else(|| peer.address(head));
            address.is_some_and(|address| networks.iter().any(|network| network.contains(&address)))
        }));
        Ok(())
    }
}

/// The default identity.
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
