//! Keeps failures of stores and user code away from requests: circuit breaker, deadlines, reconnection, isolation of
//! panics.

pub(crate) mod breaker;
pub(crate) mod circuit;
pub(crate) mod guard;
pub(crate) mod isolate;
pub(crate) mod outage_switch;
