//! What a request's own `Cache-Control` asks of a stored response (RFC 9111 §5.2.1). Profile `shared` only: in `app` a
//! client has no say in what the service's own cache does.
//!
//! | directive | a fresh entry is | a stale entry is |
//! |---|---|---|
//! | `no-cache` | revalidated | revalidated |
//! | `max-age=n`, and it is older | revalidated, unless it is `immutable` (RFC 8246) | revalidated |
//! | `min-fresh=n`, and less is left | revalidated | revalidated |
//! | `max-stale[=n]`, and it is no more stale than that | served | served, unless the response forbids it |
//! | `stale-if-error=n` | served | allowed to stand in for a failure that long |
//! | `only-if-cached` | served | 504 where it would have to be fetched |

use super::directives::RequestDirectives;
use super::policy::Freshness;
use super::stored_head::Meta;
use crate::base::clock::Timestamp;

/// How an entry of this standing may be used for a request with these wishes.
pub(crate) fn granted(standing: Freshness, meta: &Meta, wish: &RequestDirectives, now: Timestamp) -> Freshness {
    let windows = &meta.windows;
    let asked_again = Freshness::Stale { on_error: now < windows.error_until.max(windows.down_until) };
    if standing == Freshness::Gone {
        return standing;
    }
    // §5.2.1.4: "the client prefers stored response not be used to satisfy the request without successful validation".
    if wish.no_cache {
        return asked_again;
    }
    if now < windows.fresh_until {
        // RFC 8246 §2: while it is fresh an immutable response is not revalidated for a mere reload.
        let too_old = wish.max_age.is_some_and(|most| meta.age_at(now) > most) && !meta.immutable;
        let too_short = wish.min_fresh.is_some_and(|least| windows.fresh_until.since(now) < least);
        return if too_old || too_short { asked_again } else { standing };
    }
    if wish.min_fresh.is_some() || wish.max_age.is_some_and(|most| meta.age_at(now) > most) {
        return asked_again;
    }
    // §5.2.1.2: "willing to accept a response that has exceeded its freshness lifetime", unless §4.2.4 prohibits it.
    let staleness = meta.staleness_at(now);
    if !meta.strict && wish.max_stale.is_some_and(|most| staleness <= most) {
        return Freshness::Fresh;
    }
    match standing {
        Freshness::Stale { on_error } => {
            let asked = !meta.strict && wish.stale_if_error.is_some_and(|most| staleness <= most);
            Freshness::Stale { on_error: on_error || asked }
        }
        other => other,
    }
}
