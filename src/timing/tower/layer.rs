//! [`TimingLayer`] and its builder.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::service::Timing;
use crate::base::body::Wrap;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::Event;
use crate::base::metrics::samples::Samples;
use crate::base::metrics::text::{TextFormat, TextPage};
use crate::base::mode::Mode;
use crate::base::request_head::RequestHead;
use crate::base::route::Patterns;
use crate::base::route_matcher::RouteMatcher;
use crate::context::GatePlace;
use crate::timing::engine::settings::{ExceptedRoutes, Reporting, TimingSettings};
use crate::timing::engine::state::{TimingCounts, TimingState};
use crate::timing::measure::n_plus_one::Repeats;
use crate::timing::measure::stats::TimingStats;
use crate::timing::report::metrics;

/// Maximum number of routes, for which a table is allocated at once.
const MAX_ROUTES: usize = 65_536;

/// Measures every request and its queries.
///
/// All clones of a layer, and all services made by it, share one state and return the same [`stats`](Self::stats).
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
    state: Arc<TimingState>,
}

impl TimingLayer {
    /// Creates a layer with the defaults: slow from 250 ms, 256 routes, no `Server-Timing`.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// assert_eq!(TimingLayer::new().stats().requests, 0);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::new(TimingState::new(TimingSettings::default())) }
    }

    /// Returns a builder.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().slow_after(Duration::from_millis(100)).server_timing(true).build()?;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn builder() -> TimingBuilder {
        TimingBuilder { settings: TimingSettings::default(), error: None, except: RouteMatcher::default() }
    }

    /// Returns the statistics since the layer was built.
    ///
    /// Costs some microseconds per route: intended for a page or a scrape, not for every request.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let stats = TimingLayer::new().stats();
    /// println!("{:?} in the 99th percentile", stats.latency.p99);
    /// ```
    #[must_use]
    pub fn stats(&self) -> TimingStats {
        self.state.stats()
    }

    /// Renders the statistics in Prometheus text format (version 0.0.4), with OpenTelemetry's names: see the guide
    /// [`metrics`](crate::docs::metrics).
    ///
    /// A value up to 3 % above a bucket's bound may be counted in it. Labels are routes, methods, statuses and summaries of
    /// queries: never a path, a value, a user or an address. Costs some microseconds per route and query: intended for a
    /// scrape, not for every request.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let text = TimingLayer::new().prometheus();
    /// assert!(text.contains("# TYPE tollgate_unattributed_queries_total counter"));
    /// ```
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut page = TextPage::new(TextFormat::Prometheus);
        self.fill_metrics(&mut page);
        page.finish()
    }

    /// Adds the values of all metrics.
    pub(crate) fn fill_metrics(&self, out: &mut dyn Samples) {
        metrics::fill(&self.state, out);
    }

    /// Changes the mode of timing for future requests: on, off, or measuring without `Server-Timing`
    /// ([`Mode::Shadow`]).
    ///
    /// Measurements are kept. A layer that was built not [enabled](TimingBuilder::enabled) stays off.
    ///
    /// ```
    /// use tollgate::Mode;
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::new();
    /// timing.set_mode(Mode::Off);
    /// assert_eq!(timing.stats().mode, Mode::Off);
    /// ```
    pub fn set_mode(&self, mode: Mode) {
        self.state.mode.set(mode);
    }

    /// Returns the counts of all routes and queries together; requests and queries beyond these targets are slow.
    /// Those of some routes are counted for each target too.
    pub(crate) fn counts(
        &self,
        latency: Duration,
        query: Duration,
        routes: &[(RouteMatcher, Duration)],
    ) -> TimingCounts {
        self.state.counts(latency, query, routes)
    }

    /// Overrides the mode, or ends that.
    pub(crate) fn override_with(&self, mode: Option<Mode>) {
        self.state.mode.override_with(mode);
    }

    /// Wraps `inner`; `W` selects how its response body is wrapped.
    pub(crate) fn wrap<S, W>(&self, inner: S, gate: GatePlace) -> Timing<S, W> {
        Timing { inner, state: self.state.clone(), gate, body: PhantomData }
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
        self.wrap::<S, Wrap>(inner, GatePlace::NONE)
    }
}

/// Builds a [`TimingLayer`]. Made by [`TimingLayer::builder`].
///
/// ```
/// use std::time::Duration;
/// use tollgate::timing::TimingLayer;
///
/// let timing = TimingLayer::builder()
///     .slow_after(Duration::from_millis(500))
///     .slow_query_after(Duration::from_millis(50))
///     .starved_after(Duration::from_millis(200))
///     .routes(["/prices/{symbol}"])
///     .build()?;
/// # let _ = timing;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct TimingBuilder {
    pub(super) settings: TimingSettings,
    except: RouteMatcher,
    pub(super) error: Option<Error>,
}

impl TimingBuilder {
    /// Sets the duration from which a request is slow, listed in [`TimingStats`] and reported as
    /// [`Event::SlowRequest`]. Defaults to 250 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().slow_after(Duration::from_millis(500)).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn slow_after(mut self, span: Duration) -> Self {
        self.settings.slow_after = span;
        self
    }

    /// Sets the duration from which a query is reported as [`Event::SlowQuery`]. Defaults to 100 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().slow_query_after(Duration::from_millis(50)).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn slow_query_after(mut self, span: Duration) -> Self {
        self.settings.slow_query_after = span;
        self
    }

    /// Sets the total wait for database connections from which a request is reported as [`Event::PoolStarvation`].
    /// Defaults to 100 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().starved_after(Duration::from_millis(200)).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn starved_after(mut self, span: Duration) -> Self {
        self.settings.starved_after = span;
        self
    }

    /// Sets the thresholds for repeated queries, reported as [`Event::NPlusOne`] and [`Event::DuplicateQueries`].
    ///
    /// ```
    /// use tollgate::timing::{Repeats, TimingLayer};
    ///
    /// let timing = TimingLayer::builder().repeats(Repeats::new().at_least(10)).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn repeats(mut self, repeats: Repeats) -> Self {
        self.settings.repeats = repeats;
        self
    }

    /// Sets these thresholds for one route: axum's matched path, or a pattern given as [`routes`](Self::routes).
    ///
    /// ```
    /// use tollgate::timing::{Repeats, TimingLayer};
    ///
    /// let timing = TimingLayer::builder().repeats_on("/export", Repeats::off()).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn repeats_on(mut self, route: &str, repeats: Repeats) -> Self {
        self.settings.repeats_on.push((route.into(), repeats));
        self
    }

    /// Declares patterns, in axum's syntax, that name requests without a matched route: `"/prices/{symbol}"`.
    ///
    /// Needed if the layer is outside axum's router (around a whole app, in a gateway, on a bare hyper server) or
    /// without the feature `axum`; such requests otherwise share the name [`UNMATCHED`](crate::UNMATCHED).
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
            if let Err(error) = self.settings.patterns.place(pattern.as_ref()) {
                self.error.get_or_insert(error);
            }
        }
        self
    }

    /// Excludes routes from timing: their requests have no statistics, log and findings.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().except(["/health", "GET /metrics"]).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn except(mut self, routes: impl Into<RouteMatcher>) -> Self {
        self.except = self.except.and(routes.into());
        self
    }

    /// Returns the declared routes.
    pub(crate) fn declared_routes(&self) -> &[Box<str>] {
        self.settings.patterns.names()
    }

    /// Returns the clock.
    pub(crate) const fn own_clock(&self) -> &Clock {
        &self.settings.clock
    }

    /// Replaces the declared routes.
    pub(crate) fn declare(mut self, routes: &[Box<str>]) -> Self {
        self.settings.patterns = Patterns::default();
        self.routes(routes)
    }

    /// Sets how many routes are distinguished; later ones share the name `other`. Defaults to 256.
    ///
    /// Patterns given as [`routes`](Self::routes) take precedence. Each route takes about 26 KB.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// assert!(TimingLayer::builder().max_routes(1_000).build().is_ok());
    /// assert!(TimingLayer::builder().max_routes(0).build().is_err());
    /// ```
    pub fn max_routes(mut self, routes: usize) -> Self {
        self.settings.max_routes = routes;
        self
    }

    /// Adds a `Server-Timing` field ([W3C](https://www.w3.org/TR/server-timing/)), which browsers display, to
    /// responses. Defaults to `false`.
    ///
    /// | metric | value |
    /// |---|---|
    /// | `total;dur=1.2` | milliseconds until the response head |
    /// | `db;dur=0.8;desc="3 queries"` | queries, all together |
    /// | `pool;dur=0.1` | waits for database connections |
    /// | `upstream;dur=5;desc="1 call"` | calls of other services |
    /// | `cache;desc="hit"` | outcome of the cache |
    /// | `limit;desc="allowed"` | outcome of the limits |
    ///
    /// If the body streams and the client accepts trailers (`TE: trailers`), the field is sent as a trailer, and its
    /// times extend to the end of the body.
    ///
    /// The field discloses query times to every client: see [`server_timing_if`](Self::server_timing_if). It is added
    /// to the fields of the inner service.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().server_timing(true).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn server_timing(mut self, on: bool) -> Self {
        self.settings.server_timing = if on { Reporting::Always } else { Reporting::Never };
        self
    }

    /// Adds the field only to responses whose request `wanted` accepts, such as requests from an internal network.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().server_timing_if(|head| head.headers().contains_key("x-debug")).build()?;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn server_timing_if(mut self, wanted: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.settings.server_timing = Reporting::If(Arc::new(wanted));
        self
    }

    /// Sets the clock; tests use a [`ManualClock`](crate::ManualClock).
    ///
    /// ```
    /// use tollgate::{Clock, ManualClock};
    /// use tollgate::timing::TimingLayer;
    ///
    /// let clock = ManualClock::new();
    /// let timing = TimingLayer::builder().clock(Clock::Manual(clock.clone())).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Sets the callback for every [`Event`].
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().hook(|event| eprintln!("{event:?}")).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn hook(mut self, hook: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.settings.events.add(Arc::new(hook));
        self
    }

    /// Enables the layer. Defaults to `true`; a disabled layer passes everything through, with the same types.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().enabled(false).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn enabled(mut self, on: bool) -> Self {
        self.settings.enabled = on;
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// Returns an error if a route pattern is malformed or conflicts with another, or `max_routes` is not within 1
    /// and 65 536.
    pub fn build(self) -> Result<TimingLayer, Error> {
        let Self { mut settings, error, except } = self;
        if let Some(error) = error {
            return Err(error);
        }
        if !(1..=MAX_ROUTES).contains(&settings.max_routes) {
            let given = settings.max_routes;
            return Err(Error::config(format!("max_routes is {given}; it must be within 1 and {MAX_ROUTES}")));
        }
        let declared = Some(settings.patterns.clone()).filter(|routes| !routes.is_empty()).map(Arc::new);
        if let Some(declared) = &declared {
            settings.patterns.declare(declared.clone());
        }
        settings.except = excepted(&except, declared)?;
        Ok(TimingLayer { state: Arc::new(TimingState::new(settings)) })
    }
}

/// Compiles the routes that are not measured.
fn excepted(except: &RouteMatcher, declared: Option<Arc<Patterns>>) -> Result<Option<ExceptedRoutes>, Error> {
    if except.is_all() {
        return Ok(None);
    }
    let mut patterns = Patterns::default();
    let mut routes = except.compile(&mut patterns)?;
    routes.extend_catch_alls(&patterns);
    if let Some(declared) = declared {
        patterns.declare(declared);
    }
    Ok(Some(ExceptedRoutes { patterns, routes }))
}
