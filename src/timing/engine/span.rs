//! [`RequestSpan`]: the span of a request, for traces, and through which other threads find its log.
//!
//! With [`request_spans`](crate::timing::TimingBuilder::request_spans) it is at the level `INFO`, with OpenTelemetry's fields.
//! Otherwise it is created only if a [harvest](crate::timing::harvest()) is installed, at the level `TRACE`, so that logs with
//! a higher level do not show it. If `TRACE` is disabled for the whole subscriber or at compile time, `INFO` is used,
//! because SQLite's queries run on a separate thread and are attributed by this span only.

use tracing::field::Empty;
use tracing::level_filters::STATIC_MAX_LEVEL;
use tracing::{Level, Span};

use super::harvest_health;
use crate::base::detached_context::{CacheNote, LimitNote, LogSlot, Notes};
use crate::base::metrics::http_labels::RequestLabels;

/// Target of the span.
pub(crate) const TARGET: &str = "tollgate::request";

/// The span of one request; disabled if no harvest is installed.
pub(crate) struct RequestSpan(Option<Box<Span>>);

impl RequestSpan {
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    #[inline]
    pub(crate) fn open(slot: &mut LogSlot) -> Self {
        if harvest_health::is_installed() { Self::made(slot) } else { Self::none() }
    }

    /// Opens the span that a trace shows.
    #[cold]
    pub(crate) fn described(slot: &mut LogSlot, method: &str, route: &str, is_client: bool) -> Self {
        let name = format!("{method} {route}");
        let kind = if is_client { "client" } else { "server" };
        let span = slot.enter(|| {
            tracing::info_span!(
                target: TARGET,
                "request",
                otel.name = name.trim_end(),
                otel.kind = kind,
                otel.status_code = Empty,
                http.request.method = method,
                http.route = (!route.is_empty()).then_some(route),
                http.response.status_code = Empty,
                error.type = Empty,
                tollgate.cache = Empty,
                tollgate.limit = Empty,
            )
        });
        if span.is_disabled() { Self::open(slot) } else { Self(Some(Box::new(span))) }
    }

    #[inline]
    pub(crate) const fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Adds the outcome of the request; `labels` is `None` if it was cancelled.
    #[cold]
    pub(crate) fn finish(&self, labels: Option<RequestLabels>, errors_from: u16, notes: Notes) {
        let Some(span) = &self.0 else { return };
        let error = labels.map_or_else(|| "cancelled".to_owned(), |labels| labels.error(errors_from));
        if let Some(status) = labels.and_then(|labels| labels.status().parse::<u16>().ok()) {
            span.record("http.response.status_code", status);
        }
        if !error.is_empty() {
            span.record("error.type", &*error);
            span.record("otel.status_code", "ERROR");
        }
        if let Some(cache) = notes.cache.map(CacheNote::as_str) {
            span.record("tollgate.cache", cache);
        }
        if let Some(limit) = notes.limit.map(LimitNote::as_str) {
            span.record("tollgate.limit", limit);
        }
    }

    /// Creates the span inside the slot, where the harvest looks for the log.
    #[cold]
    fn made(slot: &mut LogSlot) -> Self {
        slot.enter(|| {
            let quiet = tracing::trace_span!(target: TARGET, "request");
            let span = if quiet.is_disabled() { tracing::info_span!(target: TARGET, "request") } else { quiet };
            Self((!span.is_disabled()).then(|| Box::new(span)))
        })
    }

    #[inline]
    pub(crate) fn enter<R>(&self, work: impl FnOnce() -> R) -> R {
        match &self.0 {
            None => work(),
            Some(span) => span.in_scope(work),
        }
    }
}

/// Returns the likely reason why no event of sqlx arrives.
pub(super) fn silence_cause() -> &'static str {
    if STATIC_MAX_LEVEL < Level::DEBUG {
        "no event of sqlx has arrived: a feature of `tracing` such as `release_max_level_info` removes its events from \
         the program; let sqlx log at that level: `connect_options.log_statements(log::LevelFilter::Info)`"
    } else if !tracing::enabled!(target: "sqlx::query", Level::DEBUG) {
        "no event of sqlx has arrived: a filter over the whole subscriber hides `sqlx::query`; filter the layer that \
         prints instead: `registry().with(fmt::layer().with_filter(env_filter)).with(tollgate::timing::harvest())`"
    } else {
        "no event of sqlx has arrived: either none was made, or statement logging is off; turn it on: \
         `connect_options.log_statements(log::LevelFilter::Debug)`"
    }
}
