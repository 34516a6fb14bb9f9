//! Fills in the metrics of an upstream: its calls, quotas and circuit.

use super::shared::UpstreamShared;
use super::stats::{UpstreamStats, WindowStats};
use crate::base::metrics::family::Metric;
use crate::base::metrics::samples::Samples;
use crate::base::route::UNMATCHED;
use crate::upstream::quota::rejected::RejectedReason;

/// Adds all values.
pub(crate) fn fill(core: &UpstreamShared, out: &mut dyn Samples) {
    core.calls.each(|values, bounds, counts| out.durations(Metric::HttpClientRequestDuration, values, bounds, counts));
    let stats = UpstreamStats::of(core);
    let upstream = &*stats.upstream;
    for endpoint in &stats.endpoints {
        let template = if endpoint.endpoint == UNMATCHED { "" } else { &endpoint.endpoint };
        out.whole(Metric::UpstreamCalls, &[template, upstream], endpoint.calls);
        out.whole(Metric::EndpointCredits, &[template, upstream], endpoint.credits);
    }
    for reason in RejectedReason::ALL.map(RejectedReason::as_str) {
        let count = stats.rejections.get(reason).copied().unwrap_or_default();
        out.whole(Metric::UpstreamRejections, &[reason, upstream], count);
    }
    out.whole(Metric::UpstreamWouldReject, &[upstream], stats.would_reject);
    out.whole(Metric::UpstreamWaits, &[upstream], stats.waits);
    // A limit that the upstream reports may have the name of a configured window, and then counts more than it.
    let mut shown: Vec<&str> = Vec::new();
    for window in stats.learned.iter().chain(&stats.windows) {
        if !shown.contains(&&*window.window) {
            shown.push(&window.window);
            by_window(window, upstream, out);
        }
    }
    if stats.circuit != "off" {
        out.flag(Metric::CircuitOpen, &[upstream], stats.circuit == "open");
    }
    if let Some(up) = stats.store_up {
        out.flag(Metric::CreditStoreUp, &[upstream], up);
    }
    out.whole(Metric::UnbookedCredits, &[upstream], stats.unbooked);
}

fn by_window(window: &WindowStats, upstream: &str, out: &mut dyn Samples) {
    let labels = &[&*window.window, upstream];
    out.whole(Metric::CreditsLimit, labels, window.limit);
    out.whole(Metric::CreditsRemaining, labels, window.remaining);
    out.whole(Metric::CreditsUsed, labels, window.spent);
    out.seconds(Metric::CreditsReset, labels, window.resets_in);
    if let Some(left) = window.exhausted_in {
        out.seconds(Metric::CreditsExhausted, labels, left);
    }
}
