//! Rate limits per user, address, route, fleet and process, combined into one decision.
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
//! 1. The head supplies the identities; each limit that applies makes a [`Check`] with a key, a cost and a quota.
//! 2. The [`LimitStore`] charges all checks or none. A request rejected by one limit is charged to no other, so that
//!    a noisy client cannot use up quotas that it shares with others.
//! 3. The per-node ceiling is checked last; if it rejects, the other charges are refunded.
//! 4. An admitted request goes to the inner service; a rejected one is answered by [`on_reject`](RateLimitBuilder::on_reject). Both responses carry
//!    the rate-limit fields.
//!
//! | situation | status | reported limit | `Retry-After` |
//! |---|---|---|---|
//! | admitted | the inner service's | the one that admits the fewest further requests like this one | – |
//! | rejected by limits | 429 (gRPC: 200 with `grpc-status: 8`) | the longest wait | its wait, rounded up, at least 1 |
//! | rejected by [`Limit::per_node`] | 503 (gRPC: `grpc-status: 14`) | the ceiling | the same |
//! | exempt, or no limit applies | the inner service's | none: no fields | – |
//! | every limit in shadow | the inner service's | none: no fields | – |
//!
//! # Response fields
//!
//! | field | value |
//! |---|---|
//! | `X-RateLimit-Limit` | the number of the reported limit |
//! | `X-RateLimit-Remaining` | a lower bound on the requests of the same cost that would be admitted now |
//! | `X-RateLimit-Reset` | whole seconds, rounded up, until the whole limit is available ([`Reset::Epoch`]: as a Unix time) |
//! | `RateLimit`, `RateLimit-Policy` | the IETF's fields with every enforced limit, if [enabled](RateLimitBuilder::ietf_fields) |
//!
//! Fields of these names from the inner service are overwritten: the outermost limit takes precedence.
//!
//! # The algorithms
//!
//! | | exact window (default) | token bucket, `Quota::bucket(b)` |
//! |---|---|---|
//! | admitted in any window | ≤ L | ≤ b + L, from a full start |
//! | after a burst | all of it is free again one period later | one each period ⁄ L |
//! | state per key | 51 counters | one number |
//! | verified by | a property test against an exact log | the same |
//!
#![doc = include_str!("../docs/algorithms.svg")]
//!
//! Fixed windows, and the two-bucket "sliding counter", admit 2 L in a window across a boundary. Neither is offered.
//!
//! After a change of quota or tier a key keeps its used **share**, rounded up: a user at half of 100 is at half of 1 000
//! afterwards. What it used under a longer quota is remembered: a change to another tier and back earns nothing. A refund never creates burst: a bucket refunds only units that have not drained since, a window only
//! units that still count.
//!
//! # Failures
//!
//! * An unknown client address causes one warning and one shared bucket, never an error.
//! * A failing store causes an [`Event::StoreFailed`](crate::Event::StoreFailed) and a local decision, marked as
//!   [degraded](Decision::degraded) in the response's extensions and in `stats()`.
//! * At most [`capacity`](RateLimitBuilder::capacity) keys are stored. A flood of new keys evicts those that are
//!   furthest from their limit; a key at its limit stays. See [`MemoryLimits`](crate::store::memory::MemoryLimits).
//!
//! # Sharing limits across a fleet
//!
//! With the feature `redis` and [`TollgateBuilder::redis`](crate::TollgateBuilder), or with a [`RemoteLimits`](crate::store) as the
//! [`store`](RateLimitBuilder::store), all nodes count together.
//!
//! | mode | decision | bound |
//! |---|---|---|
//! | exact | by Redis, in one call with all checks that wait at the same time | the algorithm's |
//! | leased | for a hot key paid from a block acquired in advance, otherwise by Redis | the same; up to a quarter of what remains may be leased to nodes that do not need it |
//!
//! In both modes a process repeats a rejection for a second, or until its retry time, without asking Redis. `X-RateLimit-Remaining` is
//! a lower bound: for a leased key, what is left of the block.
//!
//! While Redis is unavailable no request waits for it: [`OnOutage`] selects how limits are decided, and the
//! response's [`Decision`] is marked as [degraded](Decision::degraded). Units that this node admitted before and
//! during the outage still count locally, and bind for one period after Redis is back, because Redis may have lost
//! its data. All nodes need the same configuration: the same limits with the same names, the same mode and, if set,
//! the same secret.
//!
//! # Changing limits at run time
//!
//! | change | method |
//! |---|---|
//! | a quota | [`RateLimitLayer::set_quota`]; keys keep the share they have used |
//! | mode: on, off, shadow | [`RateLimitLayer::set_mode`] |
//! | quota or mode of a limit or tier, for a time, on all nodes | [`Overrides`](crate::Overrides) |
//! | a user's tier | [`Tiers::lookup`]: loaded from a database or another service and cached; stale values are used during an outage |
//!
//! # Cost
//!
//! `cargo bench --bench layers` measures it on your machine, including allocations: an admitted request allocates
//! nothing for the decision and twice for the three fields; a rejection costs less than twice as much as an
//! admission.

pub(crate) mod algorithm;
mod engine;
mod policy;
mod tower;

pub use algorithm::check::{Check, Settlement};
pub use algorithm::key_state::KeyState;
pub(crate) use algorithm::key_state::{KeyHistory, KeyHistoryMut, StateKind};
pub(crate) use algorithm::quota::PackedQuota;
pub use algorithm::quota::{Algorithm, Quota};
pub use algorithm::verdict::{Verdict, Verdicts};
pub use algorithm::{gcra, window};
pub use engine::concurrency::ConcurrencyStats;
pub use engine::fallback::OnOutage;
pub use engine::refusals::Refusal;
pub(crate) use engine::reload::LimitSetting;
pub use engine::reservation::Reservation;
pub use engine::stats::{LimitStats, RateLimitStats, RouteRefusals};
pub use engine::store::{LimitStore, LimitStoreStats, RemoteStats};
pub use engine::subject::LimitSubject;
pub use policy::concurrency::ConcurrencyLimit;
pub use policy::count::Count;
pub use policy::decision::{Decision, LimitDecision};
pub use policy::headers::{Draft, Reset};
pub use policy::limit::Limit;
pub use policy::reject::Rejection;
pub use policy::tier_lookup::TierLookup;
pub use policy::tiers::Tiers;
pub use tower::builder::RateLimitBuilder;
pub use tower::future::ResponseFuture;
pub use tower::layer::RateLimitLayer;
pub use tower::service::RateLimit;
