//! Forms of actions. Each carries the token of the page.

use super::text::Escaped;

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

/// Writes the forms of an operator who may act.
pub(super) fn actions(token: &str) -> String {
    let token = hidden(token);
    format!(
        "<div class=\"forms\">\
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
         <p><button>Reset its usage and bans</button></p></form></div>"
    )
}
