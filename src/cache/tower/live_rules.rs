//! [`LiveRules`]: the rules in force, which may be replaced while requests go on.
//!
//! A request is judged to its end by the rules it began under. Until rules are replaced, it pays one load of a flag.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::stats::RuleCounters;
use crate::base::lock::RwLock;
use crate::base::request_head::RequestHead;
use crate::cache::http::rules::{CompiledRules, Rule};

/// Rules, and what became of each.
#[derive(Debug)]
pub(crate) struct RuleSet {
    pub(crate) rules: CompiledRules,
    /// One per rule, in their order.
    counters: Vec<RuleCounters>,
}

impl RuleSet {
    fn new(rules: CompiledRules) -> Self {
        let counters = (0..rules.len()).map(|_| RuleCounters::default()).collect();
        Self { rules, counters }
    }

    /// The patterns that no request has matched.
    pub(crate) fn unmatched(&self) -> Vec<String> {
        let unmatched = self.counters.iter().enumerate().filter(|(_, rule)| rule.matched.load(Ordering::Relaxed) == 0);
        unmatched.filter_map(|(index, _)| self.rules.pattern(index)).map(str::to_owned).collect()
    }
}

/// The rules a layer was built with, and those that replaced them.
pub(crate) struct LiveRules {
    built: RuleSet,
    is_replaced: AtomicBool,
    live: RwLock<Option<Arc<RuleSet>>>,
}

/// The rule of one request.
#[derive(Clone, Debug)]
pub(crate) struct MatchedRule {
    /// The book it is in, where that is not the first.
    live: Option<Arc<RuleSet>>,
    index: usize,
    /// Whether nothing but the path speaks for the rule: see [`Match`](crate::base::route::Match).
    pub(crate) is_guess: bool,
}

impl LiveRules {
    pub(crate) fn new(rules: CompiledRules) -> Self {
        Self { built: RuleSet::new(rules), is_replaced: AtomicBool::new(false), live: RwLock::default() }
    }

    /// Judges requests that begin from now on by these.
    pub(crate) fn replace(&self, rules: CompiledRules) {
        *self.live.write() = Some(Arc::new(RuleSet::new(rules)));
        self.is_replaced.store(true, Ordering::Release);
    }

    /// The rule for a request.
    pub(crate) fn find(&self, head: &RequestHead<'_>) -> MatchedRule {
        let live = self.live();
        let (index, is_guess) = live.as_deref().unwrap_or(&self.built).rules.find(head);
        MatchedRule { live, index, is_guess }
    }

    /// What the rule says.
    pub(crate) fn rule<'a>(&'a self, ruling: &'a MatchedRule) -> &'a Rule {
        self.book(ruling).rules.rule(ruling.index)
    }

    /// The name of the request's route; none where it matched none.
    pub(crate) fn name<'a>(&'a self, ruling: &'a MatchedRule, head: &RequestHead<'a>) -> Option<&'a str> {
        self.book(ruling).rules.patterns.routed(head).or_else(|| self.pattern(ruling))
    }

    /// Its pattern; none for requests that no pattern matches.
    pub(crate) fn pattern<'a>(&'a self, ruling: &'a MatchedRule) -> Option<&'a str> {
        self.book(ruling).rules.pattern(ruling.index)
    }

    /// What became of it.
    pub(crate) fn counters<'a>(&'a self, ruling: &'a MatchedRule) -> &'a RuleCounters {
        &self.book(ruling).counters[ruling.index]
    }

    /// Looks at the rules in force.
    pub(crate) fn look<T>(&self, f: impl FnOnce(&RuleSet) -> T) -> T {
        f(self.live().as_deref().unwrap_or(&self.built))
    }

    #[inline]
    fn live(&self) -> Option<Arc<RuleSet>> {
        if !self.is_replaced.load(Ordering::Acquire) {
            return None;
        }
        self.live.read().clone()
    }

    fn book<'a>(&'a self, ruling: &'a MatchedRule) -> &'a RuleSet {
        ruling.live.as_deref().unwrap_or(&self.built)
    }
}

impl fmt::Debug for LiveRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.look(|book| book.rules.patterns.fmt(f))
    }
}
