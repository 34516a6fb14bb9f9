//! Places that a request needs under limits on requests in progress.

use super::{CompiledLimit, CompiledLimits, RequestSubject};
use crate::base::request_head::RequestHead;
use crate::base::route::UNMATCHED;
use crate::identity::ExtractedKeys;
use crate::limit::policy::limit::{ConcurrencyPolicy, Subject};
use crate::limit::policy::named_subject::NamedSubject;
use crate::limit::policy::wanted_place::{WantedPlace, WantedPlaces};

impl CompiledLimits {
    /// Iterates over the names and policies of limits on requests in progress.
    pub(crate) fn concurrency(&self) -> impl ExactSizeIterator<Item = (&str, ConcurrencyPolicy)> {
        self.concurrency.iter().map(|(rule, policy)| (rule.name(), *policy))
    }

    /// Returns the places that the request needs.
    pub(crate) fn places(&self, head: &RequestHead<'_>, keys: &mut ExtractedKeys) -> (WantedPlaces, RequestSubject) {
        let (route, mut seen, mut places) = (self.route(head), RequestSubject::default(), WantedPlaces::new());
        for (index, (rule, _)) in self.concurrency.iter().enumerate() {
            let digest = |tiered| self.digest(rule, head, keys, tiered);
            let Some((check, label)) = self.check(self.rules.len() + index, rule, head, route, &mut seen, digest)
            else {
                continue;
            };
            let is_global = matches!(rule.subject, Subject::Everybody);
            places.push(WantedPlace { index, label, key: check.key.to_bits(), enforced: check.enforced, is_global });
        }
        (places, seen)
    }

    /// Returns the keys under which a subject has places.
    pub(crate) fn named_place_keys(&self, subject: &NamedSubject) -> Vec<u64> {
        let route = subject.method_and_route().1.unwrap_or(UNMATCHED);
        let keyed = self.concurrency.iter().filter_map(|(rule, _)| Some((rule, self.named_key(rule, subject)?)));
        keyed.map(|(rule, key)| self.named_check(rule, &key, route, rule.quotas[0].quota).key.to_bits()).collect()
    }

    /// Returns the limit of this index: those on requests in progress follow the others.
    pub(super) fn rule(&self, index: usize) -> Option<&CompiledLimit> {
        self.rules.get(index).or_else(|| self.concurrency.get(index - self.rules.len()).map(|(rule, _)| rule))
    }

    /// Iterates over all limits.
    pub(super) fn all_rules(&self) -> impl Iterator<Item = &CompiledLimit> {
        self.rules.iter().chain(self.concurrency.iter().map(|(rule, _)| rule))
    }
}
