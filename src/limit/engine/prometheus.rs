//! Limit statistics in Prometheus text format.

use std::fmt::Write;

use super::stats::RateLimitStats;

/// Renders the statistics. Limit names are printable ASCII without quotes and backslashes and need no escaping.
pub(crate) fn render(stats: &RateLimitStats) -> String {
    let mut page = String::with_capacity(1_024);
    family(&mut page, "tollgate_limit_decisions_total", "counter", "Decisions on requests, by outcome.");
    for (outcome, count) in [("admitted", stats.admitted), ("refused", stats.refused)] {
        let _ = writeln!(page, "tollgate_limit_decisions_total{{outcome=\"{outcome}\"}} {count}");
    }
    family(&mut page, "tollgate_limit_refusals_total", "counter", "Rejections, by limit or tier.");
    for limit in &stats.limits {
        let _ = writeln!(page, "tollgate_limit_refusals_total{{limit=\"{}\"}} {}", limit.name, limit.refused);
    }
    in_progress(&mut page, stats);
    let help = "Decisions made locally while the shared store was unavailable.";
    family(&mut page, "tollgate_limit_degraded_total", "counter", help);
    let _ = writeln!(page, "tollgate_limit_degraded_total {}", stats.degraded);
    let Some(remote) = &stats.remote else { return page };
    for (name, kind, help, value) in [
        ("up", "gauge", "Whether the shared store is reachable and used.", u64::from(remote.up)),
        ("decisions_total", "counter", "Decisions made by the shared store or on its behalf.", remote.decisions),
        ("leased_total", "counter", "Decisions paid from a lease, without a round trip.", remote.leased),
        ("remembered_total", "counter", "Rejections repeated from memory, without a round trip.", remote.remembered),
        ("commands_total", "counter", "Commands sent to the shared store.", remote.commands),
        ("failures_total", "counter", "Commands that failed or timed out.", remote.failures),
    ] {
        family(&mut page, &format!("tollgate_limit_store_{name}"), kind, help);
        let _ = writeln!(page, "tollgate_limit_store_{name} {value}");
    }
    page
}

fn in_progress(page: &mut String, stats: &RateLimitStats) {
    if stats.concurrency.is_empty() {
        return;
    }
    let refused = stats.concurrency.iter().map(|limit| (&limit.name, limit.refused));
    for (name, refused) in refused {
        let _ = writeln!(page, "tollgate_limit_refusals_total{{limit=\"{name}\"}} {refused}");
    }
    family(page, "tollgate_limit_in_progress", "gauge", "Requests in progress, by concurrency limit.");
    for limit in &stats.concurrency {
        let _ = writeln!(page, "tollgate_limit_in_progress{{limit=\"{}\"}} {}", limit.name, limit.in_progress);
    }
    family(page, "tollgate_limit_queued", "gauge", "Requests that wait for a place, by concurrency limit.");
    for limit in &stats.concurrency {
        let _ = writeln!(page, "tollgate_limit_queued{{limit=\"{}\"}} {}", limit.name, limit.queued);
    }
}

fn family(page: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
