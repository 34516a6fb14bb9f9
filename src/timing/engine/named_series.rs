//! [`NamedSeries`]: exported durations by name: queries by summary, calls by the name given to them.
//!
//! A name keeps its series for as long as the process runs, so that an exported counter never falls; further names share
//! `other`.

use std::sync::Arc;

use crate::base::metrics::bounds::Bounds;
use crate::base::metrics::duration_counts::{BucketCounts, DurationCounts};
use crate::base::metrics::facade::Series;
use crate::base::metrics::family::Metric;
use crate::timing::measure::table::NamedCounters;

/// Separates the parts of a name that are labels of their own.
pub(super) const SEPARATOR: char = '\u{1f}';

/// Durations of one name.
pub(crate) struct DurationSeries {
    labels: Box<[Box<str>]>,
    bounds: Arc<Bounds>,
    counts: DurationCounts,
    facade: Series,
}

impl DurationSeries {
    fn new(metric: Metric, labels: Box<[Box<str>]>, bounds: Arc<Bounds>) -> Self {
        let facade = Series::new(metric, &values(&labels));
        Self { labels, counts: DurationCounts::new(&bounds), bounds, facade }
    }

    pub(super) fn record(&self, nanos: u64) {
        self.counts.record(&self.bounds, nanos);
        self.facade.record(nanos);
    }
}

fn values(labels: &[Box<str>]) -> Vec<&str> {
    labels.iter().map(|label| &**label).collect()
}

/// See the [module](self).
pub(crate) struct NamedSeries {
    metric: Metric,
    bounds: Arc<Bounds>,
    names: NamedCounters<Arc<DurationSeries>>,
}

impl NamedSeries {
    /// Creates the series of at most `limit` names. `first` are labels that all of them have, before those of the name.
    pub(super) fn new(metric: Metric, limit: usize, bounds: Arc<Bounds>, first: Vec<Box<str>>) -> Self {
        let of_names = bounds.clone();
        let make = move |name: &str| {
            let labels = first.iter().cloned().chain(name.split(SEPARATOR).map(Box::from));
            Arc::new(DurationSeries::new(metric, labels.collect(), of_names.clone()))
        };
        Self { metric, bounds, names: NamedCounters::new(limit, make) }
    }

    /// Returns the series of a name.
    pub(super) fn of(&self, name: &str) -> &Arc<DurationSeries> {
        self.names.of(name)
    }

    /// Calls `each` with the labels and counts of each series with a duration.
    pub(crate) fn each(&self, mut each: impl FnMut(Metric, &[&str], &Bounds, &BucketCounts)) {
        for series in self.names.sorted() {
            let counts = series.counts.counts();
            if counts.count() > 0 {
                each(self.metric, &values(&series.labels), &self.bounds, &counts);
            }
        }
    }
}
