//! [`Score`]: one number from 0 to 100, from the parts that have data.
//!
//! | part | weight | full marks | none |
//! |---|---|---|---|
//! | latency | 30 | p95 within the target | at four times the target |
//! | errors | 20 | none | at five times the target share |
//! | cache | 20 | hit ratios at their targets | no hit |
//! | queries | 15 | p95 within the target and no N+1 | at four times the target |
//! | upstreams | 10 | 85 % of every quota or less is used | a quota is used up |
//! | stores | 5 | all answer | none does |

use serde::Serialize;

use super::observed::Observation;
use super::targets::{MIN_SAMPLES, QUOTA_USE, Targets};
use super::totals::share;

/// Marks of a part are multiplied by this if a request repeated a query for different rows.
const N_PLUS_ONE: f64 = 0.7;

/// Part of a [`Health`](crate::Health) score.
///
/// ```
/// use tollgate::Tollgate;
///
/// let gate = Tollgate::builder().build()?;
/// assert!(gate.health().parts.iter().all(|part| part.value.is_none()), "nothing is counted yet");
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ScorePart {
    /// Name: `latency`, `errors`, `cache`, `queries`, `upstreams` or `stores`.
    pub name: &'static str,
    /// Weight among the parts that have data.
    pub weight: u32,
    /// Marks from 0 to 1; `None` below 20 samples in five minutes.
    pub value: Option<f64>,
}

/// Score of a gate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Score {
    /// From 0 to 100; `None` if no part has data.
    pub(crate) value: Option<u8>,
    pub(crate) parts: Vec<ScorePart>,
}

impl Score {
    pub(crate) fn of(observed: &Observation, targets: &Targets) -> Self {
        let part = |name, weight, value: Option<f64>| ScorePart { name, weight, value };
        let parts = vec![
            part("latency", 30, latency(observed, targets)),
            part("errors", 20, errors(observed, targets)),
            part("cache", 20, cache(observed)),
            part("queries", 15, queries(observed, targets)),
            part("upstreams", 10, upstreams(observed)),
            part("stores", 5, stores(observed)),
        ];
        let known = || parts.iter().filter_map(|part| Some((f64::from(part.weight), part.value?)));
        let weight: f64 = known().map(|(weight, _)| weight).sum();
        let marks: f64 = known().map(|(weight, value)| weight * value).sum();
        let value = (weight > 0.0).then(|| (100.0 * marks / weight).round() as u8);
        Self { value, parts }
    }

    /// Returns the band: `excellent`, `good`, `fair`, `poor` or `unknown`.
    pub(crate) const fn band(&self) -> &'static str {
        match self.value {
            None => "unknown",
            Some(90..) => "excellent",
            Some(75..) => "good",
            Some(50..) => "fair",
            Some(_) => "poor",
        }
    }
}

fn latency(observed: &Observation, targets: &Targets) -> Option<f64> {
    let ratio = observed.p95.as_secs_f64() / targets.latency.as_secs_f64();
    (observed.recent.requests >= MIN_SAMPLES).then(|| falling(ratio, 1.0, 4.0))
}

fn errors(observed: &Observation, targets: &Targets) -> Option<f64> {
    let failed = share(observed.recent.errors, observed.recent.requests)?;
    (observed.recent.requests >= MIN_SAMPLES).then(|| falling(failed / targets.errors, 0.0, 5.0))
}

/// The marks of each route and namespace, weighted by its look-ups.
fn cache(observed: &Observation) -> Option<f64> {
    let known = observed.cached.iter().filter(|cached| cached.hits + cached.misses >= MIN_SAMPLES);
    let (mut marks, mut lookups) = (0.0, 0.0);
    for cached in known {
        let of_these = (cached.hits + cached.misses) as f64;
        marks += of_these * (cached.hit_ratio().unwrap_or(0.0) / cached.target).min(1.0);
        lookups += of_these;
    }
    (lookups > 0.0).then(|| marks / lookups)
}

fn queries(observed: &Observation, targets: &Targets) -> Option<f64> {
    let ratio = observed.query_p95.as_secs_f64() / targets.query.as_secs_f64();
    let repeated = if observed.recent.n_plus_one > 0 { N_PLUS_ONE } else { 1.0 };
    (observed.recent.queries >= MIN_SAMPLES).then(|| falling(ratio, 1.0, 4.0) * repeated)
}

fn upstreams(observed: &Observation) -> Option<f64> {
    let limited = observed.quotas.iter().filter(|quota| quota.limit > 0);
    limited.map(|quota| falling(quota.used(), QUOTA_USE.0, 1.0)).reduce(f64::min)
}

fn stores(observed: &Observation) -> Option<f64> {
    share(observed.stores.iter().filter(|store| store.is_up).count() as u64, observed.stores.len() as u64)
}

/// Returns 1 up to `full`, 0 from `none` on, and a straight line in between.
fn falling(value: f64, full: f64, none: f64) -> f64 {
    ((none - value) / (none - full)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::health::observed::{CachedState, QuotaState, StoreState};
    use crate::health::totals::Totals;

    /// A gate in any state.
    fn any_state() -> impl Strategy<Value = Observation> {
        let counts = (0..2_000_u64, 0..2_000_u64, 0..100_u64, 0..3_u64);
        let cached = prop::collection::vec((0..500_u64, 0..500_u64, 0.1..0.99_f64), 0..4);
        let quotas = prop::collection::vec((0..200_u64, 0..150_u64), 0..4);
        let stores = prop::collection::vec(any::<bool>(), 0..4);
        (counts, cached, quotas, stores, 0..5_000_u64, 0..1_000_u64).prop_map(
            |((requests, queries, errors, n_plus_one), cached, quotas, stores, p95, query_p95)| Observation {
                recent: Totals { requests, errors: errors.min(requests), queries, n_plus_one, ..Totals::default() },
                p95: Duration::from_millis(p95),
                query_p95: Duration::from_millis(query_p95),
                cached: cached
                    .into_iter()
                    .map(|(hits, misses, target)| CachedState { hits, misses, target, ..CachedState::default() })
                    .collect(),
                quotas: quotas
                    .into_iter()
                    .map(|(spent, limit)| QuotaState { spent, limit, ..QuotaState::default() })
                    .collect(),
                stores: stores.into_iter().map(|is_up| StoreState { is_up, ..StoreState::default() }).collect(),
                ..Observation::default()
            },
        )
    }

    fn score(observed: &Observation) -> Option<u8> {
        Score::of(observed, &Targets::default()).value
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_its_parts_are(observed in any_state()) {
            let score = Score::of(&observed, &Targets::default());
            prop_assert!(score.value.is_none_or(|value| value <= 100));
            prop_assert!(score.parts.iter().all(|part| part.value.is_none_or(|value| (0.0..=1.0).contains(&value))));
            prop_assert_eq!(score.value.is_none(), score.parts.iter().all(|part| part.value.is_none()));
            prop_assert_eq!(score.parts.iter().map(|part| part.weight).sum::<u32>(), 100);
        }

        #[test]
        fn what_is_worse_scores_no_better(observed in any_state(), by in 1..500_u64) {
            let before = score(&observed);
            let mut worse = vec![observed.clone(); 7];
            worse[0].p95 += Duration::from_millis(by);
            worse[1].query_p95 += Duration::from_millis(by);
            worse[2].recent.errors = (worse[2].recent.errors + by).min(worse[2].recent.requests);
            worse[3].recent.n_plus_one += by;
            worse[4].quotas.iter_mut().for_each(|quota| quota.spent += by);
            worse[5].stores.iter_mut().take(1).for_each(|store| store.is_up = false);
            for cached in worse[6].cached.iter_mut().filter(|cached| cached.hits > 0) {
                // A hit becomes a miss.
                (cached.hits, cached.misses) = (cached.hits - 1, cached.misses + 1);
            }
            for (at, worse) in worse.iter().enumerate() {
                prop_assert!(score(worse) <= before, "{}: {:?} {:?}", at, score(worse), before);
            }
        }

        #[test]
        fn the_order_of_what_it_looks_at_does_not_matter(observed in any_state()) {
            let mut turned = observed.clone();
            turned.cached.reverse();
            turned.quotas.reverse();
            turned.stores.reverse();
            prop_assert_eq!(score(&turned), score(&observed));
        }

        #[test]
        fn below_the_fewest_samples_it_is_unknown(requests in 0..MIN_SAMPLES, queries in 0..MIN_SAMPLES, hits in 0..MIN_SAMPLES) {
            let observed = Observation {
                recent: Totals { requests, errors: requests, queries, ..Totals::default() },
                cached: vec![CachedState { hits, target: 0.5, ..CachedState::default() }],
                p95: Duration::from_secs(60),
                ..Observation::default()
            };
            let score = Score::of(&observed, &Targets::default());
            prop_assert_eq!((score.value, score.band()), (None, "unknown"));
        }
    }

    #[test]
    fn bands_have_the_documented_bounds() {
        let band = |value| Score { value: Some(value), parts: Vec::new() }.band();
        let bands = [100, 90, 89, 75, 74, 50, 49, 0].map(band);
        assert_eq!(bands, ["excellent", "excellent", "good", "good", "fair", "fair", "poor", "poor"]);
    }

    #[test]
    fn each_part_counts_with_its_weight() {
        let quick = |errors| Observation {
            recent: Totals { requests: 100, errors, ..Totals::default() },
            p95: Duration::from_millis(100),
            ..Observation::default()
        };
        assert_eq!((score(&quick(0)), score(&quick(5)), score(&quick(1))), (Some(100), Some(60), Some(92)));
    }
}
