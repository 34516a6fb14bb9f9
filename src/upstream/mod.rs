//! Care for an upstream's quota: calls *out* are counted before they are made, paced, shed, and spared.
//!
//! ```
//! use std::time::Duration;
//! use tollgate::upstream::{Credits, Error, Mode, Priority, UpstreamLayer};
//! use tower::{Layer, ServiceExt};
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let github = UpstreamLayer::builder("github")
//!     .quota(Credits::per_hour(20))
//!     .routes(["/repos/{owner}/{repo}", "/search"])
//!     .cost(|head| if head.uri().path() == "/search" { 5 } else { 1 })
//!     .free_not_modified()
//!     .mode(Mode::Reject)
//!     .build()?;
//! let client = github.layer(tower::service_fn(async |_: Request<Full<Bytes>>| {      // hyper-util's, reqwest's …
//!     Ok::<_, std::io::Error>(Response::new(Full::<Bytes>::default()))
//! }));
//!
//! for call in 0..4 {
//!     let request = Request::get("https://api.example.com/search").body(Full::default())?;
//!     match client.clone().oneshot(request).await {
//!         Ok(response) => assert!(response.status() == 200 && call < 3),
//!         // Nine tenths of twenty hold three calls at five credits; the last tenth is for `Priority::High`.
//!         Err(Error::Rejected(shed)) => assert!(shed.retry_after <= Duration::from_secs(3_600) && call == 3),
//!         Err(Error::Inner(error)) => return Err(error.into()),
//!     }
//! }
//! assert_eq!(github.stats().windows[0].remaining, 5);
//! # Ok(()) }
//! ```
//!
//! [`Tollgate::upstream`](crate::Tollgate::upstream) puts a cache in front of it, and timing in front of that.
//!
//! # How it decides
//!
//! | | question | no | otherwise |
//! |---|---|---|---|
//! | 1 | has its turn come? ([`Mode::Wait`] with a [`CallPace`]) | it waits, first come, first served; [`Paced`](RejectedReason::Paced) where that takes too long | 2 |
//! | 2 | may the upstream be called, or did it say to wait? | [`ToldToWait`](RejectedReason::ToldToWait) until then | 3 |
//! | 3 | is the [circuit](crate::Circuit) closed, or is this its probe? | [`CircuitOpen`](RejectedReason::CircuitOpen) until the next probe | 4 |
//! | 4 | do all windows of the quota hold its cost, up to its [priority's](Priority) share? | [`Quota`](RejectedReason::Quota) until the last of them ends | 5 |
//! | 5 | do the limits that its endpoint was told of hold it? | the same | 6 |
//! | 6 | is it booked in the store? | the store is waited for, at most 250 ms; where it is away the call goes on, owing | it is spent, and sent |
//!
//! "No" is an error at once ([`Mode::Reject`]), a wait of at most so long ([`Mode::Wait`]), or only counted
//! ([`Mode::Observe`]). Nothing is spent before all have agreed.
//!
//! What an upstream says of itself is read from every response: see the table in the source of
//! `upstream/learn/headers.rs`, or in short
//! `X-RateLimit-*` in all their spellings, `RateLimit` and `RateLimit-BreakerPolicy` of the IETF's drafts up to 11,
//! `Retry-After`, and
//! by a [hook](UpstreamBuilder::limits_in_body) what stands in the body of a 200. A limit binds the endpoints in whose
//! answers
//! it was last told; a refusal that names no limit binds all of them.
//!
//! # It never counts less than the upstream has
//!
//! That is what makes a quota one can rely on. As far as this process's calls, and those of others that book in the
//! same
//! store, are concerned:
//!
//! 1. A call is spent in every window before it is sent. Only an answer 304 gives its cost back, and only where that
//!    was
//!    said to be [free](UpstreamBuilder::free_not_modified). A call that failed or whose caller left may have been
//!    counted,
//!    and stays spent.
//! 2. What an upstream tells is as of when it counted that call; others may have been counted since, or before and
//!    answered
//!    later. All that was sent and not answered before that call was sent is added to what it tells. An answer that was
//!    overtaken by a later one changes nothing.
//! 3. When a window ends, what is under way counts in the next one too: nobody knows where it will be counted.
//! 4. Credits are booked in the store before they are spent, a block at a time. A process that dies takes its block
//!    along,
//!    counted and unspent. While the store is away, credits are spent and owed, and booked when it is back; one that
//!    forgot
//!    is told again. Only a process that dies while it owes takes its debt along.
//! 5. A calendar that is set back begins no old window anew.
//!
//! It rests on these assumptions: an upstream counts a call before it answers it, and none that reaches it more than a
//! minute after its caller gave up; costs are what the cost function says; configured windows begin by our clock.
//! Calls of
//! others under the same key that book nowhere are known as far as the upstream tells.
//!
//! # When it fails
//!
//! The store's failure never reaches a call. The client's own error does, untouched, as [`Error::Inner`]. What is shed
//! is an
//! [`Error::Rejected`], an error to whoever stands in front: a [cache](crate::cache) serves a stale answer in its
//! place where it
//! may. A hook that panics, panics in its caller's task.
//!
//! # What it costs
//!
//! A call that need not wait takes two short locks and two readings of the clock, allocates nothing and boxes nothing,
//! without
//! [`limits_in_body`](UpstreamBuilder::limits_in_body): about a quarter of a microsecond over the bare client, and
//! half a
//! microsecond where the response tells of limits, in `cargo bench --bench upstream` on two virtual cores. A call that
//! waits is boxed. Memory: some kilobytes an upstream, however many calls; a hundred bytes an endpoint.
//!
//! # Deploying it
//!
//! * One layer for one upstream and key. Layers of one name share their credits where they share a store.
//! * It is made for `http` requests, whatever the client speaks below (reqwest's takes four lines, in
//!   `examples/recipes/src/reqwest.rs`); a retry that should count stands outside of it, one
//!   inside is not seen.
//! * Waiting, booking ahead and [`shutdown`](UpstreamLayer::shutdown) need a tokio runtime with time enabled.
//! * Windows begin by this machine's calendar. Where the upstream's begins at another hour, say so:
//!   [`Credits::reset_hour`], [`utc_offset`](Credits::utc_offset).

mod engine;
mod learn;
mod quota;
mod report;
mod tower;

pub use engine::credential::{Credential, Credited};
pub use engine::credit_store::{CreditStore, MemoryCredits};
pub use engine::stats::{EndpointStats, UpstreamStats, WindowStats};
pub use learn::observed_limits::ObservedLimits;
pub use quota::balance::{Balance, Booking};
pub use quota::credit::Credits;
pub use quota::mode::{CallPace, Mode, Priority};
pub use quota::rejected::{Error, Rejected, RejectedReason};
pub(crate) use report::efficiency::Usage;
pub use report::efficiency::{EfficiencyReport, EndpointReport};
pub use report::score::Weights;
pub use tower::builder::UpstreamBuilder;
pub use tower::future::ResponseFuture;
pub use tower::layer::UpstreamLayer;
pub use tower::service::Upstream;
