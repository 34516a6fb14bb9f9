//! Request directives of `Cache-Control` applied to a stored response (RFC 9111 §5.2.1). Profile `shared` only: profile
//! `app` ignores clients' directives.
//!
//! | directive | a fresh entry is | a stale entry is |
//! |---|---|---|
//! | `no-cache` | revalidated | revalidated |
//! | `max-age=n`, and it is older | revalidated, unless it is `immutable` (RFC 8246) | revalidated |
//! | `min-fresh=n`, and less is left | revalidated | revalidated |
//! | `max-stale[=n]`, and it is no more stale than that | served | served, unless the response forbids it |
//! | `max-stale=n`, and it is more stale than that | served | revalidated, also within stale-while-revalidate |
//! | `stale-if-error=n` | served | usable for that long if the inner service fails |
//! | `only-if-cached` | served | 504 where it would have to be fetched |

use super::directives::RequestDirectives;
use super::policy::Freshness;
use super::stored_head::StoredHead;
use crate::base::clock::Timestamp;

/// Returns the freshness of an entry after applying the client's request directives.
pub(crate) fn apply_client_directives(
    freshness: Freshness,
    meta: &StoredHead,
    directives: &RequestDirectives,
    now: Timestamp,
) -> Freshness {
    let deadlines = &meta.deadlines;
    let asked_again = Freshness::Stale { on_error: now < deadlines.error_until.max(deadlines.unreachable_until) };
    if freshness == Freshness::Unusable {
        return freshness;
    }
    // §5.2.1.4: "the client prefers stored response not be used to satisfy the request without successful validation".
    if directives.no_cache {
        return asked_again;
    }
    if now < deadlines.fresh_until {
        // RFC 8246 §2: a reload does not revalidate a fresh immutable response.
        let too_old = directives.max_age.is_some_and(|max| meta.age_at(now) > max) && !meta.immutable;
        let too_short = directives.min_fresh.is_some_and(|min| deadlines.fresh_until.since(now) < min);
        return if too_old || too_short { asked_again } else { freshness };
    }
    if directives.min_fresh.is_some() || directives.max_age.is_some_and(|max| meta.age_at(now) > max) {
        return asked_again;
    }
    // §5.2.1.2: "willing to accept a response that has exceeded its freshness lifetime", unless §4.2.4 prohibits it.
    let staleness = meta.staleness_at(now);
    if let Some(max) = directives.max_stale {
        match staleness <= max {
            true if !meta.strict => return Freshness::Fresh,
            true => {}
            // "… by no more than the specified number of seconds": an upper bound for every stale response.
            false => return asked_again,
        }
    }
    match freshness {
        Freshness::Stale { on_error } => {
            let requested_at = !meta.strict && directives.stale_if_error.is_some_and(|max| staleness <= max);
            Freshness::Stale { on_error: on_error || requested_at }
        }
        other => other,
    }
}
