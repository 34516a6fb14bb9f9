//! [`Totals`]: counters of a gate, since it was built or within a window.

use std::time::Duration;

use serde::Serialize;

use crate::base::json_units::millis;

/// Counters that only grow, or their growth within a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    /// Requests that were answered or failed.
    pub(crate) requests: u64,
    /// Those with a 5xx status, or an error of the service.
    pub(crate) errors: u64,
    /// Those that took longer than the target.
    pub(crate) slow_requests: u64,
    /// Requests that a limit rejected.
    pub(crate) refused: u64,
    /// Look-ups of responses that the cache answered.
    pub(crate) hits: u64,
    /// Look-ups of responses that a rule covers and the cache did not answer.
    pub(crate) misses: u64,
    /// Look-ups of typed values that needed no load.
    pub(crate) data_hits: u64,
    /// Look-ups of typed values that did.
    pub(crate) data_misses: u64,
    pub(crate) queries: u64,
    /// Queries that took longer than the target.
    pub(crate) slow_queries: u64,
    #[serde(rename = "query_time_ms", serialize_with = "millis")]
    pub(crate) query_time: Duration,
    /// Requests that repeated a query for different rows.
    pub(crate) n_plus_one: u64,
    /// Calls of the inner service that the cache avoided.
    pub(crate) avoided: u64,
    /// Estimated duration of these.
    #[serde(rename = "time_saved_ms", serialize_with = "millis")]
    pub(crate) time_saved: Duration,
    /// Credits spent at upstreams.
    pub(crate) credits: u64,
}

impl Totals {
    /// Returns the growth since `before`. Counters that were reset have grown by nothing.
    pub(crate) fn since(&self, before: &Self) -> Self {
        self.combine(before, u64::saturating_sub, Duration::saturating_sub)
    }

    /// Returns the sum of both.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        self.combine(other, u64::saturating_add, Duration::saturating_add)
    }

    fn combine(&self, other: &Self, n: fn(u64, u64) -> u64, span: fn(Duration, Duration) -> Duration) -> Self {
        Self {
            requests: n(self.requests, other.requests),
            errors: n(self.errors, other.errors),
            slow_requests: n(self.slow_requests, other.slow_requests),
            refused: n(self.refused, other.refused),
            hits: n(self.hits, other.hits),
            misses: n(self.misses, other.misses),
            data_hits: n(self.data_hits, other.data_hits),
            data_misses: n(self.data_misses, other.data_misses),
            queries: n(self.queries, other.queries),
            slow_queries: n(self.slow_queries, other.slow_queries),
            query_time: span(self.query_time, other.query_time),
            n_plus_one: n(self.n_plus_one, other.n_plus_one),
            avoided: n(self.avoided, other.avoided),
            time_saved: span(self.time_saved, other.time_saved),
            credits: n(self.credits, other.credits),
        }
    }

    /// Look-ups of responses and typed values.
    pub(crate) const fn lookups(&self) -> u64 {
        self.hits + self.misses + self.data_hits + self.data_misses
    }

    /// Share of look-ups that needed no call; `None` before the first.
    pub(crate) fn hit_ratio(&self) -> Option<f64> {
        share(self.hits + self.data_hits, self.lookups())
    }

    /// Mean duration of a query.
    pub(crate) fn mean_query(&self) -> Duration {
        self.query_time.checked_div(u32::try_from(self.queries).unwrap_or(u32::MAX)).unwrap_or_default()
    }
}

/// Returns `part` ⁄ `whole`; `None` if `whole` is zero.
pub(crate) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
