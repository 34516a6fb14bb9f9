//! Forms of actions. Each carries the token of the page.

use super::text::{Escaped, ago};
use crate::admin::model::audit::RevocablePurge;
use crate::admin::model::view::View;
use crate::upstream::UpstreamStats;

fn hidden(token: &str) -> String {
    format!("<input type=\"hidden\" name=\"token\" value=\"{}\">", Escaped(token))
}

/// Writes the button that ends an override.
pub(super) fn end_override(id: &str, token: &str) -> String {
    format!(
        "<form method=\"post\" action=\"end-override\">{}<input type=\"hidden\" name=\"id\" value=\"{}\"><button>End</button></form>",
        hidden(token),
        Escaped(id)
    )
}

/// Writes the buttons that revoke purges.
fn revocations(token: &str, purges: &[RevocablePurge]) -> String {
    let one = |purge: &RevocablePurge| {
        format!(
            "<form class=\"revoke\" method=\"post\" action=\"revoke-purge\">{token}<input type=\"hidden\" name=\"what\" value=\"{what}\">\
             <p>{when}: <code>{what}</code> was made stale. <button>Revoke</button></p></form>",
            what = Escaped(&purge.what),
            when = ago(purge.age),
        )
    };
    purges.iter().map(one).collect()
}

/// Writes the form that corrects the credits of a watched upstream.
fn credits(token: &str, upstreams: &[UpstreamStats]) -> String {
    let options = |names: Vec<&String>| {
        let distinct = names.iter().enumerate().filter(|(at, name)| !names[..*at].contains(name));
        distinct.map(|(_, name)| format!("<option>{}</option>", Escaped(name))).collect::<String>()
    };
    let windows = upstreams.iter().flat_map(|upstream| upstream.windows.iter().map(|window| &window.window));
    format!(
        "<form method=\"post\" action=\"correct-credits\">{token}<h3>Credits</h3>\
         <label>Upstream <select name=\"upstream\">{}</select></label>\
         <label>Window <select name=\"window\">{}</select></label>\
         <label>How <select name=\"how\"><option value=\"spent\">spent in all</option><option value=\"add\">bought in addition</option></select></label>\
         <label>Credits <input name=\"credits\" required inputmode=\"numeric\" autocomplete=\"off\"></label>\
         <label>Reason <input name=\"reason\" maxlength=\"200\"></label>\
         <p><button>Correct</button></p></form>",
        options(upstreams.iter().map(|upstream| &upstream.upstream).collect()),
        options(windows.collect()),
    )
}

/// Writes the form that runs, enables and disables jobs.
#[cfg(feature = "jobs")]
fn jobs(token: &str, view: &View) -> String {
    if view.jobs.is_empty() {
        return String::new();
    }
    let options: String = view.jobs.iter().map(|job| format!("<option>{}</option>", Escaped(&job.name))).collect();
    format!(
        "<form method=\"post\" action=\"run-job\">{token}<h3>Jobs</h3><label>Job <select name=\"job\">{options}</select></label>\
         <label>Reason <input name=\"reason\" maxlength=\"200\"></label><p><button>Run now</button> \
         <button formaction=\"enable-job\">Enable</button> <button formaction=\"disable-job\">Disable</button></p></form>"
    )
}

/// Writes the forms of an operator who may act.
pub(super) fn actions(token: &str, view: &View, purges: &[RevocablePurge]) -> String {
    let token = hidden(token);
    let credits = match view.upstreams.iter().any(|upstream| !upstream.windows.is_empty()) {
        true => credits(&token, &view.upstreams),
        false => String::new(),
    };
    #[cfg(feature = "jobs")]
    let credits = credits + &jobs(&token, view);
    let revocations = revocations(&token, purges);
    format!(
        "{revocations}<div class=\"forms\">\
         <form method=\"post\" action=\"purge\">{token}<h3>Purge</h3>\
         <label>What <input name=\"what\" required placeholder=\"tag:prices, /articles/*, *\" autocomplete=\"off\"></label>\
         <label>How <select name=\"mode\"><option value=\"soft\">make stale</option><option value=\"hard\">remove</option></select></label>\
         <label>Confirm <input name=\"confirm\" inputmode=\"numeric\" placeholder=\"number, if many match\" autocomplete=\"off\"></label>\
         <label>Reason <input name=\"reason\" maxlength=\"200\"></label>\
         <p><button name=\"preview\" value=\"1\">Count</button> <button>Purge</button></p></form>\
         <form method=\"post\" action=\"override\">{token}<h3>Override</h3>\
         <label>Target <input name=\"target\" required placeholder=\"limit api, rule /prices/&#123;id&#125;, cache\" autocomplete=\"off\"></label>\
         <label>Value <input name=\"value\" required placeholder=\"shadow, off, 500/min, deny, conserve\" autocomplete=\"off\"></label>\
         <label>For <input name=\"for\" value=\"1h\" pattern=\"[0-9]+[smhd]|permanent\"></label>\
         <label>Where <select name=\"scope\"><option value=\"fleet\">all nodes</option><option value=\"node\">this node</option></select></label>\
         <label>Reason <input name=\"reason\" maxlength=\"200\"></label>\
         <p><button>Apply</button></p></form>\
         <form method=\"post\" action=\"grant-subject\">{token}<h3>Grant</h3>\
         <label>Subject <input name=\"subject\" required placeholder=\"user:42, 192.0.2.1\" autocomplete=\"off\"></label>\
         <label>Limit <input name=\"limit\" required autocomplete=\"off\"></label>\
         <label>Quota <input name=\"quota\" required placeholder=\"500/min\"></label>\
         <label>For <input name=\"for\" value=\"1h\" pattern=\"[0-9]+[smhd]\"></label>\
         <label>Reason <input name=\"reason\" maxlength=\"200\"></label>\
         <p><button>Grant</button></p></form>\
         <form method=\"post\" action=\"reset-subject\">{token}<h3>Reset</h3>\
         <label>Subject <input name=\"subject\" required placeholder=\"user:42, 192.0.2.1\" autocomplete=\"off\"></label>\
         <label>Reason <input name=\"reason\" maxlength=\"200\"></label>\
         <p><button>Reset its usage and bans</button></p></form>{credits}</div>"
    )
}
