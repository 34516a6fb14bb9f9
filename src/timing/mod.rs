//! Latency by route, time and count of queries by request, and findings such as slow queries, N+1 queries, duplicates
//! and pool starvation.
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
//! With sqlx no handler changes: see [`harvest`](https://docs.rs/tollgate/latest/tollgate/timing/fn.harvest.html),
//! and `examples/queries.rs` for a complete service.
//!
//! # How a request is counted
//!
//! | | the request | counts as |
//! |---|---|---|
//! | 1 | was answered with a status below 500 | a latency |
//! | 2 | was answered with 5xx, or its service failed with an error | a latency and an error |
//! | 3 | was dropped before there was an answer: the client left, a timeout outside fired, the handler panicked | cancelled, no latency |
//! | 4 | took at least `slow_after`, however it ended | also slow: listed with its queries, waits and calls |
//!
//! Time ends with the response *head*; the duration of a streamed body depends on the client that reads it. The name
//! is the route matched by axum, else the first of [`routes`](TimingBuilder::routes) that matches, else
//! [`UNMATCHED`](crate::UNMATCHED): never a path typed by a client. After 256 routes ([configurable]) the rest is
//! counted under `other`.
//!
//! [configurable]: TimingBuilder::max_routes
//!
//! # Sources of queries
//!
//! | driver | how |
//! |---|---|
//! | sqlx, sea-orm | [`harvest`](https://docs.rs/tollgate/latest/tollgate/timing/fn.harvest.html), a layer of the program's subscriber: no handler changes (feature `tracing`) |
//! | any other | [`timed_query`] with the SQL, or [`timed`] with a name, around the future of each query |
//! | pools | sqlx's events, if its [logging is on](https://docs.rs/tollgate/latest/tollgate/timing/fn.harvest.html); otherwise [`timed_acquire`] |
//! | other services | [`timed_upstream`]: counted separately |
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
//! # Attribution of queries to requests
//!
//! | | the query is made | it counts for |
//! |---|---|---|
//! | 1 | in the handler, or in anything it awaits or joins | that request |
//! | 2 | by sqlx, on SQLite's own thread | the request in whose span it was made |
//! | 3 | in a task: `tokio::spawn(work.in_current_span())` over sqlx, `tokio::spawn(timed("name", query))` otherwise | that request, also after its end |
//! | 4 | by a handler that a cache runs detached: on a miss whose client has left, on a background revalidation | the request that caused it |
//! | 5 | inside a task spawned by hand, and anywhere else | no request: [`TimingStats::unattributed`] |
//!
//! Work of outer layers is not part of the request: make timing the outermost layer. A query that a streaming body
//! makes after the response head is attributed if it is made in the request's span.
//!
//! # Findings
//!
//! | | in one request | reported as |
//! |---|---|---|
//! | 1 | a query took [`slow_query_after`](TimingBuilder::slow_query_after) (100 ms) or longer | [`Event::SlowQuery`](crate::Event::SlowQuery) |
//! | 2 | the request took [`slow_after`](TimingBuilder::slow_after) (250 ms) or longer | [`Event::SlowRequest`](crate::Event::SlowRequest) |
//! | 3 | the same query read five times or more, for different rows | [`Event::NPlusOne`](crate::Event::NPlusOne) |
//! | 4 | the same statement wrote five times or more | [`Event::UnbatchedWrites`](crate::Event::UnbatchedWrites) |
//! | 5 | a query that only reads was repeated exactly | [`Event::DuplicateQueries`](crate::Event::DuplicateQueries) |
//! | 6 | waits for connections took [`starved_after`](TimingBuilder::starved_after) (100 ms) or longer together | [`Event::PoolStarvation`](crate::Event::PoolStarvation) |
//!
//! Each is reported once a minute per route and query, to the hook and (feature `tracing`) as a warning with route,
//! fingerprint, count, time and, for [`timed`] and [`timed_query`], the call site. All are counted in
//! [`TimingStats::finding_counts`]. [`Repeats`] configures rows 3 to 5, for the layer or for a route. Statements
//! that neither read nor write rows, and reads with an effect (`nextval`, `FOR UPDATE SKIP LOCKED`), are repeated without a
//! finding. `BEGIN`, `COMMIT`, `SAVEPOINT` and their like are no queries, however the driver reports them; their time counts.
//!
//! # Failures
//!
//! The request, the response body and the inner service's error are unchanged, and readiness is that of the inner
//! service. The harvest of sqlx's queries can fail silently: [`TimingStats::harvest`] is then `no_events`, and one
//! warning names the likely cause. See [`harvest`](https://docs.rs/tollgate/latest/tollgate/timing/fn.harvest.html)
//! for each cause and its fix.
//!
//! # Cost
//!
//! | | |
//! |---|---|
//! | a request without a query | two clock readings and six additions: about 110 ns over the bare service, no allocation |
//! | a query | about 200 ns; the first one allocates the request's log |
//! | a query harvested from sqlx | about 0.3 µs in addition to sqlx's own event (0.2 µs) |
//! | memory | about 26 KB per route and per query that occurred (256 of each; less recent queries make room, and add their counts to `other`); 256 groups per request; 2 MB of cached statements; 80 slow requests, 64 findings |
//!
//! Percentiles since the layer was built are within 1⁄64 (1.6 %) of the exact value, those of the last minute, five
//! minutes and hour ([`Windows`]) within 1⁄16.
//!
//! # In production
//!
//! * [`server_timing`](TimingBuilder::server_timing) discloses query times to clients. Enable it internally, or for
//!   [selected requests](TimingBuilder::server_timing_if).
//! * [`TimingLayer::prometheus`] renders a page to scrape; the feature `metrics` records the same with the `metrics`
//!   facade.
//! * Names and fingerprints appear in [`TimingLayer::stats`], events and metrics; values, paths, users and addresses
//!   never do.
//! * Each process has its own counts.
//! * In tests, [`testing::queries`](https://docs.rs/tollgate/latest/tollgate/testing/) asserts the number of queries.

mod engine;
mod measure;
mod report;
mod sources;
mod tower;

pub(crate) use engine::state::TimingCounts;
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
