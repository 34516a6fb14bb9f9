//! Fills in the metrics of the limits.

use super::stats::RateLimitStats;
use super::store::RemoteStats;
use crate::base::metrics::family::Metric;
use crate::base::metrics::samples::Samples;
use crate::base::route::UNMATCHED;

/// Adds all values.
pub(crate) fn fill(stats: &RateLimitStats, out: &mut dyn Samples) {
    out.whole(Metric::LimitDecisions, &["admitted"], stats.admitted);
    out.whole(Metric::LimitDecisions, &["refused"], stats.refused);
    out.whole(Metric::LimitDenied, &[], stats.denied);
    let limits = stats.limits.iter().map(|limit| (&limit.name, limit.admitted, limit.refused, limit.would_refuse));
    let places = stats.concurrency.iter().map(|limit| (&limit.name, limit.admitted, limit.refused, limit.would_refuse));
    for (name, admitted, refused, shadowed) in limits.chain(places) {
        for (outcome, count) in [("admitted", admitted), ("refused", refused), ("shadowed", shadowed)] {
            out.whole(Metric::LimitRequests, &[name, outcome], count);
        }
    }
    for route in &stats.routes {
        let name = if route.route == UNMATCHED { "" } else { &route.route };
        out.whole(Metric::LimitRouteRefusals, &[name], route.refused);
    }
    for limit in &stats.concurrency {
        out.whole(Metric::LimitInProgress, &[&limit.name], limit.in_progress);
        out.whole(Metric::LimitQueued, &[&limit.name], limit.queued);
        out.whole(Metric::LimitWaits, &[&limit.name], limit.queued_before);
    }
    out.whole(Metric::LimitKeys, &[], stats.store.keys);
    out.whole(Metric::LimitKeyCapacity, &[], stats.store.capacity);
    out.whole(Metric::LimitKeysEvicted, &[], stats.store.evicted);
    out.whole(Metric::LimitDegraded, &[], stats.degraded);
    if let Some(remote) = &stats.remote {
        of_store(remote, out);
    }
}

fn of_store(remote: &RemoteStats, out: &mut dyn Samples) {
    let store = &[&*remote.store];
    out.flag(Metric::LimitStoreUp, store, remote.up);
    out.whole(Metric::LimitStoreDecisions, store, remote.decisions);
    out.whole(Metric::LimitStoreLeased, store, remote.leased);
    out.whole(Metric::LimitStoreRemembered, store, remote.remembered);
    out.whole(Metric::LimitStoreCommands, store, remote.commands);
    out.whole(Metric::LimitStoreFailures, store, remote.failures);
}
