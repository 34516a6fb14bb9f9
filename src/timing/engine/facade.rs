//! Records every measurement with the `metrics` facade, for the exporter that the application has installed.
//!
//! | metric | type | unit | labels |
//! |---|---|---|---|
//! | `http_server_request_duration_seconds` | histogram | seconds | `http_route` |
//! | `db_client_operation_duration_seconds` | histogram | seconds | `db_query_summary`: a fingerprint, or a name given to `timed` |
//! | `db_client_connection_wait_time_seconds` | histogram | seconds | |
//!
//! The exporter chooses the buckets. Without an exporter, a measurement costs one look at a global. An exporter may
//! be installed at any time.

use std::time::Duration;

use metrics::{Key, Label, Level, Metadata};

/// One metric with its label.
pub(crate) struct Series(Key);

impl Series {
    pub(crate) fn requests(route: &str) -> Self {
        Self::labelled("http_server_request_duration_seconds", "http_route", route)
    }

    pub(crate) fn queries(name: &str) -> Self {
        Self::labelled("db_client_operation_duration_seconds", "db_query_summary", name)
    }

    pub(crate) fn waits() -> Self {
        Self(Key::from_static_name("db_client_connection_wait_time_seconds"))
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
