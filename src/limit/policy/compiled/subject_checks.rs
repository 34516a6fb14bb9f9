//! Checks of a subject that is named, rather than extracted from a request.

use std::net::IpAddr;

use super::{Checks, CompiledLimit, CompiledLimits, LimitLabel, anonymous, fnv1a};
use crate::base::error::Error;
use crate::base::route::UNMATCHED;
use crate::identity::Key;
use crate::limit::algorithm::check::Check;
use crate::limit::algorithm::quota::Quota;
use crate::limit::policy::compiled_quota::CompiledQuota;
use crate::limit::policy::limit::Subject;
use crate::limit::policy::named_subject::NamedSubject;

impl CompiledLimits {
    /// Returns the checks of the limits that apply to a subject, with the keys of the fleet.
    pub(crate) fn named_checks(&self, subject: &NamedSubject, cost: u32) -> Checks {
        let mut checks = Checks::default();
        let (method, route) = subject.method_and_route();
        let place = route.and_then(|route| self.patterns.place_of(route));
        for (index, rule) in self.rules.iter().enumerate() {
            let applies = rule.routes.is_all() || rule.routes.selects(place, method.as_ref());
            let Some(key) = self.named_key(rule, subject).filter(|_| applies) else { continue };
            let tier = subject.tier.as_deref().map_or(0, |tier| rule.tier_index(tier).0.unwrap_or(0));
            let check = self.named_check(rule, &key, route.unwrap_or(UNMATCHED), rule.quotas[tier].quota);
            checks.list.push(Check { enforced: rule.enforced, ..check.cost(cost) });
            checks.labels.push(LimitLabel { rule: index as u16, tier: tier as u16 });
        }
        checks
    }

    /// Returns a check for every quota under which a subject may have used something that is counted for it alone.
    pub(crate) fn checks_to_reset(&self, subject: &NamedSubject) -> Vec<Check> {
        let route = subject.method_and_route().1.unwrap_or(UNMATCHED);
        let own = self.rules.iter().filter(|rule| !matches!(rule.subject, Subject::Everybody | Subject::Node));
        let keyed = own.filter_map(|rule| Some((rule, self.named_key(rule, subject)?)));
        keyed
            .flat_map(|(rule, key)| {
                let check = move |quota: Quota| self.named_check(rule, &key, route, quota);
                rule.quotas.iter().map(move |compiled| check(compiled.quota))
            })
            .collect()
    }

    /// Returns the check of the named limit, under another quota.
    ///
    /// # Errors
    /// If there is no such limit, it does not count this subject, or the quota is impossible for it.
    pub(crate) fn check_to_grant(&self, subject: &NamedSubject, limit: &str, quota: Quota) -> Result<Check, Error> {
        let label = self.label_for_change(limit, quota)?;
        let rule = &self.rules[label.rule as usize];
        CompiledQuota::check(limit, quota, &rule.cost)?;
        let subject = NamedSubject { limit: Some(limit.into()), ..subject.clone() };
        let key = self.named_key(rule, &subject).filter(|_| !matches!(rule.subject, Subject::Everybody));
        let Some(key) = key else {
            let message = format!("limit {limit:?} does not count this subject apart; use set_quota, or another key");
            return Err(Error::config(message));
        };
        let route = subject.method_and_route().1.unwrap_or(UNMATCHED);
        Ok(self.named_check(rule, &key, route, quota))
    }

    pub(super) fn named_check(&self, rule: &CompiledLimit, key: &Key<'_>, route: &str, quota: Quota) -> Check {
        let id = if rule.per_route { rule.id ^ fnv1a(route) } else { rule.id };
        let is_global = matches!(rule.subject, Subject::Everybody);
        let salt = if rule.per_route { self.hasher.salt(id) } else { rule.salt };
        let shared = is_global.then(anonymous);
        let key = shared.as_ref().unwrap_or(key);
        let local = self.hasher.digest(key).of(salt);
        let check = Check { settles: rule.count.is_some(), ..Check::new(local, quota) };
        let fleet = self.secret.as_ref().and_then(|secret| secret.hash(id, key));
        fleet.map_or(check, |fleet| check.in_fleet(fleet))
    }

    /// Returns the key by which a limit counts a subject; `None` if it does not.
    pub(super) fn named_key(&self, rule: &CompiledLimit, subject: &NamedSubject) -> Option<Key<'static>> {
        let is_named = |name: &str| rule.quotas.iter().any(|quota| *quota.name == *name);
        let named = subject.limit.as_deref();
        if named.is_some_and(|name| !is_named(name)) {
            return None;
        }
        let address = subject.key.as_ip().map(|address| Key::ip(self.counted(address)));
        match rule.subject {
            Subject::Node => None,
            Subject::Ip => address,
            Subject::Own(_) => named.map(|_| address.unwrap_or_else(|| subject.key.clone())),
            Subject::User | Subject::Everybody => Some(address.unwrap_or_else(|| subject.key.clone())),
        }
    }

    /// Returns the subject's key, an address as it is counted.
    pub(super) fn counted_key(&self, subject: &NamedSubject) -> Key<'static> {
        subject.key.as_ip().map_or_else(|| subject.key.clone(), |address| Key::ip(self.counted(address)))
    }

    /// Returns an address as it is counted.
    fn counted(&self, address: IpAddr) -> IpAddr {
        self.client_ip.as_ref().unwrap_or(&self.peer).masked(address)
    }
}
