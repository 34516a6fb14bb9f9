//! [`Limit`]: one limit as an operator writes it down.

use std::fmt;
use std::sync::Arc;

use super::tiers::Tiers;
use crate::base::request_head::RequestHead;
use crate::identity::{KeyExtractor, SharedExtractor};
use crate::limit::algorithm::quota::Quota;

pub(crate) type CostFn = Arc<dyn for<'a> Fn(&RequestHead<'a>) -> u32 + Send + Sync>;

/// A limit: who is counted, how much they may, where it applies, and what a request costs.
///
/// Several limits on one layer are one decision: a request passes all of them and is charged to all, or passes none and
/// is charged to none.
///
/// ```
/// use tollgate::limit::{Limit, Quota};
///
/// let limits = [
///     Limit::per_ip(Quota::per_second(10)),
///     Limit::per_ip(Quota::per_day(50_000)),
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
    pub(crate) route: Option<String>,
    pub(crate) per_route: bool,
    pub(crate) cost: LimitCost,
    pub(crate) enforced: bool,
    pub(crate) reserve: bool,
    pub(crate) hit_cost: Option<u32>,
}

#[derive(Clone)]
pub(crate) enum Subject {
    /// The layer's identity: its first alternative that answers.
    User,
    /// The layer's identity as an address.
    Ip,
    /// Everybody together.
    Everybody,
    /// This process.
    Node,
    /// An identity of the limit's own.
    Own(SharedExtractor),
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
    /// Per client address: the address in the layer's [`identify`](crate::limit::RateLimitBuilder::identify), else the socket
    /// peer's.
    #[must_use]
    pub fn per_ip(quota: Quota) -> Self {
        Self::new(Subject::Ip, Quotas::One(quota))
    }

    /// Per identity, as the layer's [`identify`](crate::limit::RateLimitBuilder::identify) finds it.
    #[must_use]
    pub fn per_user(quota: Quota) -> Self {
        Self::new(Subject::User, Quotas::One(quota))
    }

    /// Per identity of another kind, such as a tenant. Requests without one share a bucket.
    #[must_use]
    pub fn by(who: impl KeyExtractor, quota: Quota) -> Self {
        Self::new(Subject::Own(Arc::new(who)), Quotas::One(quota))
    }

    /// All requests together, across the fleet where the store is shared.
    #[must_use]
    pub fn global(quota: Quota) -> Self {
        Self::new(Subject::Everybody, Quotas::One(quota))
    }

    /// A ceiling that protects this process, whoever asks: always local, always asked last, refused with 503. A token
    /// bucket (`governor`'s direct limiter); without [`Quota::bucket`] its burst is the limit. It cannot be in dry-run
    /// nor tied to a route.
    #[must_use]
    pub fn per_node(quota: Quota) -> Self {
        Self::new(Subject::Node, Quotas::One(quota))
    }

    /// Names the limit in responses, events and `stats()`: printable ASCII without quotes, at most 64 bytes. Unnamed
    /// limits are called after whom they count and their period; two of one name fail when the layer is built.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Applies to this route alone, in axum's syntax, such as `/report/{id}`.
    #[must_use]
    pub fn on(mut self, route: impl Into<String>) -> Self {
        self.route = Some(route.into());
        self
    }

    /// Counts each matched route apart. Paths that match none share one count.
    #[must_use]
    pub const fn per_route(mut self) -> Self {
        self.per_route = true;
        self
    }

    /// What a request costs: 1 unless told. Nothing, or more than the quota admits at once, fails when the layer is built.
    #[must_use]
    pub fn cost(mut self, units: u32) -> Self {
        self.cost = LimitCost::Fixed(units);
        self
    }

    /// What this request costs. More than the quota admits at once is always refused.
    #[must_use]
    pub fn cost_by<F>(mut self, f: F) -> Self
    where
        F: for<'a> Fn(&RequestHead<'a>) -> u32 + Send + Sync + 'static,
    {
        self.cost = LimitCost::By(Arc::new(f));
        self
    }

    /// Counts, and reports what it would refuse as [`Event::WouldRefuse`](crate::Event::WouldRefuse) and in `stats()`,
    /// but refuses nothing.
    #[must_use]
    pub const fn dry_run(mut self) -> Self {
        self.enforced = false;
        self
    }

    /// Leaves a [`Reservation`](crate::limit::Reservation) in the request's extensions, so that the handler can settle what
    /// the request really cost.
    #[must_use]
    pub const fn reserve(mut self) -> Self {
        self.reserve = true;
        self
    }

    /// What a request costs where the cache answered it: the rest is given back when it has. It still has to fit when it
    /// comes. Works inside a [`Tollgate`](crate::Tollgate), whose layers know of each other; a request that a cache
    /// elsewhere answered costs what any other does. More than [`cost`](Self::cost) fails when the layer is built.
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

    /// A limit for a layer that is switched off.
    pub(crate) fn unused() -> Self {
        Self::global(Quota::per_day(1))
    }

    const fn new(subject: Subject, quotas: Quotas) -> Self {
        let cost = LimitCost::Fixed(1);
        Self {
            name: None,
            subject,
            quotas,
            route: None,
            per_route: false,
            cost,
            enforced: true,
            reserve: false,
            hit_cost: None,
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
        out.field("route", &self.route).field("enforced", &self.enforced).finish_non_exhaustive()
    }
}
