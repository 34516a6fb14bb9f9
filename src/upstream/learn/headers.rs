//! Reads the upstream's limits from the fields of a response.
//!
//! | fields | used by |
//! |---|---|
//! | `X-RateLimit-Limit`, `-Remaining`, `-Used`, `-Reset`, `-Reset-After`; `X-Rate-Limit-…` | GitHub, Twitter, Discord, Stripe-like, most |
//! | `X-RateLimit-Resource`, `-Bucket` | GitHub, Discord: name of the limit |
//! | `X-RateLimit-Limit-Requests`, `-Remaining-Tokens`, … | OpenAI, Kong: several limits |
//! | `Anthropic-RateLimit-Requests-Limit`, … | Anthropic |
//! | `RateLimit-Limit`, `-Remaining`, `-Reset` | the IETF's drafts up to 06 |
//! | `RateLimit: limit=10, remaining=5, reset=30` | draft 07 |
//! | `RateLimit: "default";r=5;t=30`, `RateLimit-Policy: "default";q=10;w=60` | draft 11 |
//! | `Retry-After` with 429, 403 or 503 | all of them; GitHub's secondary limits |
//!
//! Malformed values are ignored, and times that are implausibly far away too; implausible numbers are clamped. Of several
//! statements of one limit the strictest counts. Points in time are relative to the response's own `Date`, that is, to
//! the clock of their sender. A response with an `Age` comes from a cache (RFC 9111 §5.1): its limits are someone else's,
//! and only its `Retry-After` counts, less its age.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::observed_limits::{ObservedLimits, clamp_limit};
use super::reset_time::{self, until};
use crate::base::structured_fields::{self, Item};

/// Reads limits from a response head at Unix time `unix` by the local clock.
pub(crate) fn learn(status: StatusCode, headers: &HeaderMap, unix: f64) -> ObservedLimits {
    let mut observed = ObservedLimits::default();
    let mut reader = Reader { observed: &mut observed, headers, unix, upstream_time: None, name: None };
    for (name, value) in headers {
        reader.field(name.as_str(), value.as_bytes());
    }
    let name = reader.name.take();
    if let Some(name) = name {
        // GitHub names the limit of these numbers in a separate field.
        let nameless = observed.limits.iter_mut().filter(|limit| limit.name.is_empty());
        nameless.for_each(|limit| limit.name = super::observed_limits::named(&name));
    }
    for limit in &mut observed.limits {
        // Some upstreams report the used units instead of the remaining ones.
        let left = limit.limit.zip(limit.used).map(|(limit, used)| limit.saturating_sub(used));
        limit.remaining = limit.remaining.or(left);
    }
    for limit in &mut observed.limits {
        limit.window = limit.window.or_else(|| window_by_name(&limit.name));
    }
    let cached = age(headers) > 0.0;
    observed.limits.retain(|limit| !cached && (limit.remaining.is_some() || limit.limit.is_some()));
    apply_status(&mut observed, status, headers, unix);
    observed
}

/// Applies the status to the observed limits.
fn apply_status(observed: &mut ObservedLimits, status: StatusCode, headers: &HeaderMap, unix: f64) {
    let used_up = observed.limits.iter().any(|limit| limit.remaining == Some(0));
    observed.unavailable = status == StatusCode::SERVICE_UNAVAILABLE;
    let may_wait = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::FORBIDDEN) || observed.unavailable;
    if may_wait && headers.contains_key(header::RETRY_AFTER) {
        let since = age(headers);
        let spans = headers.get_all(header::RETRY_AFTER).iter().filter_map(|after| {
            // A delay counts from when the response was made; a point in time does not.
            let made = upstream_time(headers, unix) - since;
            until(after.as_bytes(), made).map(|span| span.saturating_sub(super::reset_time::clamped(since)))
        });
        observed.retry_after = spans.max();
    }
    // A 403 alone concerns permissions; with a used-up limit or a retry time it is GitHub's rate limiting.
    observed.refused = status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::FORBIDDEN && (used_up || observed.retry_after.is_some());
    observed.undecided = status == StatusCode::FORBIDDEN && !observed.refused;
}

/// Returns the time by the upstream's clock if it sent one, else by the local clock.
fn upstream_time(headers: &HeaderMap, unix: f64) -> f64 {
    let date = headers.get(header::DATE).and_then(|date| reset_time::date(date.to_str().ok()?));
    date.map_or(unix, |date| date + age(headers))
}

/// Returns the `Age` in seconds; 0 without a valid one (RFC 9111 §5.1).
fn age(headers: &HeaderMap) -> f64 {
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.split(',').next()?.trim().parse::<u32>().ok());
    age.map_or(0.0, f64::from)
}

/// Returns the window that a limit's name says: Kong's `minute`.
fn window_by_name(name: &[u8]) -> Option<Duration> {
    let seconds = name.split(|b| *b == b'-').find_map(|part| match part {
        b"second" => Some(1),
        b"minute" => Some(60),
        b"hour" => Some(3_600),
        b"day" => Some(86_400),
        b"week" => Some(7 * 86_400),
        b"month" => Some(31 * 86_400),
        _ => None,
    });
    seconds.map(Duration::from_secs)
}

/// Returns the window of `100;w=60` or `100, 100;w=60`.
fn window_of(value: &[u8]) -> Option<Duration> {
    let windows = value.split(|b| *b == b',').filter_map(|member| {
        let parameter = member.split(|b| *b == b';').skip(1).find_map(|p| p.trim_ascii().strip_prefix(b"w="))?;
        std::str::from_utf8(parameter).ok()?.trim().parse::<u32>().ok()
    });
    reset_time::plausible(f64::from(windows.into_iter().next()?))
}

/// Returns the stricter of two statements, of which a smaller number is stricter.
fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

struct Reader<'a> {
    observed: &'a mut ObservedLimits,
    headers: &'a HeaderMap,
    unix: f64,
    /// The upstream's time, parsed when the first point in time is met.
    upstream_time: Option<f64>,
    /// Name of the limit of numbers without a name.
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

    /// Records one number of a named limit.
    fn number(&mut self, word: &str, name: &str, value: &[u8]) {
        if !is_word(word) {
            return;
        }
        let name = name.as_bytes();
        if word == "reset" {
            let upstream_time = *self.upstream_time.get_or_insert_with(|| upstream_time(self.headers, self.unix));
            let entry = self.observed.entry(name);
            entry.resets_in = entry.resets_in.max(until(value, upstream_time));
            return;
        }
        let Some(n) = whole(value) else { return };
        let entry = self.observed.entry(name);
        match word {
            "limit" => {
                entry.limit = least(entry.limit, Some(n));
                entry.window = entry.window.max(window_of(value));
            }
            "remaining" => entry.remaining = least(entry.remaining, Some(n)),
            _ => entry.used = entry.used.max(Some(n)),
        }
    }

    /// Parses `RateLimit`: draft-ietf-httpapi-ratelimit-headers-11 §4, else draft 07's dictionary.
    fn ratelimit(&mut self, value: &[u8]) {
        let Some(members) = structured_fields::list(value) else { return self.dictionary(value) };
        for member in members {
            let Item::Text(name) = member.value else { continue };
            let entry = self.observed.entry(name);
            entry.remaining = least(entry.remaining, integer(member.parameter("r")));
            entry.resets_in = entry.resets_in.max(seconds(member.parameter("t")));
        }
    }

    fn dictionary(&mut self, value: &[u8]) {
        for (key, item) in structured_fields::dictionary(value).unwrap_or_default() {
            let entry = self.observed.entry(b"");
            match key {
                b"limit" => entry.limit = least(entry.limit, integer(Some(item))),
                b"remaining" => entry.remaining = least(entry.remaining, integer(Some(item))),
                b"reset" => entry.resets_in = entry.resets_in.max(seconds(Some(item))),
                _ => {}
            }
        }
    }

    /// Parses `RateLimit-Policy`: §3 of the same.
    fn policy(&mut self, value: &[u8]) {
        for member in structured_fields::list(value).unwrap_or_default() {
            let Item::Text(name) = member.value else { continue };
            // §3.1.2: the costs of calls in units other than requests are unknown here.
            let requests = matches!(member.parameter("qu"), None | Some(Item::Text(b"requests")));
            let entry = self.observed.entry(name);
            entry.limit = least(entry.limit, integer(member.parameter("q")).filter(|_| requests));
            entry.window = entry.window.max(seconds(member.parameter("w")));
        }
    }
}

fn is_word(word: &str) -> bool {
    matches!(word, "limit" | "remaining" | "used" | "reset")
}

/// Returns the first number of a value: older drafts append the policy.
fn whole(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    let digits = value.iter().take_while(|b| b.is_ascii_digit()).count();
    let ends = value.get(digits).is_none_or(|b| matches!(b, b',' | b';' | b' ' | b'.'));
    if digits == 0 || !ends {
        return None;
    }
    let add = |n: u64, b: &u8| n.saturating_mul(10).saturating_add(u64::from(b - b'0'));
    Some(clamp_limit(value[..digits].iter().fold(0, add)))
}

fn integer(item: Option<Item<'_>>) -> Option<u64> {
    match item? {
        Item::Integer(n) => u64::try_from(n).ok().map(clamp_limit),
        _ => None,
    }
}

fn seconds(item: Option<Item<'_>>) -> Option<Duration> {
    reset_time::plausible(integer(item)? as f64)
}

#[cfg(test)]
mod tests;
