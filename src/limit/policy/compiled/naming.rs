//! Fleet-wide key hashes, computed only for shared stores.

use super::{Checks, CompiledLimit, CompiledLimits, fnv1a};
use crate::base::request_head::RequestHead;
use crate::identity::{ExtractedKeys, Key, KeyExtractor};
use crate::limit::policy::limit::Subject;

impl CompiledLimits {
    /// Adds the fleet-wide key hash to every check, if the fleet's secret is known.
    pub(crate) fn add_fleet_keys(&self, head: &RequestHead<'_>, keys: &mut ExtractedKeys, checks: &mut Checks) {
        let Some(secret) = &self.secret else { return };
        for (check, label) in checks.list.iter_mut().zip(&checks.labels) {
            let rule = &self.rules[label.rule as usize];
            let name = match self.identity(rule, head, keys) {
                Some(key) if rule.per_route => secret.hash(rule.id ^ fnv1a(self.patterns.name(head)), &key),
                Some(key) => secret.hash(rule.id, &key),
                None if rule.per_route => secret.hash(rule.id ^ fnv1a(self.patterns.name(head)), &super::anonymous()),
                None => secret.hash(rule.id, &super::anonymous()),
            };
            if let Some(name) = name {
                *check = check.in_fleet(name);
            }
        }
    }

    /// Returns the counted identity; `None` if the limit is global or the identity is unknown.
    pub(super) fn identity<'h>(
        &self,
        rule: &CompiledLimit,
        head: &RequestHead<'h>,
        keys: &mut ExtractedKeys,
    ) -> Option<Key<'h>> {
        match &rule.subject {
            Subject::Everybody | Subject::Node => None,
            Subject::Own(extractor) => extractor.extract_once(head, keys),
            Subject::Ip => {
                let named = self.identify.fallback(head, keys).filter(|key| key.as_ip().is_some());
                named.or_else(|| self.peer.extract(head))
            }
            Subject::User if rule.tier(head).0.is_some() => self.identify.extract_once(head, keys),
            Subject::User => self.identify.fallback(head, keys),
        }
    }
}
