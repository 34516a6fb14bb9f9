//! Tower layers that put a toll gate in front of any axum, tonic or hyper service.
//!
//! **Who is asking** ([`identity`]) → **may they** ([`limit`]) → **do we know the answer already** ([`cache`]) → **how
//! long did
//! it take** ([`timing`]); and on the way out, **how much may we still ask of others** ([`upstream`]). It works alone
//! in one
//! process, is bounded in memory, and a failure of its own never becomes a failure of yours.
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::{Router, body::Body, http::Request, routing::get};
//! use tollgate::Tollgate;
//! use tollgate::cache::{Rule, Rules};
//! use tollgate::limit::{Limit, Quota};
//! use tollgate::testing::FakePeer;
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let gate = Tollgate::builder()
//!     .limit(Limit::per_ip(Quota::per_minute(100)))
//!     .cache(Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15))))
//!     .build()?;
//! let app = Router::new()
//!     .route("/prices/{symbol}", get(|| async { "42" }))
//!     .layer(gate.layer())
//!     .layer(FakePeer::at("192.0.2.1"));   // a real server has a real one
//!
//! for (left, cached) in [("99", false), ("98", true)] {
//!     let request = Request::get("/prices/ACME").header("host", "example.com").body(Body::empty())?;
//!     let response = app.clone().oneshot(request).await?;
//!     assert_eq!(response.headers()["x-ratelimit-remaining"], left);
//!     assert_eq!(response.headers().contains_key("age"), cached);
//! }
//! assert_eq!(gate.stats().inner_calls_avoided, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # The pieces
//!
//! | piece | what it is |
//! |---|---|
//! | [`Tollgate`] | the layers in the right order, one handle for statistics, invalidation and shutdown |
//! | [`limit::RateLimitLayer`] | tiered limits per user, address, route; `X-RateLimit-*` on every response |
//! | [`cache::CacheLayer`] | an HTTP response cache, fail-open |
//! | [`cache::Cached`], [`Batcher`] | typed values over the same engine; what is asked for one by one, asked for together |
//! | [`timing::TimingLayer`] | latencies by route, queries by request |
//! | [`upstream::UpstreamLayer`] | an upstream's quota, kept around the client that calls it; [`Tollgate::upstream`] with a cache in front |
//! | [`testing`] | a clock to turn and a fake peer (feature `testing`) |
//! | [`docs`] | architecture, faults, questions |
//!
//! # Features
//!
//! None is on by default, and none changes what the others do.
//!
//! | feature | adds |
//! |---|---|
//! | `axum` | the client's address from `ConnectInfo`, the route's name from `MatchedPath` |
//! | `tracing` | warnings as `tracing` events; spans follow detached work |
//! | `redis` | limits and cached responses shared by a fleet: [`store::redis`](crate::store) |
//! | `redis-tls` | the same over TLS |
//! | `lz4` | large cached responses compressed on their way to Redis |
//! | `testing` | [`testing`] |

mod base;
mod gate;
mod resilience;

mod batch;

pub mod docs;

pub mod cache;
pub mod identity;
pub mod limit;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod timing;
pub mod upstream;

pub use base::body;
pub use base::body::{Body, BodyError};
pub use base::budget::{Allowance, Budget, BudgetEffect, BudgetPolicy};
pub use base::clock::{Clock, ManualClock, Timestamp};
pub use base::error::Error;
pub use base::event::{Event, Hook};
pub use base::maybe_ready::{BoxFuture, MaybeReady, MaybeReadyFuture};
pub use base::mode::Switch;
pub use base::request_head::{PeerAddr, RequestHead};
pub use base::route::UNMATCHED;
pub use batch::{BatchError, BatchStats, Batcher, BatcherBuilder};
pub use gate::inbound::{Tollgate, TollgateBuilder, TollgateLayer, TollgateService};
pub use gate::outbound::{
    UpstreamGate, UpstreamGateBuilder, UpstreamGateLayer, UpstreamGateService, UpstreamGateStats,
};
pub use gate::stats::{RouteReport, Stats, Switches};
pub use resilience::circuit::Circuit;
#[cfg(feature = "redis")]
pub use resilience::guard::GuardStats;

/// The front page's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct FrontPage;
