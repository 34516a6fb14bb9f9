//! May they: limits per user, per address, per route, for everybody, for this process; several of them as one decision.
//!
//! ```
//! use tollgate::identity::{KeyExtractor, TrustedProxies, by};
//! use tollgate::limit::{Limit, Quota, RateLimitLayer, Tiers};
//!
//! #[derive(Clone)]
//! struct Plan(String); // left in the extensions by the authentication layer outside
//!
//! let layer = RateLimitLayer::builder()
//!     .identify(by::header("x-api-key").or(by::client_ip(TrustedProxies::none())))
//!     .limit(Tiers::default().assign(|head| head.extension::<Plan>().map(|plan| plan.0.as_str())))
//!     .limit(Limit::per_ip(Quota::per_second(50)))
//!     .limit(Limit::per_node(Quota::per_second(5_000)))
//!     .build()?;
//! # let _ = layer;
//! # Ok::<(), tollgate::Error>(())
//! ```
//!
//! # How a request is decided
//!
//! 1. The head names the identities; each limit that applies makes a [`Check`]: who, how much, which quota.
//! 2. The [`LimitStore`] takes all checks or none. A request refused by one limit is charged to no other, so that a
//!    noisy client cannot use up what it shares with others.
//! 3. The per-node ceiling is asked last; where it refuses, what the others took is given back.
//! 4. Admitted, the request goes to the inner service; refused, [`OnReject`] answers. Either way the response says how
//!    the client stands.
//!
//! | situation | status | reported limit | `Retry-After` |
//! |---|---|---|---|
//! | admitted | the inner service's | the lowest remaining share | – |
//! | refused by limits | 429 (gRPC: 200 with `grpc-status: 8`) | the longest wait | its wait, rounded up, at least 1 |
//! | refused by [`Limit::per_node`] | 503 (gRPC: `grpc-status: 14`) | the ceiling | the same |
//! | exempt, or no limit applies | the inner service's | none: no fields | – |
//! | every limit in dry-run | the inner service's | none: no fields | – |
//!
//! # The fields
//!
//! | field | says |
//! |---|---|
//! | `X-RateLimit-Limit` | the reported limit's number |
//! | `X-RateLimit-Remaining` | a lower bound on what would be admitted now |
//! | `X-RateLimit-Reset` | whole seconds, rounded up, until Remaining would be Limit ([`Reset::Epoch`]: as a date) |
//! | `RateLimit`, `RateLimit-BreakerPolicy` | the IETF's, of every enforced limit, when [asked for](RateLimitBuilder::ietf_fields) |
//!
//! Fields of these names from the inner service are overwritten: the outermost limit speaks.
//!
//! # The algorithms
//!
//! | | exact window (default) | token bucket, `Quota::bucket(b)` |
//! |---|---|---|
//! | admitted in any window | ≤ L | ≤ b + L, from a full start |
//! | after a burst | all of it is free again one period later | one each period ⁄ L |
//! | state per key | 51 counters | one number |
//! | held to its bound by | a property test against an exact log | the same |
//!
#![doc = include_str!("../docs/algorithms.svg")]
//!
//! Fixed windows, and the two-bucket "sliding counter", admit 2 L in a window across a boundary. They are not offered.
//!
//! Changing a quota or a tier keeps the used **share**: a user at half of 100 stands at half of 1 000. A refund never
//! creates burst: a bucket gets back only what has not drained since, a window only what still counts.
//!
//! # When it fails
//!
//! * An unknown client address is one warning and one shared bucket, never an error.
//! * A store that fails is an [`Event::StoreFailed`](crate::Event::StoreFailed) and a decision made in this process,
//!   marked as [degraded](Decision::degraded) in the response's extensions and in `stats()`.
//! * At most [`capacity`](RateLimitBuilder::capacity) keys are held. What a flood of new keys pushes out is who stood
//!   furthest from its limit; a key at its limit stays. See [`MemoryLimits`](crate::store::memory::MemoryLimits).
//!
//! # A fleet that shares its limits
//!
//! With the feature `redis` and [`TollgateBuilder::redis`](crate::TollgateBuilder), or with a `RedisLimits` as the
//! [`store`](RateLimitBuilder::store), all nodes count together.
//!
//! | mode | a decision | never more than |
//! |---|---|---|
//! | exact | asks Redis, in one call with all that wait at the same time | the algorithm's bound |
//! | leased | of a hot key is paid from a block bought in advance; any other asks Redis | the same; up to a quarter of what is left may for a moment lie with nodes that do not need it |
//!
//! In both, a key that was refused is refused by this process until its retry time, and `X-RateLimit-Remaining` is a
//! lower
//! bound: while leased, what is left of the block.
//!
//! While Redis is away nobody waits for it: [`OnOutage`] says how limits go on, and the response's [`Decision`] is
//! marked
//! as [degraded](Decision::degraded). What this node admitted before and meanwhile goes on counting here, and binds
//! for one
//! period after Redis is back, since Redis may have forgotten it. Every node must be configured alike: the same limits
//! by
//! the same names, the same mode and, where one is set, the same secret.
//!
//! # Changing limits while requests go on
//!
//! | what | by |
//! |---|---|
//! | a quota | [`RateLimitLayer::set_quota`]; keys keep the share they have used |
//! | on, off, looking only | [`RateLimitLayer::switch`] |
//! | who is on which tier | [`Tiers::lookup`]: asked of a database or another service, remembered, last known good |
//!
//! # What it costs
//!
//! `cargo bench --bench layers` prints it for your machine, allocations counted: an accepted request allocates nothing
//! for the decision and twice for the three fields; refusing costs less than twice what accepting does.

pub(crate) mod algorithm;
mod engine;
mod policy;
mod tower;

pub use algorithm::check::{Check, Settlement};
pub use algorithm::key_state::KeyState;
pub(crate) use algorithm::key_state::{KeyHistory, KeyHistoryMut, StateKind};
pub(crate) use algorithm::quota::Packed;
pub use algorithm::quota::{Algorithm, Quota};
pub use algorithm::verdict::{Verdict, Verdicts};
pub use algorithm::{gcra, window};
pub use engine::fallback::OnOutage;
pub use engine::reservation::Reservation;
pub use engine::stats::{LimitStats, RateLimitStats, RouteRefusals};
pub use engine::store::{LimitStore, LimitStoreStats, RemoteStats};
pub use policy::decision::{Decision, Part};
pub use policy::headers::{Draft, Reset};
pub use policy::limit::Limit;
pub use policy::reject::{OnReject, Problem};
pub use policy::tier_lookup::TierLookup;
pub use policy::tiers::Tiers;
pub use tower::future::ResponseFuture;
pub use tower::layer::{RateLimitBuilder, RateLimitLayer};
pub use tower::service::RateLimit;
