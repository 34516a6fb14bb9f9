//! Fills in the metrics of a cache: its routes, levels and namespaces.

use crate::base::metrics::family::Metric;
use crate::base::metrics::samples::Samples;
use crate::base::route::UNMATCHED;
use crate::cache::data::DataStats;
use crate::cache::engine::store::LevelStats;
use crate::cache::http::reason::Reason;
use crate::cache::tower::stats::{CacheRouteStats, CacheStats};

/// Adds all values.
pub(super) fn fill(stats: &CacheStats, upstream: &str, out: &mut dyn Samples) {
    for (name, route) in &stats.routes {
        by_route(if name == UNMATCHED { "" } else { name }, route, upstream, out);
    }
    out.whole(Metric::CacheInnerCalls, &[upstream], stats.inner_calls);
    out.whole(Metric::CacheCallsAvoided, &[upstream], stats.inner_calls_avoided);
    out.seconds(Metric::CacheSavedSeconds, &[upstream], stats.time_saved);
    out.whole(Metric::CacheFetches, &[upstream], stats.fetches_in_flight);
    out.whole(Metric::CacheBackgroundFetches, &[upstream], stats.background_fetches);
    out.whole(Metric::CacheInFlightBytes, &[upstream], stats.in_flight_bytes);
    stats.levels.iter().for_each(|level| by_level(level, upstream, out));
    stats.data.iter().for_each(|data| by_namespace(data, upstream, out));
}

fn by_route(name: &str, route: &CacheRouteStats, upstream: &str, out: &mut dyn Samples) {
    let outcomes = [
        ("hit", route.hits),
        ("miss", route.misses),
        ("stale", route.stale),
        ("revalidated", route.revalidated),
        ("collapsed", route.collapsed),
        ("shadowed", route.shadowed),
    ];
    // The hit ratio needs hits and misses even if there are none.
    let shown = outcomes.into_iter().enumerate().filter(|(at, (_, count))| *at < 2 || *count > 0);
    for (_, (outcome, count)) in shown {
        out.whole(Metric::CacheRequests, &[name, outcome, "", upstream], count);
    }
    for (reason, count) in &route.bypassed {
        if Reason::ALL.iter().any(|known| known.as_str() == *reason && known.is_of_request()) {
            out.whole(Metric::CacheRequests, &[name, "bypass", reason, upstream], *count);
        } else {
            out.whole(Metric::CacheNotStored, &[name, reason, upstream], *count);
        }
    }
    out.whole(Metric::CacheStored, &[name, upstream], route.stored);
}

fn by_level(level: &LevelStats, upstream: &str, out: &mut dyn Samples) {
    let values = [
        (Metric::LevelHits, level.hits),
        (Metric::LevelMisses, level.misses),
        (Metric::LevelErrors, level.errors),
        (Metric::LevelDecodeErrors, level.decode_errors),
        (Metric::LevelSuperseded, level.superseded),
        (Metric::LevelDropped, level.dropped),
        (Metric::LevelEvictions, level.evictions),
        (Metric::LevelEntries, level.entries),
        (Metric::LevelBytes, level.bytes),
        (Metric::LevelCapacity, level.capacity_bytes),
        (Metric::LevelPending, level.invalidations_pending),
        (Metric::LevelUp, u64::from(level.up)),
    ];
    for (metric, value) in values {
        out.whole(metric, &[&level.name, upstream], value);
    }
    for (percentile, duration) in [("50", level.lookup_p50), ("99", level.lookup_p99)] {
        if let Some(duration) = duration {
            out.seconds(Metric::LevelLookup, &[&level.name, percentile, upstream], duration);
        }
    }
}

fn by_namespace(data: &DataStats, upstream: &str, out: &mut dyn Samples) {
    let outcomes = [("hit", data.hits), ("stale", data.stale), ("collapsed", data.collapsed), ("miss", data.misses)];
    for (outcome, count) in outcomes {
        out.whole(Metric::DataLookups, &[&data.name, outcome, upstream], count);
    }
    let labels = &[&*data.name, upstream];
    out.whole(Metric::DataLoads, labels, data.loads);
    out.whole(Metric::DataErrors, labels, data.errors);
    out.whole(Metric::DataTimeouts, labels, data.timed_out);
    out.whole(Metric::DataEncodeErrors, labels, data.encode_errors);
    out.whole(Metric::DataDecodeErrors, labels, data.decode_errors);
    out.seconds(Metric::DataSavedSeconds, labels, data.time_saved);
    out.whole(Metric::DataFetches, labels, data.fetches_in_flight);
    if let Some(target) = data.target_hit_ratio {
        out.fraction(Metric::DataTarget, labels, target);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::metrics::text::{TextFormat, TextPage};

    fn page(stats: &CacheStats) -> String {
        let mut page = TextPage::new(TextFormat::Prometheus);
        fill(stats, "", &mut page);
        page.finish()
    }

    #[test]
    fn unknown_durations_are_left_out() {
        let mut level = LevelStats::new("a");
        level.lookup_p50 = Some(Duration::from_millis(2));
        let page = page(&CacheStats { levels: vec![level], ..CacheStats::default() });
        assert!(page.contains("tollgate_cache_level_up{level=\"a\"} 1\n"), "{page}");
        assert!(page.contains("tollgate_cache_level_lookup_seconds{level=\"a\",percentile=\"50\"} 0.002\n"), "{page}");
        assert!(!page.contains("\"99\""), "{page}");
    }

    #[test]
    fn reasons_of_requests_are_outcomes_and_others_are_not() {
        let bypassed = [("cookie", 3), ("set-cookie", 4)].into();
        let route = CacheRouteStats { hits: 1, bypassed, ..CacheRouteStats::default() };
        let page = page(&CacheStats { routes: [("/a".to_owned(), route)].into(), ..CacheStats::default() });
        for line in [
            "tollgate_cache_requests_total{http_route=\"/a\",outcome=\"hit\"} 1\n",
            "tollgate_cache_requests_total{http_route=\"/a\",outcome=\"miss\"} 0\n",
            "tollgate_cache_requests_total{http_route=\"/a\",outcome=\"bypass\",reason=\"cookie\"} 3\n",
            "tollgate_cache_not_stored_total{http_route=\"/a\",reason=\"set-cookie\"} 4\n",
        ] {
            assert!(page.contains(line), "{line} in\n{page}");
        }
        assert!(!page.contains("revalidated"), "{page}");
    }
}
