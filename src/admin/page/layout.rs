//! The whole page, and its panels alone.

use std::fmt::Write;

use super::text::{Escaped, ago, badge, time_of_day};
use super::{cache, explain, forms, happened, limits, quotas, state, traffic, verdict};
use crate::admin::model::form::Form;
use crate::admin::model::state::AdminState;
use crate::admin::model::view::View;

/// Panels in their order: identifier and question.
const PANELS: [(&str, &str); 7] = [
    ("verdict", "What should I do now?"),
    ("traffic", "Where do requests go?"),
    ("limits", "Who is limited?"),
    ("cache", "Which route misses, and why?"),
    ("quotas", "Will the quota last, and what ran?"),
    ("state", "What is in force, and what fails open?"),
    ("happened", "What happened?"),
];

fn contents(view: &View, panel: &str, token: Option<&str>) -> String {
    match panel {
        "verdict" => verdict::panel(view),
        "traffic" => traffic::panel(view),
        "limits" => limits::panel(view),
        "cache" => cache::panel(view),
        "quotas" => quotas::panel(view),
        "state" => state::panel(view, token),
        _ => happened::panel(view),
    }
}

/// Returns the contents of the panels that change, by identifier. The panel with forms is left to the page.
pub(in crate::admin) fn panels_json(view: &View) -> String {
    let live = PANELS.iter().filter(|(id, _)| *id != "state" || view.overrides.is_empty());
    let mut all: serde_json::Map<String, serde_json::Value> =
        live.map(|(id, _)| ((*id).to_owned(), contents(view, id, None).into())).collect();
    all.insert("clock".to_owned(), clock(view).into());
    all.insert("status".to_owned(), badge(view.health.status).into());
    serde_json::Value::Object(all).to_string()
}

fn clock(view: &View) -> String {
    format!("{} UTC, node {}, started {}", time_of_day(view.wall), Escaped(&view.node), ago(view.up_for))
}

/// Renders the page. `notice` is the answer to an action that changed nothing, and whether it is one.
pub(in crate::admin) async fn render(
    shared: &AdminState,
    form: &Form,
    host: &str,
    token: Option<&str>,
    notice: Option<&(bool, String)>,
) -> String {
    let view = View { audit: shared.audit.all().await, ..View::of(shared) };
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Tollgate: {}</title>\
         <link rel=\"icon\" href=\"icon.svg\" type=\"image/svg+xml\"><link rel=\"stylesheet\" href=\"dashboard.css\"><script src=\"dashboard.js\" defer></script></head><body>\
         <header><h1>Tollgate</h1><p><span data-live=\"status\">{}</span> <span class=\"quiet\" data-live=\"clock\">{}</span> \
         <span class=\"quiet\" id=\"connection\" role=\"status\"></span></p><nav aria-label=\"Panels\">",
        Escaped(view.health.status),
        badge(view.health.status),
        clock(&view),
    );
    for (id, question) in PANELS {
        let _ = write!(html, "<a href=\"#{id}\">{}</a>", question.trim_end_matches('?'));
    }
    html.push_str("<a href=\"#lookup\">Look up</a></nav></header><main>");
    if let Some((is_answer, text)) = notice {
        let badge = badge(if *is_answer { "info" } else { "fail" });
        let _ = write!(html, "<p class=\"notice\" role=\"alert\">{badge} {}</p>", Escaped(text));
    }
    for (id, question) in PANELS {
        let _ = write!(
            html,
            "<section id=\"{id}\" aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\">{question}</h2>\
             <div data-live=\"{id}\">{}</div></section>",
            contents(&view, id, token),
        );
        if id == "quotas" {
            let _ = write!(
                html,
                "<section id=\"lookup\" aria-labelledby=\"lookup-title\"><h2 id=\"lookup-title\">What would happen to this request?</h2>{}</section>",
                explain::panel(&shared.gate, form, host).await,
            );
        }
    }
    if let Some(token) = token {
        let _ = write!(
            html,
            "<section id=\"actions\" aria-labelledby=\"actions-title\"><h2 id=\"actions-title\">Act</h2>{}</section>",
            forms::actions(token, &view, &shared.revocable_purges(&view.audit)),
        );
    }
    html.push_str(
        "</main><footer><p class=\"quiet\">The same as data: <a href=\"stats.json\">stats.json</a> \
         <a href=\"health.json\">health.json</a> <a href=\"report.txt\">report.txt</a> \
         <a href=\"audit.json\">audit.json</a> <a href=\"fleet.json\">fleet.json</a></p></footer></body></html>",
    );
    html
}
