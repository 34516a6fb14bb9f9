//! [`TimingLayer`] and its builder.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::service::Timing;
use super::state::State;
use super::stats::TimingStats;
use crate::body::Wrap;
use crate::clock::Clock;
use crate::error::Error;
use crate::event::{Event, Events};
use crate::route::Patterns;

const SLOW_AFTER: Duration = Duration::from_millis(250);
const MAX_ROUTES: usize = 256;
/// A table is allocated for so many routes at once; beyond this it is a mistake.
const MOST_ROUTES: usize = 65_536;

/// Measures every request and the queries it makes.
///
/// All clones of a layer, and all services made by it, count into one state: ask any of them for
/// [`stats`](Self::stats).
///
/// ```
/// use std::convert::Infallible;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tollgate::timing::TimingLayer;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let timing = TimingLayer::new();
/// let service = timing.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
/// }));
/// service.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(timing.stats().requests, 1);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TimingLayer {
    state: Arc<State>,
}

impl TimingLayer {
    /// A layer with the defaults: slow from 250 ms on, 256 routes, no `Server-Timing`.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::new(State::new(Settings::default())) }
    }

    /// A layer to be set up.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().slow_after(Duration::from_millis(100)).server_timing(true).build()?;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn builder() -> TimingBuilder {
        TimingBuilder { settings: Settings::default(), error: None }
    }

    /// What has been measured since the layer was built.
    ///
    /// Costs some microseconds per route: it is made for a page or a scrape, not for every request.
    #[must_use]
    pub fn stats(&self) -> TimingStats {
        self.state.stats()
    }

    /// The service around `inner`; `W` says whether its response body is still to be wrapped.
    pub(crate) fn wrap<S, W>(&self, inner: S) -> Timing<S, W> {
        Timing { inner, state: self.state.clone(), body: PhantomData }
    }
}

impl Default for TimingLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for TimingLayer {
    type Service = Timing<S>;

    fn layer(&self, inner: S) -> Timing<S> {
        self.wrap::<S, Wrap>(inner)
    }
}

/// Sets up a [`TimingLayer`]. Made by [`TimingLayer::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct TimingBuilder {
    settings: Settings,
    error: Option<Error>,
}

impl TimingBuilder {
    /// From when on a request is slow: it is listed in [`TimingStats`] and reported as
    /// [`Event::SlowRequest`]. By default 250 ms.
    pub fn slow_after(mut self, span: Duration) -> Self {
        self.settings.slow_after = span;
        self
    }

    /// Names requests by these patterns where no router has named them, in axum's syntax: `"/prices/{symbol}"`.
    ///
    /// Needed where the layer stands outside axum's router (around a whole app, in a gateway, on a bare hyper server)
    /// or without the feature `axum`; such requests share the name [`UNMATCHED`](crate::UNMATCHED) otherwise.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// assert!(TimingLayer::builder().routes(["/prices/{symbol}", "/report"]).build().is_ok());
    ///
    /// let error = TimingLayer::builder().routes(["/a/{x}", "/a/{y}"]).build().unwrap_err();
    /// assert!(error.to_string().contains("/a/{y}"));
    /// ```
    pub fn routes(mut self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        for pattern in patterns {
            if let Err(error) = self.settings.patterns.add(pattern.as_ref()) {
                self.error.get_or_insert(error);
            }
        }
        self
    }

    /// How many routes are told apart, by default 256, those given as [`routes`](Self::routes) first; what comes later
    /// shares the name `other`.
    ///
    /// Each route takes about 10 KB.
    pub fn max_routes(mut self, routes: usize) -> Self {
        self.settings.max_routes = routes;
        self
    }

    /// Whether responses say how long they took, in a `Server-Timing` field
    /// ([W3C](https://www.w3.org/TR/server-timing/)) that browsers show beside each request:
    /// `total;dur=1.2, db;dur=0.8;desc="3 queries"`. By default they do not.
    ///
    /// The field tells every client how long your queries take. It is added to those of the inner service.
    pub fn server_timing(mut self, on: bool) -> Self {
        self.settings.server_timing = on;
        self
    }

    /// Where to read the time. A test turns a [`ManualClock`](crate::ManualClock).
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// What to call with every [`Event`].
    pub fn hook(mut self, hook: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.settings.events = Events::new(Some(Arc::new(hook)));
        self
    }

    /// Whether to measure at all. A layer that is not enabled passes everything through, with the same types.
    pub fn enabled(mut self, on: bool) -> Self {
        self.settings.enabled = on;
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// Where a route pattern is malformed or conflicts with another, or `max_routes` is not within 1 and 65 536.
    pub fn build(self) -> Result<TimingLayer, Error> {
        let Self { settings, error } = self;
        if let Some(error) = error {
            return Err(error);
        }
        if !(1..=MOST_ROUTES).contains(&settings.max_routes) {
            let given = settings.max_routes;
            return Err(Error::config(format!("max_routes is {given}, and must be within 1 and {MOST_ROUTES}")));
        }
        Ok(TimingLayer { state: Arc::new(State::new(settings)) })
    }
}

/// How a layer was set up.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) slow_after: Duration,
    pub(super) patterns: Patterns,
    pub(super) max_routes: usize,
    pub(super) server_timing: bool,
    pub(super) clock: Clock,
    pub(super) events: Events,
    pub(super) enabled: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            slow_after: SLOW_AFTER,
            patterns: Patterns::default(),
            max_routes: MAX_ROUTES,
            server_timing: false,
            clock: Clock::default(),
            events: Events::default(),
            enabled: true,
        }
    }
}
