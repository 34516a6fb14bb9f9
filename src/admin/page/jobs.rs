//! What ran, and what failed?

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use super::text::{Escaped, ago, badge, count, span};
use crate::JobStatus;
use crate::admin::model::view::View;

/// Writes the table of jobs; nothing without jobs.
pub(super) fn table(view: &View) -> String {
    if view.jobs.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<div class=\"scroll\" tabindex=\"0\"><table><caption>Jobs</caption><thead><tr><th>Job</th><th>Schedule</th><th>State</th>\
         <th class=\"n\">Ran</th><th class=\"n\">Failed</th><th>Last</th><th class=\"n\">Took</th><th>Next</th></tr></thead><tbody>",
    );
    for job in &view.jobs {
        let at = |millis: u64| UNIX_EPOCH + Duration::from_millis(millis);
        let last = job.last.as_ref().map_or_else(
            || "–".to_owned(),
            |run| {
                let age = view.wall.duration_since(at(run.started_at)).unwrap_or_default();
                format!("{} {}", ago(age), Escaped(&run.text))
            },
        );
        let next = job.next_at.filter(|_| job.is_enabled).map_or_else(
            || "–".to_owned(),
            |next| format!("in {}", span(at(next).duration_since(view.wall).unwrap_or_default())),
        );
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{last}</td><td class=\"n\">{}</td>\
             <td>{next}</td></tr>",
            Escaped(&job.name),
            Escaped(&job.schedule),
            state(job),
            count(job.runs),
            count(job.failures),
            job.last.as_ref().map_or_else(|| "–".to_owned(), |run| span(Duration::from_millis(run.took_ms))),
        );
    }
    html.push_str("</tbody></table></div>");
    html
}

fn state(job: &JobStatus) -> String {
    match (job.is_running, job.is_enabled, &job.last) {
        (true, ..) => {
            let done = job.progress.map(|(done, of)| format!(" {} of {}", count(done), count(of)));
            format!("{}{}", badge("running"), done.unwrap_or_default())
        }
        (_, false, _) => badge("disabled"),
        (.., Some(last)) if last.is_failure() => badge("fail"),
        (.., Some(_)) => badge("pass"),
        _ => badge("waiting"),
    }
}
