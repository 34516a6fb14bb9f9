//! [`AccessRules`]: who may read and who may act. Pure but for the hook.
//!
//! | configured | granted |
//! |---|---|
//! | `.secret(…)` | Basic (any name) or Bearer with the secret: reads and acts |
//! | `.viewer_secret(…)` | the same with this secret: reads |
//! | `.authorize(hook)` | whom the hook names |
//! | `.local_only()` | loopback peers with a loopback `Host` and no forwarding field |

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, header};
use sha2::Sha256;

use crate::base::random::random;
use crate::base::request_head::RequestHead;

/// Person or program that an authorization hook lets in.
///
/// ```
/// use tollgate::Actor;
///
/// assert_ne!(Actor::admin("ann"), Actor::viewer("ann"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub(super) name: String,
    pub(super) may_act: bool,
}

impl Actor {
    /// Creates an actor who may read and act.
    #[must_use]
    pub fn admin(name: impl Into<String>) -> Self {
        Self { name: name.into(), may_act: true }
    }

    /// Creates an actor who may only read.
    #[must_use]
    pub fn viewer(name: impl Into<String>) -> Self {
        Self { name: name.into(), may_act: false }
    }
}

pub(super) type Authorize = Arc<dyn Fn(&RequestHead<'_>) -> Option<Actor> + Send + Sync>;

/// Accepted credentials and conditions.
#[derive(Clone, Default)]
pub(super) struct AccessRules {
    pub(super) secrets: Vec<Secret>,
    pub(super) authorize: Option<Authorize>,
    pub(super) local_only: bool,
}

/// Secret, with what it permits.
#[derive(Clone)]
pub(super) struct Secret {
    value: Vec<u8>,
    may_act: bool,
}

/// Result of asking for access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Granted {
        actor: Actor,
        /// Whether the request carries a Bearer token, which no browser adds by itself.
        is_machine: bool,
    },
    /// No credentials, or wrong ones.
    Unauthorized {
        /// Whether there were credentials.
        is_wrong: bool,
    },
    /// Not from this machine, or not directly.
    Elsewhere,
}

impl Secret {
    pub(super) fn new(value: Vec<u8>, may_act: bool) -> Self {
        Self { value, may_act }
    }

    pub(super) fn len(&self) -> usize {
        self.value.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.value
    }
}

impl AccessRules {
    /// Whether anyone can be granted access.
    pub(super) fn is_configured(&self) -> bool {
        !self.secrets.is_empty() || self.authorize.is_some() || self.local_only
    }

    /// Decides on a request from `peer`.
    pub(super) fn decide(&self, head: &RequestHead<'_>, peer: Option<IpAddr>) -> Access {
        if self.local_only && !is_local(head.headers(), head.uri().host(), peer) {
            return Access::Elsewhere;
        }
        // A hook that panics lets nobody in.
        let asked = |authorize: &Authorize| catch_unwind(AssertUnwindSafe(|| authorize(head))).ok().flatten();
        if let Some(actor) = self.authorize.as_ref().and_then(asked) {
            return Access::Granted { actor, is_machine: false };
        }
        if self.secrets.is_empty() {
            return match self.local_only && self.authorize.is_none() {
                true => Access::Granted { actor: Actor::admin("local"), is_machine: false },
                false => Access::Unauthorized { is_wrong: false },
            };
        }
        let Some(credentials) = Credentials::of(head.headers()) else {
            return Access::Unauthorized { is_wrong: false };
        };
        // All are compared, so that the time does not tell which one was nearly right.
        let found = self.secrets.iter().fold(None, |found, secret| {
            if is_equal(&secret.value, &credentials.password) { found.or(Some(secret.may_act)) } else { found }
        });
        match found {
            Some(may_act) => {
                let actor = Actor { name: credentials.name, may_act };
                Access::Granted { actor, is_machine: credentials.is_bearer }
            }
            None => Access::Unauthorized { is_wrong: true },
        }
    }
}

/// Credentials of a request (RFC 7617, RFC 6750).
struct Credentials {
    name: String,
    password: Vec<u8>,
    is_bearer: bool,
}

impl Credentials {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
        let (scheme, rest) = value.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self {
                name: "bearer".to_owned(),
                password: rest.trim().as_bytes().to_vec(),
                is_bearer: true,
            });
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = STANDARD.decode(rest.trim()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let name: String = String::from_utf8_lossy(&decoded[..colon]).chars().take(64).collect();
        let name = if name.is_empty() { "basic".to_owned() } else { name };
        Some(Self { name, password: decoded[colon + 1..].to_vec(), is_bearer: false })
    }
}

/// Compares by digests under a key of this comparison: its duration tells nothing of where they differ.
fn is_equal(secret: &[u8], given: &[u8]) -> bool {
    let key = random().to_ne_bytes();
    let digest = |value: &[u8]| {
        let mut hmac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
        hmac.update(value);
        Some(hmac)
    };
    let (Some(secret), Some(given)) = (digest(secret), digest(given)) else { return false };
    secret.verify(&given.finalize().into_bytes()).is_ok()
}

/// Whether a request comes from this machine, addressed to it by a loopback name, without a proxy in between.
fn is_local(headers: &HeaderMap, authority: Option<&str>, peer: Option<IpAddr>) -> bool {
    let forwarded = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"];
    let is_forwarded = forwarded.into_iter().any(|name| headers.contains_key(HeaderName::from_static(name)));
    let hosts: Vec<_> = headers.get_all(header::HOST).iter().collect();
    let host = match &hosts[..] {
        [host] => host.to_str().ok().map(host_name),
        [] => authority,
        _ => None,
    };
    peer.is_some_and(|peer| peer.to_canonical().is_loopback()) && !is_forwarded && host.is_some_and(is_loopback_name)
}

/// Returns the host of a `Host` field, without its port.
pub(super) fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn is_loopback_name(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const LOCAL: &str = "127.0.0.1";

    fn decide(rules: &AccessRules, peer: &str, fields: &[(&str, &str)]) -> Access {
        let mut request = Request::get("/").body(()).expect("a request");
        for (name, value) in fields {
            let name: HeaderName = name.parse().expect("a name");
            request.headers_mut().append(name, value.parse().expect("a value"));
        }
        rules.decide(&RequestHead::of(&request), peer.parse().ok())
    }

    fn with_secrets() -> AccessRules {
        let secrets =
            vec![Secret::new(b"the first secret".to_vec(), true), Secret::new(b"a viewer's secret".to_vec(), false)];
        AccessRules { secrets, ..AccessRules::default() }
    }

    #[test]
    fn secrets_are_accepted_as_basic_and_as_bearer() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for (field, expected) in [
            (basic("ann:the first secret"), Some(("ann", true, false))),
            (basic(":the first secret"), Some(("basic", true, false))),
            (basic("bob:a viewer's secret"), Some(("bob", false, false))),
            ("Bearer the first secret".to_owned(), Some(("bearer", true, true))),
            ("bearer a viewer's secret".to_owned(), Some(("bearer", false, true))),
            (basic("ann:the first secret "), None),
            (basic("the first secret"), None),
            ("Bearer".to_owned(), None),
            ("Bearer the first secre".to_owned(), None),
            ("Digest the first secret".to_owned(), None),
        ] {
            let access = decide(&with_secrets(), "192.0.2.1", &[("authorization", &field)]);
            let granted = match &access {
                Access::Granted { actor, is_machine } => Some((actor.name.as_str(), actor.may_act, *is_machine)),
                _ => None,
            };
            assert_eq!(granted, expected, "{field}");
        }
        let two = [("authorization", "Bearer the first secret"), ("authorization", "Bearer x")];
        assert_eq!(decide(&with_secrets(), LOCAL, &two), Access::Unauthorized { is_wrong: false });
        assert_eq!(decide(&with_secrets(), LOCAL, &[]), Access::Unauthorized { is_wrong: false });
    }

    #[test]
    fn local_only_demands_a_loopback_peer_a_loopback_host_and_no_proxy() {
        let rules = AccessRules { local_only: true, ..AccessRules::default() };
        for (peer, host) in [
            (LOCAL, "localhost:3000"),
            ("::1", "[::1]:3000"),
            ("127.9.9.9", "127.0.0.1"),
            ("::ffff:127.0.0.1", "LOCALHOST"),
        ] {
            assert!(matches!(decide(&rules, peer, &[("host", host)]), Access::Granted { .. }), "{peer} {host}");
        }
        for (peer, fields) in [
            ("192.0.2.1", vec![("host", "localhost")]),
            ("unknown", vec![("host", "localhost")]),
            (LOCAL, vec![("host", "rebound.example")]),
            (LOCAL, vec![("host", "localhost.example")]),
            (LOCAL, vec![("host", "127.0.0.1.example")]),
            (LOCAL, vec![("host", "localhost"), ("host", "localhost")]),
            (LOCAL, vec![]),
            (LOCAL, vec![("host", "localhost"), ("x-forwarded-for", "192.0.2.1")]),
            (LOCAL, vec![("host", "localhost"), ("forwarded", "for=192.0.2.1")]),
            (LOCAL, vec![("host", "localhost"), ("via", "1.1 proxy")]),
        ] {
            assert_eq!(decide(&rules, peer, &fields), Access::Elsewhere, "{peer} {fields:?}");
        }
        let both = AccessRules { local_only: true, ..with_secrets() };
        assert_eq!(decide(&both, LOCAL, &[("host", "localhost")]), Access::Unauthorized { is_wrong: false });
    }

    #[test]
    fn a_hook_sees_the_request_and_nobody_else_is_let_in() {
        let hook: Authorize = Arc::new(|head| head.headers().get("x-user").map(|_| Actor::viewer("ann")));
        let rules = AccessRules { authorize: Some(hook), ..AccessRules::default() };
        let granted = Access::Granted { actor: Actor::viewer("ann"), is_machine: false };
        assert_eq!(decide(&rules, "192.0.2.1", &[("x-user", "ann")]), granted);
        assert_eq!(decide(&rules, "192.0.2.1", &[]), Access::Unauthorized { is_wrong: false });
        let local = AccessRules { local_only: true, ..rules };
        assert_eq!(decide(&local, LOCAL, &[("host", "localhost")]), Access::Unauthorized { is_wrong: false });
        assert!(!AccessRules::default().is_configured() && local.is_configured());
        let panics: Authorize =
            Arc::new(|head| if head.headers().contains_key("x-user") { panic!("a fault") } else { None });
        let rules = AccessRules { authorize: Some(panics), ..AccessRules::default() };
        assert_eq!(decide(&rules, LOCAL, &[("x-user", "ann")]), Access::Unauthorized { is_wrong: false });
    }
}
