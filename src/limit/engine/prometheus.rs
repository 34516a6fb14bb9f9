//! The limits' numbers in Prometheus's text format.

use std::fmt::Write;

use super::stats::RateLimitStats;

/// Names of limits are printable ASCII without quotes and backslashes: they need no escaping.
pub(crate) fn render(stats: &RateLimitStats) -> String {
    let mut page = String::with_capacity(1_024);
    family(&mut page, "tollgate_limit_decisions_total", "counter", "Requests that limits decided on, by outcome.");
    for (outcome, count) in [("admitted", stats.admitted), ("refused", stats.refused)] {
        let _ = writeln!(page, "tollgate_limit_decisions_total{{outcome=\"{outcome}\"}} {count}");
    }
    family(&mut page, "tollgate_limit_refusals_total", "counter", "Refusals, by limit or tier.");
    for limit in &stats.limits {
        let _ = writeln!(page, "tollgate_limit_refusals_total{{limit=\"{}\"}} {}", limit.name, limit.refused);
    }
    let help = "Decisions made without the store that should have made them.";
    family(&mut page, "tollgate_limit_degraded_total", "counter", help);
    let _ = writeln!(page, "tollgate_limit_degraded_total {}", stats.degraded);
    let Some(remote) = &stats.remote else { return page };
    for (name, kind, help, value) in [
        ("up", "gauge", "Whether the store that a fleet shares is asked and answers.", u64::from(remote.up)),
        ("decisions_total", "counter", "Decisions made with it.", remote.decisions),
        ("leased_total", "counter", "Of these, paid for in advance.", remote.leased),
        ("remembered_total", "counter", "Of these, refusals remembered.", remote.remembered),
        ("commands_total", "counter", "Commands sent to it.", remote.commands),
        ("failures_total", "counter", "Commands that failed or came too late.", remote.failures),
    ] {
        family(&mut page, &format!("tollgate_limit_store_{name}"), kind, help);
        let _ = writeln!(page, "tollgate_limit_store_{name} {value}");
    }
    page
}

fn family(page: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
