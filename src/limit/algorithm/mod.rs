//! Rate-limit algorithms: functions of a state, a quota and the time.

pub(super) mod check;
pub mod gcra;
#[cfg(feature = "postgres")]
pub(crate) mod key_record;
pub(super) mod key_state;
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) mod lease;
pub(super) mod quota;
pub(super) mod verdict;
pub mod window;
