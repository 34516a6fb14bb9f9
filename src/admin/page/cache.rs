//! Which route misses, and why?

use std::fmt::Write;

use super::text::{Escaped, badge, count, percent, size, span};
use crate::admin::model::view::View;
use crate::cache::Reason;
use crate::health::totals::share;
use crate::{RouteReport, SloStatus};

/// Routes that are shown.
const MAX_ROUTES: usize = 16;

pub(super) fn panel(view: &View) -> String {
    let mut routes: Vec<(&String, &RouteReport)> =
        view.stats.routes.iter().filter(|(_, route)| route.requests > 0).collect();
    routes.sort_by_key(|(name, route)| (std::cmp::Reverse(route.misses), std::cmp::Reverse(route.requests), *name));
    let mut html = String::new();
    if routes.is_empty() {
        html.push_str("<p class=\"quiet\">No request has come yet. Send one: its route appears here.</p>");
    } else {
        html.push_str(
            "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>Route</th><th class=\"n\">Requests</th><th class=\"n\">Hits</th>\
             <th class=\"n\">Misses</th><th>Hit ratio</th><th class=\"n\">Median</th><th class=\"n\">p95</th>\
             <th>Not from the cache because</th></tr></thead><tbody>",
        );
    }
    let more = routes.len().saturating_sub(MAX_ROUTES);
    for (name, route) in routes.iter().take(MAX_ROUTES) {
        row(&mut html, name, route, &view.health.slos);
    }
    if !routes.is_empty() {
        html.push_str("</tbody></table></div>");
    }
    if more > 0 {
        let _ = write!(html, "<p class=\"quiet\">{more} more routes: <a href=\"stats.json\">stats.json</a></p>");
    }
    values(&mut html, view);
    levels(&mut html, view);
    html
}

fn row(html: &mut String, name: &str, route: &RouteReport, slos: &[SloStatus]) {
    let hits = route.hits + route.stale + route.revalidated + route.collapsed;
    let ratio = share(hits, hits + route.misses);
    let target = slos.iter().find(|slo| slo.name.strip_prefix("hits ") == Some(name)).map(|slo| slo.objective);
    let why = route.bypassed.iter().max_by_key(|(_, count)| **count).map(|(reason, n)| {
        let remedy = Reason::ALL.iter().find(|known| known.as_str() == *reason).map(|known| known.remedy());
        format!(
            "{} <span class=\"quiet\">({}) {}</span>",
            Escaped(reason),
            count(*n),
            Escaped(remedy.unwrap_or_default())
        )
    });
    let _ = write!(
        html,
        "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td>\
         <td class=\"n\">{}</td><td>{}</td></tr>",
        Escaped(name),
        count(route.requests),
        count(hits),
        count(route.misses),
        meter(ratio, target),
        span(route.latency.p50),
        span(route.latency.p95),
        why.unwrap_or_default(),
    );
}

/// Writes a ratio as number and bar, with its target.
pub(super) fn meter(ratio: Option<f64>, target: Option<f64>) -> String {
    let Some(ratio) = ratio else { return "–".to_owned() };
    let goal =
        target.map(|target| format!(" <span class=\"quiet\">of {:.0}</span>", target * 100.0)).unwrap_or_default();
    format!(
        "<span class=\"meter\"><meter min=\"0\" max=\"1\" low=\"{low}\" high=\"{low}\" optimum=\"1\" value=\"{ratio:.3}\" \
         aria-label=\"hit ratio\"></meter> {}{goal}</span>",
        percent(Some(ratio)),
        low = target.unwrap_or(0.5),
    )
}

fn values(html: &mut String, view: &View) {
    if view.stats.data.is_empty() {
        return;
    }
    html.push_str(
        "<div class=\"scroll\" tabindex=\"0\"><table><caption>Typed values</caption><thead><tr><th>Namespace</th><th class=\"n\">Avoided</th>\
         <th class=\"n\">Loads</th><th>Hit ratio</th><th class=\"n\">A load takes</th><th class=\"n\">Saved</th></tr></thead><tbody>",
    );
    for data in &view.stats.data {
        let _ = write!(
            html,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Escaped(&data.name),
            count(data.avoided),
            count(data.loads),
            meter(share(data.avoided, data.avoided + data.misses), data.target_hit_ratio),
            span(data.mean_load),
            span(data.time_saved),
        );
    }
    html.push_str("</tbody></table></div>");
}

fn levels(html: &mut String, view: &View) {
    html.push_str(
        "<div class=\"scroll\" tabindex=\"0\"><table><caption>Levels</caption><thead><tr><th>Level</th><th>State</th><th class=\"n\">Hits</th>\
         <th class=\"n\">Misses</th><th class=\"n\">Errors</th><th class=\"n\">Look-up, p99</th><th class=\"n\">Entries</th>\
         <th class=\"n\">Size</th></tr></thead><tbody>",
    );
    for level in &view.stats.cache {
        let bound =
            if level.capacity_bytes > 0 { format!(" of {}", size(level.capacity_bytes)) } else { String::new() };
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}{bound}</td></tr>",
            Escaped(&level.name),
            badge(if level.up { "up" } else { "down" }),
            count(level.hits),
            count(level.misses),
            count(level.errors),
            level.lookup_p99.map_or_else(|| "–".to_owned(), span),
            count(level.entries),
            size(level.bytes),
        );
    }
    html.push_str("</tbody></table></div>");
}
