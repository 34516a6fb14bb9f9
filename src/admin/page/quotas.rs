//! Will the quota last, and what ran?

use std::fmt::Write;

use super::text::{Escaped, badge, count, percent, span};
use crate::admin::model::view::View;
use crate::health::totals::share;
use crate::upstream::{UpstreamStats, WindowStats};

pub(super) fn panel(view: &View) -> String {
    #[cfg_attr(not(feature = "jobs"), expect(unused_mut, reason = "jobs are added"))]
    let mut html = upstreams(view);
    #[cfg(feature = "jobs")]
    html.push_str(&super::jobs::table(view));
    html
}

fn upstreams(view: &View) -> String {
    if view.upstreams.is_empty() {
        return "<p class=\"quiet\">No upstream is watched: add one with <code>.watch_upstream(&amp;gate)</code>.</p>"
            .to_owned();
    }
    let mut html = String::from(
        "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>Quota</th><th class=\"n\">Spent</th><th class=\"n\">Of</th><th>Used</th>\
         <th class=\"n\">Renewed in</th><th>Ends</th><th class=\"n\">Spent in 1 h</th><th>Circuit</th></tr></thead><tbody>",
    );
    for upstream in &view.upstreams {
        for window in upstream.windows.iter().chain(&upstream.learned) {
            row(&mut html, upstream, window);
        }
    }
    html.push_str("</tbody></table></div>");
    html
}

fn row(html: &mut String, upstream: &UpstreamStats, window: &WindowStats) {
    let used = share(window.spent, window.limit).unwrap_or(0.0);
    let ends = match window.exhausted_in {
        Some(left) => format!("{} in {}", badge("warn"), span(left)),
        None => "lasts".to_owned(),
    };
    let circuit = if upstream.circuit == "off" { "–".to_owned() } else { badge(upstream.circuit) };
    let _ = write!(
        html,
        "<tr><td>{} <span class=\"quiet\">per {}</span></td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
         <td><span class=\"meter\"><meter min=\"0\" max=\"1\" low=\"0.85\" high=\"0.95\" optimum=\"0\" value=\"{used:.3}\" \
         aria-label=\"used share\"></meter> {}</span></td><td class=\"n\">{}</td><td>{ends}</td><td class=\"n\">{}</td><td>{circuit}</td></tr>",
        Escaped(&upstream.upstream),
        Escaped(&window.window),
        count(window.spent),
        count(window.limit),
        percent(Some(used)),
        span(window.resets_in),
        count(upstream.burn_last_hour),
    );
}
