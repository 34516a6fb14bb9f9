//! For tests of services that use this crate: a clock to turn, a fake peer, queries counted, stores that fail, and what
//! every store must do (feature `testing`).
//!
//! "My limit refuses the 101st", and lets it pass a minute later, without sleeping:
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::{Router, body::Body, http::{Request, StatusCode}, routing::get};
//! use tollgate::Clock;
//! use tollgate::limit::{Limit, Quota, RateLimitLayer};
//! use tollgate::testing::{FakePeer, ManualClock};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let clock = ManualClock::new();
//! let limit = RateLimitLayer::builder()
//!     .limit(Limit::per_ip(Quota::per_minute(100)))
//!     .clock(Clock::Manual(clock.clone()))
//!     .build()
//!     .unwrap();
//! let app = Router::new().route("/", get(|| async { "hello" })).layer(limit).layer(FakePeer::at("192.0.2.1"));
//! let ask = || app.clone().oneshot(Request::get("/").body(Body::empty()).unwrap());
//!
//! for _ in 0..100 {
//!     assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
//! }
//! assert_eq!(ask().await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
//! clock.advance(Duration::from_secs(60));
//! assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
//! # }
//! ```
//!
//! "My own store does what a store must": see [`contract`]; "my service does not mind a store that fails": see
//! [`Faulty`].
//!
//! "This page makes at most three queries, and none in a loop": see [`queries`].

pub mod contract;
mod faulty;
mod peer;
mod queries;

pub use faulty::{Faulty, Misbehaviour};
pub use peer::{FakePeer, FromPeer};
pub use queries::{Queries, queries};

pub use crate::base::clock::ManualClock;
