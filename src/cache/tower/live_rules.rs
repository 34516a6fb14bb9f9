//! [`LiveRules`]: caching rules that can be replaced at run time.
//!
//! A request uses the rules in force at its start to its end. Until rules are replaced or overridden, that costs one load of a
//! flag.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::stats::RuleCounters;
use crate::base::lock::RwLock;
use crate::base::mode::Mode;
use crate::base::request_head::RequestHead;
use crate::base::route::Patterns;
use crate::cache::http::rule::Rule;
use crate::cache::http::rules::CompiledRules;

/// Compiled rules with their counters.
#[derive(Debug)]
pub(super) struct RuleSet {
    pub(super) rules: CompiledRules,
    /// One per rule, in order.
    counters: Vec<RuleCounters>,
}

impl RuleSet {
    fn new(rules: CompiledRules) -> Self {
        let counters = (0..rules.len()).map(|_| RuleCounters::default()).collect();
        Self { rules, counters }
    }

    /// Returns the patterns that no request has matched.
    pub(super) fn unmatched(&self) -> Vec<String> {
        let unmatched = self.counters.iter().enumerate().filter(|(_, rule)| rule.matched.load(Ordering::Relaxed) == 0);
        unmatched.filter_map(|(index, _)| self.rules.pattern(index)).map(str::to_owned).collect()
    }
}

/// The initial rules, and their latest replacement.
pub(super) struct LiveRules {
    built: RuleSet,
    /// Whether rules are or were replaced, or their modes overridden.
    is_changed: AtomicBool,
    replacement: RwLock<Option<Arc<RuleSet>>>,
    /// Overridden modes of rules, by pattern.
    modes: RwLock<Vec<(Box<str>, Mode)>>,
}

/// Rule matched by a request.
#[derive(Clone, Debug)]
pub(super) struct MatchedRule {
    /// The rule set, unless it is the initial one.
    replacement: Option<Arc<RuleSet>>,
    index: usize,
    /// Mode of the rule: on, unless it is overridden.
    pub(super) mode: Mode,
    /// Whether the rule was matched by path alone: see [`Match`](crate::base::route::Match).
    pub(super) is_guess: bool,
    /// Whether the request's route may be called by another name than the rule's pattern.
    pub(super) has_own_name: bool,
}

impl MatchedRule {
    #[inline]
    fn of(rules: &CompiledRules, head: &RequestHead<'_>) -> Self {
        let found = rules.find(head);
        let (found, index) = found.map_or((None, rules.fallback()), |(found, rule)| (Some(found), rule));
        let (is_guess, has_own_name) =
            (found.is_some_and(|found| found.is_guess), found.is_none_or(|found| found.is_renamed || found.is_wider));
        Self { replacement: None, index, mode: Mode::On, is_guess, has_own_name }
    }
}

impl LiveRules {
    pub(super) fn new(rules: CompiledRules) -> Self {
        Self {
            built: RuleSet::new(rules),
            is_changed: AtomicBool::new(false),
            replacement: RwLock::default(),
            modes: RwLock::default(),
        }
    }

    /// Replaces the rules for requests that start from now on.
    pub(super) fn replace(&self, rules: CompiledRules) {
        *self.replacement.write() = Some(Arc::new(RuleSet::new(rules)));
        self.is_changed.store(true, Ordering::Release);
    }

    /// Replaces the overridden modes of rules.
    pub(super) fn override_with(&self, rules: &[(&str, Mode)]) {
        *self.modes.write() = rules.iter().map(|(pattern, mode)| ((*pattern).into(), *mode)).collect();
        if !rules.is_empty() {
            self.is_changed.store(true, Ordering::Release);
        }
    }

    /// Returns the patterns of the rules in force, in order.
    #[cfg(feature = "admin")]
    pub(super) fn patterns(&self) -> Vec<String> {
        self.with_current(|current| {
            (0..current.rules.len()).filter_map(|rule| current.rules.pattern(rule)).map(str::to_owned).collect()
        })
    }

    /// Whether a rule in force has this pattern.
    pub(super) fn has_pattern(&self, pattern: &str) -> bool {
        self.with_current(|current| (0..current.rules.len()).any(|rule| current.rules.pattern(rule) == Some(pattern)))
    }

    /// Matches a request to its rule.
    #[inline]
    pub(super) fn find(&self, head: &RequestHead<'_>) -> MatchedRule {
        match self.is_changed.load(Ordering::Acquire) {
            false => MatchedRule::of(&self.built.rules, head),
            true => self.find_changed(head),
        }
    }

    /// Matches a request to a rule that may be replaced, and whose mode may be overridden.
    #[cold]
    fn find_changed(&self, head: &RequestHead<'_>) -> MatchedRule {
        let replacement = self.replacement();
        let rules = &replacement.as_deref().unwrap_or(&self.built).rules;
        let matched = MatchedRule::of(rules, head);
        let mode = self.mode_of(rules.pattern(matched.index));
        MatchedRule { mode, replacement, ..matched }
    }

    fn mode_of(&self, pattern: Option<&str>) -> Mode {
        let modes = self.modes.read();
        modes.iter().find(|(known, _)| Some(&**known) == pattern).map_or(Mode::On, |(_, mode)| *mode)
    }

    /// Returns the patterns of the initial rules. Their replacements declare the same routes.
    pub(super) const fn built_patterns(&self) -> &Patterns {
        &self.built.rules.patterns
    }

    /// Returns the rule.
    pub(super) fn rule<'a>(&'a self, matched: &'a MatchedRule) -> &'a Rule {
        self.rule_set(matched).rules.rule(matched.index)
    }

    /// Whether the rule was configured, unlike the default for requests that none covers.
    pub(super) fn is_configured(&self, matched: &MatchedRule) -> bool {
        self.rule_set(matched).rules.is_configured(matched.index)
    }

    /// Returns the name of the request's route if a router matched it or it is declared.
    pub(super) fn own_name<'a>(&'a self, matched: &'a MatchedRule, head: &RequestHead<'a>) -> Option<&'a str> {
        self.rule_set(matched).rules.patterns.own_name(head)
    }

    /// Returns the pattern of the rule; `None` for the fallback.
    pub(super) fn pattern<'a>(&'a self, matched: &'a MatchedRule) -> Option<&'a str> {
        self.rule_set(matched).rules.pattern(matched.index)
    }

    /// Returns the counters of the rule.
    pub(super) fn counters<'a>(&'a self, matched: &'a MatchedRule) -> &'a RuleCounters {
        &self.rule_set(matched).counters[matched.index]
    }

    /// Calls `f` with the rules in force.
    pub(super) fn with_current<T>(&self, f: impl FnOnce(&RuleSet) -> T) -> T {
        f(self.replacement().as_deref().unwrap_or(&self.built))
    }

    #[inline]
    fn replacement(&self) -> Option<Arc<RuleSet>> {
        if !self.is_changed.load(Ordering::Acquire) {
            return None;
        }
        self.replacement.read().clone()
    }

    fn rule_set<'a>(&'a self, matched: &'a MatchedRule) -> &'a RuleSet {
        matched.replacement.as_deref().unwrap_or(&self.built)
    }
}

impl fmt::Debug for LiveRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_current(|current| current.rules.patterns.fmt(f))
    }
}
