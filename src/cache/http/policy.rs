//! Decisions on requests and stored entries. The decision on storing a response is in `storability.rs`.
//!
//! | function | input | output |
//! |---|---|---|
//! | [`admit`] | a request, before the look-up | use the cache, or the reason to bypass it |
//! | [`freshness`] | a stored entry | fresh, stale while revalidate, stale, or unusable |
//! | [`marked_stale`] | an entry that was invalidated softly | as if it had expired just now |
//! | [`stretched_freshness`] | an expired entry, while a budget runs low | serve it for longer, or as before |
//! | [`stale_if_error_until`] | a failure of the inner service | deadline until which a stale response replaces it |
//! | [`invalidates`] | a response to an unsafe request | whether it invalidates what is stored |

use http::{HeaderMap, Method, StatusCode};

use super::deadlines::Deadlines;
use super::reason::Reason;
use super::request_flags::{self, RequestFlags};
use super::rule::Rule;
use super::settings::{CacheSettings, Profile};
use crate::base::budget::BudgetEffect;
use crate::base::clock::Timestamp;

/// Checks whether the request may be answered from the cache and its response stored.
///
/// # Errors
/// The reason to bypass the cache.
#[inline]
pub(crate) fn admit(
    headers: &HeaderMap,
    flags: RequestFlags,
    has_body: bool,
    settings: &CacheSettings,
    rule: &Rule,
) -> Result<(), Reason> {
    let denied = |no: bool, reason| if no { Err(reason) } else { Ok(()) };
    denied(rule.never, Reason::Rule)?;
    if flags == RequestFlags::default() && !has_body {
        return Ok(());
    }
    denied(flags.has(RequestFlags::UPGRADE), Reason::Upgrade)?;
    denied(flags.has(RequestFlags::GRPC), Reason::Grpc)?;
    // RFC 9110 §9.3.1: content in a GET "has no generally defined semantics".
    denied(has_body, Reason::RequestBody)?;
    denied(flags.has(RequestFlags::CONNECTION), Reason::UnkeyedField)?;
    denied(
        flags.has(RequestFlags::UNKEYED) && request_flags::has_unkeyed(headers, &settings.key_fields),
        Reason::UnkeyedField,
    )?;
    // RFC 9111 §4.3.2: "The If-Match and If-Unmodified-Since conditional header fields are not applicable to a cache".
    denied(flags.has(RequestFlags::PRECONDITION), Reason::Precondition)?;
    denied(flags.has(RequestFlags::RANGE) && settings.profile == Profile::App, Reason::Range)?;
    Ok(())
}

/// Whether a stored error may turn into a success with this request's credential. A login must not be answered with the
/// response of an anonymous request. False where the rule declares that credentials change nothing or where the key
/// includes the identity.
pub(crate) fn may_differ_with_credential(status: StatusCode, flags: RequestFlags, keyed: bool, rule: &Rule) -> bool {
    if keyed || rule.same_for_everyone {
        return false;
    }
    let credential = RequestFlags::AUTHORIZATION.and(RequestFlags::IDENTITY);
    match status.as_u16() {
        401 | 403 => flags.has(credential.and(RequestFlags::COOKIE).and(RequestFlags::API_KEY)),
        400..=499 => flags.has(credential),
        _ => false,
    }
}

/// Freshness of a stored response at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Serve the response.
    Fresh,
    /// Serve the response and refresh it in the background, before it expires.
    RefreshAhead,
    /// Serve the expired response because a budget runs low: see [`Budget`](crate::Budget).
    BudgetStretched,
    /// Serve the stale response and revalidate it in the background.
    StaleWhileRevalidate,
    /// Revalidate first; `on_error` says whether the stale response may be served if that fails.
    Stale {
        /// Whether the stale response may be served if the inner service fails.
        on_error: bool,
    },
    /// The response is past every deadline.
    Unusable,
}

/// Returns the freshness at `now` of an entry with these deadlines.
pub(crate) fn freshness(deadlines: &Deadlines, now: Timestamp) -> Freshness {
    if now < deadlines.fresh_until {
        if now < deadlines.refresh_from { Freshness::Fresh } else { Freshness::RefreshAhead }
    } else if now < deadlines.revalidate_until {
        Freshness::StaleWhileRevalidate
    } else if now < deadlines.retain_until {
        Freshness::Stale { on_error: now < deadlines.error_until.max(deadlines.unreachable_until) }
    } else {
        Freshness::Unusable
    }
}

/// Returns the freshness of an entry that an invalidation has marked stale: as if it had expired just now.
pub(crate) fn marked_stale(freshness: Freshness, deadlines: &Deadlines) -> Freshness {
    match freshness {
        Freshness::Fresh | Freshness::RefreshAhead if deadlines.revalidate_until > deadlines.fresh_until => {
            Freshness::StaleWhileRevalidate
        }
        Freshness::Fresh | Freshness::RefreshAhead => {
            let until = deadlines.error_until.max(deadlines.unreachable_until);
            Freshness::Stale { on_error: until > deadlines.fresh_until }
        }
        other => other,
    }
}

/// Extends the freshness of a valid entry, not `strict`, by the effect of a low budget.
///
/// A stretched lifetime counts from the time of storage; the other deadlines are unchanged.
pub(crate) fn stretched_freshness(
    freshness: Freshness,
    deadlines: &Deadlines,
    stored_at: Timestamp,
    effect: BudgetEffect,
    now: Timestamp,
) -> Freshness {
    let may_be_stale = effect.prefer_stale && now < deadlines.revalidate_until.max(deadlines.error_until);
    let stretched = || stored_at + effect.stretched(deadlines.fresh_until.since(stored_at));
    match freshness {
        Freshness::RefreshAhead if effect != BudgetEffect::NONE => Freshness::Fresh,
        Freshness::StaleWhileRevalidate | Freshness::Stale { .. } if may_be_stale || now < stretched() => {
            Freshness::BudgetStretched
        }
        other => other,
    }
}

/// Whether a response to an unsafe request invalidates what is stored for its target (RFC 9111 §4.4). Every method not
/// known to be safe counts as unsafe (RFC 9110 §9.2.1 and the registry of methods).
pub(crate) fn invalidates(method: &Method, status: StatusCode) -> bool {
    const SAFE: [&str; 9] = ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PRI", "PROPFIND", "REPORT", "SEARCH"];
    // "A "non-error response" is one with a 2xx (Successful) or 3xx (Redirection) status code."
    !SAFE.contains(&method.as_str()) && (status.is_success() || status.is_redirection())
}

/// Whether a response with this status is a failure, which a stale response may replace.
pub(crate) fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502..=504)
}

/// Returns the deadline until which a stale response may replace this failure (`None`: no response at all).
///
/// RFC 5861 §4: stale-if-error covers 500, 502, 503, 504 and errors. RFC 9111 §4.2.4 lets a disconnected cache serve
/// stale responses, which a 500 does not indicate.
pub(crate) fn stale_if_error_until(deadlines: &Deadlines, failure: Option<StatusCode>) -> Option<Timestamp> {
    match failure.map(|status| status.as_u16()) {
        None | Some(502..=504) => Some(deadlines.unreachable_until),
        Some(500) => Some(deadlines.error_until),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_low_budget_extends_freshness_within_its_bounds() {
        let deadlines = Deadlines {
            fresh_until: at(100),
            initial_staleness: Duration::ZERO,
            refresh_from: at(90),
            revalidate_until: at(110),
            error_until: at(150),
            unreachable_until: at(400),
            retain_until: at(400),
        };
        let stale = Freshness::Stale { on_error: true };
        let effect = |stretch, prefer_stale| BudgetEffect { stretch, prefer_stale };
        for (now, effect, expected) in [
            (95, BudgetEffect::NONE, Freshness::RefreshAhead),
            (95, effect(1.5, false), Freshness::Fresh),
            (105, BudgetEffect::NONE, Freshness::StaleWhileRevalidate),
            (105, effect(1.5, false), Freshness::BudgetStretched),
            (105, effect(1.04, false), Freshness::StaleWhileRevalidate),
            (149, effect(1.5, false), Freshness::BudgetStretched),
            (150, effect(1.5, false), stale),
            (149, effect(1.0, true), Freshness::BudgetStretched),
            (150, effect(1.0, true), stale),
            (300, effect(16.0, true), Freshness::BudgetStretched),
            (400, effect(16.0, true), Freshness::Unusable),
        ] {
            let found = stretched_freshness(freshness(&deadlines, at(now)), &deadlines, at(0), effect, at(now));
            assert_eq!(found, expected, "at {now} with {effect:?}");
        }
    }
}
