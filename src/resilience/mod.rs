//! Keeps failures of stores and of user code from becoming failures of requests: circuit breaker, deadline,
//! reconnection, isolation of panics.

pub(crate) mod breaker;
pub(crate) mod circuit;
#[cfg(feature = "redis")]
pub(crate) mod guard;
pub(crate) mod isolate;
