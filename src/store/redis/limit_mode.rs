//! [`LimitMode`]: whether nodes lease blocks of hot keys.

/// Mode of limits in Redis.
///
/// ```
/// use tollgate::store::redis::{LimitMode, Redis};
///
/// let redis = Redis::new("redis://127.0.0.1")?.limit_mode(LimitMode::Leased);
/// # let _ = redis;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitMode {
    /// Every decision asks Redis, in one call with those that wait at the same time.
    #[default]
    Exact,
    /// Nodes lease blocks of hot keys in advance and spend them locally. The limit is never exceeded; up to a quarter
    /// of the remaining units may temporarily be held by nodes that do not need them.
    Leased,
}
