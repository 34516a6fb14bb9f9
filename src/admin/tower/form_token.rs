//! [`FormTokens`]: proof that a form was served by this admin page, valid for twelve hours on every node with the same secret.
//!
//! A token is the end of its validity in seconds since 1970 and the HMAC-SHA256 of that, in hexadecimal. Together with the check
//! of `Sec-Fetch-Site` or `Origin` it keeps other pages of the same browser from acting.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, header};
use sha2::Sha256;

use super::access::host_name;

/// Validity of a token.
const TTL: Duration = Duration::from_secs(12 * 3_600);

/// Issues and verifies tokens.
pub(super) struct FormTokens {
    keyed: Hmac<Sha256>,
}

impl FormTokens {
    /// Returns `None` if the secret has a length that HMAC does not accept.
    pub(super) fn new(secret: &[u8]) -> Option<Self> {
        let mut keyed = Hmac::<Sha256>::new_from_slice(secret).ok()?;
        keyed.update(b"tollgate admin form");
        Some(Self { keyed })
    }

    /// Issues a token at `now`, in seconds since 1970.
    pub(super) fn issue(&self, now: u64) -> String {
        let until = now + TTL.as_secs();
        format!("{until}.{}", hex(&self.digest(until).finalize().into_bytes()))
    }

    /// Whether a token is valid at `now`.
    pub(super) fn accepts(&self, token: &str, now: u64) -> bool {
        let Some((until, digest)) = token.split_once('.') else { return false };
        let Some((until, digest)) = until.parse().ok().zip(unhex(digest)) else { return false };
        now <= until && until <= now + TTL.as_secs() && self.digest(until).verify_slice(&digest).is_ok()
    }

    fn digest(&self, until: u64) -> Hmac<Sha256> {
        let mut hmac = self.keyed.clone();
        hmac.update(&until.to_be_bytes());
        hmac
    }
}

/// Whether the fields of a POST say that a page of the same origin sent it.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let one = |name: header::HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())?.to_str().ok()
    };
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let origin = one(header::ORIGIN).and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    // The scheme is not compared: a proxy may end TLS. A host name alone decides what a browser calls the same site.
    origin.zip(one(header::HOST)).is_some_and(|(origin, host)| {
        origin == host || host_name(origin) == host_name(host) && is_default_port(origin, host)
    })
}

/// Whether two hosts differ only by a default port.
fn is_default_port(one: &str, other: &str) -> bool {
    let port = |host: &str| host[host_name(host).len()..].trim_start_matches(':').to_owned();
    [port(one), port(other)].iter().all(|port| matches!(port.as_str(), "" | "80" | "443"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8; 2]| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_valid_for_twelve_hours_under_its_secret() {
        let (ours, theirs) = (FormTokens::new(b"ours").expect("a key"), FormTokens::new(b"theirs").expect("a key"));
        let token = ours.issue(1_000);
        assert!(ours.accepts(&token, 1_000) && ours.accepts(&token, 1_000 + 12 * 3_600));
        assert!(!ours.accepts(&token, 1_001 + 12 * 3_600) && !theirs.accepts(&token, 1_000));
        let (until, digest) = token.split_once('.').expect("two parts");
        for forged in [
            format!("{}.{digest}", until.replace('4', "5")),
            format!("{until}."),
            String::new(),
            format!("{until}.zz"),
            format!("9{until}.{digest}"),
        ] {
            assert!(!ours.accepts(&forged, 1_000), "{forged}");
        }
    }

    #[test]
    fn only_pages_of_the_same_origin_may_send_forms() {
        let of = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().expect("a value"));
            }
            is_same_origin(&headers)
        };
        for fields in [
            &[("sec-fetch-site", "same-origin")][..],
            &[("origin", "https://ops.example"), ("host", "ops.example")],
            &[("origin", "https://ops.example"), ("host", "ops.example:443")],
            &[("origin", "http://localhost:3000"), ("host", "localhost:3000")],
        ] {
            assert!(of(fields), "{fields:?}");
        }
        for fields in [
            &[][..],
            &[("host", "ops.example")],
            &[("sec-fetch-site", "same-site"), ("origin", "https://ops.example"), ("host", "ops.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://evil.example"), ("host", "ops.example")],
            &[("origin", "https://ops.example.evil.example"), ("host", "ops.example")],
            &[("origin", "null"), ("host", "ops.example")],
            &[("origin", "http://localhost:4000"), ("host", "localhost:3000")],
            &[("origin", "https://ops.example"), ("origin", "https://ops.example"), ("host", "ops.example")],
        ] {
            assert!(!of(fields), "{fields:?}");
        }
    }
}
