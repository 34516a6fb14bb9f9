//! [`CallSeries`]: durations of calls, exported by endpoint, method and status.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use http::StatusCode;

use crate::base::lock::RwLock;
use crate::base::metrics::bounds::Bounds;
use crate::base::metrics::duration_counts::{BucketCounts, DurationCounts};
use crate::base::metrics::facade::Series;
use crate::base::metrics::family::Metric;
use crate::base::metrics::http_labels::{RequestKind, RequestLabels};
use crate::base::metrics::text::MAX_SERIES;

/// Label of the series beyond the bound.
const OTHER: &str = "other";
/// Status from which a response is a failure to a client.
const CLIENT_ERROR: u16 = 400;

/// Durations of calls of one upstream: at most [`MAX_SERIES`] series, of which two are for all further ones.
pub(crate) struct CallSeries {
    upstream: Arc<str>,
    bounds: Bounds,
    series: RwLock<HashMap<SeriesKey, Arc<CallDurations>, foldhash::fast::RandomState>>,
}

/// Index of the endpoint, and the labels of the call.
type SeriesKey = (usize, NonZeroU32);

struct CallDurations {
    endpoint: Box<str>,
    labels: RequestLabels,
    counts: DurationCounts,
    facade: Series,
}

impl CallSeries {
    pub(crate) fn new(upstream: Arc<str>) -> Self {
        Self { upstream, bounds: Bounds::http(), series: RwLock::default() }
    }

    /// Records a call that ended; without a status, it failed. `name` is the pattern of its endpoint, empty if none matched.
    pub(crate) fn record(
        &self,
        (endpoint, name): (usize, &str),
        kind: RequestKind,
        status: Option<StatusCode>,
        nanos: u64,
    ) {
        let labels = kind.ended(status);
        let known = self.series.read().get(&(endpoint, labels.packed())).cloned();
        let series = known.unwrap_or_else(|| self.add(endpoint, name, labels));
        series.counts.record(&self.bounds, nanos);
        series.facade.record(nanos);
    }

    #[cold]
    fn add(&self, endpoint: usize, name: &str, labels: RequestLabels) -> Arc<CallDurations> {
        let mut series = self.series.write();
        let (mut key, mut name, mut labels) = ((endpoint, labels.packed()), name, labels);
        if series.len() >= MAX_SERIES - 2 && !series.contains_key(&key) {
            labels = if labels.failed(CLIENT_ERROR) { RequestLabels::OTHER_FAILED } else { RequestLabels::OTHER };
            (key, name) = ((usize::MAX, labels.packed()), OTHER);
        }
        let new = || {
            let facade = with_values(name, labels, &self.upstream, |values| {
                Series::new(Metric::HttpClientRequestDuration, values)
            });
            Arc::new(CallDurations { endpoint: name.into(), labels, counts: DurationCounts::new(&self.bounds), facade })
        };
        series.entry(key).or_insert_with(new).clone()
    }

    /// Calls `each` with the labels and counts of each series, in no particular order.
    pub(crate) fn each(&self, mut each: impl FnMut(&[&str], &Bounds, &BucketCounts)) {
        for series in self.series.read().values() {
            let counts = series.counts.counts();
            with_values(&series.endpoint, series.labels, &self.upstream, |values| each(values, &self.bounds, &counts));
        }
    }
}

/// Calls `with` with the values of the family's labels.
fn with_values<R>(endpoint: &str, labels: RequestLabels, upstream: &str, with: impl FnOnce(&[&str]) -> R) -> R {
    let (status, error) = (labels.status(), labels.error(CLIENT_ERROR));
    if labels.is_other() {
        let error = if error.is_empty() { "" } else { OTHER };
        return with(&[OTHER, OTHER, OTHER, error, upstream]);
    }
    with(&[labels.method(), &status, endpoint, &error, upstream])
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn series_are_bounded_and_nothing_is_lost() {
        let series = CallSeries::new("market".into());
        let kind = RequestKind::of(&Method::GET, &http::Uri::from_static("/"));
        for endpoint in 0..MAX_SERIES + 10 {
            series.record((endpoint, &format!("/{endpoint}")), kind, Some(StatusCode::OK), 1_000);
            series.record((endpoint, &format!("/{endpoint}")), kind, None, 1_000);
        }
        let (mut all, mut calls, mut failed) = (0, 0, 0);
        series.each(|values, _, counts| {
            all += 1;
            calls += counts.count();
            failed += if values[3].is_empty() { 0 } else { counts.count() };
        });
        let sent = MAX_SERIES as u64 + 10;
        assert_eq!((all, calls, failed), (MAX_SERIES, 2 * sent, sent));
    }
}
