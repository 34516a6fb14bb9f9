//! [`Health`]: how a gate is doing.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::base::json_units::{millis, unix_millis};
use crate::health::advice::Advice;
use crate::health::checks::CheckStatus;
use crate::health::score::ScorePart;
use crate::health::slo::SloStatus;

/// How a gate is doing, from what it counted in the last five minutes and the last hour. Serialises to JSON.
///
/// | status | meaning |
/// |---|---|
/// | `pass` | all is well |
/// | `warn` | a store is down and requests continue without it, an objective is missed, a pool or quota is nearly used up |
/// | `fail` | a check of the application fails, 95 % of a quota is used, or limits refuse all requests since their store is down |
///
/// ```
/// use tollgate::Tollgate;
///
/// let gate = Tollgate::builder().build()?;
/// let health = gate.health();
/// assert_eq!((health.status, health.score, health.band), ("pass", None, "unknown"));
/// assert!(!health.degraded && health.reasons.is_empty());
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Worst status of all [checks](Self::checks): `pass`, `warn` or `fail`.
    pub status: &'static str,
    /// Score from 0 to 100; `None` below 20 samples in five minutes.
    pub score: Option<u8>,
    /// Band of the score: `excellent` from 90, `good` from 75, `fair` from 50, `poor`, or `unknown`.
    pub band: &'static str,
    /// Parts of the score.
    pub parts: Vec<ScorePart>,
    /// Whether the service is worse than it should be. Each reason has hysteresis: one that is about to end does not flap.
    pub degraded: bool,
    /// Reasons why it is degraded, most severe first.
    pub reasons: Vec<String>,
    /// Look-ups of the cache in the last hour.
    pub cache: CacheHealth,
    /// Queries of the last hour.
    pub database: DatabaseHealth,
    /// Results of all checks.
    pub checks: Vec<CheckStatus>,
    /// Objectives.
    pub slos: Vec<SloStatus>,
    /// What to do, the most valuable first.
    pub recommendations: Vec<Advice>,
    /// Time of this judgement.
    #[serde(rename = "timestamp", serialize_with = "unix_millis")]
    pub at: SystemTime,
}

/// Look-ups of the cache in the last hour.
///
/// ```
/// use tollgate::Tollgate;
///
/// let cache = Tollgate::builder().build()?.health().cache;
/// assert_eq!((cache.hit_rate, cache.health, cache.total_operations), (0.0, "unknown", 0));
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CacheHealth {
    /// Share of look-ups that needed no call, 0 to 1; 0 before the first.
    pub hit_rate: f64,
    /// Hit rate against the targets: `excellent`, `good`, `fair`, `poor`, or `unknown`.
    pub health: &'static str,
    /// Look-ups of responses that a rule covers, and of typed values.
    pub total_operations: u64,
}

/// Queries of the last hour.
///
/// ```
/// use tollgate::Tollgate;
///
/// let database = Tollgate::builder().build()?.health().database;
/// assert_eq!((database.total_queries, database.slow_queries), (0, 0));
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DatabaseHealth {
    /// Mean duration of a query.
    #[serde(rename = "avg_query_time_ms", serialize_with = "millis")]
    pub mean_query: Duration,
    /// Queries that took longer than their target.
    pub slow_queries: u64,
    /// Queries.
    pub total_queries: u64,
}
