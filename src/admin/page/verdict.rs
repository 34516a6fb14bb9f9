//! What should I do now?

use std::fmt::Write;

use super::text::{Escaped, badge, count, percent, span};
use crate::admin::model::view::View;
use crate::{Advice, Health, SloStatus};

/// Advices that are shown.
const MAX_ADVICE: usize = 3;

pub(super) fn panel(view: &View) -> String {
    let health = &view.health;
    let score = health.score.map_or_else(|| "–".to_owned(), |score| score.to_string());
    let mut html = format!(
        "<div class=\"verdict\"><div class=\"score\"><span class=\"number\">{score}</span><span class=\"band\">{}</span></div>\
         <div><p class=\"sentence\">{} {}</p>{}</div></div>",
        badge(health.band),
        badge(health.status),
        Escaped(&sentence(health)),
        saved(view),
    );
    html.push_str(&reasons(health));
    html.push_str(&objectives(&health.slos));
    html.push_str(&advice(&health.recommendations));
    html
}

fn sentence(health: &Health) -> String {
    match (health.status, health.degraded) {
        ("pass", false) if health.score.is_none() => {
            "Nothing is wrong. There is too little traffic for a score.".to_owned()
        }
        ("pass", false) => "All is well.".to_owned(),
        _ => match (health.reasons.first(), health.checks.iter().find(|check| check.status == health.status)) {
            (Some(reason), _) => format!("{}.", capital(reason)),
            (None, Some(check)) => format!("{}: {}.", capital(&check.name), check.text),
            (None, None) => "Something needs attention.".to_owned(),
        },
    }
}

fn saved(view: &View) -> String {
    let (calls, time) = view.saved;
    let money = view.money.map(|money| format!(", <strong>{money:.2}</strong> in money")).unwrap_or_default();
    match calls {
        0 => "<p class=\"quiet\">The cache has saved no call yet.</p>".to_owned(),
        _ => format!(
            "<p>Saved in the last 24 h: <strong>{}</strong> calls, <strong>{}</strong> of waiting{money}.</p>",
            count(calls),
            span(time)
        ),
    }
}

fn reasons(health: &Health) -> String {
    let more: Vec<&String> = health.reasons.iter().skip(1).collect();
    let failing = health.checks.iter().filter(|check| check.status == "fail" && !check.name.starts_with("slo "));
    let items = more.iter().map(|reason| format!("<li>{}</li>", Escaped(&capital(reason))));
    let checks =
        failing.map(|check| format!("<li>{} {}: {}</li>", badge("fail"), Escaped(&check.name), Escaped(&check.text)));
    let all: String = items.chain(checks).collect();
    if all.is_empty() { all } else { format!("<ul class=\"reasons\">{all}</ul>") }
}

fn objectives(slos: &[SloStatus]) -> String {
    let mut html = String::from(
        "<div class=\"scroll\" tabindex=\"0\"><table><caption>Objectives of the last hour</caption><thead><tr><th>Objective</th>\
         <th>State</th><th class=\"n\">Reached</th><th class=\"n\">Burn, 5 min</th><th class=\"n\">Burn, 1 h</th></tr></thead><tbody>",
    );
    let burn = |rate: Option<f64>| rate.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.1}"));
    for slo in slos {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Escaped(&slo.text),
            badge(slo.state),
            percent(slo.actual),
            burn(slo.burn_5m),
            burn(slo.burn_1h),
        );
    }
    html.push_str("</tbody></table></div>");
    html
}

fn advice(all: &[Advice]) -> String {
    let mut html = String::new();
    for advice in all.iter().take(MAX_ADVICE) {
        let _ = write!(
            html,
            "<li><p>{} <span class=\"quiet\">{}</span></p>",
            Escaped(&advice.text),
            Escaped(&advice.evidence)
        );
        if !advice.lines.is_empty() {
            let _ = write!(html, "<pre tabindex=\"0\"><code>{}</code></pre>", Escaped(&advice.lines));
        }
        html.push_str("</li>");
    }
    if html.is_empty() { html } else { format!("<h3>To do</h3><ol class=\"advice\">{html}</ol>") }
}

/// Returns the text with a capital first letter.
fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}
