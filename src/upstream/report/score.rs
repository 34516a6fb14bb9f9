//! Efficiency score of an endpoint.
//!
//! > score = 0.5 · hit % + 0.3 · max(0, 100 − 20 · credits per request) + 0.2 · max(0, 100 − mean ms ⁄ 50)

use std::time::Duration;

use crate::base::error::Error;

/// Weights of the parts of an endpoint's score; each part is 0 to 100.
///
/// ```
/// use std::time::Duration;
/// use tollgate::upstream::Weights;
///
/// // 95 % answered without a call, a twentieth of a credit each, 50 ms on average.
/// let score = Weights::default().score(0.95, 0.05, Duration::from_millis(50));
/// assert!((score - 97.0).abs() < 1e-9);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Weights {
    /// Weight of the share of requests that needed no call. Defaults to 0.5.
    pub hits: f64,
    /// Weight of credits per request. Defaults to 0.3.
    pub credits: f64,
    /// Weight of the mean latency. Defaults to 0.2.
    pub latency: f64,
    /// Points lost per credit and request. Defaults to 20.
    pub per_credit: f64,
    /// Latency that costs one point. Defaults to 50 ms.
    pub per_point: Duration,
}

impl Default for Weights {
    fn default() -> Self {
        Self { hits: 0.5, credits: 0.3, latency: 0.2, per_credit: 20.0, per_point: Duration::from_millis(50) }
    }
}

impl Weights {
    /// Returns the score: 0 to 100 if the weights add up to one.
    ///
    /// `hit_ratio` (0 to 1) is the share of requests without a call, `credits_per_request` their mean cost,
    /// `mean_latency` their mean duration.
    #[must_use]
    pub fn score(&self, hit_ratio: f64, credits_per_request: f64, mean_latency: Duration) -> f64 {
        let slowness = mean_latency.as_secs_f64() / self.per_point.as_secs_f64();
        self.hits * 100.0 * hit_ratio
            + self.credits * (100.0 - self.per_credit * credits_per_request).max(0.0)
            + self.latency * (100.0 - slowness).max(0.0)
    }

    pub(crate) fn check(self) -> Result<Self, Error> {
        let Self { hits, credits, latency, per_credit, per_point } = self;
        let possible = |n: &f64| n.is_finite() && *n >= 0.0;
        if ![hits, credits, latency, per_credit].iter().all(possible) || per_point.is_zero() {
            return Err(Error::config(format!("weights of a score must be 0 or more: {self:?}")));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_what_the_formula_says() {
        let score = |hit, credits, ms| Weights::default().score(hit, credits, Duration::from_millis(ms));
        for (hit, credits, ms, expected) in [
            (0.95, 0.05, 50, 97.0),
            (1.0, 0.0, 0, 100.0),
            (0.0, 1.0, 0, 44.0),
            (0.0, 5.0, 5_000, 0.0),
            (0.0, 50.0, 60_000, 0.0),
            (0.5, 0.5, 250, 71.0),
        ] {
            assert!(
                (score(hit, credits, ms) - expected).abs() < 1e-9,
                "{hit} {credits} {ms}: {}",
                score(hit, credits, ms)
            );
        }
        assert!(Weights { hits: -1.0, ..Weights::default() }.check().is_err());
        assert!(Weights { per_point: Duration::ZERO, ..Weights::default() }.check().is_err());
        assert!(Weights::default().check().is_ok());
    }
}
