//! Combines the layers: [`Tollgate`](crate::Tollgate) for incoming requests, [`UpstreamGate`](crate::UpstreamGate)
//! for outgoing calls.

#[cfg(feature = "config")]
mod config;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod given_once;
pub(crate) mod health;
pub(crate) mod inbound;
mod inbound_build;
pub(crate) mod inbound_builder;
#[cfg(feature = "jobs")]
pub(crate) mod jobs;
pub(crate) mod metrics;
pub(crate) mod outbound;
pub(crate) mod outbound_builder;
pub(crate) mod overrides;
pub(crate) mod stats;
#[cfg(feature = "postgres")]
mod usage;
