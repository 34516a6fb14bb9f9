//! Utilities for testing services that use this crate. It provides a manual clock, a fake peer, query counts, failing
//! stores, and contract tests for stores (feature `testing`).
//!
//! A test that a limit refuses the 101st request, and admits it a minute later, without sleeping:
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
//! let get = || app.clone().oneshot(Request::get("/").body(Body::empty()).unwrap());
//!
//! for _ in 0..100 {
//! assert_eq!(get().await.unwrap().status(), StatusCode::OK);
//! }
//! assert_eq!(get().await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
//! clock.advance(Duration::from_secs(60));
//! assert_eq!(get().await.unwrap().status(), StatusCode::OK);
//! # }
//! ```
//!
//! [`contract`] tests your own stores, [`Faulty`] the behaviour of your service with a failing one.
//!
//! [`queries()`] asserts the number of queries of a request, and the absence of N+1 patterns.

mod bytes;
pub mod contract;
mod faulty;
mod peer;
mod queries;

pub use bytes::MemoryBytes;
pub use faulty::{Faulty, InjectedFault};
pub use peer::{FakePeer, FromPeer};
pub use queries::{Queries, queries};

pub use crate::base::clock::ManualClock;
