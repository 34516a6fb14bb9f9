//! Reads the upstream's limits from the fields of a response.
//!
//! | fields | seen at |
//! |---|---|
//! | `X-RateLimit-Limit`, `-Remaining`, `-Used`, `-Reset`, `-Reset-After`; `X-Rate-Limit-…` | GitHub, Twitter, Discord, Stripe-like, most |
//! | `X-RateLimit-Resource`, `-Bucket` | GitHub, Discord: which limit it is |
//! | `X-RateLimit-Limit-Requests`, `-Remaining-Tokens`, … | OpenAI, Kong: several at once |
//! | `Anthropic-RateLimit-Requests-Limit`, … | Anthropic |
//! | `RateLimit-Limit`, `-Remaining`, `-Reset` | the IETF's drafts up to 06 |
//! | `RateLimit: limit=10, remaining=5, reset=30` | draft 07 |
//! | `RateLimit: "default";r=5;t=30`, `RateLimit-BreakerPolicy: "default";q=10;w=60` | draft 11 |
//! | `Retry-After` with 429, 403 or 503 | all of them; GitHub's secondary limits |
//!
//! What cannot be read is ignored; what is absurd is clamped. Moments are measured from the response's own `Date`, by
//! the
//! clock of who wrote them.

use http::{HeaderMap, StatusCode, header};

use super::observed_limits::{ObservedLimits, credible};
use super::reset_time::{self, until};
use crate::base::structured_fields::{self, Item};

/// Reads a response's head, `unix` seconds after 1970 by our clock.
pub(crate) fn learn(status: StatusCode, headers: &HeaderMap, unix: f64) -> ObservedLimits {
    let mut told = ObservedLimits::default();
    let mut reader = Reader { told: &mut told, headers, unix, theirs: None, name: None };
    for (name, value) in headers {
        reader.field(name.as_str(), value.as_bytes());
    }
    let name = reader.name.take();
    if let Some(name) = name {
        // GitHub says beside the numbers which limit they are of.
        let nameless = told.limits.iter_mut().filter(|limit| limit.name.is_empty());
        nameless.for_each(|limit| limit.name = super::observed_limits::named(&name));
    }
    for limit in &mut told.limits {
        // Some say what is used in place of what remains.
        let left = limit.limit.zip(limit.used).map(|(limit, used)| limit.saturating_sub(used));
        limit.remaining = limit.remaining.or(left);
    }
    told.limits.retain(|limit| limit.remaining.is_some() || limit.limit.is_some());
    judge(&mut told, status, headers, unix);
    told
}

/// Applies the status to the observed limits.
fn judge(told: &mut ObservedLimits, status: StatusCode, headers: &HeaderMap, unix: f64) {
    let used_up = told.limits.iter().any(|limit| limit.remaining == Some(0));
    told.unavailable = status == StatusCode::SERVICE_UNAVAILABLE;
    let may_wait = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::FORBIDDEN) || told.unavailable;
    if may_wait && let Some(after) = headers.get(header::RETRY_AFTER) {
        told.retry_after = until(after.as_bytes(), their_time(headers, unix));
    }
    // A 403 alone is a matter of rights; with a limit that is used up, or a time to wait, it is GitHub's refusal.
    told.refused = status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::FORBIDDEN && (used_up || told.retry_after.is_some());
}

/// By the upstream's clock where it says the time, else by ours.
fn their_time(headers: &HeaderMap, unix: f64) -> f64 {
    headers.get(header::DATE).and_then(|date| reset_time::date(date.to_str().ok()?)).unwrap_or(unix)
}

struct Reader<'a> {
    told: &'a mut ObservedLimits,
    headers: &'a HeaderMap,
    unix: f64,
    /// Their time, read once a moment is met.
    theirs: Option<f64>,
    /// Which limit the nameless numbers are of.
    name: Option<super::observed_limits::LimitName>,
}

impl Reader<'_> {
    fn field(&mut self, name: &str, value: &[u8]) {
        let rest = match name.as_bytes() {
            b"ratelimit" => return self.ratelimit(value),
            b"ratelimit-policy" => return self.policy(value),
            [b'x', b'-', b'r', ..] => name.strip_prefix("x-ratelimit-").or_else(|| name.strip_prefix("x-rate-limit-")),
            [b'r', ..] => name.strip_prefix("ratelimit-"),
            [b'a', ..] => name.strip_prefix("anthropic-ratelimit-"),
            _ => None,
        };
        match rest {
            None => {}
            Some(word @ ("limit" | "remaining" | "used" | "reset")) => self.number(word, "", value),
            Some("resource" | "bucket") => self.name = Some(super::observed_limits::named(value)),
            Some("reset-after") => self.number("reset", "", value),
            Some(rest) => {
                // `remaining-requests` or `requests-remaining`.
                let (first, last) = rest.split_once('-').unwrap_or((rest, ""));
                let (front, end) = rest.rsplit_once('-').unwrap_or(("", rest));
                if is_word(first) { self.number(first, last, value) } else { self.number(end, front, value) }
            }
        }
    }

    /// One number of the limit with this name.
    fn number(&mut self, word: &str, name: &str, value: &[u8]) {
        if !is_word(word) {
            return;
        }
        let name = name.as_bytes();
        if word == "reset" {
            let theirs = *self.theirs.get_or_insert_with(|| their_time(self.headers, self.unix));
            if let Some(span) = until(value, theirs) {
                self.told.entry(name).resets_in = Some(span);
            }
            return;
        }
        let Some(n) = whole(value) else { return };
        let entry = self.told.entry(name);
        match word {
            "limit" => entry.limit = Some(n),
            "remaining" => entry.remaining = Some(n),
            _ => entry.used = Some(n),
        }
    }

    /// `RateLimit`: draft-ietf-httpapi-ratelimit-headers-11 §4, else draft 07's dictionary.
    fn ratelimit(&mut self, value: &[u8]) {
        let Some(members) = structured_fields::list(value) else { return self.dictionary(value) };
        for member in members {
            let Item::Text(name) = member.value else { continue };
            let entry = self.told.entry(name);
            entry.remaining = integer(member.parameter("r")).or(entry.remaining);
            entry.resets_in = seconds(member.parameter("t")).or(entry.resets_in);
        }
    }

    fn dictionary(&mut self, value: &[u8]) {
        for (key, item) in structured_fields::dictionary(value).unwrap_or_default() {
            let entry = self.told.entry(b"");
            match key {
                b"limit" => entry.limit = integer(Some(item)),
                b"remaining" => entry.remaining = integer(Some(item)),
                b"reset" => entry.resets_in = seconds(Some(item)),
                _ => {}
            }
        }
    }

    /// `RateLimit-BreakerPolicy`: §3 of the same.
    fn policy(&mut self, value: &[u8]) {
        for member in structured_fields::list(value).unwrap_or_default() {
            let Item::Text(name) = member.value else { continue };
            // §3.1.2: other units than requests are counted in ways not known here.
            let requests = matches!(member.parameter("qu"), None | Some(Item::Text(b"requests")));
            let entry = self.told.entry(name);
            entry.limit = integer(member.parameter("q")).filter(|_| requests).or(entry.limit);
            entry.window = seconds(member.parameter("w")).or(entry.window);
        }
    }
}

fn is_word(word: &str) -> bool {
    matches!(word, "limit" | "remaining" | "used" | "reset")
}

/// The first number of a value: older drafts put the policy behind it.
fn whole(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    let digits = value.iter().take_while(|b| b.is_ascii_digit()).count();
    let ends = value.get(digits).is_none_or(|b| matches!(b, b',' | b';' | b' ' | b'.'));
    if digits == 0 || !ends {
        return None;
    }
    let add = |n: u64, b: &u8| n.saturating_mul(10).saturating_add(u64::from(b - b'0'));
    Some(credible(value[..digits].iter().fold(0, add)))
}

fn integer(item: Option<Item<'_>>) -> Option<u64> {
    match item? {
        Item::Integer(n) => u64::try_from(n).ok().map(credible),
        _ => None,
    }
}

fn seconds(item: Option<Item<'_>>) -> Option<std::time::Duration> {
    integer(item).map(|n| super::reset_time::clamped(n as f64))
}

#[cfg(test)]
mod tests;
