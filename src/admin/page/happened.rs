//! What happened?

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::text::{Escaped, ago};
use crate::admin::model::view::View;

/// Rows that are shown.
const MAX_ROWS: usize = 20;

pub(super) fn panel(view: &View) -> String {
    let marks = view.minutes.marks.iter().filter(|(_, mark)| mark.kind != "action");
    let mut rows: Vec<(Duration, &str, String)> =
        marks.map(|(age, mark)| (*age, mark.kind, Escaped(&mark.text).to_string())).collect();
    for entry in &view.audit {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(entry.at);
        let reason =
            if entry.reason.is_empty() { String::new() } else { format!(", because {}", Escaped(&entry.reason)) };
        let text =
            format!("{}: {}: {}{reason}", Escaped(&entry.actor), Escaped(&entry.action), Escaped(&entry.outcome));
        rows.push((view.wall.duration_since(at).unwrap_or_default(), "action", text));
    }
    rows.sort_by_key(|(age, _, _)| *age);
    let mut html = String::from("<ol class=\"happened\">");
    for (age, kind, text) in rows.into_iter().take(MAX_ROWS) {
        let _ =
            write!(html, "<li><span class=\"when\">{}</span> <span class=\"kind\">{kind}</span> {text}</li>", ago(age));
    }
    html.push_str("</ol>");
    html
}
