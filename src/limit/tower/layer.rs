//! [`RateLimitLayer`]: the layer, and the handle to its limits.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use tower_layer::Layer;

use super::builder::RateLimitBuilder;
use super::service::RateLimit;
use crate::base::body::Wrap;
use crate::base::error::Error;
use crate::base::metrics::samples::Samples;
use crate::base::metrics::text::{TextFormat, TextPage};
use crate::base::mode::Mode;
use crate::identity::Key;
use crate::limit::algorithm::quota::Quota;
use crate::limit::engine::fallback::OnOutage;
use crate::limit::engine::held_places::HeldPlaces;
use crate::limit::engine::limiter::Limiter;
use crate::limit::engine::metrics;
use crate::limit::engine::refusals::Refusal;
use crate::limit::engine::reload::LimitSetting;
use crate::limit::engine::stats::RateLimitStats;
use crate::limit::engine::subject::LimitSubject;
use crate::limit::policy::limit::Limit;
use crate::limit::policy::named_subject::NamedSubject;

/// Longest wait for a shared store at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Limits the rate of requests. All clones, and all services they make, share one state: routes and connections count
/// together.
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
    /// `None` if the layer is disabled.
    pub(super) limiter: Option<Arc<Limiter>>,
    /// Limiter of the services: also of a disabled layer if it verifies identities.
    pub(super) serving: Option<Arc<Limiter>>,
}

impl RateLimitLayer {
    /// Creates one limit per client address, that of the socket peer.
    ///
    /// ```
    /// use tollgate::limit::{Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::per_ip(Quota::per_minute(20));
    /// # let _ = layer;
    /// ```
    ///
    /// # Panics
    /// Panics if the quota is impossible, such as zero: a mistake in the program, found at start. Use
    /// [`builder`](Self::builder) for a quota from configuration.
    #[must_use]
    #[track_caller]
    #[expect(clippy::panic, reason = "documented: a constant quota that is impossible is a mistake in the program")]
    pub fn per_ip(quota: impl TryInto<Quota, Error: Into<Error>>) -> Self {
        match Self::builder().limit(Limit::per_ip(quota)).build() {
            Ok(layer) => layer,
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns a builder for any limits, identities and stores.
    ///
    /// ```
    /// use tollgate::limit::{Limit, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder().limit(Limit::per_ip("100/min")).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn builder() -> RateLimitBuilder {
        RateLimitBuilder::default()
    }

    /// Returns the counts of admitted and rejected requests and the size of the store.
    ///
    /// ```
    /// use tollgate::limit::{Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::per_ip(Quota::per_minute(20));
    /// assert_eq!(layer.stats().refused, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> RateLimitStats {
        let off = || RateLimitStats { mode: Mode::Off, ..RateLimitStats::default() };
        self.limiter.as_ref().map_or_else(off, |limiter| limiter.stats())
    }

    /// Returns the blocks that this process has leased in a shared store, and waits at most a second for it. Call it after the
    /// last request: leases that are not returned count until the end of their period.
    ///
    /// ```
    /// use tollgate::limit::RateLimitLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let layer = RateLimitLayer::per_ip("100/min");
    /// layer.shutdown().await;
    /// # }
    /// ```
    pub async fn shutdown(&self) {
        if let Some(limiter) = &self.limiter {
            // An outage keeps them: they count as used.
            let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, limiter.store.shutdown().into_future()).await;
        }
    }

    /// Renders the statistics in Prometheus text format, including the state of a shared store. Empty if the layer is
    /// disabled. See the guide [`metrics`](crate::docs::metrics).
    ///
    /// ```
    /// use tollgate::limit::{Quota, RateLimitLayer};
    ///
    /// let text = RateLimitLayer::per_ip(Quota::per_minute(20)).prometheus();
    /// assert!(text.contains("tollgate_limit_degraded_total 0"));
    /// ```
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut page = TextPage::new(TextFormat::Prometheus);
        self.fill_metrics(&mut page);
        page.finish()
    }

    /// Adds the values of all metrics.
    pub(crate) fn fill_metrics(&self, out: &mut dyn Samples) {
        if let Some(limiter) = &self.limiter {
            metrics::fill(&limiter.stats(), out);
        }
    }

    /// Creates the layer of a limiter. A disabled one admits every request, and verifies identities.
    pub(super) fn new(limiter: Limiter, is_enabled: bool) -> Self {
        let limiter = Arc::new(limiter);
        if is_enabled {
            return Self { limiter: Some(limiter.clone()), serving: Some(limiter) };
        }
        limiter.set_mode(Mode::Off);
        Self { limiter: None, serving: Some(limiter).filter(|limiter| !limiter.verifiers.is_empty()) }
    }

    /// Names a subject of the limits, to look at, charge, reset or grant it without a request: see [`LimitSubject`].
    ///
    /// ```
    /// use tollgate::identity::Key;
    /// use tollgate::limit::RateLimitLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let layer = RateLimitLayer::per_ip("20/min");
    /// let client = layer.subject(Key::ip("192.0.2.1".parse().expect("an address")));
    /// assert!(client.check(5).await.admits());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn subject(&self, key: Key<'_>) -> LimitSubject {
        let named = NamedSubject { key: key.keep(), tier: None, route: None, limit: None };
        LimitSubject::new(self.limiter.clone(), named)
    }

    /// Returns the refusal with this reference, which is in the response to the client, in the log and in the event; the last
    /// twenty of each subject are kept, in the process that refused.
    ///
    /// ```
    /// use tollgate::identity::Key;
    /// use tollgate::limit::RateLimitLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let layer = RateLimitLayer::per_ip("1/min");
    /// let refused = layer.subject(Key::ip("192.0.2.1".parse().expect("an address"))).check(2).await;
    /// let refusal = layer.refusal(refused.reference().expect("a refusal")).expect("one of the last");
    /// assert_eq!((refusal.route.as_str(), refusal.limits.len()), ("unmatched", 1));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn refusal(&self, reference: &str) -> Option<Refusal> {
        self.limiter.as_ref()?.refusal(reference)
    }

    /// Keeps a request in progress under every [`ConcurrencyLimit`](crate::limit::ConcurrencyLimit) until the returned value is
    /// dropped, also after the end of its response: for a websocket, or a task that goes on in the background.
    ///
    /// Takes the extensions of the request. Without such a limit the value keeps nothing, and so it does if it is asked for only
    /// when the response has ended.
    ///
    /// ```
    /// use axum::extract::ws::{WebSocket, WebSocketUpgrade};
    /// use axum::http::Extensions;
    /// use axum::response::Response;
    /// use tollgate::limit::RateLimitLayer;
    ///
    /// async fn chat(extensions: Extensions, upgrade: WebSocketUpgrade) -> Response {
    ///     let place = RateLimitLayer::hold_places(&extensions);
    ///     upgrade.on_upgrade(async move |mut socket: WebSocket| {
    ///         while let Some(Ok(message)) = socket.recv().await {
    ///             drop(message);
    ///         }
    ///         drop(place); // the socket is no longer in progress
    ///     })
    /// }
    /// # let _ = axum::routing::get::<_, _, ()>(chat);
    /// ```
    #[must_use = "the places are freed when the value is dropped"]
    pub fn hold_places(extensions: &Extensions) -> impl Send + Sync + 'static + use<> {
        HeldPlaces::linked(extensions)
    }

    /// Changes the quota of the named limit or tier from now on. Keys keep their used share.
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
    /// Returns an error if there is no such limit, it is the per-node ceiling, or the quota is malformed or impossible.
    pub fn set_quota(&self, name: &str, quota: impl TryInto<Quota, Error: Into<Error>>) -> Result<(), Error> {
        let quota = quota.try_into().map_err(Into::into)?;
        match &self.limiter {
            Some(limiter) => limiter.set_quota(name, quota),
            None => Err(Error::config(format!("unknown limit {name:?}; use a name listed in stats()"))),
        }
    }

    /// Changes the mode of all limits of this layer.
    ///
    /// States are kept while limits are off, and continue when they are on again; in [`Mode::Shadow`] limits count
    /// without rejecting. A layer that was built disabled stays disabled.
    ///
    /// ```
    /// use tollgate::Mode;
    /// use tollgate::limit::{Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::per_ip(Quota::per_minute(20));
    /// layer.set_mode(Mode::Shadow);
    /// assert_eq!(layer.stats().mode, Mode::Shadow);
    /// ```
    pub fn set_mode(&self, mode: Mode) {
        if let Some(limiter) = &self.limiter {
            limiter.set_mode(mode);
        }
    }

    /// Returns the last refusals in this process, newest first, at most `n`.
    #[cfg(feature = "admin")]
    pub(crate) fn latest_refusals(&self, n: usize) -> Vec<Refusal> {
        self.limiter.as_ref().map(|limiter| limiter.latest_refusals(n)).unwrap_or_default()
    }

    /// Checks an override of a limit's setting.
    ///
    /// # Errors
    /// If there is no such limit, or the setting is not possible for it.
    pub(crate) fn check_override(&self, name: &str, setting: LimitSetting) -> Result<(), Error> {
        match &self.limiter {
            Some(limiter) => limiter.check_override(name, setting).map(drop),
            None => Err(Error::config(format!("unknown limit {name:?}; use a name listed in stats()"))),
        }
    }

    /// Whether all requests are refused while the shared store is down.
    pub(crate) fn fails_closed(&self) -> bool {
        self.limiter.as_ref().is_some_and(|limiter| limiter.fails_closed())
    }

    /// Whether there is a store whose outages have a policy.
    pub(crate) fn has_shared_store(&self) -> bool {
        self.limiter.as_ref().is_some_and(|limiter| limiter.has_shared_store())
    }

    /// Replaces the overrides of the layer's mode, its policy during outages, and of settings of its limits.
    pub(crate) fn override_with(
        &self,
        mode: Option<Mode>,
        on_outage: Option<OnOutage>,
        settings: &[(&str, LimitSetting)],
    ) {
        if let Some(limiter) = &self.limiter {
            limiter.override_with(mode, on_outage, settings);
        }
    }

    /// Wraps `inner`, with response bodies made by `W`.
    pub(crate) fn wrap<S, W>(&self, inner: S, gate: u16) -> RateLimit<S, W> {
        RateLimit { inner, limiter: self.serving.clone(), gate, body: PhantomData }
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S, Wrap>;

    fn layer(&self, inner: S) -> Self::Service {
        self.wrap(inner, 0)
    }
}
