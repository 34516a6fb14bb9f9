//! HTTP response cache: RFC 9111 (caching), 5861 (stale), 9211 (`Cache-Status`), 9213 (targeted fields).
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
//! let cache = CacheLayer::builder().rules(rules).routes(["/prices/{symbol}"]).cache_status(true).build()?;
//! let prices = cache.layer(tower::service_fn(async |_: http::Request<Full<Bytes>>| {
//!     Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::from("42")))
//! }));
//!
//! let get = || http::Request::get("http://localhost/prices/ACME").body(Full::<Bytes>::default());
//! prices.clone().oneshot(get()?).await?;
//! let second = prices.clone().oneshot(get()?).await?;
//! assert!(second.headers()["cache-status"].to_str()?.starts_with("Tollgate; hit; ttl="));
//! assert_eq!(cache.stats().inner_calls, 1);
//! cache.invalidate().tag("prices").await?;
//! # Ok(()) }
//! ```
//!
//! # Decision table
//!
//! | | question | yes | no |
//! |---|---|---|---|
//! | 1 | may this request use the cache? (method, credentials, authority, reflected fields, the route's rule) | 2 | bypass, unchanged |
//! | 2 | is there a valid entry under its key that matches the fields the response varies on? | 3 | 6 |
//! | 3 | is it fresh? | serve it: a look-up, a comparison, an `Age` | 4 |
//! | 4 | is it within stale-while-revalidate? | serve it; one request revalidates it in the background | 5 |
//! | 5 | does it have a validator? | send a conditional request to the inner service; 304 updates the entry | 6 |
//! | 6 | does a rule cover it, or has its route lately sent a response that may be stored? (profile `shared`: always) Is another request fetching it? | wait for the head, at most 3 s, then read the body as it arrives, or once it is complete if its length is unknown; see [below](#long-slow-and-stalled-bodies) | 7 |
//! | 7 | fetch it, in a detached task if a rule covers it and it takes time. Does the fetch fail while a stale entry may be served? | serve that entry | 8 |
//! | 8 | may the response be stored? (decided on its head) | send the head, stream the body to all readers, then store it | send it to this client alone, unchanged; waiting requests fetch without sharing, at once |
//!
//! [`Profile`] sets how strict steps 1 and 8 are; [`Rules`] and [`StoreHint`] adjust them by route and handler.
//!
//! # Failure modes
//!
//! The cache fails open. A store error is a miss and an [`Event`](crate::Event); errors and panics of the inner service
//! reach the client whose request triggered the fetch, unchanged. No request waits longer than the deadline, or, after
//! a failure, once more as long for a permit to fetch. No response is served past its stale deadlines. A body that
//! fails, ends early or exceeds the bound is never stored.
//!
//! # Sharing of responses
//!
#![doc = include_str!("../docs/sharing.md")]
//!
//! # Long, slow and stalled bodies
//!
//! No client ends later than its own fetch would have by more than `wait`, twice after a failure:
//!
//! | the body | the client that triggered the fetch | concurrent requests for the same key |
//! |---|---|---|
//! | has a declared length that fits [`max_entry`](CacheBuilder::max_entry) and the available memory | reads it as it arrives | read along from its first byte |
//! | has an unknown length (chunked, compressed) | reads it as it arrives | wait until it is complete, at most as long as a whole fetch of the route usually takes (its 95th percentile; `wait` while that is unknown), then fetch without sharing |
//! | is longer than `max_entry`, or exceeds the available memory | reads it as it arrives, in constant memory; it is not stored | fetch without sharing, at once |
//! | makes no progress for a second | waits for it | share a new fetch; those that have received a part continue by a range request under the same strong `ETag`, else wait |
//! | makes none for the [`idle_timeout`](CacheBuilder::idle_timeout) | waits for it | those still waiting get an error |
//! | ends in an error | gets that error | those that have received a part get an error; others fetch without sharing |
//!
//! A fetch whose client has left continues, for the store and its followers, until it completes or makes no progress
//! for the `idle_timeout`; at most 256 do so at a time, others end with their clients. A slow or stalled client does
//! not block others: its unread bytes count against the memory for bodies, and bodies for which no memory is available
//! are forwarded, neither shared nor stored. A quarter of that memory is reserved for bodies of at most 64 KiB.
//!
//! # Cost
//!
//! A hit copies one prepared field map and increments reference counts: it neither clones nor polls the inner service,
//! parses no directive of the response and copies no body, whatever its size. That takes about half a microsecond and
//! two allocations in `cargo bench --bench layers` on two virtual cores, for 1 KiB and 1 MiB alike. A GET
//! that no rule covers takes 2 500 instructions and one allocation more than without a cache, a miss 25 000 and 25
//! (`cargo bench --bench instructions`), and a task if the service does not answer at once. Memory: the bound for entries, at
//! most as much again for bodies being read by the cache or by slow clients (counted by allocation), one small record
//! for each of the latest 32 768 invalidations, and three bytes for each of the three million before them.
//!
//! # Invalidation
//!
//! By [tag, URL, prefix, or all](Invalidate), and by unsafe methods (RFC 9111 §4.4). Each raises a *barrier*: entries
//! whose fetch **began** before it are void, even if they arrive later. A slow fetch cannot bring the old state back,
//! and a request after a barrier never waits for a fetch that began before it.
//!
//! # Fleets
//!
//! [`TollgateBuilder::redis`](crate::TollgateBuilder::redis) puts a Redis behind each process's memory ([`Levels`]);
//! any [`CacheStore`] can take its place ([`CacheBuilder::level_2`]). A response fetched by one node is served by all
//! for its remaining lifetime; a stale entry is revalidated by one of them. Invalidations reach all nodes: they are
//! appended to a log in Redis and published, and entries carry the number of the last record known when their fetch
//! began, so that a slow fetch cannot bring old data back on any node. While Redis is unavailable, look-ups are
//! immediate misses, memory serves, and invalidations are queued until it is back. Nodes must see the same authority,
//! since it is part of the key.
//!
//! # Typed values
//!
#![doc = include_str!("../docs/typed.md")]
//!
//! # Source map
//!
//! | files | contents |
//! |---|---|
//! | `http/` | pure decisions of RFC 9111: directives, freshness, storability, validators, `Vary`, ranges, keys, rules |
//! | `engine/` `record` `store` `tiered` | stored records, the storage trait, and two stores combined into one |
//! | `engine/` `codec` `compression` `invalidation` `invalidation_log` `invalidation_sink` | encoding of records and invalidations for shared stores |
//! | `engine/` `barrier` `coalesce` `tee` `body_*` `background_slots` `fetch_times` `hit_for_miss` `storable_routes` `stored_keys` `min_uses` | shared state of concurrent requests |
//! | `tower/` `service` `lookup` | a request up to a hit |
//! | `tower/` `uncovered` | a request that missed and that no rule covers |
//! | `tower/` `serve` `detached_fetch` `fetch` `stream_and_store` `store_response` `update_from_304` `partial` `unsafe_invalidation` | a request after a miss |
//! | `tower/` `respond` | the response sent to the client |
//! | `data/` | typed values |
//!
//! # Deployment
//!
//! * The key holds scheme and authority. A service behind a TLS-terminating proxy sees `http`: set
//!   [`default_scheme`](CacheBuilder::default_scheme), and let exactly one authority through.
//! * A proxy that adds `X-Forwarded-Host` makes every request bypass the cache, because applications build links from
//!   it: strip the field, or make it part of the key with [`key_field`](CacheBuilder::key_field). `X-Forwarded-Proto`
//!   and `-Port` are part of the key if present.
//! * Put authentication outside, compression inside (or vary on `Accept-Encoding`), limits outside.
//! * The cache needs a tokio runtime with time enabled.
//!
//! # Conformance
//!
//! [`conformance`] lists the requirements of RFC 9111 and related standards on a shared cache, each with its status.
//!
//! # Reasons for not caching
//!
//! The closed list of [`Reason`]s appears in `Cache-Status: …; detail=`, in [`CacheStats`], and here.
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
#[cfg(feature = "admin")]
pub(crate) use engine::barrier::InvalidationEffect;
pub use engine::byte_store::{ByteLog, ByteStore, LogMessage, ScanPage, may_replace};
pub use engine::invalidation::Invalidation;
pub use engine::invalidation_sink::InvalidationSink;
pub use engine::lease::{GetOrClaim, Lease, LeaseState};
pub use engine::record::{Entry, Stored, VaryIndex};
#[cfg(feature = "testing")]
pub(crate) use engine::sample::{encoded_for_tests, entry_for_tests};
pub use engine::store::{CacheStore, LevelStats};
pub use engine::tiered::Levels;
pub use engine::typed_value::TypedValue;
pub use http::conformance;
pub use http::key::CacheKey;
pub use http::reason::Reason;
pub use http::rule::Rule;
pub use http::rules::Rules;
pub use http::settings::Profile;
pub use http::store_hint::StoreHint;
pub use tower::builder::CacheBuilder;
#[cfg(feature = "admin")]
pub(crate) use tower::explain::CacheExplanation;
pub use tower::future::{Bypass, ResponseFuture};
pub use tower::invalidate::Invalidate;
#[cfg(feature = "admin")]
pub(crate) use tower::invalidate::PurgeScope;
pub use tower::layer::CacheLayer;
pub use tower::service::Cache;
pub use tower::stats::{CacheRouteStats, CacheStats};
#[cfg(feature = "webhook")]
pub use tower::webhook::InvalidationWebhook;
