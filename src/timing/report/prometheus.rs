//! Statistics in Prometheus text format, with the names and buckets of OpenTelemetry's semantic conventions.

use std::fmt::{Display, Write};
use std::time::Duration;

use crate::timing::engine::request_log::UNATTRIBUTED;
use crate::timing::engine::state::TimingState;
use crate::timing::measure::histogram::Histogram;
use crate::timing::measure::stats::RouteStats;

/// Bucket bounds in milliseconds: <https://opentelemetry.io/docs/specs/semconv/http/http-metrics/>.
const HTTP: [u64; 14] = [5, 10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000];
/// Bucket bounds in milliseconds: <https://opentelemetry.io/docs/specs/semconv/database/database-metrics/>.
const DB: [u64; 9] = [1, 5, 10, 50, 100, 500, 1_000, 5_000, 10_000];

pub(crate) fn render(state: &TimingState) -> String {
    let mut page = Page(String::with_capacity(4_096));
    let (routes, core) = (state.routes(), state.core());
    page.family("http_server_request_duration_seconds", "histogram", "Time to the response head, by route.");
    for (route, stats) in &routes {
        let labels = label("http_route", &stats.route);
        page.histogram("http_server_request_duration_seconds", &labels, &route.latency(), &HTTP);
    }
    by_route(&mut page, &routes.into_iter().map(|(_, stats)| stats).collect::<Vec<_>>());
    page.family("db_client_operation_duration_seconds", "histogram", "Time of queries, by fingerprint or name.");
    for (name, latency) in core.queries() {
        page.histogram("db_client_operation_duration_seconds", &label("db_query_summary", &name), &latency, &DB);
    }
    page.family("db_client_connection_wait_time_seconds", "histogram", "Waits for database connections.");
    page.histogram("db_client_connection_wait_time_seconds", "", &core.pool(), &DB);
    page.family("tollgate_unattributed_queries_total", "counter", "Queries made outside of requests.");
    page.line("tollgate_unattributed_queries_total", "", UNATTRIBUTED.reading().count);
    page.family("tollgate_findings_total", "counter", "Findings about requests and their queries.");
    for found in core.findings().1 {
        let labels = format!("{},{}", label("http_route", &found.route), label("kind", found.kind.as_str()));
        page.line("tollgate_findings_total", &labels, found.count);
    }
    page.0
}

fn by_route(page: &mut Page, routes: &[RouteStats]) {
    page.family("http_server_active_requests", "gauge", "Requests in progress.");
    for route in routes {
        page.line("http_server_active_requests", &label("http_route", &route.route), route.in_flight);
    }
    page.family("tollgate_requests_total", "counter", "Requests that ended, by route and outcome.");
    for route in routes {
        let answered = route.latency.count.saturating_sub(route.errors);
        for (outcome, n) in [("answered", answered), ("error", route.errors), ("cancelled", route.cancelled)] {
            let labels = format!("{},{}", label("http_route", &route.route), label("outcome", outcome));
            page.line("tollgate_requests_total", &labels, n);
        }
    }
    page.family("tollgate_request_queries_total", "counter", "Queries of requests, by route.");
    for route in routes {
        page.line("tollgate_request_queries_total", &label("http_route", &route.route), route.queries);
    }
    page.family("tollgate_request_query_seconds_total", "counter", "Total time of these queries.");
    for route in routes {
        let labels = label("http_route", &route.route);
        page.line("tollgate_request_query_seconds_total", &labels, route.query_time.as_secs_f64());
    }
}

/// Page under construction.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            _ => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn histogram(&mut self, name: &str, labels: &str, reading: &Histogram, bounds: &[u64]) {
        if reading.count() == 0 {
            return;
        }
        let bucket = format!("{name}_bucket");
        let comma = if labels.is_empty() { "" } else { "," };
        for bound in bounds {
            let bound = Duration::from_millis(*bound);
            let n = reading.up_to(crate::base::clock::nanos(bound));
            self.line(&bucket, &format!("{labels}{comma}le=\"{}\"", bound.as_secs_f64()), n);
        }
        self.line(&bucket, &format!("{labels}{comma}le=\"+Inf\""), reading.count());
        self.line(&format!("{name}_sum"), labels, Duration::from_nanos(reading.sum()).as_secs_f64());
        self.line(&format!("{name}_count"), labels, reading.count());
    }
}

/// Formats a label with an escaped value.
fn label(name: &str, value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{escaped}\"")
}
