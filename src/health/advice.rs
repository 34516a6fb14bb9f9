//! [`Advice`]: what an operator should do, with the evidence and the lines that do it.

use serde::Serialize;

use super::observed::{CachedState, LimitState, Observation};
use super::slo::span;
use super::targets::MIN_SAMPLES;
use super::totals::share;

/// Advice, with its evidence and the lines that follow it. Serialises to JSON.
///
/// ```
/// use tollgate::Tollgate;
///
/// let gate = Tollgate::builder().build()?;
/// assert!(gate.health().recommendations.is_empty(), "there is nothing to mend");
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Advice {
    /// Stable identifier of the kind, such as `low-hit-ratio`.
    pub code: &'static str,
    /// What was observed, and what to do.
    pub text: String,
    /// Counted numbers that it rests on.
    pub evidence: String,
    /// Lines of configuration that follow it; empty if there are none.
    pub lines: String,
    /// How much there is to win, 0 to 1. Advice is ordered by it.
    pub weight: f64,
}

/// A limit that refuses at least this share refuses many.
const MANY_REFUSED: f64 = 0.2;
/// A limit in shadow that has seen so many requests and would have refused none can be enforced.
const ENOUGH_IN_SHADOW: u64 = 1_000;
/// A route that is called so often and takes so long is worth a rule.
const HOT: (u64, u128) = (200, 20);

/// Returns all advice that the numbers give, the most valuable first.
pub(crate) fn advise(observed: &Observation) -> Vec<Advice> {
    let mut all = Vec::new();
    all.extend(observed.stores.iter().filter(|store| !store.is_up).map(|store| Advice {
        code: "store-down",
        text: format!("{} is {}. Check the server and the network.", store.name, store.outage()),
        evidence: format!("{} does not answer", store.name),
        lines: String::new(),
        weight: 1.0,
    }));
    all.extend(observed.quotas.iter().filter_map(quota_ends));
    all.extend(observed.cached.iter().filter_map(low_hit_ratio));
    all.extend(observed.uncached.iter().filter_map(uncached_route));
    all.extend(observed.limits.iter().filter_map(refuses_many));
    all.extend(observed.limits.iter().filter_map(forgotten_shadow));
    all.extend(observed.findings.iter().filter_map(finding));
    all.extend(observed.jobs.iter().filter(|job| job.fails()).map(|job| Advice {
        code: "job-fails",
        text: format!(
            "The job {} fails repeatedly: what it refreshes grows old. Mend the cause, then run it now.",
            job.name
        ),
        evidence: format!("the last {} attempts failed, the last one with: {}", job.failed_in_a_row, job.text),
        lines: format!("gate.jobs().run_now({:?})?;", job.name),
        weight: 0.7,
    }));
    all.extend(observed.pools.iter().filter(|pool| pool.used() >= super::targets::POOL_USE).map(|pool| Advice {
        code: "pool-small",
        text: format!("The pool {} is nearly used up: hold connections for less time, or enlarge it.", pool.name),
        evidence: format!("{} of {} connections are in use", pool.in_use, pool.size),
        lines: format!(".max_connections({})", pool.size.saturating_mul(2)),
        weight: 0.6 * pool.used(),
    }));
    all.extend(observed.unmatched_rules.iter().filter(|_| observed.hour.requests >= ENOUGH_IN_SHADOW).map(|rule| {
        Advice {
            code: "unmatched-rule",
            text: format!("No request has matched the cache rule {rule}: check its spelling against the router's."),
            evidence: format!("0 of {} requests", observed.hour.requests),
            lines: String::new(),
            weight: 0.2,
        }
    }));
    all.sort_by(|one, other| other.weight.total_cmp(&one.weight).then_with(|| one.text.cmp(&other.text)));
    all
}

fn quota_ends(quota: &super::observed::QuotaState) -> Option<Advice> {
    let left = quota.exhausted_in?;
    Some(Advice {
        code: "quota-ends",
        text: format!(
            "The quota of {} ends in {}, {} before it is renewed: cache for longer while it is short.",
            quota.upstream,
            span(left),
            span(quota.resets_in.saturating_sub(left)),
        ),
        evidence: format!("{} of {} per {} are spent", quota.spent, quota.limit, quota.window),
        lines: "Tollgate::builder().cache_with(|cache| cache.budget(upstream.budget()))".to_owned(),
        weight: 0.9 + 0.1 * quota.used().min(1.0),
    })
}

fn low_hit_ratio(cached: &CachedState) -> Option<Advice> {
    let ratio = cached.hit_ratio().filter(|_| cached.hits + cached.misses >= MIN_SAMPLES)?;
    if ratio >= cached.target {
        return None;
    }
    let (why, lines) = match cached.reason {
        Some((reason, remedy, n)) if n > cached.hits => {
            (format!("the most frequent reason is {reason}: {remedy}."), "")
        }
        _ if cached.is_data => {
            ("values expire before they are asked for again: keep them for longer.".to_owned(), ".ttl(…)")
        }
        _ => (
            "entries expire before they are asked for again: keep them for longer, or leave parameters out of the key."
                .to_owned(),
            ".stale_while_revalidate(Duration::from_secs(60))   // and .ignore_query([…])",
        ),
    };
    Some(Advice {
        code: "low-hit-ratio",
        text: format!("{} is answered from the cache too seldom: {why}", cached.name),
        evidence: format!(
            "hit ratio {:.0} %, target {:.0} %, {} misses",
            ratio * 100.0,
            cached.target * 100.0,
            cached.misses
        ),
        lines: lines.to_owned(),
        weight: 0.7 * (1.0 - ratio / cached.target),
    })
}

fn uncached_route(route: &super::observed::UncachedState) -> Option<Advice> {
    if route.requests < HOT.0 || route.mean.as_millis() < HOT.1 {
        return None;
    }
    Some(Advice {
        code: "uncached-route",
        text: format!(
            "{} is called often and takes {}: cache it if its readers may share it.",
            route.route,
            span(route.mean)
        ),
        evidence: format!(
            "{} requests, {} in all",
            route.requests,
            span(route.mean.saturating_mul(u32::try_from(route.requests).unwrap_or(u32::MAX)))
        ),
        lines: format!(".route(\"{}\", Rule::ttl(Duration::from_secs(15)).same_for_everyone())", route.route),
        weight: 0.5,
    })
}

fn refuses_many(limit: &LimitState) -> Option<Advice> {
    let all = limit.admitted + limit.refused;
    let refused = share(limit.refused, all).filter(|_| all >= MIN_SAMPLES)?;
    (refused >= MANY_REFUSED).then(|| Advice {
        code: "refuses-many",
        text: format!("The limit {} refuses many: see who they are, and raise it if they are customers.", limit.name),
        evidence: format!("{} of {all} requests, at {}", limit.refused, limit.quota),
        lines: format!("gate.overrides().apply(Override::mode(\"limit {}\", Mode::Shadow)).await", limit.name),
        weight: 0.4 + 0.2 * refused,
    })
}

fn forgotten_shadow(limit: &LimitState) -> Option<Advice> {
    (limit.is_shadow && limit.would_refuse == 0 && limit.admitted >= ENOUGH_IN_SHADOW).then(|| Advice {
        code: "shadow-unused",
        text: format!("The limit {} counts only, and would have refused nothing: enforce it.", limit.name),
        evidence: format!("0 of {} requests, at {}", limit.admitted, limit.quota),
        lines: format!("// remove .shadow() from the limit {}", limit.name),
        weight: 0.1,
    })
}

fn finding(found: &super::observed::FindingState) -> Option<Advice> {
    let query = found.query.as_deref().unwrap_or("a query");
    let (code, text, weight) = match found.kind {
        "n_plus_one" => {
            ("n-plus-one", format!("{} repeats {query} for each row: load all rows with one query.", found.route), 0.6)
        }
        "pool_starvation" => (
            "pool-starvation",
            format!("{} waits for database connections: hold them for less time, or enlarge the pool.", found.route),
            0.55,
        ),
        "unbatched_writes" => (
            "unbatched-writes",
            format!("{} writes row by row with {query}: write all with one statement.", found.route),
            0.4,
        ),
        "slow_query" => (
            "slow-query",
            format!("{} runs slow queries, such as {query}: look at its plan, or cache its result.", found.route),
            0.45,
        ),
        "duplicate_queries" => {
            ("duplicate-queries", format!("{} runs {query} more than once: keep the first result.", found.route), 0.3)
        }
        _ => return None,
    };
    let lines = if found.kind == "n_plus_one" { "WHERE id = ANY($1)".to_owned() } else { String::new() };
    Some(Advice { code, text, evidence: format!("{} times", found.count), lines, weight })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::observed::{FindingState, ObservedJob, PoolState, QuotaState, StoreState, UncachedState};
    use crate::health::totals::Totals;

    fn codes(observed: &Observation) -> Vec<&'static str> {
        advise(observed).into_iter().map(|advice| advice.code).collect()
    }

    /// A state that triggers the advice, and one that almost does.
    fn situations() -> Vec<(&'static str, Observation, Observation)> {
        let of = |change: &dyn Fn(&mut Observation)| {
            let mut observed = Observation::default();
            change(&mut observed);
            observed
        };
        let store =
            |is_up| of(&move |o| o.stores.push(StoreState { name: "redis".into(), is_up, fails_closed: false }));
        let ends = |exhausted_in| {
            of(&move |o| {
                o.quotas.push(QuotaState { exhausted_in, resets_in: Duration::from_secs(9), ..QuotaState::default() })
            })
        };
        let cached = |hits, misses| {
            of(&move |o| o.cached.push(CachedState { hits, misses, target: 0.7, ..CachedState::default() }))
        };
        let uncached = |requests, ms| {
            of(&move |o| {
                let (route, mean) = ("/report".into(), Duration::from_millis(ms));
                o.uncached.push(UncachedState { route, requests, mean });
            })
        };
        let limit =
            |admitted, refused| of(&move |o| o.limits.push(LimitState { admitted, refused, ..LimitState::default() }));
        let shadow = |admitted, would_refuse| {
            of(&move |o| o.limits.push(LimitState { is_shadow: true, admitted, would_refuse, ..LimitState::default() }))
        };
        let pool = |in_use| of(&move |o| o.pools.push(PoolState { name: "main".into(), in_use, size: 10 }));
        let rule = |requests| {
            of(&move |o| {
                o.unmatched_rules.push("/pricse".into());
                o.hour = Totals { requests, ..Totals::default() };
            })
        };
        let job = |failed_in_a_row| Observation {
            jobs: vec![ObservedJob { name: "coins".into(), failed_in_a_row, text: "the provider is down".into() }],
            ..Observation::default()
        };
        let found = |kind| of(&move |o| o.findings.push(FindingState { kind, count: 3, ..FindingState::default() }));
        vec![
            ("store-down", store(false), store(true)),
            ("quota-ends", ends(Some(Duration::from_secs(5))), ends(None)),
            ("low-hit-ratio", cached(10, 10), cached(14, 6)),
            ("low-hit-ratio", cached(0, 20), cached(0, 19)),
            ("uncached-route", uncached(200, 20), uncached(200, 19)),
            ("uncached-route", uncached(200, 20), uncached(199, 20)),
            ("refuses-many", limit(80, 20), limit(81, 19)),
            ("shadow-unused", shadow(1_000, 0), shadow(1_000, 1)),
            ("pool-small", pool(8), pool(7)),
            ("unmatched-rule", rule(1_000), rule(999)),
            ("job-fails", job(3), job(2)),
            ("n-plus-one", found("n_plus_one"), found("slow_request")),
            ("pool-starvation", found("pool_starvation"), found("slow_request")),
            ("unbatched-writes", found("unbatched_writes"), found("slow_request")),
            ("slow-query", found("slow_query"), found("slow_request")),
            ("duplicate-queries", found("duplicate_queries"), found("slow_request")),
        ]
    }

    #[test]
    fn each_advice_is_given_in_its_situation_and_not_in_one_that_is_nearly_the_same() {
        for (code, given, silent) in situations() {
            assert_eq!((codes(&given), codes(&silent)), (vec![code], vec![]), "{given:?}");
            let advice = &advise(&given)[0];
            assert!(!advice.evidence.is_empty() && (0.0..=1.0).contains(&advice.weight), "{advice:?}");
        }
    }

    #[test]
    fn the_most_valuable_comes_first_whatever_the_order_of_what_was_seen() {
        let mut all = Observation::default();
        for (_, given, _) in situations() {
            all.stores.extend(given.stores);
            all.cached.extend(given.cached);
            all.limits.extend(given.limits);
            all.quotas.extend(given.quotas);
            all.findings.extend(given.findings);
        }
        let advice = advise(&all);
        assert!(advice.is_sorted_by(|one, other| one.weight >= other.weight) && advice[0].code == "store-down");
        all.cached.reverse();
        all.findings.reverse();
        assert_eq!(advise(&all), advice);
    }

    #[test]
    fn a_low_hit_ratio_names_its_most_frequent_reason() {
        let cached = CachedState {
            name: "/me".into(),
            misses: 30,
            target: 0.7,
            reason: Some(("set-cookie", "drop the cookie", 25)),
            ..CachedState::default()
        };
        let advice = advise(&Observation { cached: vec![cached], ..Observation::default() });
        assert!(advice[0].text.contains("the most frequent reason is set-cookie: drop the cookie"), "{advice:?}");
    }
}
