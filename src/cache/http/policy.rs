//! The small decisions: may this request use the cache, how may this entry be used now, what does a failure or an
//! unsafe request change. The large one, on responses, is in `evaluate.rs`.
//!
//! | function | asked | answers |
//! |---|---|---|
//! | [`admit`] | before the look-up | go on, or pass by for this reason |
//! | [`standing`] | of what was found | serve, serve and refresh, revalidate, or nothing |
//! | [`spared`] | of what has expired, while a budget runs low | serve it all the same, or as before |
//! | [`stands_in_until`] | of a failure | until when a stale response may be served in its place |
//! | [`invalidates`] | of an answer to an unsafe request | whether what is stored is void |

use http::{HeaderMap, Method, StatusCode};

use super::deadlines::Deadlines;
use super::reason::Reason;
use super::request_flags::{self, RequestFlags};
use super::rules::Rule;
use super::settings::{CacheSettings, Profile};
use crate::base::budget::BudgetEffect;
use crate::base::clock::Timestamp;

/// Whether this request may be answered from the cache, and its answer be kept.
///
/// # Errors
/// The reason to pass it by.
pub(crate) fn admit(
    headers: &HeaderMap,
    flags: RequestFlags,
    has_body: bool,
    settings: &CacheSettings,
    rule: &Rule,
) -> Result<(), Reason> {
    let denied = |no: bool, reason| if no { Err(reason) } else { Ok(()) };
    denied(rule.never, Reason::Rule)?;
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

/// Whether a stored response is an error that this request's credential may turn into a success: who logs in is not
/// shown
/// what those without a login are. Not where the operator said that credentials change nothing, or the key tells them
/// apart.
pub(crate) fn is_lifted_by_credential(status: StatusCode, flags: RequestFlags, keyed: bool, rule: &Rule) -> bool {
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

/// How a stored response may be used at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Serve it.
    Fresh,
    /// Serve it, and refresh it meanwhile, ahead of its end.
    FreshButOld,
    /// Serve it, expired, since a budget runs low: see [`Budget`](crate::Budget).
    BudgetStretched,
    /// Serve it, and refresh it meanwhile.
    StaleWhileRevalidate,
    /// Ask the inner service first; `on_error` says whether it may stand in if that fails.
    Stale {
        /// Whether it may be served where the inner service fails.
        on_error: bool,
    },
    /// It is of no use.
    Gone,
}

/// The standing of an entry with these windows.
pub(crate) fn standing(windows: &Deadlines, now: Timestamp) -> Freshness {
    if now < windows.fresh_until {
        if now < windows.refresh_from { Freshness::Fresh } else { Freshness::FreshButOld }
    } else if now < windows.revalidate_until {
        Freshness::StaleWhileRevalidate
    } else if now < windows.keep_until {
        Freshness::Stale { on_error: now < windows.error_until.max(windows.down_until) }
    } else {
        Freshness::Gone
    }
}

/// The standing of an entry that nobody took back and that is not `strict`, while a budget asks for this much thrift.
///
/// A life counts from when it was stored, so that an entry is as old as it says; its other windows stay where they are.
pub(crate) fn spared(
    standing: Freshness,
    windows: &Deadlines,
    stored_at: Timestamp,
    effect: BudgetEffect,
    now: Timestamp,
) -> Freshness {
    let may_be_stale = effect.prefer_stale && now < windows.revalidate_until.max(windows.error_until);
    let stretched = || stored_at + effect.stretched(windows.fresh_until.since(stored_at));
    match standing {
        Freshness::FreshButOld if effect != BudgetEffect::NONE => Freshness::Fresh,
        Freshness::StaleWhileRevalidate | Freshness::Stale { .. } if may_be_stale || now < stretched() => {
            Freshness::BudgetStretched
        }
        other => other,
    }
}

/// Whether an answer to an unsafe request invalidates what is stored for its target: RFC 9111 §4.4, of every method
/// that is not known to be safe (RFC 9110 §9.2.1 and the registry of methods).
pub(crate) fn invalidates(method: &Method, status: StatusCode) -> bool {
    const SAFE: [&str; 9] = ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PRI", "PROPFIND", "REPORT", "SEARCH"];
    // "A "non-error response" is one with a 2xx (Successful) or 3xx (Redirection) status code."
    !SAFE.contains(&method.as_str()) && (status.is_success() || status.is_redirection())
}

/// Until when a stale response may stand in for this failure of the inner service (`None`: it did not answer at all).
///
/// RFC 5861 §4: stale-if-error covers 500, 502, 503, 504 and errors; RFC 9111 §4.2.4 lets a disconnected cache serve
/// stale, which 500 is no sign of.
pub(crate) fn stands_in_until(windows: &Deadlines, failure: Option<StatusCode>) -> Option<Timestamp> {
    match failure.map(|status| status.as_u16()) {
        None | Some(502..=504) => Some(windows.down_until),
        Some(500) => Some(windows.error_until),
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
    fn a_low_budget_keeps_what_has_expired_in_use_and_never_longer_than_it_says() {
        let windows = Deadlines {
            fresh_until: at(100),
            late: Duration::ZERO,
            refresh_from: at(90),
            revalidate_until: at(110),
            error_until: at(150),
            down_until: at(400),
            keep_until: at(400),
        };
        let stale = Freshness::Stale { on_error: true };
        let effect = |stretch, prefer_stale| BudgetEffect { stretch, prefer_stale };
        for (now, effect, expected) in [
            (95, BudgetEffect::NONE, Freshness::FreshButOld),
            (95, effect(1.5, false), Freshness::Fresh),
            (105, BudgetEffect::NONE, Freshness::StaleWhileRevalidate),
            (105, effect(1.5, false), Freshness::BudgetStretched),
            (105, effect(1.04, false), Freshness::StaleWhileRevalidate),
            (149, effect(1.5, false), Freshness::BudgetStretched),
            (150, effect(1.5, false), stale),
            (149, effect(1.0, true), Freshness::BudgetStretched),
            (150, effect(1.0, true), stale),
            (300, effect(16.0, true), Freshness::BudgetStretched),
            (400, effect(16.0, true), Freshness::Gone),
        ] {
            let found = spared(standing(&windows, at(now)), &windows, at(0), effect, at(now));
            assert_eq!(found, expected, "at {now} with {effect:?}");
        }
    }
}
