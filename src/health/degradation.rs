//! [`Degradation`]: the reasons for which a service is worse than it should be, each with hysteresis.

use super::observed::Observation;
use super::score::Score;
use super::targets::{FAST_SHARE, MIN_SAMPLES, Targets};
use super::totals::share;

/// Reasons that hold, remembered from one look to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Degradation {
    is_slow: bool,
    is_failing: bool,
    is_poor: bool,
}

/// A reason begins to hold at the first value, and ends below the second.
const ERRORS: (f64, f64) = (5.0, 2.5);
const LATENCY: (f64, f64) = (2.0, 1.5);
/// A score begins to be poor below the first value, and ends from the second on.
const POOR: (u8, u8) = (50, 60);

impl Degradation {
    /// Looks again, and returns the reasons that hold, most severe first.
    pub(crate) fn update(&mut self, observed: &Observation, targets: &Targets, score: &Score) -> Vec<String> {
        let mut reasons = Vec::new();
        let enough = observed.recent.requests >= MIN_SAMPLES;
        let failed = share(observed.recent.errors, observed.recent.requests).filter(|_| enough).unwrap_or(0.0);
        self.is_failing = crosses(self.is_failing, failed / targets.errors, ERRORS);
        if self.is_failing {
            reasons.push(format!("{:.1} % of requests fail", failed * 100.0));
        }
        let slowness = observed.p95.as_secs_f64() / targets.latency.as_secs_f64();
        self.is_slow = crosses(self.is_slow, if enough { slowness } else { 0.0 }, LATENCY);
        if self.is_slow {
            let (p95, target) = (super::slo::span(observed.p95), super::slo::span(targets.latency));
            reasons.push(format!(
                "{:.0} % of requests take up to {p95}, where {target} is the target",
                FAST_SHARE * 100.0
            ));
        }
        for store in observed.stores.iter().filter(|store| !store.is_up) {
            reasons.push(format!("{} is {}", store.name, store.outage()));
        }
        for quota in observed.quotas.iter().filter(|quota| quota.limit > 0 && quota.spent >= quota.limit) {
            reasons.push(format!("the quota of {} per {} is used up", quota.upstream, quota.window));
        }
        self.is_poor = score.value.is_some_and(|value| value < if self.is_poor { POOR.1 } else { POOR.0 });
        if self.is_poor && reasons.is_empty() {
            reasons.push(format!("the score is {}", score.value.unwrap_or_default()));
        }
        reasons
    }
}

fn crosses(was: bool, value: f64, (enter, leave): (f64, f64)) -> bool {
    value >= if was { leave } else { enter }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::observed::{QuotaState, StoreState};
    use crate::health::totals::Totals;

    fn look(degradation: &mut Degradation, errors: u64, p95: u64) -> Vec<String> {
        let observed = Observation {
            recent: Totals { requests: 1_000, errors, ..Totals::default() },
            p95: Duration::from_millis(p95),
            ..Observation::default()
        };
        degradation.update(&observed, &Targets::default(), &Score { value: Some(80), parts: Vec::new() })
    }

    #[test]
    fn a_reason_begins_at_one_value_and_ends_at_another() {
        let mut degradation = Degradation::default();
        assert!(look(&mut degradation, 49, 999).is_empty(), "below both beginnings");
        assert_eq!(look(&mut degradation, 50, 999), ["5.0 % of requests fail"]);
        assert_eq!(look(&mut degradation, 26, 0).len(), 1, "not yet over");
        assert!(look(&mut degradation, 24, 0).is_empty());
        assert!(look(&mut degradation, 26, 0).is_empty(), "it has to begin again");
        assert_eq!(look(&mut degradation, 0, 1_000), ["95 % of requests take up to 1 s, where 500 ms is the target"]);
        assert_eq!(look(&mut degradation, 0, 760).len(), 1);
        assert!(look(&mut degradation, 0, 740).is_empty());
    }

    #[test]
    fn a_poor_score_an_outage_and_a_quota_that_is_used_up_are_reasons() {
        let mut degradation = Degradation::default();
        let mut with = |value: Option<u8>, observed: &Observation| {
            degradation.update(observed, &Targets::default(), &Score { value, parts: Vec::new() })
        };
        let idle = Observation::default();
        assert!(with(None, &idle).is_empty() && with(Some(50), &idle).is_empty());
        assert_eq!(with(Some(49), &idle), ["the score is 49"]);
        assert_eq!(with(Some(59), &idle).len(), 1);
        assert!(with(Some(60), &idle).is_empty());
        let quota = |spent| QuotaState {
            upstream: "market".into(),
            window: "month".into(),
            spent,
            limit: 9,
            ..QuotaState::default()
        };
        let down = Observation {
            stores: vec![StoreState { name: "redis limits".into(), is_up: false, fails_closed: false }],
            quotas: vec![quota(9), quota(8)],
            ..Observation::default()
        };
        let reasons = ["redis limits is unavailable: failing open", "the quota of market per month is used up"];
        assert_eq!(with(Some(10), &down), reasons);
    }
}
