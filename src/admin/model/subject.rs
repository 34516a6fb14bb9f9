//! Looks at one subject of the limits: a user, an address, or the reference of a refusal.

use std::time::Duration;

use serde::Serialize;

use crate::Tollgate;
use crate::base::error::Error;
use crate::identity::Key;
use crate::limit::{LimitSubject, Refusal};

/// Kinds of text keys; a kind is part of a key, and has a static name.
const KINDS: [&str; 8] = ["user", "key", "tenant", "token", "bearer", "account", "client", "session"];

/// What is known of a subject.
#[derive(Clone, Debug, Serialize)]
pub(in crate::admin) struct SubjectReport {
    /// As it was asked for.
    pub(in crate::admin) subject: String,
    /// Limits that count it, with what is left.
    pub(in crate::admin) limits: Vec<SubjectLimit>,
    /// Whether a request would be admitted.
    pub(in crate::admin) is_admitted: bool,
    /// Time until it would.
    pub(in crate::admin) retry_after_seconds: Option<f64>,
    /// Last refusals, newest first.
    pub(in crate::admin) refusals: Vec<Refusal>,
}

/// One limit of a subject.
#[derive(Clone, Debug, Serialize)]
pub(in crate::admin) struct SubjectLimit {
    pub(in crate::admin) name: String,
    pub(in crate::admin) quota: String,
    pub(in crate::admin) remaining: u64,
    pub(in crate::admin) resets_in_seconds: f64,
}

/// Names a subject: `user:42`, `tenant:acme`, or an address.
///
/// # Errors
/// If the text has neither form.
pub(in crate::admin) fn parse(text: &str) -> Result<Key<'static>, Error> {
    if let Ok(address) = text.parse() {
        return Ok(Key::ip(address));
    }
    let unknown = || {
        Error::config(format!(
            "unknown subject {text:?}; use an address, a reference, or KIND:NAME with one of {KINDS:?}"
        ))
    };
    let (kind, name) = text.split_once(':').ok_or_else(unknown)?;
    let kind = KINDS.into_iter().find(|known| *known == kind).ok_or_else(unknown)?;
    Ok(match name.parse() {
        Ok(number) if name.bytes().all(|b| b.is_ascii_digit()) => Key::number(kind, number),
        _ => Key::text(kind, name.to_owned()),
    })
}

/// Names a subject of the gate's limits, under a tier and on a route if they are given.
pub(in crate::admin) fn name(
    gate: &Tollgate,
    text: &str,
    tier: Option<&str>,
    route: Option<&str>,
) -> Result<LimitSubject, Error> {
    let mut subject = gate.limits().subject(parse(text)?);
    if let Some(tier) = tier {
        subject = subject.tier(tier);
    }
    if let Some(route) = route {
        subject = subject.route(route);
    }
    Ok(subject)
}

/// Looks at a subject, or at the refusal with this reference.
pub(in crate::admin) async fn look(
    gate: &Tollgate,
    text: &str,
    tier: Option<&str>,
    route: Option<&str>,
) -> Result<SubjectReport, Error> {
    if let Some(refusal) = gate.limits().refusal(text) {
        return Ok(SubjectReport {
            subject: text.to_owned(),
            limits: Vec::new(),
            is_admitted: false,
            retry_after_seconds: Some(refusal.retry_after.as_secs_f64()),
            refusals: vec![refusal],
        });
    }
    let subject = name(gate, text, tier, route)?;
    let decision = subject.peek().await;
    let limits = decision.limits().iter().map(|limit| SubjectLimit {
        name: limit.name().to_owned(),
        quota: limit.quota().to_string(),
        remaining: u64::from(limit.verdict().remaining()),
        resets_in_seconds: limit.verdict().reset().as_secs_f64(),
    });
    let mut refusals = subject.refusals();
    refusals.reverse();
    Ok(SubjectReport {
        subject: text.to_owned(),
        limits: limits.collect(),
        is_admitted: decision.admits(),
        retry_after_seconds: decision.retry_after().as_ref().map(Duration::as_secs_f64),
        refusals,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_addresses_or_have_a_kind() {
        assert_eq!(parse("192.0.2.1").expect("an address"), Key::ip("192.0.2.1".parse().expect("an address")));
        assert_eq!(parse("2001:db8::1").expect("an address").as_ip(), "2001:db8::1".parse().ok());
        assert_eq!(parse("user:42").expect("a number"), Key::number("user", 42));
        assert_eq!(parse("tenant:acme:eu").expect("a name"), Key::text("tenant", "acme:eu"));
        for text in ["", "42", "moon:42", "user"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
