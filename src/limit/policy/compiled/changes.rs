//! Changes at run time: what a name means, and whether a change of it is possible.

use super::CompiledLimits;
use crate::base::error::Error;
use crate::base::mode::Mode;
use crate::limit::algorithm::quota::Quota;
use crate::limit::policy::compiled_quota::CompiledQuota;
use crate::limit::policy::decision::LimitLabel;
use crate::limit::policy::limit::Subject;

impl CompiledLimits {
    /// Returns the label of the named limit or tier, if `quota` is valid for it.
    pub(crate) fn label_for_change(&self, name: &str, quota: Quota) -> Result<LimitLabel, Error> {
        let Some((label, _)) = self.quotas().find(|(_, quota)| *quota.name == *name) else {
            return Err(Error::config(format!("unknown limit {name:?}; use a name listed in stats()")));
        };
        let rule = &self.rules[label.rule as usize];
        if matches!(rule.subject, Subject::Node) {
            return Err(Error::config(format!("limit {name:?}: a per-node ceiling cannot be changed at run time")));
        }
        CompiledQuota::check(name, quota, &rule.cost).map(|()| label)
    }

    /// Returns the labels of a name: that of a limit or tier, or of all tiers of a limit, in progress or not.
    pub(crate) fn labels_named(&self, name: &str) -> Vec<LimitLabel> {
        let labels = self.all_rules().enumerate().flat_map(|(index, rule)| {
            let is_whole = rule.given_name.as_deref() == Some(name);
            let tiers = rule.quotas.iter().enumerate().filter(move |(_, quota)| is_whole || *quota.name == *name);
            tiers.map(move |(tier, _)| LimitLabel { rule: index as u16, tier: tier as u16 })
        });
        labels.collect()
    }

    /// Returns the mode that a limit was built with.
    pub(crate) fn configured_mode(&self, label: LimitLabel) -> Mode {
        let is_enforced = self.rule(label.rule as usize).is_none_or(|rule| rule.enforced);
        if is_enforced { Mode::On } else { Mode::Shadow }
    }

    /// Checks that the mode of these limits can be changed.
    ///
    /// # Errors
    /// If one is a per-node ceiling.
    pub(crate) fn check_mode_change(&self, name: &str, labels: &[LimitLabel]) -> Result<(), Error> {
        let subject = |label: &LimitLabel| self.all_rules().nth(label.rule as usize).map(|rule| &rule.subject);
        match labels.iter().any(|label| matches!(subject(label), Some(Subject::Node))) {
            true => Err(Error::config(format!("limit {name:?}: a per-node ceiling cannot be changed at run time"))),
            false => Ok(()),
        }
    }
}
