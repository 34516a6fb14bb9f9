//! Combines the rooms: [`Tollgate`](crate::Tollgate) for requests that come in,
//! [`UpstreamGate`](crate::UpstreamGate) for calls that go out.

pub(crate) mod inbound;
pub(crate) mod outbound;
pub(crate) mod stats;
