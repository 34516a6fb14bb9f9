//! [`ConcurrencyLimit`]: configuration of a limit on requests in progress.

use std::time::Duration;

use super::limit::{ConcurrencyPolicy, Limit, LimitCost, Quotas, Subject};
use crate::base::error::Error;
use crate::base::route_matcher::RouteMatcher;
use crate::identity::KeyExtractor;
use crate::limit::algorithm::quota::Quota;

/// One limit on requests in progress: at most `n` at a time, in this process.
///
/// A request is in progress until its response body has ended, or was dropped. One that finds no place waits in a
/// [`queue`](Self::queue), if there is one, or is refused: with 429, or 503 for a [`global`](Self::global) limit, and
/// `Retry-After`; gRPC clients get `RESOURCE_EXHAUSTED`. A request that is dropped frees its place, also in the queue. Processes
/// do not share places: with four of them, four times as many requests are in progress.
///
/// ```
/// use std::time::Duration;
/// use tollgate::limit::{ConcurrencyLimit, Limit, RateLimitLayer};
///
/// let layer = RateLimitLayer::builder()
///     .limit(ConcurrencyLimit::per_user(2).on("GET /export").queue(1, Duration::from_secs(2)))
///     .limit(ConcurrencyLimit::global(100).named("in-progress"))
///     .limit(Limit::per_user("100/min"))
///     .build()?;
/// assert_eq!((layer.stats().concurrency[0].limit, layer.stats().concurrency[0].in_progress), (2, 0));
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit(Limit);

impl ConcurrencyLimit {
    /// Limits the requests in progress of each identity found by the layer's
    /// [`identify`](crate::limit::RateLimitBuilder::identify).
    ///
    /// ```
    /// use tollgate::identity::by;
    /// use tollgate::limit::{ConcurrencyLimit, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder().identify(by::header("x-api-key")).limit(ConcurrencyLimit::per_user(2)).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn per_user(places: u32) -> Self {
        Self::new(Subject::User, places)
    }

    /// Limits the requests in progress of each client address, as [`Limit::per_ip`] does their rate.
    ///
    /// ```
    /// use tollgate::limit::ConcurrencyLimit;
    ///
    /// let limit = ConcurrencyLimit::per_ip(20);
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn per_ip(places: u32) -> Self {
        Self::new(Subject::Ip, places)
    }

    /// Limits the requests in progress of each key of another extractor. Requests without a key share places.
    ///
    /// ```
    /// use tollgate::identity::by;
    /// use tollgate::limit::ConcurrencyLimit;
    ///
    /// let limit = ConcurrencyLimit::by(by::header("x-tenant"), 10);
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn by(extractor: impl KeyExtractor, places: u32) -> Self {
        Self::new(Subject::Own(std::sync::Arc::new(extractor)), places)
    }

    /// Limits all requests in progress together.
    ///
    /// ```
    /// use tollgate::limit::ConcurrencyLimit;
    ///
    /// let reports = ConcurrencyLimit::global(4).on("/report/{id}");
    /// let each_route = ConcurrencyLimit::global(50).per_route();
    /// # let _ = (reports, each_route);
    /// ```
    #[must_use]
    pub fn global(places: u32) -> Self {
        Self::new(Subject::Everybody, places)
    }

    /// Names the limit in responses, events and `stats()`, as [`Limit::named`] does.
    ///
    /// ```
    /// use tollgate::limit::{ConcurrencyLimit, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder().limit(ConcurrencyLimit::per_ip(20).named("at-once")).build()?;
    /// assert_eq!(layer.stats().concurrency[0].name, "at-once");
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self(self.0.named(name))
    }

    /// Restricts the limit to routes, as [`Limit::on`] does. Together they have one count.
    ///
    /// ```
    /// use tollgate::limit::ConcurrencyLimit;
    ///
    /// let limit = ConcurrencyLimit::per_user(2).on(["GET /export", "POST /import"]);
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn on(self, routes: impl Into<RouteMatcher>) -> Self {
        Self(self.0.on(routes))
    }

    /// Excludes routes from the limit.
    ///
    /// ```
    /// use tollgate::limit::ConcurrencyLimit;
    ///
    /// let limit = ConcurrencyLimit::global(200).except("/health");
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn except(self, routes: impl Into<RouteMatcher>) -> Self {
        Self(self.0.except(routes))
    }

    /// Counts each matched route separately. Unmatched paths share one count.
    ///
    /// ```
    /// use tollgate::limit::ConcurrencyLimit;
    ///
    /// let limit = ConcurrencyLimit::global(50).per_route();
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn per_route(self) -> Self {
        Self(self.0.per_route())
    }

    /// Counts without refusing: reports [`Event::WouldRefuse`](crate::Event::WouldRefuse), also counted in `stats()`.
    ///
    /// ```
    /// use tollgate::limit::ConcurrencyLimit;
    ///
    /// let trial = ConcurrencyLimit::per_ip(20).shadow();
    /// # let _ = trial;
    /// ```
    #[must_use]
    pub fn shadow(self) -> Self {
        Self(self.0.shadow())
    }

    /// Lets up to `requests` of each key wait for a place, in the order of their arrival, at most this long. Defaults to no queue.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::limit::ConcurrencyLimit;
    ///
    /// let limit = ConcurrencyLimit::per_user(2).queue(4, Duration::from_secs(2));
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn queue(mut self, requests: u32, wait: Duration) -> Self {
        if let Some(policy) = &mut self.0.concurrency {
            *policy = ConcurrencyPolicy { queue: requests, wait, ..*policy };
        }
        self
    }

    fn new(subject: Subject, places: u32) -> Self {
        // The quota is a placeholder: places are not counted over time.
        let limit = Limit::new(subject, Quotas::One(Quota::per_second(1)));
        Self(Limit { concurrency: Some(ConcurrencyPolicy { places, queue: 0, wait: Duration::ZERO }), ..limit })
    }
}

impl From<ConcurrencyLimit> for Limit {
    fn from(limit: ConcurrencyLimit) -> Self {
        limit.0
    }
}

/// Validates a limit on requests in progress.
///
/// # Errors
/// If it has no place, a queue without a wait, or a setting that needs a rate.
pub(super) fn check_concurrency(limit: &Limit, name: &str) -> Result<(), Error> {
    let Some(policy) = limit.concurrency else { return Ok(()) };
    if policy.places == 0 {
        return Err(Error::config(format!("limit {name:?}: a concurrency of 0 admits nothing; it must be at least 1")));
    }
    if (policy.queue == 0) != policy.wait.is_zero() {
        let message = format!("limit {name:?}: queue needs at least one request and a time over 0");
        return Err(Error::config(message));
    }
    let costs = !matches!(limit.cost, LimitCost::Fixed(1)) || limit.reserve || limit.hit_cost.is_some();
    if costs || limit.count.is_some() || limit.ban.is_some() {
        return Err(Error::config(format!(
            "limit {name:?}: a concurrency limit counts requests in progress; remove the cost, count, reserve or ban"
        )));
    }
    Ok(())
}
