//! Settings of [`TimingBuilder`] for metrics and traces.

use std::time::Duration;

use super::layer::TimingBuilder;
use crate::base::error::Error;
use crate::base::metrics::bounds::{Bounds, MAX_BOUNDS};
use crate::timing::engine::request_series::HttpMetrics;

impl TimingBuilder {
    /// Whether `http_server_request_duration_seconds` and `http_server_active_requests` are exported. Defaults to `true`; turn
    /// them off if the application exports its own.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().http_metrics(false).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn http_metrics(mut self, on: bool) -> Self {
        if !matches!(self.settings.http_metrics, HttpMetrics::Upstream(_)) {
            self.settings.http_metrics = if on { HttpMetrics::Server } else { HttpMetrics::Off };
        }
        self
    }

    /// Adds bounds to the buckets of exported durations of requests, such as the target of a service-level objective. Defaults
    /// to 0.5, 1, 2.5, 5, 10, 25, 50, 75, 100, 250, 500 and 750 ms, and 1, 2.5, 5, 7.5 and 10 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().buckets([Duration::from_millis(300)]).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn buckets(mut self, more: impl IntoIterator<Item = Duration>) -> Self {
        self.settings.buckets = self.settings.buckets.with(more);
        let bounds = self.settings.buckets.clone();
        self.check_bounds("buckets", &bounds)
    }

    /// Adds bounds to the buckets of exported durations of queries. Defaults to 0.5, 1, 2.5, 5, 10, 50, 100 and 500 ms, and 1, 5
    /// and 10 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().query_buckets([Duration::from_micros(100)]).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn query_buckets(mut self, more: impl IntoIterator<Item = Duration>) -> Self {
        self.settings.query_buckets = self.settings.query_buckets.with(more);
        let bounds = self.settings.query_buckets.clone();
        self.check_bounds("query_buckets", &bounds)
    }

    /// Sets the label `db_system_name` of exported queries, one of OpenTelemetry's names such as `postgresql` or `sqlite`.
    /// Defaults to none.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().db_system("postgresql").build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn db_system(mut self, name: &str) -> Self {
        self.settings.db_system = name.into();
        self
    }

    /// Adds the label `db_query_text`, a statement without its values, to exported queries. Defaults to `false`: the label
    /// `db_query_summary` names operations and tables only.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().query_text_label(true).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn query_text_label(mut self, on: bool) -> Self {
        self.settings.query_text_label = on;
        self
    }

    /// Opens a span for each request (feature `tracing`), named by method and route, with the status and the outcomes of cache and
    /// limits. Defaults to `false`. Work that continues without the client is part of it; a fetch that does so has a child span
    /// `fetch` at the level `DEBUG`.
    ///
    /// ```
    /// use tollgate::timing::TimingLayer;
    ///
    /// let timing = TimingLayer::builder().request_spans(true).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn request_spans(mut self, on: bool) -> Self {
        self.settings.request_spans = on;
        self
    }

    /// Times requests to the upstream with this name.
    pub(crate) fn outbound(mut self, upstream: &str) -> Self {
        self.settings.patterns.use_path_alone();
        self.settings.http_metrics = HttpMetrics::Upstream(upstream.into());
        self
    }

    fn check_bounds(mut self, what: &str, bounds: &Bounds) -> Self {
        if bounds.buckets() > MAX_BOUNDS + 1 || bounds.iter().any(|bound| bound.nanos == 0) {
            let message = format!("{what}: at most {MAX_BOUNDS} bounds are possible, each over 0 s");
            self.error.get_or_insert(Error::config(message));
        }
        self
    }
}
