//! Settings that a gate reads and writes, since its layers share them.

use super::RateLimitBuilder;
use crate::base::clock::Clock;
use crate::identity::{KeyExtractor, SharedExtractor};
use crate::limit::policy::limit::Subject;

impl RateLimitBuilder {
    /// Returns the configured extractor, and those of limits that have their own.
    pub(crate) fn extractors(&self) -> (Option<SharedExtractor>, Vec<SharedExtractor>) {
        let own = self.limits.iter().filter_map(|limit| match &limit.subject {
            Subject::Own(extractor) => Some(extractor.clone()),
            _ => None,
        });
        (self.identify.clone(), own.collect())
    }

    /// Returns the extractors that verify every request.
    pub(super) fn verifiers(&self) -> Vec<SharedExtractor> {
        let (identify, own) = self.extractors();
        identify.into_iter().chain(own).filter(|extractor| extractor.verifies()).collect()
    }

    /// Returns the declared routes.
    pub(crate) fn declared_routes(&self) -> &[Box<str>] {
        &self.routes
    }

    /// Returns the clock.
    pub(crate) const fn own_clock(&self) -> &Clock {
        &self.clock
    }

    /// Replaces the declared routes.
    pub(crate) fn declare(mut self, routes: Vec<Box<str>>) -> Self {
        self.routes = routes;
        self
    }
}
