//! What is failing open, which configuration is in force, and which overrides?

use std::fmt::Write;

use super::forms::end_override;
use super::text::{Escaped, ago, badge, count, percent, span};
use crate::admin::model::fleet::NodeSnapshot;
use crate::admin::model::view::View;

pub(super) fn panel(view: &View, token: Option<&str>) -> String {
    let mut html = stores(view);
    let modes = &view.stats.modes;
    let _ = write!(
        html,
        "<dl class=\"modes\"><div><dt>Limits</dt><dd>{}</dd></div><div><dt>Cache</dt><dd>{}</dd></div><div><dt>Timing</dt>\
         <dd>{}</dd></div></dl>",
        badge(modes.limits.as_str()),
        badge(modes.cache.as_str()),
        badge(modes.timing.as_str()),
    );
    overrides(&mut html, view, token);
    nodes(&mut html, view);
    html
}

fn stores(view: &View) -> String {
    let all: Vec<_> = view.health.checks.iter().filter(|check| check.name.starts_with("store ")).collect();
    if all.is_empty() {
        return "<p class=\"quiet\">No store is shared: this process keeps everything itself.</p>".to_owned();
    }
    let item = |check: &&crate::CheckStatus| {
        let name = check.name.trim_start_matches("store ");
        let state = if check.status == "pass" { "up" } else { "down" };
        let note = if check.text.is_empty() { String::new() } else { format!(" – {}", Escaped(&check.text)) };
        format!("<li>{} {}{note}</li>", badge(state), Escaped(name))
    };
    format!("<ul class=\"stores\">{}</ul>", all.iter().map(item).collect::<String>())
}

fn overrides(html: &mut String, view: &View, token: Option<&str>) {
    if view.overrides.is_empty() {
        html.push_str("<p class=\"quiet\">No override is in force: everything is as configured in code.</p>");
        return;
    }
    html.push_str(
        "<div class=\"scroll\" tabindex=\"0\"><table><caption>Overrides; all else is as configured in code</caption><thead><tr><th>Setting</th>\
         <th>Value</th><th>Where</th><th>By</th><th>Since</th><th>Ends</th><th>Reason</th><th></th></tr></thead><tbody>",
    );
    for one in &view.overrides {
        let applied =
            view.nodes.iter().filter(|node| node.overrides.contains(&format!("{} {}", one.id, one.value))).count();
        let place = match (one.is_local, one.is_pending) {
            (true, _) => "this node".to_owned(),
            (false, true) => format!("{} nodes: {applied}/{}", badge("pending"), view.nodes.len()),
            (false, false) => format!("nodes: {applied}/{}", view.nodes.len()),
        };
        let ends = one.expires_in.map_or_else(|| "permanent".to_owned(), |left| format!("in {}", span(left)));
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{place}</td><td>{}</td><td>{}</td><td>{ends}</td><td>{}</td><td>{}</td></tr>",
            Escaped(&one.id),
            Escaped(&one.value),
            Escaped(&one.actor),
            ago(one.age),
            Escaped(&one.reason),
            token.map(|token| end_override(&one.id, token)).unwrap_or_default(),
        );
    }
    html.push_str("</tbody></table></div>");
}

fn nodes(html: &mut String, view: &View) {
    let configuration = &view.nodes[0].configuration;
    let differs = view.nodes.iter().any(|node| node.configuration != *configuration);
    html.push_str(
        "<div class=\"scroll\" tabindex=\"0\"><table><caption>Nodes</caption><thead><tr><th>Node</th><th>State</th><th class=\"n\">Score</th>\
         <th class=\"n\">Requests, 5 min</th><th class=\"n\">Refused, 5 min</th><th class=\"n\">Hit ratio</th><th>Up for</th>\
         <th>Configuration</th></tr></thead><tbody>",
    );
    for (at, node) in view.nodes.iter().enumerate() {
        let _ = write!(
            html,
            "<tr><td><code>{}</code>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td>{}</td><td><code>{}</code> <span class=\"quiet\">{}</span></td></tr>",
            Escaped(&node.node),
            if at == 0 { " <span class=\"quiet\">this one</span>" } else { "" },
            badge(&node.status),
            node.score.map_or_else(|| "–".to_owned(), |score| score.to_string()),
            count(node.requests_5m),
            count(node.refused_5m),
            percent(node.hit_ratio),
            span(std::time::Duration::from_secs(node.up_seconds)),
            Escaped(&node.configuration),
            Escaped(&node.version),
        );
    }
    if view.nodes.len() > 1 {
        let sum = |of: fn(&NodeSnapshot) -> u64| count(view.nodes.iter().map(of).sum());
        let _ = write!(
            html,
            "<tr><td>all {}</td><td></td><td></td><td class=\"n\">{}</td><td class=\"n\">{}</td><td></td><td></td><td></td></tr>",
            view.nodes.len(),
            sum(|node| node.requests_5m),
            sum(|node| node.refused_5m),
        );
    }
    html.push_str("</tbody></table></div>");
    if differs {
        let _ = write!(html, "<p>{} The nodes have different configurations.</p>", badge("warn"));
    }
}
