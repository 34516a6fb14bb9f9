//! Client-side quotas: calls *to* an upstream are counted before they are sent, paced, rejected, or avoided by a
//! cache.
//!
//! ```
//! use std::time::Duration;
//! use tollgate::upstream::{Credits, Error, OnLimit, Priority, UpstreamLayer};
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
//!     .on_limit(OnLimit::Reject)
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
//!         Err(Error::Rejected(rejected)) => assert!(rejected.retry_after <= Duration::from_secs(3_600) && call ==
//!         3),
//!         Err(Error::Inner(error)) => return Err(error.into()),
//!     }
//! }
//! assert_eq!(github.stats().windows[0].remaining, 5);
//! # Ok(()) }
//! ```
//!
//! [`Tollgate::upstream`](crate::Tollgate::upstream) puts a cache in front of it, and timing in front of that.
//!
//! # Decision
//!
//! | | question | if not | otherwise |
//! |---|---|---|---|
//! | 1 | has its turn come? ([`OnLimit::Wait`] with a [`CallPace`]) | it waits in order of arrival; [`Paced`](RejectedReason::Paced) if that takes too long | 2 |
//! | 2 | may the upstream be called, or did it send a retry time? | [`RetryAfter`](RejectedReason::RetryAfter) until then | 3 |
//! | 3 | is the [circuit](crate::Circuit) closed, or is this its probe? | [`CircuitOpen`](RejectedReason::CircuitOpen) until the next probe | 4 |
//! | 4 | do all windows of the quota have room for its cost, up to its [priority's](Priority) share? | [`Quota`](RejectedReason::Quota) until the last of them ends | 5 |
//! | 5 | do the limits reported for its endpoint have room for it? | the same | 6 |
//! | 6 | is it booked in the store? | it waits for the store, at most 250 ms; during an outage the call is sent and booked later | it is spent, and sent |
//!
//! A call that may not be sent fails at once ([`OnLimit::Reject`]), waits for a bounded time ([`OnLimit::Wait`]), or is
//! only counted ([`OnLimit::Observe`]). Nothing is spent before all checks have passed.
//!
//! The upstream's own limits are read from every response: `X-RateLimit-*` in all their spellings, `RateLimit` and
//! `RateLimit-Policy` of the IETF's drafts up to 11, `Retry-After` (see the table in `upstream/learn/headers.rs`),
//! and by a [hook](UpstreamBuilder::limits_in_body) from the body of a 200. A limit binds the endpoints whose
//! responses last reported it; a rejection that names no limit binds all of them.
//!
//! # Accuracy: never less than the upstream has counted
//!
//! For the calls of this process, and those of other processes that book in the same store:
//!
//! 1. A call is spent in every window before it is sent. Only a 304 response refunds its cost, and only if
//!    [configured](UpstreamBuilder::free_not_modified). A call that failed or was cancelled may have been counted,
//!    and stays spent.
//! 2. A reported limit is as of the time at which the upstream counted that call; other calls may have been counted
//!    since, or before and answered later. All calls sent and not answered before that call was sent are added to the
//!    report. A response that was overtaken by a later one changes nothing.
//! 3. When a window ends, calls in flight also count in the next one, because either window may count them.
//! 4. Credits are booked in the store before they are spent, a block at a time. A process that crashes leaves its
//!    block counted and unspent. During an outage of the store credits are spent unbooked, and booked afterwards; a
//!    store that lost data is corrected. Only a process that crashes with unbooked credits loses them.
//! 5. Setting the calendar back does not restart an old window.
//!
//! Assumptions: an upstream counts a call before it answers it, and counts none that reaches it more than a minute
//! after its caller gave up; costs are those of the cost function; configured windows begin by the local clock. Calls
//! of other processes with the same key that do not book in the store are known only from the upstream's reports.
//!
//! # Failures
//!
//! An outage of the store never reaches a call. The client's own error is returned unchanged, as [`Error::Inner`]. A
//! rejected call returns [`Error::Rejected`], for which a [cache](crate::cache) in front can serve a stale response.
//! A panic in a hook propagates to the caller's task.
//!
//! # Cost
//!
//! A call that does not wait takes two short locks and two clock readings, without allocations unless
//! [`limits_in_body`](UpstreamBuilder::limits_in_body) is set: about a quarter of a microsecond over the bare client,
//! and half a microsecond if the response reports limits (`cargo bench --bench upstream`, two virtual cores). A call
//! that waits is boxed. Memory: some kilobytes per upstream, independent of the number of calls; a hundred bytes per
//! endpoint.
//!
//! # Deployment
//!
//! * Use one layer per upstream and key. Layers with the same name share their credits if they share a store.
//! * The layer accepts `http` requests, for any client (reqwest takes four lines, in
//!   `examples/recipes/src/reqwest.rs`). A retry layer outside of it is counted; one inside is not.
//! * Waiting, booking ahead and [`shutdown`](UpstreamLayer::shutdown) need a tokio runtime with time enabled.
//! * Windows follow this machine's calendar. If the upstream's begin at another hour, set
//!   [`Credits::reset_hour`] or [`utc_offset`](Credits::utc_offset).

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
pub use quota::call_pace::CallPace;
pub use quota::credit::Credits;
pub use quota::on_limit::OnLimit;
pub use quota::priority::Priority;
pub use quota::rejected::{Error, Rejected, RejectedReason};
pub(crate) use report::efficiency::Usage;
pub use report::efficiency::{EfficiencyReport, EndpointReport};
pub use report::score::Weights;
pub use tower::builder::UpstreamBuilder;
pub use tower::future::ResponseFuture;
pub use tower::layer::UpstreamLayer;
pub use tower::service::Upstream;
