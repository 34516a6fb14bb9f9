//! Who is limited?

use std::fmt::Write;

use super::text::{Escaped, ago, badge, count, span};
use crate::admin::model::view::View;

pub(super) fn panel(view: &View) -> String {
    let stats = &view.stats;
    if stats.limits.is_empty()
        || stats.modes.limits == crate::Mode::Off && stats.limits.iter().all(|limit| limit.admitted == 0)
    {
        return "<p class=\"quiet\">No limit is in force.</p>".to_owned();
    }
    let mut html = String::from(
        "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>Limit</th><th>Quota</th><th>Mode</th><th class=\"n\">Admitted</th>\
         <th class=\"n\">Refused</th><th class=\"n\">Would refuse</th></tr></thead><tbody>",
    );
    for limit in &stats.limits {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Escaped(&limit.name),
            Escaped(&limit.quota),
            badge(limit.mode.as_str()),
            count(limit.admitted),
            count(limit.refused),
            count(limit.would_refuse),
        );
    }
    for limit in &stats.concurrency {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{} at a time</td><td>{} in progress, {} wait</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            Escaped(&limit.name),
            limit.limit,
            count(limit.in_progress),
            count(limit.queued),
            count(limit.admitted),
            count(limit.refused),
            count(limit.would_refuse),
        );
    }
    html.push_str("</tbody></table></div>");
    html.push_str(&refusals(view));
    html
}

fn refusals(view: &View) -> String {
    if view.refusals.is_empty() {
        return "<p class=\"quiet\">Nobody was refused.</p>".to_owned();
    }
    let mut html = String::from(
        "<div class=\"scroll\" tabindex=\"0\"><table><caption>Last refusals; a subject is shown by its hash, as in the log</caption><thead><tr>\
         <th>When</th><th>Subject</th><th>Route</th><th>Limit</th><th class=\"n\">Wait</th><th>Reference</th></tr></thead><tbody>",
    );
    for refusal in &view.refusals {
        let age = view.wall.duration_since(refusal.at).unwrap_or_default();
        let _ = write!(
            html,
            "<tr><td>{}</td><td><code>{}</code></td><td>{}</td><td>{}</td><td class=\"n\">{}</td>\
             <td><a href=\"?subject={reference}#lookup\"><code>{reference}</code></a></td></tr>",
            ago(age),
            Escaped(&refusal.key),
            Escaped(&refusal.route),
            Escaped(&refusal.limits.join(", ")),
            span(refusal.retry_after),
            reference = Escaped(&refusal.reference),
        );
    }
    html.push_str("</tbody></table></div>");
    html
}
