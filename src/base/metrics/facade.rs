//! The `metrics` facade: hands every family to the exporter that the application has installed.
//!
//! Histograms are recorded as durations are measured, so that the exporter chooses the buckets. Counters and gauges are
//! published when the application asks for it: a counter by its absolute value. Without an exporter, a measurement costs
//! one look at a global. An exporter may be installed at any time.

use std::time::Duration;

use metrics::{Key, KeyName, Label, Level, Metadata, Unit};

use super::bounds::Bounds;
use super::duration_counts::BucketCounts;
use super::family::{FAMILIES, Kind, Metric};
use super::samples::Samples;

static METADATA: Metadata<'static> = Metadata::new("tollgate", Level::INFO, Some("tollgate"));

/// One histogram with its labels.
pub(crate) struct Series(Key);

impl Series {
    pub(crate) fn new(metric: Metric, labels: &[&str]) -> Self {
        Self(key(metric, labels))
    }

    #[inline]
    pub(crate) fn record(&self, nanos: u64) {
        let histogram = metrics::with_recorder(|recorder| recorder.register_histogram(&self.0, &METADATA));
        histogram.record(Duration::from_nanos(nanos));
    }
}

fn key(metric: Metric, labels: &[&str]) -> Key {
    let family = metric.family();
    let labels = family.labels.iter().zip(labels).filter(|(_, value)| !value.is_empty());
    let labels: Vec<Label> = labels.map(|(label, value)| Label::new(label.name, (*value).to_owned())).collect();
    Key::from_parts(family.name, labels)
}

/// Publishes counters and gauges; histograms were recorded as they were measured.
pub(crate) struct FacadePublisher;

impl FacadePublisher {
    /// Describes all families to the exporter.
    pub(crate) fn describe() {
        metrics::with_recorder(|recorder| {
            for family in FAMILIES {
                let name = KeyName::from_const_str(family.name);
                let unit = match family.unit {
                    "seconds" => Some(Unit::Seconds),
                    "bytes" => Some(Unit::Bytes),
                    "ratio" | "boolean" => None,
                    _ => Some(Unit::Count),
                };
                match family.kind {
                    Kind::Counter if family.unit != "seconds" => {
                        recorder.describe_counter(name, unit, family.help.into());
                    }
                    Kind::Counter | Kind::Gauge => recorder.describe_gauge(name, unit, family.help.into()),
                    Kind::Histogram => recorder.describe_histogram(name, unit, family.help.into()),
                }
            }
        });
    }
}

impl Samples for FacadePublisher {
    fn whole(&mut self, metric: Metric, labels: &[&str], value: u64) {
        if metric.family().kind == Kind::Counter {
            let counter = metrics::with_recorder(|recorder| recorder.register_counter(&key(metric, labels), &METADATA));
            counter.absolute(value);
        } else {
            self.fraction(metric, labels, value as f64);
        }
    }

    fn fraction(&mut self, metric: Metric, labels: &[&str], value: f64) {
        // The facade's counters are whole numbers: seconds, of which there are counters, are published as gauges.
        let gauge = metrics::with_recorder(|recorder| recorder.register_gauge(&key(metric, labels), &METADATA));
        gauge.set(value);
    }

    fn durations(&mut self, _metric: Metric, _labels: &[&str], _bounds: &Bounds, _counts: &BucketCounts) {}
}
