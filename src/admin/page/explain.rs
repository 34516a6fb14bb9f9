//! What would happen to this request?

use std::fmt::Write;

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde::Serialize;

use super::text::{Escaped, badge, count, size, span};
use crate::admin::model::form::Form;
use crate::admin::model::subject::{self, SubjectReport};
use crate::base::error::Error;
use crate::base::mode::Mode;
use crate::{Tollgate, cache};

/// Refusals of a subject that are shown.
const MAX_REFUSALS: usize = 5;

/// What would happen to a request.
#[derive(Debug, Serialize)]
pub(in crate::admin) struct Explanation {
    url: String,
    /// Pattern of the cache rule.
    rule: Option<String>,
    cache_mode: Mode,
    /// `fresh`, `stale`, `missing`, `invalidated`, `bypassed` or `off`.
    state: &'static str,
    /// Reason to bypass the cache, and its remedy.
    bypass: Option<(&'static str, &'static str)>,
    is_per_identity: bool,
    entry: Option<ExplainedEntry>,
    limits: Option<SubjectReport>,
}

#[derive(Debug, Serialize)]
struct ExplainedEntry {
    status: u16,
    bytes: u64,
    tags: Vec<String>,
    age_seconds: f64,
    fresh_for_seconds: f64,
}

/// Explains a GET of `url`, at `host` if it is a path, optionally with a header field `header` (`Name: value`), of the `subject`.
pub(in crate::admin) async fn explain(gate: &Tollgate, form: &Form, host: &str) -> Result<Explanation, Error> {
    let url = form.need("url")?;
    let malformed = || Error::config(format!("malformed URL {url:?}; use https://host/path or /path"));
    let uri: Uri = url.parse().map_err(|_| malformed())?;
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = path.parse().map_err(|_| malformed())?;
    let host = uri.authority().map_or(host, http::uri::Authority::as_str);
    request.headers_mut().insert(http::header::HOST, HeaderValue::from_str(host).map_err(|_| malformed())?);
    if let Some(field) = form.get("header") {
        let wrong = || Error::config(format!("malformed header field {field:?}; write it like Name: value"));
        let (name, value) = field.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        request.headers_mut().insert(name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?);
    }
    let explained: cache::CacheExplanation = gate.layer.cache.explain(&request).await;
    let limits = match form.get("subject") {
        Some(text) => {
            let route = form.get("route").map_or_else(|| explained.rule.clone(), |route| Some(route.to_owned()));
            Some(subject::look(gate, text, form.get("tier"), route.as_deref()).await?)
        }
        None => None,
    };
    Ok(Explanation {
        url: url.to_owned(),
        rule: explained.rule,
        cache_mode: explained.mode,
        state: explained.state,
        bypass: explained.bypass.map(|reason| (reason.as_str(), reason.remedy())),
        is_per_identity: explained.is_per_identity,
        entry: explained.entry.map(|entry| ExplainedEntry {
            status: entry.status,
            bytes: entry.bytes,
            tags: entry.tags,
            age_seconds: entry.age.as_secs_f64(),
            fresh_for_seconds: entry.fresh_for.as_secs_f64(),
        }),
        limits,
    })
}

/// Writes the form, and the answer to what was asked with it.
pub(super) async fn panel(gate: &Tollgate, form: &Form, host: &str) -> String {
    let value = |name: &str| Escaped(form.get(name).unwrap_or_default()).to_string();
    let mut html = format!(
        "<form class=\"ask\" method=\"get\" action=\"./#lookup\">\
         <label>URL <input name=\"url\" value=\"{}\" placeholder=\"/prices/ACME\"></label>\
         <label>Header field <input name=\"header\" value=\"{}\" placeholder=\"Cookie: a=b\"></label>\
         <label>Subject <input name=\"subject\" value=\"{}\" placeholder=\"user:42, 192.0.2.1, or a reference\"></label>\
         <label>Tier <input name=\"tier\" value=\"{}\"></label><p><button>Look up</button></p></form>",
        value("url"),
        value("header"),
        value("subject"),
        value("tier"),
    );
    if form.is_set("url") {
        match explain(gate, form, host).await {
            Ok(explanation) => write_explanation(&mut html, &explanation),
            Err(error) => drop(write_error(&mut html, &error)),
        }
    } else if let Some(text) = form.get("subject") {
        match subject::look(gate, text, form.get("tier"), form.get("route")).await {
            Ok(report) => write_subject(&mut html, &report),
            Err(error) => drop(write_error(&mut html, &error)),
        }
    }
    html
}

fn write_error(html: &mut String, error: &Error) -> std::fmt::Result {
    write!(html, "<p class=\"answer\">{} {}</p>", badge("fail"), Escaped(&error.to_string()))
}

fn write_explanation(html: &mut String, explained: &Explanation) {
    let rule = explained.rule.as_deref().map_or("no cache rule".to_owned(), |rule| format!("the cache rule {rule}"));
    let _ = write!(html, "<p class=\"answer\">{} {} matches.", badge(explained.state), Escaped(&rule));
    if let Some((reason, remedy)) = explained.bypass {
        let _ = write!(html, " It bypasses the cache: {} – {}.", Escaped(reason), Escaped(remedy));
    }
    if explained.is_per_identity {
        html.push_str(
            " Each identity has an entry of its own; it is found with the field that the identity is extracted from.",
        );
    }
    match &explained.entry {
        Some(entry) => {
            let tags = if entry.tags.is_empty() { "no tags".to_owned() } else { entry.tags.join(", ") };
            let _ = write!(
                html,
                " Stored: status {}, {}, {} old, fresh for {}, {}.",
                entry.status,
                size(entry.bytes),
                seconds(entry.age_seconds),
                seconds(entry.fresh_for_seconds),
                Escaped(&tags),
            );
        }
        None if explained.state == "missing" => html.push_str(" Nothing is stored: it would be fetched."),
        None if explained.state == "invalidated" => {
            html.push_str(" What is stored was invalidated: it would be fetched.")
        }
        None => {}
    }
    html.push_str("</p>");
    if let Some(report) = &explained.limits {
        write_subject(html, report);
    }
}

fn write_subject(html: &mut String, report: &SubjectReport) {
    let state = if report.is_admitted { ("pass", "would be admitted") } else { ("fail", "is refused") };
    let _ = write!(html, "<p class=\"answer\">{} {} {}", badge(state.0), Escaped(&report.subject), state.1);
    if let Some(wait) = report.retry_after_seconds {
        let _ = write!(html, ", for {}", seconds(wait));
    }
    html.push_str(
        ".</p><div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>Limit</th><th>Quota</th><th class=\"n\">Left</th>\
                   <th class=\"n\">Whole again in</th></tr></thead><tbody>",
    );
    for limit in &report.limits {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Escaped(&limit.name),
            Escaped(&limit.quota),
            count(limit.remaining),
            if limit.resets_in_seconds > 0.0 { seconds(limit.resets_in_seconds) } else { "–".to_owned() },
        );
    }
    for refusal in report.refusals.iter().take(MAX_REFUSALS) {
        let _ = write!(
            html,
            "<tr><td colspan=\"4\">refused by {} on {}, reference <code>{}</code></td></tr>",
            Escaped(&refusal.limits.join(", ")),
            Escaped(&refusal.route),
            Escaped(&refusal.reference),
        );
    }
    html.push_str("</tbody></table></div>");
}

fn seconds(value: f64) -> String {
    span(std::time::Duration::from_secs_f64(value.max(0.0)))
}
