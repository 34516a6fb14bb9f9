//! Signatures of webhook requests, and the memory of those received.

use std::collections::HashMap;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, StatusCode};
use sha2::Sha256;

use crate::base::error::Error;
use crate::base::lock::Mutex;

/// Greatest difference of a time stamp to this process's calendar, in seconds.
const WINDOW: u64 = 300;
/// Length of the shortest secret in bytes.
const MIN_SECRET: usize = 16;
/// Maximum number of remembered requests.
const MAX_RECEIVED: usize = 65_536;

type Digest = [u8; 32];

/// Reason to refuse a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WebhookError {
    NoTimestamp,
    NoSignature,
    Outside,
    Forged,
    Replayed,
    Full,
}

impl WebhookError {
    pub(super) const fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::NoTimestamp => (StatusCode::BAD_REQUEST, "webhook-timestamp must be the seconds since 1970"),
            Self::NoSignature => {
                (StatusCode::BAD_REQUEST, "webhook-signature must be sha256= and 64 hexadecimal digits")
            }
            Self::Outside => (StatusCode::UNAUTHORIZED, "webhook-timestamp is more than 5 min off"),
            Self::Forged => (StatusCode::UNAUTHORIZED, "the signature is wrong"),
            Self::Replayed => {
                (StatusCode::CONFLICT, "this request was received before; an id in its body tells equal ones apart")
            }
            Self::Full => (StatusCode::SERVICE_UNAVAILABLE, "too many requests within 5 min"),
        }
    }
}

/// Time stamp and signature of a request, not verified.
#[derive(Debug)]
pub(super) struct Claim {
    timestamp: u64,
    signature: Digest,
}

impl Claim {
    /// Reads the fields of a request received at `now`, in seconds since 1970.
    pub(super) fn of(headers: &HeaderMap, now: u64) -> Result<Self, WebhookError> {
        let timestamp = one(headers, "webhook-timestamp").ok_or(WebhookError::NoTimestamp)?;
        let digits = !timestamp.is_empty() && timestamp.bytes().all(|b| b.is_ascii_digit());
        let timestamp: u64 = timestamp.parse().ok().filter(|_| digits).ok_or(WebhookError::NoTimestamp)?;
        let signature = one(headers, "webhook-signature").and_then(|field| digest(field.strip_prefix("sha256=")?));
        let signature = signature.ok_or(WebhookError::NoSignature)?;
        match now.abs_diff(timestamp) <= WINDOW {
            true => Ok(Self { timestamp, signature }),
            false => Err(WebhookError::Outside),
        }
    }
}

/// Returns the value of a field that occurs once.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

fn digest(hex: &str) -> Option<Digest> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(digest)
}

/// Accepted secrets, and the requests received within the window.
pub(super) struct Secrets {
    /// HMACs keyed with the secrets, without input.
    keyed: Vec<Hmac<Sha256>>,
    /// Digests of requests, with the time until which they would be accepted.
    received: Mutex<HashMap<Digest, u64>>,
}

impl Secrets {
    pub(super) fn new<S: AsRef<[u8]>>(secrets: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let mut keyed = Vec::new();
        for secret in secrets {
            let secret = secret.as_ref();
            if secret.len() < MIN_SECRET {
                return Err(Error::config(format!(
                    "webhook: a secret of {} bytes is too short; use at least {MIN_SECRET}",
                    secret.len()
                )));
            }
            let hmac = Hmac::new_from_slice(secret);
            keyed.push(hmac.map_err(|_| Error::config("webhook: the secret has an invalid length"))?);
        }
        match keyed.len() {
            1 | 2 => Ok(Self { keyed, received: Mutex::default() }),
            count => Err(Error::config(format!("webhook: {count} secrets; name one, or two while they are rotated"))),
        }
    }

    /// Verifies the signature, and remembers the request.
    pub(super) fn check(&self, claim: &Claim, body: &[u8], now: u64) -> Result<(), WebhookError> {
        let timestamp = claim.timestamp.to_string();
        let signed = |hmac: &Hmac<Sha256>| hmac.clone().chain_update(&timestamp).chain_update(b".").chain_update(body);
        // Each comparison takes the same time, wherever the signatures differ.
        let matches = self.keyed.iter().filter(|hmac| signed(hmac).verify_slice(&claim.signature).is_ok()).count();
        let Some(first) = self.keyed.first().filter(|_| matches > 0) else { return Err(WebhookError::Forged) };
        // Under one secret, so that a request signed under both counts as one.
        let request: Digest = signed(first).finalize().into_bytes().into();
        let mut received = self.received.lock();
        if received.contains_key(&request) {
            return Err(WebhookError::Replayed);
        }
        if received.len() >= MAX_RECEIVED {
            received.retain(|_, until| *until >= now);
            if received.len() >= MAX_RECEIVED {
                return Err(WebhookError::Full);
            }
        }
        received.insert(request, claim.timestamp + WINDOW);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2, whose key is shorter than we accept.
    #[test]
    fn the_hmac_is_that_of_rfc_4231() {
        let hmac = Hmac::<Sha256>::new_from_slice(b"Jefe").expect("any length");
        let expected = digest("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843").expect("hex");
        assert!(hmac.chain_update(b"what do ya want for nothing?").verify_slice(&expected).is_ok());
    }

    #[test]
    fn fields_that_are_malformed_or_doubled_are_refused() {
        let signature = format!("sha256={}", "0".repeat(64));
        let claim = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().expect("a value"));
            }
            Claim::of(&headers, 1_000).map(drop)
        };
        let time = ("webhook-timestamp", "1000");
        assert_eq!(claim(&[time, ("webhook-signature", &signature)]), Ok(()));
        assert_eq!(claim(&[("webhook-signature", &signature)]), Err(WebhookError::NoTimestamp));
        assert_eq!(claim(&[time, time, ("webhook-signature", &signature)]), Err(WebhookError::NoTimestamp));
        assert_eq!(
            claim(&[("webhook-timestamp", "+1000"), ("webhook-signature", &signature)]),
            Err(WebhookError::NoTimestamp)
        );
        assert_eq!(claim(&[time, ("webhook-signature", "sha256=00")]), Err(WebhookError::NoSignature));
        assert_eq!(claim(&[time]), Err(WebhookError::NoSignature));
        for (at, expected) in
            [(699, Err(WebhookError::Outside)), (700, Ok(())), (1_300, Ok(())), (1_301, Err(WebhookError::Outside))]
        {
            let at = at.to_string();
            assert_eq!(claim(&[("webhook-timestamp", &at), ("webhook-signature", &signature)]), expected, "{at}");
        }
    }

    #[test]
    fn remembered_requests_are_bounded_and_forgotten_after_the_window() {
        let secrets = Secrets::new(["at least sixteen bytes"]).expect("long enough");
        secrets.received.lock().extend((0..MAX_RECEIVED).map(|n| {
            let mut digest = [1; 32];
            digest[..8].copy_from_slice(&n.to_be_bytes());
            (digest, 1_300)
        }));
        let signed = secrets.keyed[0].clone().chain_update(b"1200.body").finalize().into_bytes().into();
        let claim = Claim { timestamp: 1_200, signature: signed };
        assert_eq!(secrets.check(&claim, b"body", 1_300), Err(WebhookError::Full));
        assert_eq!(secrets.check(&claim, b"body", 1_301), Ok(()));
        assert_eq!(secrets.check(&claim, b"body", 1_301), Err(WebhookError::Replayed));
        assert_eq!(secrets.received.lock().len(), 1);
    }
}
