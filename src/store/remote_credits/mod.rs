//! Credits of upstreams in a server that a fleet shares, whatever engine keeps them.
//!
//! A store keeps the booked and the returned units of each upstream and window. Both only increase, which distinguishes a
//! server that lost data from one with returned units. They expire an hour after the window has ended. A booking takes one
//! round trip for all its windows. A lost reply leaves its booking in place: the count is too high, never too low.

pub(super) mod engine;
pub(super) mod handle;
