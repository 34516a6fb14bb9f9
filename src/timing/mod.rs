//! How long did it take: every request by route, every query by what it looks like, and which query belongs to which
//! request. What costs too much is said: slow queries, a query in a loop, the same question twice, a pool too small.
//!
//! ```
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use tollgate::timing::{TimingLayer, timed_query};
//!
//! async fn report() -> String {
//!     let sql = "SELECT count(*) FROM orders WHERE day = $1";
//!     let orders = timed_query(sql, async { 17 }).key("today").await; // any future of any driver
//!     format!("{orders} orders")
//! }
//!
//! let timing = TimingLayer::builder().slow_after(Duration::from_millis(100)).server_timing(true).build()?;
//! let app: Router = Router::new().route("/report", get(report)).layer(timing.clone());
//! let stats = timing.stats(); // routes, percentiles, queries, findings, slow requests; serde
//! # Ok::<(), tollgate::Error>(())
//! ```
//!
//! Over sqlx no handler changes: see [`harvest`](https://docs.rs/tollgate/latest/tollgate/timing/fn.harvest.html), and
//! `examples/queries.rs` for a service that is heard so.
//!
//! # How a request is counted
//!
//! | | the request | counts as |
//! |---|---|---|
//! | 1 | was answered with a status below 500 | a latency |
//! | 2 | was answered with 5xx, or its service failed with an error | a latency and an error |
//! | 3 | was dropped before there was an answer: the client left, a timeout outside fired, the handler panicked | cancelled, no latency |
//! | 4 | took at least `slow_after`, in whatever way it ended | also slow: listed with everything it did |
//!
//! Its time ends with the response *head*; what a body takes to stream depends on the client that reads it. Its name is
//! the route axum matched, else the first of [`routes`](TimingBuilder::routes) that matches, else
//! [`UNMATCHED`](crate::UNMATCHED): never a path that a client typed. After 256 routes ([settable]) the rest is
//! counted under `other`.
//!
//! [settable]: TimingBuilder::max_routes
//!
//! # Where queries come from
//!
//! | driver | how |
//! |---|---|
//! | sqlx, sea-orm | [`harvest`](https://docs.rs/tollgate/latest/tollgate/timing/fn.harvest.html), a layer of the program's subscriber: no handler changes (feature `tracing`) |
//! | any other | [`timed_query`] with the SQL, or [`timed`] with a word, around the future of each query |
//! | pools | heard from sqlx, where its [logging is on](https://docs.rs/tollgate/latest/tollgate/timing/fn.harvest.html); [`timed_acquire`] for any other |
//! | other services | [`timed_upstream`]: counted apart |
//!
//! Queries are grouped by their [`fingerprint`](fingerprint()): the statement without its values. For tokio-postgres:
//!
//! ```
//! use tokio_postgres::{Client, Error, Row, types::ToSql};
//! use tollgate::timing::timed_query;
//!
//! /// In place of `client.query`; of the parameters a hash is kept, while the request lasts.
//! async fn query(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
//!     let rows = client.query(sql, parameters);
//!     timed_query(sql, rows)
//!         .key(&format!("{parameters:?}"))
//!         .rows(|rows| rows.as_ref().map_or(0, |rows| rows.len() as u64))
//!         .await
//! }
//! ```
//!
//! The same for diesel, sea-orm and redis is in the repository's `examples/recipes`, a package of its own.
//!
//! # How a query finds its request
//!
//! | | the query is made | it counts for |
//! |---|---|---|
//! | 1 | in the handler, or in anything it awaits or joins | that request |
//! | 2 | by sqlx, on SQLite's own thread | the request in whose span it was asked for |
//! | 3 | in a task: `tokio::spawn(work.in_current_span())` over sqlx, `tokio::spawn(timed("name", query))` otherwise | that request, also after its end |
//! | 4 | by a handler that a cache runs detached: on a miss whose client has left, on a background revalidation | the request that caused it |
//! | 5 | inside a task spawned by hand, and anywhere else | no request: [`TimingStats::unattributed`] |
//!
//! What a layer outside this one does is not part of the request: put timing outermost. A query that a streaming body
//! makes after the response head counts where it is made in the request's span.
//!
//! # What is found
//!
//! | | in one request | reported as |
//! |---|---|---|
//! | 1 | a query took [`slow_query_after`](TimingBuilder::slow_query_after) (100 ms) or longer | [`Event::SlowQuery`](crate::Event::SlowQuery) |
//! | 2 | the request took [`slow_after`](TimingBuilder::slow_after) (250 ms) or longer | [`Event::SlowRequest`](crate::Event::SlowRequest) |
//! | 3 | the same query ran five times or more, for different things | [`Event::NPlusOne`](crate::Event::NPlusOne) |
//! | 4 | a query asked again for what it had asked for | [`Event::DuplicateQueries`](crate::Event::DuplicateQueries) |
//! | 5 | waits for connections took [`starved_after`](TimingBuilder::starved_after) (100 ms) or longer together | [`Event::PoolStarvation`](crate::Event::PoolStarvation) |
//!
//! Each is reported once a minute for a route and a query, to the hook and (feature `tracing`) as a warning with route,
//! fingerprint, count, time and, for [`timed`] and [`timed_query`], the line of the program. All are counted:
//! [`TimingStats::finding_counts`]. [`Repeats`] sets rows 3 and 4, for the layer or for a route.
//!
//! # When it fails
//!
//! The request, the response body and the inner service's error are untouched, and readiness is the inner service's
//! own.
//! What can fail is to hear sqlx, in silence: [`TimingStats::harvest`] says `never_heard`, and one warning says what
//! is in
//! the way. See [`harvest`](https://docs.rs/tollgate/latest/tollgate/timing/fn.harvest.html) for each cause and its
//! fix.
//!
//! # What it costs
//!
//! | | |
//! |---|---|
//! | a request without a query | two clock readings and six additions: about 110 ns over the bare service, no allocation |
//! | a query | about 200 ns; its request's log is opened by the first, with one allocation |
//! | a query heard from sqlx | about 0.3 µs over what sqlx needs to say it (0.2 µs) |
//! | memory | about 26 KB for each route and each query that occurred (256 of each); 256 groups per request; 2 MB of remembered statements; 80 slow requests, 64 findings |
//!
//! Percentiles since the layer was built are within 1⁄64 (1.6 %) of the exact value, those of the last minute, five
//! minutes and hour ([`Windows`]) within 1⁄16.
//!
//! # In production
//!
//! * [`server_timing`](TimingBuilder::server_timing) tells clients how long queries take. Turn it on inside, or for
//!   those you [choose](TimingBuilder::server_timing_if).
//! * [`TimingLayer::prometheus`] is a page to scrape; the feature `metrics` hands the same to the `metrics` facade.
//! * Names and fingerprints appear in [`TimingLayer::stats`], events and metrics; values, paths, users and addresses
//!   never
//!   do.
//! * Each process counts for itself.
//! * In tests, [`testing::queries`](https://docs.rs/tollgate/latest/tollgate/testing/) asserts how many there are.

mod engine;
mod measure;
mod report;
mod sources;
mod tower;

pub use measure::findings::FindingKind;
pub use measure::fingerprint::fingerprint;
pub use measure::n_plus_one::Repeats;
pub use measure::stats::{
    Finding, FindingCount, HarvestState, Latency, PoolStats, QueryShare, QueryStats, RouteStats, SlowRequest,
    TimingStats, Unattributed, Windows,
};
#[cfg(feature = "tracing")]
pub use sources::harvest::harvest;
#[cfg(feature = "testing")]
pub(crate) use sources::observe::{Observed, observe};
pub use sources::timed::{Timed, timed, timed_acquire, timed_query, timed_upstream};
pub use tower::future::ResponseFuture;
pub use tower::layer::{TimingBuilder, TimingLayer};
pub use tower::service::Timing;
