//! [`harvest`]: measures sqlx's queries from its tracing events, independent of the program's log level.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use crate::timing::engine::harvest_health;
use crate::timing::engine::request_log::{RequestLog, UNATTRIBUTED};
use crate::timing::engine::route_stats::QuerySource;
use crate::timing::engine::span::TARGET;
use crate::timing::measure::group::Sample;
use crate::timing::measure::statement_names::{self, KnownStatement};

const QUERY: &str = "sqlx::query";
const ACQUIRE: &str = "sqlx::pool::acquire";

/// Returns a subscriber layer that counts sqlx's queries for the requests that make them (feature `tracing`).
///
/// The layer has its own filter for `sqlx::query` and `sqlx::pool::acquire`, at any level; the output of other layers
/// does not change. A query is attributed by the span in which it is made, even on SQLite's thread:
/// [`TimingLayer`](crate::timing::TimingLayer) opens a span per request if a harvest is installed.
///
/// ```
/// use tracing_subscriber::{Layer, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};
///
/// tracing_subscriber::registry()
///     .with(tracing_subscriber::fmt::layer().with_filter(LevelFilter::INFO)) // or an EnvFilter: here, on this layer
///     .with(tollgate::timing::harvest())
///     .init();
/// ```
///
/// Costs about 0.3 µs per query, in addition to sqlx's own event, and a span per request.
///
/// # If no event arrives
///
/// [`TimingStats::harvest`](crate::timing::TimingStats::harvest) is then `no_events`, and one warning names the
/// likely cause:
///
/// | cause | fix |
/// |---|---|
/// | a global filter: `registry().with(EnvFilter::new("info"))` | filter the layer that prints, as above; or let the global one pass `info,sqlx=debug,tollgate=trace` |
/// | `release_max_level_info` or the like in `tracing`'s features | `options.log_statements(LevelFilter::Info)`: sqlx then logs at an enabled level |
/// | `options.disable_statement_logging()` | `options.log_statements(LevelFilter::Debug)`, sqlx's default |
/// | missing waits for connections: sqlx logs only those over two seconds | `PoolOptions::new().acquire_time_level(LevelFilter::Debug)` |
///
/// `LevelFilter` is from the crate `log`, as in sqlx's API.
#[must_use = "a layer does nothing until it is added to a subscriber"]
pub fn harvest<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    harvest_health::install();
    Harvest::default().with_filter(OnlyQueries)
}

/// Holds a dispatcher, because a layer with a filter sees only the spans that its filter accepts, and the program's
/// spans lie between the query and its request.
#[derive(Default)]
struct Harvest(OnceLock<WeakDispatch>);

impl Harvest {
    /// Returns the log of the request whose span is the current one or an ancestor.
    fn enclosing<S: Subscriber>(&self, context: &Context<'_, S>) -> Option<Arc<RequestLog>> {
        let current = context.current_span();
        let dispatch = self.0.get()?.upgrade()?;
        let mut span = dispatch.downcast_ref::<Registry>()?.span(current.id()?)?;
        loop {
            if let Some(home) = span.extensions().get::<SpanLog>() {
                return Some(home.0.clone());
            }
            span = span.parent()?;
        }
    }
}

/// Log of a request, stored in the extensions of its span.
struct SpanLog(Arc<RequestLog>);

impl<S> Layer<S> for Harvest
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        let _ = self.0.set(dispatch.downgrade());
    }

    fn on_new_span(&self, _attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let (Some(span), Some(log)) = (context.span(id), RequestLog::current()) {
            span.extensions_mut().insert(SpanLog(log));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut heard = QueryEvent::default();
        event.record(&mut heard);
        let Some(took) = heard.took else { return };
        // The span takes precedence over the task, because a request's work may be polled by another request's task.
        let log = self.enclosing(&context).or_else(RequestLog::current);
        match (heard.query, event.metadata().target()) {
            (_, ACQUIRE) => {
                if let Some(log) = log {
                    log.waited(took);
                }
            }
            (Some(query), _) => {
                harvest_health::event_arrived();
                match log {
                    Some(log) => log.query(&query.sample(took, heard.rows), QuerySource::Subscriber),
                    None => UNATTRIBUTED.add(took),
                }
            }
            (None, _) => {}
        }
    }
}

impl KnownStatement {
    fn sample(&self, took: Duration, rows: u64) -> Sample<'_> {
        let Self { name, hash, transaction, whole, .. } = self;
        Sample { name, hash: *hash, took, rows, cancelled: false, transaction: *transaction, whole: *whole, at: None }
    }
}

/// Fields of one sqlx event.
#[derive(Default)]
struct QueryEvent {
    query: Option<KnownStatement>,
    took: Option<Duration>,
    rows: u64,
}

impl Visit for QueryEvent {
    fn record_str(&mut self, field: &Field, value: &str) {
        let sql = match field.name() {
            // The whole statement if it is short, else its first words and an ellipsis.
            "summary" if !value.ends_with('…') => value,
            "db.statement" => value.trim(),
            _ => return,
        };
        if !sql.is_empty() {
            self.query = Some(statement_names::named(sql));
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // Spelled "aquired" in some versions of sqlx.
        if matches!(field.name(), "elapsed_secs" | "acquired_after_secs" | "aquired_after_secs") {
            self.took = Duration::try_from_secs_f64(value).ok();
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        // PostgreSQL reports returned rows as affected too.
        if matches!(field.name(), "rows_affected" | "rows_returned") {
            self.rows = self.rows.max(value);
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn std::fmt::Debug) {}
}

/// Filter for sqlx's events and the spans of requests, at any level.
struct OnlyQueries;

impl<S> Filter<S> for OnlyQueries {
    fn enabled(&self, metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        wanted(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if wanted(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }
}

fn wanted(metadata: &Metadata<'_>) -> bool {
    match metadata.target() {
        TARGET => metadata.is_span(),
        QUERY | ACQUIRE => !metadata.is_span(),
        _ => false,
    }
}
