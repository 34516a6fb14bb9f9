//! [`TimingLayer`] and its builder.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::service::Timing;
use crate::base::body::Wrap;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Event, Events};
use crate::base::mode::Switch;
use crate::base::request_head::RequestHead;
use crate::timing::engine::settings::{Reporting, TimingSettings};
use crate::timing::engine::state::TimingState;
use crate::timing::measure::n_plus_one::Repeats;
use crate::timing::measure::stats::TimingStats;
use crate::timing::report::prometheus;

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
    state: Arc<TimingState>,
}

impl TimingLayer {
    /// A layer with the defaults: slow from 250 ms on, 256 routes, no `Server-Timing`.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::new(TimingState::new(TimingSettings::default())) }
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
        TimingBuilder { settings: TimingSettings::default(), error: None }
    }

    /// Returns the statistics since the layer was built.
    ///
    /// Costs some microseconds per route: it is made for a page or a scrape, not for every request.
    #[must_use]
    pub fn stats(&self) -> TimingStats {
        self.state.stats()
    }

    /// The same for Prometheus, in its text format (version 0.0.4), under OpenTelemetry's names.
    ///
    /// | metric | type | unit | labels |
    /// |---|---|---|---|
    /// | `http_server_request_duration_seconds` | histogram | seconds | `http_route` |
    /// | `http_server_active_requests` | gauge | requests | `http_route` |
    /// | `tollgate_requests_total` | counter | requests | `http_route`, `outcome`: `answered`, `error`, `cancelled` |
    /// | `tollgate_request_queries_total` | counter | queries | `http_route` |
    /// | `tollgate_request_query_seconds_total` | counter | seconds | `http_route` |
    /// | `db_client_operation_duration_seconds` | histogram | seconds | `db_query_text`: a fingerprint or a name |
    /// | `db_client_connection_wait_time_seconds` | histogram | seconds | |
    /// | `tollgate_unattributed_queries_total` | counter | queries | |
    /// | `tollgate_findings_total` | counter | findings | `http_route`, `kind`: see [`FindingKind`](crate::timing::FindingKind) |
    ///
    /// Buckets are those that OpenTelemetry's conventions advise; a value up to 3 % above a bucket's bound may be
    /// counted
    /// as below it. Labels are routes and fingerprints: never a path, a value, a user or an address. Costs some
    /// microseconds per route and query: for a scrape, not for every request.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let text = TimingLayer::new().prometheus();
    /// assert!(text.contains("# TYPE http_server_request_duration_seconds histogram"));
    /// ```
    #[must_use]
    pub fn prometheus(&self) -> String {
        prometheus::render(&self.state)
    }

    /// Switches timing on, off or to measuring without `Server-Timing` ([`Switch::Shadow`]), for requests that come
    /// from
    /// now on. What was measured is kept. A layer that was built not [enabled](TimingBuilder::enabled) stays off.
    pub fn switch(&self, switch: Switch) {
        self.state.switch.set(switch);
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
    settings: TimingSettings,
    error: Option<Error>,
}

impl TimingBuilder {
    /// From when on a request is slow: it is listed in [`TimingStats`] and reported as
    /// [`Event::SlowRequest`]. By default 250 ms.
    pub fn slow_after(mut self, span: Duration) -> Self {
        self.settings.slow_after = span;
        self
    }

    /// From when on one query is slow, and reported as [`Event::SlowQuery`]. By default 100 ms.
    pub fn slow_query_after(mut self, span: Duration) -> Self {
        self.settings.slow_query_after = span;
        self
    }

    /// From when on a request has waited too long for database connections, all its waits together, and is reported as
    /// [`Event::PoolStarvation`]. By default 100 ms.
    pub fn starved_after(mut self, span: Duration) -> Self {
        self.settings.starved_after = span;
        self
    }

    /// When repeated queries are reported, as [`Event::NPlusOne`] and [`Event::DuplicateQueries`]: see [`Repeats`].
    pub fn repeats(mut self, repeats: Repeats) -> Self {
        self.settings.repeats = repeats;
        self
    }

    /// The same for one route, by its name: axum's matched path, or a pattern given as [`routes`](Self::routes).
    pub fn repeats_on(mut self, route: &str, repeats: Repeats) -> Self {
        self.settings.repeats_on.push((route.into(), repeats));
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
            if let Err(error) = self.settings.patterns.place(pattern.as_ref()) {
                self.error.get_or_insert(error);
            }
        }
        self
    }

    /// Times requests that go out.
    pub(crate) fn outbound(mut self) -> Self {
        self.settings.patterns.go_out();
        self
    }

    /// How many routes are told apart, by default 256, those given as [`routes`](Self::routes) first; what comes later
    /// shares the name `other`.
    ///
    /// Each route takes about 26 KB.
    pub fn max_routes(mut self, routes: usize) -> Self {
        self.settings.max_routes = routes;
        self
    }

    /// Whether responses say how long they took, in a `Server-Timing` field
    /// ([W3C](https://www.w3.org/TR/server-timing/)) that browsers show beside each request. By default they do not.
    ///
    /// | metric | what it says |
    /// |---|---|
    /// | `total;dur=1.2` | milliseconds until the response head |
    /// | `db;dur=0.8;desc="3 queries"` | queries, all together |
    /// | `pool;dur=0.1` | waits for database connections |
    /// | `upstream;dur=5;desc="1 call"` | calls of other services |
    /// | `cache;desc="hit"` | how a cache of this crate answered |
    /// | `limit;desc="allowed"` | what a limit of this crate decided |
    ///
    /// Where the body streams and the client takes trailers (`TE: trailers`), the field comes as a trailer instead, and
    /// its times run to the end of the body.
    ///
    /// The field tells every client how long your queries take: see [`server_timing_if`](Self::server_timing_if). It is
    /// added to those of the inner service.
    pub fn server_timing(mut self, on: bool) -> Self {
        self.settings.server_timing = if on { Reporting::Always } else { Reporting::Never };
        self
    }

    /// The same for those requests alone that `wanted` accepts: from your own network, say, or with a certain field.
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

    /// Where to read the time. A test turns a [`ManualClock`](crate::ManualClock).
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Sets the callback for every [`Event`].
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
        Ok(TimingLayer { state: Arc::new(TimingState::new(settings)) })
    }
}
