//! [`Samples`]: receives the values of all families; each output implements it.

use std::time::Duration;

use super::bounds::Bounds;
use super::duration_counts::BucketCounts;
use super::family::Metric;

/// Output of metrics. Label values are in the order of the family's labels; an empty one is omitted.
pub(crate) trait Samples {
    /// Adds a value of a counter or a gauge.
    fn whole(&mut self, metric: Metric, labels: &[&str], value: u64);

    /// Adds a value with a fraction.
    fn fraction(&mut self, metric: Metric, labels: &[&str], value: f64);

    /// Adds a distribution.
    fn durations(&mut self, metric: Metric, labels: &[&str], bounds: &Bounds, counts: &BucketCounts);
}

impl dyn Samples + '_ {
    /// Adds a value of 1 or 0.
    pub(crate) fn flag(&mut self, metric: Metric, labels: &[&str], value: bool) {
        self.whole(metric, labels, u64::from(value));
    }

    /// Adds a duration in seconds.
    pub(crate) fn seconds(&mut self, metric: Metric, labels: &[&str], value: Duration) {
        self.fraction(metric, labels, value.as_secs_f64());
    }
}
