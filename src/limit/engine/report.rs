//! Counts, events and log lines of decisions.

use smallvec::SmallVec;

use super::limiter::Limiter;
use super::refusals::RefusalRecord;
use crate::base::clock::Timestamp;
use crate::base::event::Event;
use crate::limit::algorithm::verdict::Verdict;
use crate::limit::policy::decision::{LimitOutcome, Outcome};
use crate::limit::policy::reference::Reference;

impl Limiter {
    /// Counts and reports a decision; returns the reference of a refusal.
    pub(super) fn report(&self, route: &str, outcome: &Outcome<'_>, admits: bool, at: Timestamp) -> Option<Reference> {
        self.counters.count(admits, outcome.degraded);
        let mut reference = None;
        if admits {
            let charged = outcome.parts().filter(|part| part.verdict.admits());
            charged.for_each(|part| self.counters.count_admission(part.label));
        }
        if !admits {
            self.counters.count_route(route);
            reference = Some(self.keep_refusal(route, outcome, at));
        } else if !self.events.has_hook() && outcome.verdicts.iter().all(Verdict::admits) {
            return None;
        }
        let is_logged = !admits && self.warnings.logged.admits(at);
        for (i, part) in outcome.parts().enumerate() {
            let (limit, tier) = (&*self.limits.quota(part.label).name, &*self.limits.quota(part.label).tier);
            match part.verdict.wait() {
                Some(retry_after) if part.enforced => {
                    self.counters.count_refusal(part.label);
                    if let Some(check) = outcome.checks.get(i) {
                        self.count_towards_ban(part.label, check, at);
                    }
                    let key = outcome.checks.get(i).map(|check| check.fleet().unwrap_or(check.key).to_bits());
                    let reference = reference.as_ref().map_or("", Reference::as_str);
                    let event = Event::Refused { route, limit, tier, key, reference, retry_after };
                    if is_logged { self.events.emit(&event) } else { self.events.emit_unlogged(&event) }
                }
                Some(_) => {
                    self.counters.count_shadowed(part.label);
                    self.events.emit(&Event::WouldRefuse { limit });
                }
                None if admits && crosses_80_percent(&part, outcome.checks.get(i).map_or(1, |check| check.cost)) => {
                    self.events.emit(&Event::NearLimit { limit });
                }
                None => {}
            }
        }
        reference
    }

    /// Keeps a refusal, to be found again by its reference.
    fn keep_refusal(&self, route: &str, outcome: &Outcome<'_>, at: Timestamp) -> Reference {
        let refused = || outcome.parts().enumerate().filter(|(_, part)| part.enforced && !part.verdict.admits());
        let keys: SmallVec<[u64; 2]> =
            refused().filter_map(|(i, _)| Some(outcome.checks.get(i)?.key.to_bits())).collect();
        let shown = refused().find_map(|(i, _)| outcome.checks.get(i)).map(|check| check.fleet().unwrap_or(check.key));
        let reference = self.refusals.reference(keys.first().copied().unwrap_or_default());
        let record = RefusalRecord {
            reference,
            keys,
            shown,
            at,
            route: String::new(),
            labels: refused().map(|(_, part)| part.label).collect(),
            retry_after: refused().filter_map(|(_, part)| part.verdict.wait()).max().unwrap_or_default(),
        };
        self.refusals.keep(record, route);
        reference
    }
}

/// Returns whether this charge moved the key past 80 % of its limit.
fn crosses_80_percent(part: &LimitOutcome, cost: u32) -> bool {
    let capacity = u64::from(part.quota.capacity());
    let used = capacity.saturating_sub(u64::from(part.verdict.remaining()));
    let past = |used: u64| used * 5 >= capacity * 4;
    past(used) && !past(used.saturating_sub(u64::from(cost)))
}
