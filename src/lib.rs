#![cfg_attr(docsrs, feature(doc_cfg))]
//! Tower layers for axum, tonic and hyper: rate limits, an HTTP response cache, and request and query timing.
//!
//! A request is identified ([`identity`]), limited ([`limit`]), answered from the cache if possible ([`cache`]), and
//! measured ([`timing`]). For outgoing calls, [`upstream`] keeps the quota of another service. Everything works within one
//! process, or across a fleet through Redis; memory is bounded, and a failure of these layers never fails a request.
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
//!     .layer(FakePeer::at("192.0.2.1"));   // a server provides the real address
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
//! # Overview
//!
//! | item | purpose |
//! |---|---|
//! | [`Tollgate`] | the layers in the right order, one handle for statistics, invalidation and shutdown |
//! | [`limit::RateLimitLayer`] | tiered limits per user, address, route; `X-RateLimit-*` on every response |
//! | [`cache::CacheLayer`] | an HTTP response cache, fail-open |
//! | [`cache::Cached`], [`Batcher`] | a cache of typed values over the same engine; bulk calls for values requested one by one |
//! | [`timing::TimingLayer`] | latencies by route, queries by request |
//! | [`upstream::UpstreamLayer`] | the quota of an upstream, around its client; [`Tollgate::upstream`] adds a cache |
//! | [`testing`] | a manual clock, a fake peer and a contract suite for stores (feature `testing`) |
//! | [`docs`] | guides, behaviour in failures, architecture |
//!
//! # Features
//!
//! None is enabled by default, and none changes the behaviour of the others.
//!
//! | feature | adds |
//! |---|---|
//! | `admin` | a dashboard, statistics and actions for operators: `Tollgate::admin` |
//! | `axum` | the client's address from `ConnectInfo`, and the route from `MatchedPath` |
//! | `tracing` | warnings and findings as `tracing` events, spans for detached work, and the harvest of sqlx's queries |
//! | `metrics` | every metric to the `metrics` facade, for the exporter that the application has installed: [`Metrics::publish`] |
//! | `testing` | the module [`testing`] |
//! | `redis` | limits and cached responses shared through Redis or Valkey, standalone, Sentinel or Cluster: [`store`] |
//! | `redis-tls` | `rediss://`: Redis over TLS, with rustls |
//! | `postgres` | limits and cached responses shared through PostgreSQL, and invalidated from its transactions: [`store::postgres`] |
//! | `postgres-tls` | `sslmode=require`: PostgreSQL over TLS, with rustls |
//! | `jobs` | named work on a schedule, each time run once in a fleet: `Tollgate::jobs` |
//! | `config` | routes, identity, limits and cache rules from a TOML file: `Tollgate::from_config` |
//! | `webhook` | invalidation by signed HTTP requests: [`cache::InvalidationWebhook`] |
//! | `lz4` | compression of large cached responses in remote stores; processes without it miss compressed entries |

#[cfg(feature = "admin")]
mod admin;
mod base;
#[cfg(feature = "config")]
mod config;
mod context;
mod gate;
mod health;
#[cfg(feature = "jobs")]
mod jobs;
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

#[cfg(feature = "admin")]
pub use admin::tower::{access::Actor, body::AdminBody, builder::AdminBuilder, service::Admin};
pub use base::body;
pub use base::body::{Body, BodyError};
pub use base::budget::{Allowance, Budget, BudgetEffect, BudgetPolicy};
pub use base::clock::{Clock, ManualClock, Timestamp};
pub use base::error::Error;
pub use base::event::{Event, Hook};
pub use base::maybe_ready::{BoxFuture, MaybeReady, MaybeReadyFuture};
pub use base::mode::Mode;
pub use base::request_head::{PeerAddr, RequestHead};
pub use base::route::UNMATCHED;
pub use base::route_matcher::RouteMatcher;
pub use batch::{BatchError, BatchStats, Batcher, BatcherBuilder};
pub use gate::health::settings::HealthBuilder;
pub use gate::health::status::{CacheHealth, DatabaseHealth, Health};
pub use gate::inbound::{Tollgate, TollgateLayer, TollgateService};
pub use gate::inbound_builder::TollgateBuilder;
#[cfg(feature = "jobs")]
pub use gate::jobs::Jobs;
pub use gate::metrics::Metrics;
pub use gate::outbound::{UpstreamGate, UpstreamGateLayer, UpstreamGateService, UpstreamGateStats};
pub use gate::outbound_builder::UpstreamGateBuilder;
pub use gate::overrides::handle::Overrides;
pub use gate::overrides::spec::Override;
pub use gate::overrides::status::OverrideStatus;
pub use gate::stats::{LayerModes, RouteReport, Stats};
pub use health::advice::Advice;
pub use health::checks::CheckStatus;
pub use health::score::ScorePart;
pub use health::slo::SloStatus;
#[cfg(feature = "jobs")]
pub use jobs::engine::{builder::JobBuilder, context::JobContext, run::JobRun, status::JobStatus};
#[cfg(feature = "jobs")]
pub use jobs::schedule::missed::Missed;
#[cfg(feature = "jobs")]
pub use jobs::tower::trigger::JobTrigger;
pub use resilience::circuit::Circuit;
pub use resilience::guard::GuardStats;

/// Compiles the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct FrontPage;
