//! Every measurement, handed to the `metrics` facade: whichever exporter the application has installed gets it.
//!
//! | metric | type | unit | labels |
//! |---|---|---|---|
//! | `http.server.request.duration` | histogram | seconds | `http.route` |
//! | `db.client.operation.duration` | histogram | seconds | `db.query.text`: a fingerprint, or a name given to `timed` |
//! | `db.client.connection.wait_time` | histogram | seconds | |
//!
//! Buckets are the exporter's affair. Where none is installed, a measurement costs a look at a global. An exporter may
//! be
//! installed at any time: nothing is remembered of the one before.

use std::time::Duration;

use metrics::{Key, Label, Level, Metadata};

/// One metric with its label.
pub(crate) struct Series(Key);

impl Series {
    pub(crate) fn requests(route: &str) -> Self {
        Self::labelled("http.server.request.duration", "http.route", route)
    }

    pub(crate) fn queries(name: &str) -> Self {
        Self::labelled("db.client.operation.duration", "db.query.text", name)
    }

    pub(crate) fn waits() -> Self {
        Self(Key::from_static_name("db.client.connection.wait_time"))
    }

    fn labelled(metric: &'static str, label: &'static str, value: &str) -> Self {
        Self(Key::from_parts(metric, vec![Label::new(label, value.to_owned())]))
    }

    #[inline]
    pub(crate) fn record(&self, nanos: u64) {
        static METADATA: Metadata<'static> = Metadata::new("tollgate", Level::INFO, Some("tollgate"));
        let histogram = metrics::with_recorder(|recorder| recorder.register_histogram(&self.0, &METADATA));
        histogram.record(Duration::from_nanos(nanos));
    }
}
