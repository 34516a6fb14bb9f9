//! Fills in the metrics of a timing layer.

use crate::base::metrics::family::Metric;
use crate::base::metrics::samples::Samples;
use crate::timing::engine::request_log::UNATTRIBUTED;
use crate::timing::engine::request_series::{HttpMetrics, route};
use crate::timing::engine::route_stats::Route;
use crate::timing::engine::state::TimingState;
use crate::timing::measure::table::OTHER;

/// Adds all values. Those of a layer in front of an upstream have its name.
pub(crate) fn fill(state: &TimingState, out: &mut dyn Samples) {
    let (core, shared) = (state.core(), state.core().request_series());
    let mut add = |name: &str, labels, counts: &_| {
        shared.http.labelled(name, labels, |metric, values| out.durations(metric, values, shared.bounds(), counts));
    };
    state.all_routes().for_each(|route| route.series(|labels, counts| add(route.name(), labels, counts)));
    shared.others(|labels, counts| add(OTHER, labels, counts));
    let upstream = match &shared.http {
        HttpMetrics::Upstream(name) => &**name,
        HttpMetrics::Server | HttpMetrics::Off => "",
    };
    state.all_routes().for_each(|route| by_route(route, &shared.http, upstream, out));
    if !upstream.is_empty() {
        return;
    }
    for series in core.named_series() {
        series.each(|metric, labels, bounds, counts| out.durations(metric, labels, bounds, counts));
    }
    out.whole(Metric::UnattributedQueries, &[], UNATTRIBUTED.reading().count);
    for found in core.findings().1 {
        out.whole(Metric::Findings, &[route(&found.route), found.kind.as_str()], found.count);
    }
}

fn by_route(of: &Route, http: &HttpMetrics, upstream: &str, out: &mut dyn Samples) {
    let (name, counts) = (route(of.name()), of.counts());
    if counts.requests == 0 {
        return;
    }
    for (outcome, n) in [("answered", counts.answered), ("error", counts.errors), ("cancelled", counts.cancelled)] {
        out.whole(Metric::Requests, &[name, outcome, upstream], n);
    }
    out.whole(Metric::SlowRequests, &[name, upstream], counts.slow);
    if *http == HttpMetrics::Server {
        out.whole(Metric::HttpServerActiveRequests, &[name], counts.in_flight);
    }
    if upstream.is_empty() {
        out.whole(Metric::RequestQueries, &[name], counts.queries);
        out.seconds(Metric::RequestQuerySeconds, &[name], counts.query_time);
    }
}
