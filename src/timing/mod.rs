//! How long did it take: every request by route, every query by name, and which query belongs to which request.
//!
//! ```
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use tollgate::timing::{TimingLayer, timed};
//!
//! async fn report() -> String {
//!     let rows = timed("orders of today", async { 17 }).await; // any future: one query, one call
//!     format!("{rows} orders")
//! }
//!
//! let timing = TimingLayer::builder().slow_after(Duration::from_millis(100)).server_timing(true).build()?;
//! let app: Router = Router::new().route("/report", get(report)).layer(timing.clone());
//! let stats = timing.stats(); // routes, percentiles, queries, slow requests; serde
//! # Ok::<(), tollgate::Error>(())
//! ```
//!
//! # How a request is counted
//!
//! | | the request | counts as |
//! |---|---|---|
//! | 1 | was answered with a status below 500 | a latency |
//! | 2 | was answered with 5xx, or its service failed with an error | a latency and an error |
//! | 3 | was dropped before there was an answer: the client left, a timeout outside fired, the handler panicked | cancelled, no latency |
//! | 4 | took at least `slow_after`, in whatever way it ended | also slow: listed, and reported as an [`Event`](crate::Event) |
//!
//! Its time ends with the response *head*; what a body takes to stream depends on the client that reads it. Its name is
//! the route axum matched, else the first of [`routes`](TimingBuilder::routes) that matches, else
//! [`UNMATCHED`](crate::UNMATCHED): never a path that a client typed. After 256 routes ([settable]) the rest is
//! counted under `other`.
//!
//! [settable]: TimingBuilder::max_routes
//!
//! # How a query finds its request
//!
//! | | [`timed`] is called | it counts for |
//! |---|---|---|
//! | 1 | in the handler, or in anything it awaits or joins | that request |
//! | 2 | in the handler, then moved away: `tokio::spawn(timed("name", query))` | that request, also after its end |
//! | 3 | by a handler that a cache runs detached: on a miss whose client has left, on a background revalidation | the request that caused it |
//! | 4 | inside a task spawned by hand, and anywhere else | no request: [`TimingStats::unattributed`] |
//!
//! What a layer outside this one does is not part of the request: put timing outermost.
//!
//! # When it fails
//!
//! It has nothing that could fail. The request, the response body and the inner service's error are untouched, and
//! readiness is the inner service's own.
//!
//! # What it costs
//!
//! Two clock readings (45 ns) and five additions per request: about 100 ns over the bare service, no allocation; a
//! request's log is opened by its first query, and a query costs two readings more. Memory is bounded: about 10 KB for
//! each route and each query name that occurred (256 of each), and 80 slow requests. Percentiles are within 1⁄64
//! (1.6 %) of the exact value; they cover the time since the layer was built.
//!
//! # In production
//!
//! * [`server_timing`](TimingBuilder::server_timing) tells clients how long queries take. Turn it on inside, or where
//!   you do not mind.
//! * Names given to [`timed`] appear in [`TimingLayer::stats`]; values, paths, users and addresses never do.
//! * Each process counts for itself.

mod core;
#[cfg(feature = "metrics")]
mod facade;
#[cfg(not(feature = "metrics"))]
#[path = "no_facade.rs"]
mod facade;
mod finding;
mod fingerprint;
mod future;
mod group;
#[cfg(feature = "tracing")]
mod harvest;
mod harvesting;
mod histogram;
mod layer;
mod names;
#[cfg(feature = "testing")]
mod observe;
mod prometheus;
mod repeat;
mod route;
mod scope;
mod server_timing;
mod service;
mod sliding;
mod slow;
#[cfg(feature = "tracing")]
mod span;
#[cfg(not(feature = "tracing"))]
#[path = "no_span.rs"]
mod span;
mod sql;
mod state;
mod stats;
mod table;
mod timed;

pub use finding::FindingKind;
pub use fingerprint::fingerprint;
pub use future::ResponseFuture;
#[cfg(feature = "tracing")]
pub use harvest::harvest;
pub use layer::{TimingBuilder, TimingLayer};
#[cfg(feature = "testing")]
pub(crate) use observe::{Observed, observe};
pub use repeat::Repeats;
pub use service::Timing;
pub use stats::{
    Finding, FindingCount, HarvestState, Latency, PoolStats, QueryShare, QueryStats, RouteStats, SlowRequest,
    TimingStats, Unattributed, Windows,
};
pub use timed::{Timed, timed, timed_acquire, timed_query, timed_upstream};
