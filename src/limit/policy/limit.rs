//! [`Limit`]: configuration of one limit.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::count::Count;
use super::tiers::Tiers;
use crate::base::error::Error;
use crate::base::request_head::RequestHead;
use crate::base::route_matcher::RouteMatcher;
use crate::identity::{KeyExtractor, SharedExtractor};
use crate::limit::algorithm::quota::Quota;

pub(crate) type CostFn = Arc<dyn for<'a> Fn(&RequestHead<'a>) -> u32 + Send + Sync>;

/// One limit: its key, its quota, the routes it applies to, and the cost of a request.
///
/// Several limits on one layer make one decision: a request is charged to all of them or to none.
///
/// A quota is a [`Quota`] or its text, such as `"5/15min"`; a text that is no quota fails when the layer is built.
///
/// ```
/// use tollgate::limit::{Limit, Quota};
///
/// let limits = [
///     Limit::per_ip(Quota::per_second(10)),
///     Limit::per_ip("50000/day"),
///     Limit::per_user(Quota::per_minute(5)).on("/report").named("reports").cost(2),
///     Limit::per_node(Quota::per_second(5_000)),
/// ];
/// # let _ = limits;
/// ```
#[derive(Clone)]
pub struct Limit {
    pub(crate) name: Option<String>,
    pub(crate) subject: Subject,
    pub(crate) quotas: Quotas,
    pub(super) routes: RouteMatcher,
    pub(super) per_route: bool,
    pub(crate) cost: LimitCost,
    pub(crate) enforced: bool,
    pub(super) reserve: bool,
    pub(super) hit_cost: Option<u32>,
    pub(super) count: Option<Count>,
    pub(super) ban: Option<BanPolicy>,
    /// Places, if requests in progress are counted rather than their rate.
    pub(super) concurrency: Option<ConcurrencyPolicy>,
    /// First invalid argument, reported when the layer is built.
    pub(super) mistake: Option<String>,
}

/// When a limit bans a subject, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BanPolicy {
    /// Number of refusals within the limit's period.
    pub(crate) refusals: u32,
    pub(crate) span: Duration,
}

/// Number of requests that may be in progress, and the queue for them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConcurrencyPolicy {
    pub(crate) places: u32,
    pub(crate) queue: u32,
    pub(crate) wait: Duration,
}

#[derive(Clone)]
pub(crate) enum Subject {
    /// First alternative of the layer's identity that matches.
    User,
    /// The layer's identity as an address.
    Ip,
    /// All requests together.
    Everybody,
    /// This process.
    Node,
    /// The limit's own extractor.
    Own(SharedExtractor),
}

impl Subject {
    /// Whether both are the very same extractor of limits of their own.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Own(one), Self::Own(other)) if Arc::ptr_eq(one, other))
    }
}

#[derive(Clone)]
pub(crate) enum Quotas {
    One(Quota),
    Tiers(Tiers),
}

#[derive(Clone)]
pub(crate) enum LimitCost {
    Fixed(u32),
    By(CostFn),
}

impl Limit {
    /// Limits each client address: the address in the layer's [`identify`](crate::limit::RateLimitBuilder::identify),
    /// else the socket peer's.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(100))).build()?;
    /// assert_eq!(layer.stats().limits[0].quota, "100/min");
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn per_ip(quota: impl TryInto<Quota, Error: Into<Error>>) -> Self {
        Self::with_quota(Subject::Ip, quota)
    }

    /// Limits each identity found by the layer's [`identify`](crate::limit::RateLimitBuilder::identify).
    ///
    /// ```
    /// use tollgate::identity::{KeyExtractor, TrustedProxies, by};
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .identify(by::header("x-api-key").or(by::client_ip(TrustedProxies::none())))
    ///     .limit(Limit::per_user(Quota::per_minute(100)))
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn per_user(quota: impl TryInto<Quota, Error: Into<Error>>) -> Self {
        Self::with_quota(Subject::User, quota)
    }

    /// Limits each key of another extractor, such as a tenant. Requests without a key share a bucket.
    ///
    /// ```
    /// use tollgate::identity::by;
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let limit = Limit::by(by::header("x-tenant"), Quota::per_second(500)).named("tenant");
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn by(extractor: impl KeyExtractor, quota: impl TryInto<Quota, Error: Into<Error>>) -> Self {
        Self::with_quota(Subject::Own(Arc::new(extractor)), quota)
    }

    /// Limits all requests together, across the fleet if the store is shared.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let limit = Limit::global(Quota::per_second(2_000)).on("/export").named("exports");
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn global(quota: impl TryInto<Quota, Error: Into<Error>>) -> Self {
        Self::with_quota(Subject::Everybody, quota)
    }

    /// Limits the whole process, to protect it from overload: always local, checked last, rejecting with 503.
    ///
    /// A token bucket (`governor`'s direct limiter); without [`Quota::bucket`] its burst is the limit. It supports
    /// neither shadow mode nor routes.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let ceiling = Limit::per_node(Quota::per_second(5_000).bucket(500));
    /// # let _ = ceiling;
    /// ```
    #[must_use]
    pub fn per_node(quota: impl TryInto<Quota, Error: Into<Error>>) -> Self {
        Self::with_quota(Subject::Node, quota)
    }

    /// Names the limit in responses, events and `stats()`: printable ASCII without quotes, at most 64 bytes.
    ///
    /// Defaults to a name made of the kind of key and the period. Duplicate names fail when the layer is built.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_day(50_000)).named("daily")).build()?;
    /// assert_eq!(layer.stats().limits[0].name, "daily");
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Restricts the limit to routes, in axum's syntax, each after a method if it applies to one only. Together they have
    /// one count.
    ///
    /// ```
    /// use tollgate::limit::Limit;
    ///
    /// let reports = Limit::per_user("5/min").on("/report/{id}");
    /// let login = Limit::per_ip("5/15min").on(["POST /login", "POST /reset"]);
    /// # let _ = (reports, login);
    /// ```
    #[must_use]
    pub fn on(mut self, routes: impl Into<RouteMatcher>) -> Self {
        self.routes = self.routes.and(routes.into());
        self
    }

    /// Excludes routes from the limit.
    ///
    /// ```
    /// use tollgate::limit::Limit;
    ///
    /// let limit = Limit::per_ip("100/min").except(["/health", "GET /metrics"]);
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn except(mut self, routes: impl Into<RouteMatcher>) -> Self {
        self.routes = self.routes.except(routes);
        self
    }

    /// Counts each matched route separately. Unmatched paths share one count.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let limit = Limit::per_ip(Quota::per_minute(60)).per_route();
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub const fn per_route(mut self) -> Self {
        self.per_route = true;
        self
    }

    /// Sets the cost of a request in units. Defaults to 1. Zero, and more than the quota admits at once, fails when
    /// the layer is built.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let limit = Limit::per_user(Quota::per_minute(100)).on("/report").cost(5);
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn cost(mut self, units: u32) -> Self {
        self.cost = LimitCost::Fixed(units);
        self
    }

    /// Computes the cost of each request. A cost above what the quota admits at once is always rejected.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let limit = Limit::per_user(Quota::per_minute(100))
    ///     .cost_by(|head| if head.headers().contains_key("x-batch") { 10 } else { 1 });
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn cost_by<F>(mut self, f: F) -> Self
    where
        F: for<'a> Fn(&RequestHead<'a>) -> u32 + Send + Sync + 'static,
    {
        self.cost = LimitCost::By(Arc::new(f));
        self
    }

    /// Counts without rejecting: reports [`Event::WouldRefuse`](crate::Event::WouldRefuse), also counted in
    /// `stats()`.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let trial = Limit::per_ip(Quota::per_minute(100)).shadow();
    /// # let _ = trial;
    /// ```
    #[must_use]
    pub const fn shadow(mut self) -> Self {
        self.enforced = false;
        self
    }

    /// Inserts a [`Reservation`](crate::limit::Reservation) into the request's extensions, with which the handler
    /// settles the actual cost.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let tokens = Limit::per_user(Quota::per_minute(10_000)).cost(500).reserve();
    /// # let _ = tokens;
    /// ```
    #[must_use]
    pub const fn reserve(mut self) -> Self {
        self.reserve = true;
        self
    }

    /// Sets the cost of a request that the cache answers; the rest is refunded after the hit.
    ///
    /// The full cost must fit when the request arrives. Works within a [`Tollgate`](crate::Tollgate); hits of other
    /// caches have the full cost. A value above [`cost`](Self::cost) fails when the layer is built.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let limit = Limit::per_ip(Quota::per_minute(100)).cost(5).hit_cost(0);
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub const fn hit_cost(mut self, units: u32) -> Self {
        self.hit_cost = Some(units);
        self
    }

    /// Counts only some outcomes, such as failed logins: never more than the limit of them are admitted.
    ///
    /// A request is charged when it is admitted, and refunded if its outcome does not count. While charges are unsettled, a
    /// request beyond the limit waits for them, at most a second. A request that is dropped stays counted.
    ///
    /// ```
    /// use tollgate::limit::{Count, Limit};
    ///
    /// let logins = Limit::per_ip("5/15min").on("POST /login").count(Count::failures());
    /// # let _ = logins;
    /// ```
    #[must_use]
    pub fn count(mut self, count: Count) -> Self {
        self.count = Some(count);
        self
    }

    /// Bans a subject from all routes of the layer, for a time, once this limit has refused it that often within its period.
    ///
    /// Banned requests get a 403 with `Retry-After` (gRPC: `PERMISSION_DENIED`). The ban is fleet-wide if the store is shared;
    /// each node counts the refusals that it makes.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::limit::{Count, Limit};
    ///
    /// let logins = Limit::per_ip("5/15min")
    ///     .on("POST /login")
    ///     .count(Count::failures())
    ///     .ban_after(20, Duration::from_secs(3_600));
    /// # let _ = logins;
    /// ```
    #[must_use]
    pub const fn ban_after(mut self, refusals: u32, span: Duration) -> Self {
        self.ban = Some(BanPolicy { refusals, span });
        self
    }

    /// Creates a limit for a disabled layer.
    pub(crate) fn unused() -> Self {
        Self::global(Quota::per_day(1))
    }

    fn with_quota(subject: Subject, quota: impl TryInto<Quota, Error: Into<Error>>) -> Self {
        let (quota, mistake) = Quota::read(quota);
        Self { mistake, ..Self::new(subject, Quotas::One(quota)) }
    }

    pub(super) fn new(subject: Subject, quotas: Quotas) -> Self {
        let cost = LimitCost::Fixed(1);
        Self {
            name: None,
            subject,
            quotas,
            routes: RouteMatcher::default(),
            per_route: false,
            cost,
            enforced: true,
            reserve: false,
            hit_cost: None,
            count: None,
            ban: None,
            concurrency: None,
            mistake: None,
        }
    }
}

impl From<Tiers> for Limit {
    fn from(tiers: Tiers) -> Self {
        Self::new(Subject::User, Quotas::Tiers(tiers))
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = match self.subject {
            Subject::User => "user",
            Subject::Ip => "ip",
            Subject::Everybody => "everybody",
            Subject::Node => "node",
            Subject::Own(_) => "own",
        };
        let mut out = f.debug_struct("Limit");
        out.field("name", &self.name).field("subject", &subject);
        match &self.quotas {
            Quotas::One(quota) => out.field("quota", quota),
            Quotas::Tiers(tiers) => out.field("tiers", tiers),
        };
        out.field("routes", &self.routes).field("enforced", &self.enforced).finish_non_exhaustive()
    }
}
