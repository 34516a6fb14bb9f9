//! [`Targets`]: what the numbers of a gate are compared with.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::error::Error;
use crate::base::route_matcher::RouteMatcher;

/// Share of requests and of queries that must be as fast as their target.
pub(crate) const FAST_SHARE: f64 = 0.95;
/// Target hit ratio of what has none of its own.
pub(crate) const HIT_RATIO: f64 = 0.7;
/// Failed attempts in a row from which a job fails repeatedly.
pub(crate) const JOB_FAILURES: u64 = 3;
/// Use of a pool of connections from which it is a warning.
pub(crate) const POOL_USE: f64 = 0.8;
/// Use of a quota from which it is a warning, and a failure.
pub(crate) const QUOTA_USE: (f64, f64) = (0.85, 0.95);
/// Fewest samples from which a part has a value.
pub(crate) const MIN_SAMPLES: u64 = 20;

/// Targets of a gate.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    /// 95 % of the requests take less.
    pub(crate) latency: Duration,
    /// 95 % of the queries take less.
    pub(crate) query: Duration,
    /// Share of requests that may fail.
    pub(crate) errors: f64,
    /// Hit ratios by route or namespace.
    pub(crate) hit_ratios: BTreeMap<String, f64>,
    /// Times within which 95 % of the requests of some routes are to be answered.
    pub(crate) routes: Vec<(RouteMatcher, Duration)>,
}

impl Default for Targets {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(500),
            query: Duration::from_millis(100),
            errors: 0.01,
            hit_ratios: BTreeMap::new(),
            routes: Vec::new(),
        }
    }
}

impl Targets {
    /// # Errors
    /// If a target cannot be met or missed.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.latency.is_zero() || self.query.is_zero() || self.routes.iter().any(|(_, latency)| latency.is_zero()) {
            return Err(Error::config("health: a target of 0 s is always missed; set a longer one"));
        }
        if let Some(entry) = self.routes.iter().find_map(|(routes, _)| routes.entry_with_method()) {
            return Err(Error::config(format!(
                "health: {entry:?}: an objective counts all methods of a route; leave the method out"
            )));
        }
        let is_share = |share: f64| share > 0.0 && share < 1.0;
        if !is_share(self.errors) {
            return Err(Error::config(format!(
                "health: the error target must be a share between 0 and 1, not {}",
                self.errors
            )));
        }
        match self.hit_ratios.iter().find(|(_, ratio)| !is_share(**ratio)) {
            Some((name, ratio)) => Err(Error::config(format!(
                "health: the hit target of {name:?} must be a share between 0 and 1, not {ratio}"
            ))),
            None => Ok(()),
        }
    }

    /// Returns the target hit ratio of a route or namespace.
    pub(crate) fn hit_ratio(&self, name: &str) -> f64 {
        self.hit_ratios.get(name).copied().unwrap_or(HIT_RATIO)
    }
}
