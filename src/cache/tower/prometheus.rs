//! Statistics of the levels in Prometheus text format.

use std::fmt::{Display, Write};
use std::time::Duration;

use crate::cache::engine::store::LevelStats;

type Counter = (&'static str, &'static str, &'static str, fn(&LevelStats) -> u64);

/// Metrics of a level: name, type, help and value.
const METRICS: [Counter; 11] = [
    ("hits_total", "counter", "Look-ups that the level answered.", |level| level.hits),
    ("misses_total", "counter", "Look-ups that the level did not answer.", |level| level.misses),
    ("errors_total", "counter", "Calls of the level that failed or timed out.", |level| level.errors),
    ("decode_errors_total", "counter", "Values that could not be used.", |level| level.decode_errors),
    ("superseded_total", "counter", "Values replaced by a fetch that began later.", |level| level.superseded),
    ("dropped_total", "counter", "Values not stored because too many waited.", |level| level.dropped),
    ("entries", "gauge", "Entries in the level.", |level| level.entries),
    ("bytes", "gauge", "Size of the entries.", |level| level.bytes),
    ("capacity_bytes", "gauge", "Capacity of the level; 0 if unknown.", |level| level.capacity_bytes),
    ("invalidations_pending", "gauge", "Invalidations not yet delivered.", |level| level.invalidations_pending),
    ("up", "gauge", "Whether the level is available.", |level| u64::from(level.up)),
];

/// Renders the statistics of all levels.
pub(super) fn render(levels: &[LevelStats]) -> String {
    let mut page = String::with_capacity(2_048);
    for (name, kind, help, value) in METRICS {
        family(&mut page, name, kind, help);
        for level in levels {
            line(&mut page, name, &label(&level.name), value(level));
        }
    }
    let quantiles = |level: &LevelStats| [("0.5", level.lookup_p50), ("0.99", level.lookup_p99)];
    family(&mut page, "lookup_seconds", "gauge", "Duration of a look-up in a remote level, by quantile.");
    for level in levels {
        for (quantile, span) in quantiles(level).into_iter().filter_map(|(of, span)| Some((of, span?))) {
            let labels = format!("{},quantile=\"{quantile}\"", label(&level.name));
            line(&mut page, "lookup_seconds", &labels, Duration::as_secs_f64(&span));
        }
    }
    page
}

fn family(page: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(page, "# HELP tollgate_cache_level_{name} {help}\n# TYPE tollgate_cache_level_{name} {kind}");
}

fn line(page: &mut String, name: &str, labels: &str, value: impl Display) {
    let _ = writeln!(page, "tollgate_cache_level_{name}{{{labels}}} {value}");
}

/// Formats the label of a level, whose name a user may have chosen.
fn label(level: &str) -> String {
    let escaped = level.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("level=\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_unknown_durations_left_out() {
        let mut level = LevelStats::new("a\"b");
        level.lookup_p50 = Some(Duration::from_millis(2));
        let page = render(&[level]);
        assert!(page.contains("tollgate_cache_level_up{level=\"a\\\"b\"} 1\n"), "{page}");
        assert!(
            page.contains("tollgate_cache_level_lookup_seconds{level=\"a\\\"b\",quantile=\"0.5\"} 0.002\n"),
            "{page}"
        );
        assert!(!page.contains("0.99"), "{page}");
    }
}
