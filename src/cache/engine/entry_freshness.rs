//! Freshness of an entry: its deadlines, the invalidations since its fetch began, and a low budget.

use super::barrier::{Barriers, Validity};
use crate::base::budget::Budget;
use crate::base::clock::Timestamp;
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::{self, Freshness};
use crate::cache::http::record_meta::RecordMeta;

/// Returns the freshness of an entry. A fresh one costs two comparisons.
#[inline]
pub(crate) fn freshness(
    barriers: &Barriers,
    key: &CacheKey,
    meta: &RecordMeta,
    budget: Option<&Budget>,
    now: Timestamp,
) -> Freshness {
    match (policy::freshness(&meta.deadlines, now), barriers.check(key, meta)) {
        (Freshness::Fresh, Validity::Valid) => Freshness::Fresh,
        (freshness, validity) => not_just_fresh(freshness, validity, meta, budget, now),
    }
}

#[cold]
fn not_just_fresh(
    freshness: Freshness,
    validity: Validity,
    meta: &RecordMeta,
    budget: Option<&Budget>,
    now: Timestamp,
) -> Freshness {
    match (freshness, validity) {
        (freshness, Validity::Valid) => match budget.filter(|_| !meta.strict) {
            Some(budget) => {
                policy::stretched_freshness(freshness, &meta.deadlines, meta.stored_at, budget.effect(now), now)
            }
            None => freshness,
        },
        (freshness, Validity::Stale) => policy::marked_stale(freshness, &meta.deadlines),
        (_, Validity::Void) => Freshness::Unusable,
    }
}
