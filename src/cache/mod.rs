//! An HTTP response cache: RFC 9111 (caching), 5861 (stale), 9211 (`Cache-Status`), 9213 (targeted fields).
//!
//! ```
//! use std::time::Duration;
//! use tollgate::cache::{CacheLayer, Rule, Rules};
//! use tower::{Layer, ServiceExt};
//! # use http_body_util::Full;
//! # use bytes::Bytes;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rules = Rules::new()
//!     .route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15)).tag("prices").same_for_everyone());
//! let cache = CacheLayer::builder().rules(rules).cache_status(true).build()?;
//! let prices = cache.layer(tower::service_fn(async |_: http::Request<Full<Bytes>>| {
//!     Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::from("42")))
//! }));
//!
//! let ask = || http::Request::get("http://localhost/prices/ACME").body(Full::<Bytes>::default());
//! prices.clone().oneshot(ask()?).await?;
//! let second = prices.clone().oneshot(ask()?).await?;
//! assert!(second.headers()["cache-status"].to_str()?.starts_with("Tollgate; hit; ttl="));
//! assert_eq!(cache.stats().inner_calls, 1);
//! cache.invalidate().tag("prices").await?;
//! # Ok(()) }
//! ```
//!
//! # How it decides
//!
//! | | question | yes | no |
//! |---|---|---|---|
//! | 1 | may this request use the cache? (method, credentials, authority, reflected fields, the route's rule) | 2 | it passes by, untouched |
//! | 2 | is there an entry under its key, for what it says in the fields the response varies on, that nobody invalidated? | 3 | 6 |
//! | 3 | is it fresh? | it is served: a look-up, a comparison, an `Age` | 4 |
//! | 4 | is it within stale-while-revalidate? | it is served, and one request refreshes it meanwhile | 5 |
//! | 5 | can it be revalidated? | the inner service is asked whether it is current; 304 refreshes it | 6 |
//! | 6 | is somebody fetching it already? | wait for the head, at most 3 s, then read along as the body arrives; see [below](#long-slow-and-stalled-bodies) | 7 |
//! | 7 | fetch it, in a task of its own. Does it fail while a stale entry may stand in? | that entry | 8 |
//! | 8 | may the response be kept? (decided on its head) | head out at once, body to all readers, then into the store | it goes to this client alone, untouched; those who wait go by themselves, at once |
//!
//! [`Profile`] says how strict questions 1 and 8 are, [`Rules`] and [`StoreHint`] what routes and handlers add.
//!
//! # When it fails
//!
//! It fails open. A store's error is a miss and an [`Event`](crate::Event); the inner service's error reaches the
//! client
//! whose fetch it is, unchanged; a panic goes on there too. Nobody waits longer than the deadline, or, after a failure,
//! once more as long for a turn. Nothing is served past its stale windows. A body that breaks off, is cut short, or
//! outgrows
//! the bound is never stored.
//!
//! # Who may share an answer
//!
#![doc = include_str!("../docs/sharing.md")]
//!
//! # Long, slow and stalled bodies
//!
//! Sharing a fetch leaves no one worse off than a fetch of their own:
//!
//! | the body | the client whose fetch it is | requests for the same meanwhile |
//! |---|---|---|
//! | has a promised length that fits [`max_entry`](CacheBuilder::max_entry) and the memory that is free | reads it as it comes | read along as it comes, from its first byte |
//! | has an unknown length (chunked, compressed) | reads it as it comes | wait until it is complete, as long as a whole fetch of the route usually takes (its 95th percentile; `wait` while that is unknown), then fetch for themselves |
//! | is longer than `max_entry`, or there is no memory for it | reads it as it comes, in constant memory; it is not stored | fetch for themselves, at once |
//! | makes no progress for a second | waits for it | fetch anew, together; those that have read a part of it continue by a range request of their own under the same strong `ETag`, else wait for it |
//! | makes none for the [`idle_timeout`](CacheBuilder::idle_timeout) | waits for it | those that still wait for it get an error |
//! | ends in an error | gets that error | those that have read a part of it get an error; others fetch for themselves |
//!
//! A fetch whose client has left goes on, for the store and for those who share it, until it is done or makes no
//! progress
//! for the `idle_timeout`; at most 256 do so at a time, others end with their clients. A client that reads slowly, or
//! not at
//! all, holds back no other: what it has not read counts against the memory for bodies until it has, and bodies for
//! which
//! none is left are passed on, neither shared nor stored. A quarter of that memory is kept for bodies of at most 64
//! KiB.
//!
//! # What it costs
//!
//! A hit copies one prepared field map and counts references: it neither clones nor polls the inner service, parses no
//! directive of the response and copies no body, whatever its size: about half a microsecond and two allocations in
//! `cargo bench --bench layers` on two virtual cores, for 1 KiB and 1 MiB alike. A miss costs a task and a box, some 7
//! µs.
//! Memory: the bound for entries, at most as much again for bodies that are being read by the cache or by slow clients
//! (counted by what is allocated), and one small record for each of the latest 16 384 invalidations.
//!
//! # Invalidation
//!
//! By [tag, URL, prefix, or all](Invalidate), and by unsafe methods (RFC 9111 §4.4). Each raises a *barrier*: entries
//! whose fetch **began** before it are void, also those that arrive later. A slow fetch cannot bring the old state
//! back,
//! and a request that comes after a barrier never waits for a fetch that began before it.
//!
//! # In a fleet
//!
//! [`TollgateBuilder::redis`](crate::TollgateBuilder::redis) puts a Redis behind each process's memory ([`Levels`]);
//! any
//! [`CacheStore`] can stand there ([`CacheBuilder::level_2`]). What one node fetched all serve, for the life that
//! remains; a
//! stale entry is refreshed by one of them. An invalidation is heard by all: it is put into a log in Redis and
//! published,
//! and entries carry the number of the last one known when their fetch began, so that a slow fetch brings nothing back
//! on
//! any node. Where Redis is away, look-ups are misses that wait for nothing, memory serves, and invalidations are kept
//! until they can be told. Nodes must see the same authority: it is part of the key.
//!
//! # Typed values
//!
#![doc = include_str!("../docs/typed.md")]
//!
//! # Where to read what
//!
//! | files | what they hold |
//! |---|---|
//! | `flags` `credentials` `key` `keying` `rules` `directive` `freshness` `policy` `evaluate` `wish` `vary` `validate` `range` `locate` `tag` | decisions: functions of their arguments, `now` among them |
//! | `entry` `store` `levels` | what is kept, the trait of places to keep it, and two places one behind the other |
//! | `wire` `envelope` `pack` `invalidation` `history` `listener` | what processes that share a store tell one another |
//! | `barrier` `flight` `tee` `buffer` `pump` `reader` `body_memory` `slots` `fetch_times` `hit_for_miss` `min_uses` `stats` | shared state, each with one job |
//! | `core` `lookup` `service` | a request's way to a hit |
//! | `join` `fetch` `live` `keep` `update_entry` `partial` `settle` | its way when there is none |
//! | `respond` `status` | what the client is sent |
//! | `engine` | what responses and typed values share |
//! | `data/` | typed values |
//!
//! # Deploying it
//!
//! * The key holds scheme and authority. A service behind a proxy that ends TLS sees `http`: set
//!   [`default_scheme`](CacheBuilder::default_scheme), and let exactly one authority through.
//! * A proxy that adds `X-Forwarded-Host` makes every request pass by, because applications build links from it: strip
//!   it,
//!   or make it part of the key with [`key_field`](CacheBuilder::key_field). `X-Forwarded-Proto` and `-Port` are part
//!   of the
//!   key wherever they are sent.
//! * Put authentication outside, compression inside (or vary on `Accept-Encoding`), limits outside.
//! * It needs a tokio runtime with time enabled.
//!
//! # The texts
//!
//! [`conformance`] lists what RFC 9111 and its kin ask of a shared cache, point by point, met or not met.
//!
//! # Why was it not cached?
//!
//! One closed list of [`Reason`]s: in `Cache-Status: …; detail=`, in [`CacheStats`], and here.
//!
#![doc = include_str!("../docs/cache_reasons.md")]

pub(crate) mod engine;
pub(crate) mod http;
mod tower;

pub(crate) mod data;

pub use data::{
    Cached, CachedBuilder, DataBuilder, DataCache, DataInvalidate, DataStats, KeyPart, KeyWriter, LoadError, Loaded,
    WarmUpLimits, WarmUpReport,
};
pub use engine::invalidation::Invalidation;
pub use engine::invalidation_sink::InvalidationSink;
pub use engine::record::{Entry, Stored, VaryIndex};
#[cfg(feature = "testing")]
pub(crate) use engine::sample::entry_for_tests;
pub use engine::store::{CacheStore, LevelStats};
pub use engine::tiered::Levels;
pub use http::conformance;
pub use http::key::CacheKey;
pub use http::reason::Reason;
pub use http::rules::{Rule, Rules};
pub use http::settings::Profile;
pub use http::store_hint::StoreHint;
pub use tower::builder::CacheBuilder;
pub use tower::future::{Bypass, ResponseFuture};
pub use tower::invalidate::Invalidate;
pub use tower::layer::CacheLayer;
pub use tower::service::Cache;
pub use tower::stats::{CacheStats, RouteStats};
