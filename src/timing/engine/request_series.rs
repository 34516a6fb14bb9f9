//! [`RequestSeries`]: the exported series of one route, by method, scheme and status.
//!
//! The first combination that succeeds is the route's usual one: its durations are those of the route's
//! [`Latencies`](crate::timing::measure::latencies::Latencies), so that such a request pays one comparison. The others
//! have counts of their own, made when a combination is first seen: at most [`MAX_OF_ROUTE`] per route and
//! [`MAX_SERIES`] in all, of which one is for further combinations that succeed, and one for those that fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::base::lock::RwLock;
use crate::base::metrics::bounds::Bounds;
use crate::base::metrics::duration_counts::{BucketCounts, DurationCounts};
use crate::base::metrics::facade::Series;
use crate::base::metrics::family::Metric;
use crate::base::metrics::http_labels::RequestLabels;
use crate::base::metrics::text::MAX_SERIES;
use crate::base::route::UNMATCHED;
use crate::timing::measure::table::OTHER;

/// Maximum number of series of one route besides the first.
const MAX_OF_ROUTE: usize = 64;
/// Status from which a response of a server is a failure.
const SERVER_ERROR: u16 = 500;
/// Status from which a response to a client is a failure.
const CLIENT_ERROR: u16 = 400;

/// Which family the durations of requests belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum HttpMetrics {
    /// `http_server_request_duration_seconds`.
    #[default]
    Server,
    /// The family of callers of the upstream with this name.
    Upstream(Box<str>),
    /// None, to avoid duplicates with the application's own.
    Off,
}

impl HttpMetrics {
    /// Returns the status from which a response is a failure, as OpenTelemetry defines it for servers and clients.
    pub(crate) fn errors_from(&self) -> u16 {
        if matches!(self, Self::Upstream(_)) { CLIENT_ERROR } else { SERVER_ERROR }
    }

    /// Calls `with` with the family and its labels.
    pub(crate) fn labelled<R>(
        &self,
        route: &str,
        labels: RequestLabels,
        with: impl FnOnce(Metric, &[&str]) -> R,
    ) -> Option<R> {
        let from = self.errors_from();
        let (mut status, mut error) = (labels.status(), labels.error(from));
        let (mut method, mut scheme, mut route) = (labels.method(), labels.scheme(), self::route(route));
        if labels.is_other() {
            (method, scheme, route, status) = (OTHER, OTHER, OTHER, OTHER.to_owned());
            error = if labels.failed(from) { OTHER.to_owned() } else { String::new() };
        }
        match self {
            Self::Server => Some(with(Metric::HttpServerRequestDuration, &[method, &status, scheme, route, &error])),
            Self::Upstream(name) => Some(with(Metric::GatewayRequestDuration, &[method, &status, route, &error, name])),
            Self::Off => None,
        }
    }
}

/// Returns the label of a route: none for unmatched requests.
pub(crate) fn route(name: &str) -> &str {
    if name == UNMATCHED { "" } else { name }
}

/// Series of one layer: what all routes share.
pub(crate) struct SharedSeries {
    pub(crate) http: HttpMetrics,
    bounds: Arc<Bounds>,
    made: AtomicUsize,
    /// Further series: successes, then failures.
    other: [CountedSeries; 2],
}

impl SharedSeries {
    pub(crate) fn new(http: HttpMetrics, bounds: Arc<Bounds>) -> Self {
        let other = [RequestLabels::OTHER, RequestLabels::OTHER_FAILED]
            .map(|labels| CountedSeries::new(&http, &bounds, OTHER, labels));
        Self { http, bounds, made: AtomicUsize::new(0), other }
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Calls `each` with the labels and counts of further series, if there are any.
    pub(crate) fn others(&self, mut each: impl FnMut(RequestLabels, &BucketCounts)) {
        for series in &self.other {
            let counts = series.counts.counts();
            if counts.count() > 0 {
                each(series.labels, &counts);
            }
        }
    }

    fn may_make(&self) -> bool {
        self.made
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |made| (made < MAX_SERIES - 2).then_some(made + 1))
            .is_ok()
    }
}

/// A series with counts of its own.
struct CountedSeries {
    labels: RequestLabels,
    counts: DurationCounts,
    facade: Option<Series>,
}

impl CountedSeries {
    fn new(http: &HttpMetrics, bounds: &Bounds, route: &str, labels: RequestLabels) -> Self {
        let facade = http.labelled(route, labels, Series::new);
        Self { labels, counts: DurationCounts::new(bounds), facade }
    }

    fn record(&self, bounds: &Bounds, nanos: u64) {
        self.counts.record(bounds, nanos);
        if let Some(facade) = &self.facade {
            facade.record(nanos);
        }
    }
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct RequestSeries {
    first: OnceLock<FirstSeries>,
    others: RwLock<Vec<Arc<CountedSeries>>>,
}

struct FirstSeries {
    labels: RequestLabels,
    facade: Option<Series>,
}

impl RequestSeries {
    /// Counts a request; returns whether it belongs to the first series, whose durations the caller counts.
    #[inline]
    pub(crate) fn count(&self, shared: &SharedSeries, route: &str, labels: RequestLabels, nanos: u64) -> bool {
        match self.first.get() {
            Some(first) if first.labels == labels => {
                if let Some(facade) = &first.facade {
                    facade.record(nanos);
                }
                true
            }
            _ => self.count_other(shared, route, labels, nanos),
        }
    }

    #[inline(never)]
    fn count_other(&self, shared: &SharedSeries, route: &str, labels: RequestLabels, nanos: u64) -> bool {
        if self.first.get().is_none() && !labels.failed(CLIENT_ERROR) && shared.may_make() {
            let first = self.first.get_or_init(|| {
                let facade = shared.http.labelled(route, labels, Series::new);
                FirstSeries { labels, facade }
            });
            if first.labels == labels {
                if let Some(facade) = &first.facade {
                    facade.record(nanos);
                }
                return true;
            }
        }
        let known = self.others.read().iter().find(|series| series.labels == labels).cloned();
        match known.or_else(|| self.add(shared, route, labels)) {
            Some(series) => series.record(&shared.bounds, nanos),
            None => shared.other[usize::from(labels.failed(shared.http.errors_from()))].record(&shared.bounds, nanos),
        }
        false
    }

    fn add(&self, shared: &SharedSeries, route: &str, labels: RequestLabels) -> Option<Arc<CountedSeries>> {
        let mut others = self.others.write();
        if let Some(known) = others.iter().find(|series| series.labels == labels) {
            return Some(known.clone());
        }
        if others.len() >= MAX_OF_ROUTE || !shared.may_make() {
            return None;
        }
        let series = Arc::new(CountedSeries::new(&shared.http, &shared.bounds, route, labels));
        others.push(series.clone());
        Some(series)
    }

    /// Calls `each` with the labels and counts of each series; `first` are the counts of the first.
    pub(crate) fn each(&self, first: &BucketCounts, mut each: impl FnMut(RequestLabels, &BucketCounts)) {
        if let Some(series) = self.first.get() {
            each(series.labels, first);
        }
        for series in &*self.others.read() {
            each(series.labels, &series.counts.counts());
        }
    }
}
