//! [`ResponseFuture`]: polls the inner service in the request's context, and records the finished request.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Body as _;
use pin_project_lite::pin_project;

use super::gate_mark;
use crate::base::body::{Adopt, Body, Wrap};
use crate::base::clock::Timestamp;
use crate::base::detached_context::{self, LogSlot, Notes, RequestScope};
use crate::base::error::BoxError;
use crate::base::headers::SERVER_TIMING;
use crate::base::metrics::http_labels::{RequestKind, RequestLabels};
use crate::base::mode::Mode;
use crate::base::request_head::RequestHead;
use crate::context::RequestContext;
use crate::timing::engine::harvest_health;
use crate::timing::engine::request_log::{RequestLog, Sums};
use crate::timing::engine::request_series::{self, HttpMetrics};
use crate::timing::engine::route_stats::{RequestOutcome, RequestSummary, Route};
use crate::timing::engine::span::RequestSpan;
use crate::timing::engine::state::TimingState;
use crate::timing::report::server_timing;

pin_project! {
    /// Response future of a [`Timing`](crate::timing::Timing) service. Dropped before it is ready, the request counts
    /// as cancelled.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use tollgate::timing::TimingLayer;
    /// use tower::{Layer, Service, service_fn};
    ///
    /// let inner = service_fn(async |_: http::Request<String>| Ok::<_, Infallible>(http::Response::new(String::new())));
    /// let response = TimingLayer::new().layer(inner).call(http::Request::new(String::new()));
    /// # drop(response);
    /// ```
    pub struct ResponseFuture<F, W = Wrap> {
        #[pin]
        inner: Option<F>,
        watch: RequestWatch,
        body: PhantomData<fn() -> W>,
    }

    impl<F, W> PinnedDrop for ResponseFuture<F, W> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // Inside the context, and before the request is recorded: queries that end here belong to it.
            if !this.watch.stopped {
                this.watch.enter(|| this.inner.set(None));
            }
        }
    }
}

impl<F, W> ResponseFuture<F, W> {
    pub(crate) fn new(inner: F, watch: RequestWatch) -> Self {
        Self { inner: Some(inner), watch, body: PhantomData }
    }
}

impl<F, W, R, E> Future for ResponseFuture<F, W>
where
    F: Future<Output = Result<Response<R>, E>>,
    W: Adopt<R>,
    W::Inner: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Output = Result<Response<Body<W::Inner>>, E>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else { return Poll::Pending };
        let polled = this.watch.enter(|| inner.poll(cx));
        let outcome = match &polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(response)) => RequestOutcome::Answered(response.status()),
            Poll::Ready(Err(_)) => RequestOutcome::Failed,
        };
        match this.watch.stop(outcome) {
            Some(ended) if this.watch.series != ResponseTimes::Nothing => {
                polled.map_ok(|response| this.watch.write_server_timing(response.map(W::adopt), ended))
            }
            _ => polled.map_ok(|response| response.map(W::adopt)),
        }
    }
}

impl<F, W> fmt::Debug for ResponseFuture<F, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("watch", &self.watch).finish_non_exhaustive()
    }
}

/// Measurement of one request, from its call until it is stopped or dropped.
pub(crate) struct RequestWatch {
    /// Holds the request's route, directly or through its log; empty if the layer is disabled.
    slot: LogSlot,
    span: RequestSpan,
    started: Timestamp,
    stopped: bool,
    series: ResponseTimes,
    kind: RequestKind,
}

/// Delivery of `Server-Timing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseTimes {
    Nothing,
    /// In the header section.
    Head,
    /// In a trailer if the body streams, else in the header section.
    Trailer,
}

impl ResponseTimes {
    #[inline]
    fn of(state: &TimingState, head: &RequestHead<'_>) -> Self {
        if !state.settings().server_timing.wanted(head) || state.mode.get() != Mode::On {
            return Self::Nothing;
        }
        // RFC 9110 §10.1.4: a client announces with TE that it accepts trailers.
        let te = head.header(http::header::TE).and_then(|te| te.to_str().ok()).unwrap_or_default();
        let trailers = te.split(',').any(|word| word.trim().eq_ignore_ascii_case("trailers"));
        // A response without a body or without chunks has no trailers.
        let possible = head.method() != http::Method::HEAD && head.version() > http::Version::HTTP_10;
        if trailers && possible { Self::Trailer } else { Self::Head }
    }
}

impl RequestWatch {
    #[inline(always)]
    pub(crate) fn start(state: &TimingState, head: &RequestHead<'_>, gate: u16, context: &mut RequestContext) -> Self {
        let kind = RequestKind::default();
        // A request that a handler sends through its own gate is inside it too, and has no mark.
        if detached_context::is_inside_gate(gate) && gate_mark::is_marked(head.extensions(), gate) {
            state.warn_of_repeated_gate();
            let (slot, span, zero) = (LogSlot::repeated(gate), RequestSpan::none(), Timestamp::ZERO);
            return Self { slot, span, started: zero, stopped: true, series: ResponseTimes::Nothing, kind };
        }
        if !state.measures(head) {
            let (slot, span, zero) = (LogSlot::default(), RequestSpan::none(), Timestamp::ZERO);
            // A gate that measures nothing still recognizes itself.
            let slot = if gate == 0 { slot } else { LogSlot::unmeasured().inside(gate) };
            return Self { slot, span, started: zero, stopped: true, series: ResponseTimes::Nothing, kind };
        }
        let (route, found) = state.begin(head);
        context.note_route(found);
        let series = ResponseTimes::of(state, head);
        let started = context.now(&state.settings().clock);
        let outer = if detached_context::is_inside() { RequestLog::current() } else { None };
        let mut slot = match outer {
            // Within another timing layer, measurements are added to both.
            Some(outer) => LogSlot::new(Arc::new(RequestLog::new(route, Some(outer)))),
            None => LogSlot::new(route),
        };
        if gate != 0 {
            slot = slot.inside(gate);
        }
        let kind = RequestKind::of(head.method(), head.uri());
        let has_span = harvest_health::has_spans();
        let span = if has_span { open_span(state, &mut slot, kind) } else { RequestSpan::none() };
        Self { slot, span, started, stopped: false, series, kind }
    }

    /// Runs `work` as part of this request.
    #[inline(always)]
    pub(crate) fn enter<R>(&mut self, work: impl FnOnce() -> R) -> R {
        match self.slot.is_used() {
            true => self.slot.enter(|| self.span.enter(work)),
            // If this layer is disabled, an outer one may be enabled.
            false => work(),
        }
    }

    /// Records the finished request, once; returns the time of its end.
    #[inline]
    fn stop(&mut self, outcome: RequestOutcome) -> Option<Timestamp> {
        if std::mem::replace(&mut self.stopped, true) {
            return None;
        }
        self.count(outcome)
    }

    fn count(&self, outcome: RequestOutcome) -> Option<Timestamp> {
        let (route, log) = self.slot.scope().and_then(parts)?;
        let now = route.core().now();
        let took = now.nanos_since(self.started);
        let labels = self.labels(outcome);
        route.count(now, took, labels);
        if took >= route.core().slow_after() || self.span.is_open() {
            self.finish_rare((route, log), now, took, outcome);
        }
        if let Some(log) = log {
            route.report_findings(log, now);
        }
        route.core().report_pending();
        harvest_health::request(route.core().settings());
        Some(now)
    }

    /// Returns the labels of the request in metrics; `None` if it was cancelled.
    #[inline]
    fn labels(&self, outcome: RequestOutcome) -> Option<RequestLabels> {
        match outcome {
            RequestOutcome::Answered(status) => Some(self.kind.ended(Some(status))),
            RequestOutcome::Failed => Some(self.kind.ended(None)),
            RequestOutcome::Cancelled => None,
        }
    }

    /// Records a slow request, and the outcome in the request's span.
    #[cold]
    fn finish_rare(
        &self,
        (route, log): (&Route, Option<&RequestLog>),
        now: Timestamp,
        took: u64,
        outcome: RequestOutcome,
    ) {
        let notes = self.notes(log);
        let errors_from = route.core().settings().http_metrics.errors_from();
        self.span.finish(self.labels(outcome), errors_from, notes);
        if took >= route.core().slow_after() {
            route.record_slow(&RequestSummary { now, took, outcome, log, notes });
        }
    }

    /// Returns notes of other layers: from the request's own task, else from detached work.
    fn notes(&self, log: Option<&RequestLog>) -> Notes {
        let (own, theirs) = (self.slot.notes(), log.map(RequestLog::notes).unwrap_or_default());
        Notes { cache: own.cache.or(theirs.cache), limit: own.limit.or(theirs.limit) }
    }

    /// Adds `Server-Timing` to the response.
    #[cold]
    fn write_server_timing<B>(&self, mut response: Response<Body<B>>, ended: Timestamp) -> Response<Body<B>>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let Some(scope) = self.slot.scope() else { return response };
        let notes = self.notes(parts(scope).and_then(|(_, log)| log));
        let streams = response.body().size_hint().exact().is_none() && !response.body().is_end_stream();
        if self.series == ResponseTimes::Trailer && streams {
            // RFC 9110 §6.6.2: announces the trailer, which HTTP/1.1 servers require.
            response.headers_mut().append(http::header::TRAILER, HeaderValue::from_static("server-timing"));
            let (scope, started) = (scope.clone(), self.started);
            let trailer = move || {
                let now = parts(&scope).map_or(started, |(route, _)| route.core().now());
                server_timing_value(&scope, started, now, notes)
                    .map(|value| HeaderMap::from_iter([(SERVER_TIMING, value)]))
            };
            response.body_mut().add_trailers(Box::new(trailer));
        } else if let Some(value) = server_timing_value(scope, self.started, ended, notes) {
            response.headers_mut().append(SERVER_TIMING, value);
        }
        response
    }
}

/// Opens the span of a request: for traces, or for a harvest.
#[cold]
fn open_span(state: &TimingState, slot: &mut LogSlot, kind: RequestKind) -> RequestSpan {
    if !state.settings().request_spans {
        return RequestSpan::open(slot);
    }
    let name = slot.scope().and_then(parts).map(|(route, _)| request_series::route(route.name()).to_owned());
    let is_client = matches!(state.settings().http_metrics, HttpMetrics::Upstream(_));
    RequestSpan::described(slot, kind.method(), &name.unwrap_or_default(), is_client)
}

/// Returns the route of a scope, and the request's log, if any.
fn parts(scope: &RequestScope) -> Option<(&Route, Option<&RequestLog>)> {
    let scope: &dyn Any = &**scope;
    match scope.downcast_ref::<Route>() {
        Some(route) => Some((route, None)),
        None => scope.downcast_ref::<RequestLog>().map(|log| (log.route(), Some(log))),
    }
}

fn server_timing_value(
    scope: &RequestScope,
    started: Timestamp,
    ended: Timestamp,
    notes: Notes,
) -> Option<HeaderValue> {
    let sums = parts(scope).and_then(|(_, log)| log).map_or_else(Sums::default, RequestLog::sums);
    server_timing::value(ended.since(started), &sums, notes)
}

impl Drop for RequestWatch {
    fn drop(&mut self) {
        self.stop(RequestOutcome::Cancelled);
    }
}

impl fmt::Debug for RequestWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestWatch")
            .field("started", &self.started)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}
