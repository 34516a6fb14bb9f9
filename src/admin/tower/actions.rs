//! Actions of operators. Each is audited, whether it succeeds or not.

use std::time::{Duration, SystemTime};

#[cfg(feature = "jobs")]
use super::endpoint::AdminEndpoint;
use crate::admin::model::audit::{PurgeKind, RevocablePurge};
use crate::admin::model::form::Form;
use crate::admin::model::subject;
use crate::base::error::Error;
use crate::base::span::parse_span;
use crate::cache::{InvalidationEffect, PurgeScope};
use crate::{Override, Tollgate};

/// Share of all entries from which a purge must be confirmed.
const MANY: f64 = 0.1;
/// Longest grant.
const MAX_GRANT: Duration = Duration::from_secs(90 * 86_400);

/// An action, as it is audited.
pub(super) struct Action {
    /// What was asked, such as `purge tag prices`.
    pub(super) text: String,
    pub(super) result: Result<String, Error>,
    /// What a purge made stale, or a revocation restored.
    pub(super) purged: Option<(PurgeKind, String)>,
    /// Whether it only answered a question: then it is not audited.
    pub(super) is_preview: bool,
}

impl Action {
    fn new(text: String, result: Result<String, Error>) -> Self {
        Self { text, result, purged: None, is_preview: false }
    }
}

/// Purges entries. More than a tenth of all, or all, need the number of entries as confirmation.
pub(super) async fn purge(gate: &Tollgate, form: &Form) -> Action {
    let is_hard = form.get("mode") == Some("hard");
    let asked = form.get("what").unwrap_or_default().to_owned();
    let kind = if is_hard { "purge, hard, of" } else { "purge of" };
    let scope = match scope(&asked) {
        Ok(scope) => scope,
        Err(error) => return Action::new(format!("{kind} {asked}"), Err(error)),
    };
    let result = async {
        let (covered, all) = gate.invalidate().preview(&scope)?;
        let is_wide = matches!(&scope, PurgeScope::All) || scope == PurgeScope::Prefix("/".to_owned());
        let needs_confirmation = is_wide || covered as f64 > all as f64 * MANY && covered > 1;
        let confirmed = form.get("confirm").and_then(|number| number.parse().ok());
        if form.is_set("preview") {
            return Ok(format!("{covered} of {all} entries in this process match; nothing was purged"));
        }
        if needs_confirmation && confirmed != Some(covered) {
            return Err(Error::config(format!(
                "{covered} of {all} entries in this process match: confirm with this number"
            )));
        }
        let effect = if is_hard { InvalidationEffect::Void } else { InvalidationEffect::StaleUntilRevoked };
        gate.invalidate().purge(&scope, effect).await?;
        Ok(match is_hard {
            true => format!("{covered} of {all} entries in this process removed"),
            false => format!("{covered} of {all} entries in this process made stale; can be revoked for ten minutes"),
        })
    };
    let is_preview = form.is_set("preview");
    let purged = (!is_hard && !is_preview).then(|| (PurgeKind::Stale, asked.clone()));
    Action { purged, is_preview, ..Action::new(format!("{kind} {asked}"), result.await) }
}

/// Revokes a purge of the last ten minutes that made entries stale. What was fetched anew meanwhile stays.
pub(super) async fn revoke_purge(gate: &Tollgate, form: &Form, revocable: &[RevocablePurge]) -> Action {
    let asked = form.get("what").unwrap_or_default().to_owned();
    let revoked = async {
        let scope = scope(&asked)?;
        if !revocable.iter().any(|purge| purge.what == asked) {
            return Err(Error::config(format!("no purge of {asked} in the last ten minutes can be revoked")));
        }
        gate.invalidate().purge(&scope, InvalidationEffect::Revoked).await?;
        Ok("its entries are as fresh as before".to_owned())
    };
    let result = revoked.await;
    Action {
        purged: Some((PurgeKind::Revoked, asked.clone())),
        ..Action::new(format!("revocation of the purge of {asked}"), result)
    }
}

/// Reads what to purge: `*`, `tag:NAME`, `/path`, or `/path/*`.
fn scope(text: &str) -> Result<PurgeScope, Error> {
    match text {
        "*" => Ok(PurgeScope::All),
        _ if text.starts_with("tag:") => Ok(PurgeScope::Tag(text["tag:".len()..].trim().to_owned())),
        _ if text.starts_with('/') && text.ends_with('*') => {
            Ok(PurgeScope::Prefix(text.trim_end_matches('*').to_owned()))
        }
        _ if text.starts_with('/') => Ok(PurgeScope::Path(text.to_owned())),
        _ => Err(Error::config(format!("cannot purge {text:?}; use tag:NAME, /path, /path/* or *"))),
    }
}

/// Applies an override.
pub(super) async fn apply_override(gate: &Tollgate, form: &Form, actor: &str) -> Action {
    let (target, value) = (form.get("target").unwrap_or_default(), form.get("value").unwrap_or_default());
    let text = format!("override of {target} to {value}");
    let applied = async {
        let asked = Override::of_text(target, value).by(actor).because(form.get("reason").unwrap_or_default());
        let asked = match form.get("for").unwrap_or("1h") {
            "permanent" => asked.permanently(),
            span => asked.expires_in(parse_span(span)?),
        };
        let asked = if form.get("scope") == Some("node") { asked.on_this_node() } else { asked };
        let status = gate.overrides().apply(asked).await?;
        Ok(match (status.is_local, status.is_pending) {
            (true, _) => "in force on this node".to_owned(),
            (false, true) => "in force on this node; fleet: pending, the shared store is away".to_owned(),
            (false, false) => "in force on this node, and on the others within two seconds".to_owned(),
        })
    };
    Action::new(text, applied.await)
}

/// Ends an override.
pub(super) async fn end_override(gate: &Tollgate, form: &Form, actor: &str) -> Action {
    let id = form.get("id").unwrap_or_default();
    let ended = match gate.overrides().remove(id, actor).await {
        true => Ok("ended".to_owned()),
        false => Err(Error::config(format!("there is no override {id:?}"))),
    };
    Action::new(format!("end of the override {id}"), ended)
}

/// Runs a job now, or lets it run on its schedule or not.
#[cfg(feature = "jobs")]
pub(super) async fn act_on_job(gate: &Tollgate, endpoint: AdminEndpoint, form: &Form) -> Action {
    let (jobs, job) = (gate.jobs(), form.get("job").unwrap_or_default());
    let (text, done) = match endpoint {
        AdminEndpoint::RunJob => ("run", jobs.run_now(job).map(|()| "it begins within a second")),
        AdminEndpoint::EnableJob => ("enabling", jobs.set_enabled(job, true).await.map(|()| "it runs on its schedule")),
        _ => ("disabling", jobs.set_enabled(job, false).await.map(|()| "it runs no more, on no node")),
    };
    Action::new(format!("{text} of the job {job}"), done.map(str::to_owned))
}

/// Corrects the credits that an upstream's window has spent, or adds credits that were bought.
pub(super) async fn correct_credits(gate: &Tollgate, form: &Form) -> Action {
    let (name, window) = (form.get("upstream").unwrap_or_default(), form.get("window").unwrap_or("month"));
    let (how, number) = (form.get("how").unwrap_or("spent"), form.get("credits").unwrap_or_default());
    let text = format!("credits of {name} per {window}: {how} {number}");
    let corrected = async {
        let upstream = gate.health.watched().iter().find(|upstream| upstream.name() == name);
        let upstream = upstream.ok_or_else(|| {
            let known: Vec<_> = gate.health.watched().iter().map(crate::upstream::UpstreamLayer::name).collect();
            Error::config(format!("unknown upstream {name:?}; use one of {known:?}"))
        })?;
        let credits = number.parse().map_err(|_| Error::config(format!("malformed number of credits {number:?}")))?;
        match how {
            "spent" => upstream.set_spent(window, credits).await?,
            "add" => upstream.add_credits(window, credits).await?,
            _ => return Err(Error::config(format!("unknown correction {how:?}; use spent or add"))),
        }
        let windows = upstream.stats().windows;
        let now = windows.iter().find(|known| known.window == window).map_or(0, |known| known.spent);
        Ok(format!("{now} are spent now"))
    };
    Action::new(text, corrected.await)
}

/// Resets the usage of a subject.
pub(super) async fn reset_subject(gate: &Tollgate, form: &Form) -> Action {
    let text = form.get("subject").unwrap_or_default();
    let reset = async {
        subject::name(gate, text, form.get("tier"), form.get("route"))?.reset().await?;
        Ok("its usage is reset, its bans are lifted".to_owned())
    };
    Action::new(format!("reset of {}", shown(text)), reset.await)
}

/// Grants a subject a quota for a time.
pub(super) async fn grant_subject(gate: &Tollgate, form: &Form, now: SystemTime) -> Action {
    let (text, limit) = (form.get("subject").unwrap_or_default(), form.get("limit").unwrap_or_default());
    let quota = form.get("quota").unwrap_or_default();
    let granted = async {
        let span = parse_span(form.get("for").unwrap_or("1h"))?;
        if span > MAX_GRANT {
            return Err(Error::config("a grant lasts at most 90 days"));
        }
        let subject = subject::name(gate, form.need("subject")?, form.get("tier"), form.get("route"))?;
        subject.grant(limit, quota, now + span).await?;
        Ok(format!("granted for {}", crate::health::slo::span(span)))
    };
    Action::new(format!("grant of {quota} under {limit} to {}", shown(text)), granted.await)
}

/// The audit names subjects by their kind only: it is stored in clear.
fn shown(subject: &str) -> String {
    match subject.split_once(':') {
        Some((kind, _)) if subject.parse::<std::net::IpAddr>().is_err() => format!("a {kind}"),
        _ => "an address".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_people_write_them() {
        assert_eq!(scope("*").expect("all"), PurgeScope::All);
        assert_eq!(scope("tag:prices").expect("a tag"), PurgeScope::Tag("prices".into()));
        assert_eq!(scope("/prices/*").expect("a prefix"), PurgeScope::Prefix("/prices/".into()));
        assert_eq!(scope("/prices/a?b").expect("a path"), PurgeScope::Path("/prices/a?b".into()));
        assert!(scope("prices").is_err() && scope("").is_err());
    }

    #[test]
    fn the_audit_does_not_name_people() {
        assert_eq!(shown("192.0.2.1"), "an address");
        assert_eq!(shown("2001:db8::1"), "an address");
        assert_eq!(shown("user:ann"), "a user");
    }
}
