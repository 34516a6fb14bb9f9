//! [`LimitSubject`]: limits of a named subject, without a request.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::limiter::Limiter;
use super::overrides::LimitOverride;
use super::refusals::{Refusal, RefusalRecord};
use crate::base::error::Error;
use crate::limit::algorithm::check::Check;
use crate::limit::algorithm::quota::Quota;
use crate::limit::policy::decision::Decision;
use crate::limit::policy::named_subject::NamedSubject;

/// A user, address or other subject of limits, named instead of being extracted from a request: for messages of a websocket,
/// consumers of a queue, costs of a query, and support staff. Made by
/// [`RateLimitLayer::subject`](crate::limit::RateLimitLayer::subject).
///
/// It is subject to the limits that count by its key: those of the layer's identity, those of addresses if the key is one, and
/// those of all requests together. A limit with an extractor of its own is meant only if it is [named](Self::limit).
///
/// ```
/// use tollgate::Tollgate;
/// use tollgate::identity::Key;
/// use tollgate::limit::Limit;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let gate = Tollgate::builder().limit(Limit::per_user("100/min").on("/ws")).build()?;
/// let user = gate.limits().subject(Key::number("user", 42)).route("/ws");
/// assert!(user.check(40).await.admits());
/// assert_eq!(user.peek().await.limits()[0].verdict().remaining(), 60);
/// user.reset().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct LimitSubject {
    limiter: Option<Arc<Limiter>>,
    named: NamedSubject,
}

impl LimitSubject {
    pub(crate) const fn new(limiter: Option<Arc<Limiter>>, named: NamedSubject) -> Self {
        Self { limiter, named }
    }

    /// Sets the tier. Defaults to the first.
    ///
    /// ```
    /// use tollgate::identity::Key;
    /// use tollgate::limit::{RateLimitLayer, Tiers};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let layer = RateLimitLayer::builder().limit(Tiers::default()).build()?;
    /// let decision = layer.subject(Key::number("user", 42)).tier("pro").check(1).await;
    /// assert_eq!(decision.limits()[0].name(), "pro");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn tier(mut self, tier: impl Into<Box<str>>) -> Self {
        self.named.tier = Some(tier.into());
        self
    }

    /// Sets the route, after a method if that matters. Defaults to none: limits on routes do not apply.
    ///
    /// ```
    /// use tollgate::identity::Key;
    /// use tollgate::limit::{Limit, RateLimitLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let layer = RateLimitLayer::builder().limit(Limit::per_user("5/min").on("POST /orders")).build()?;
    /// let user = layer.subject(Key::number("user", 42));
    /// assert_eq!(user.clone().peek().await.limits().len(), 0);
    /// assert_eq!(user.route("POST /orders").peek().await.limits().len(), 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn route(mut self, route: impl Into<Box<str>>) -> Self {
        self.named.route = Some(route.into());
        self
    }

    /// Restricts the following calls to one limit, whatever it counts by.
    ///
    /// ```
    /// use tollgate::identity::{Key, by};
    /// use tollgate::limit::{Limit, RateLimitLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let tenants = Limit::by(by::extension::<u64>(), "500/s").named("tenant");
    /// let layer = RateLimitLayer::builder().limit(tenants).build()?;
    /// assert!(layer.subject(Key::number("tenant", 7)).limit("tenant").check(1).await.admits());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn limit(mut self, name: impl Into<Box<str>>) -> Self {
        self.named.limit = Some(name.into());
        self
    }

    /// Charges `cost` units to every limit that applies, or to none, as a request would be.
    ///
    /// ```
    /// use tollgate::identity::Key;
    /// use tollgate::limit::RateLimitLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let layer = RateLimitLayer::per_ip("10/min");
    /// let client = layer.subject(Key::ip("192.0.2.1".parse().expect("an address")));
    /// assert!(client.check(10).await.admits());
    /// assert!(!client.check(1).await.admits());
    /// # Ok(()) }
    /// ```
    pub async fn check(&self, cost: u32) -> Decision {
        match &self.limiter {
            Some(limiter) => limiter.decide_named(&self.named, cost, true).await,
            None => Decision::admission(),
        }
    }

    /// Returns the decision on a request of one unit, without charging it.
    ///
    /// ```
    /// use tollgate::identity::Key;
    /// use tollgate::limit::RateLimitLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let layer = RateLimitLayer::per_ip("10/min");
    /// let decision = layer.subject(Key::ip("192.0.2.1".parse().expect("an address"))).peek().await;
    /// assert_eq!(decision.limits()[0].verdict().remaining(), 10);
    /// # Ok(()) }
    /// ```
    pub async fn peek(&self) -> Decision {
        match &self.limiter {
            Some(limiter) => limiter.decide_named(&self.named, 1, false).await,
            None => Decision::admission(),
        }
    }

    /// Returns the last refusals of the subject in this process, at most twenty, oldest first.
    ///
    /// ```
    /// use tollgate::identity::Key;
    /// use tollgate::limit::RateLimitLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let layer = RateLimitLayer::per_ip("1/min");
    /// let client = layer.subject(Key::ip("192.0.2.1".parse().expect("an address")));
    /// client.check(2).await;
    /// assert_eq!(client.refusals().len(), 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusal> {
        self.limiter.as_ref().map(|limiter| limiter.refusals_of(&self.named)).unwrap_or_default()
    }

    /// Resets the usage of the subject under every tier, and lifts its bans; limits of all requests together keep theirs.
    ///
    /// Limits that count [each route](crate::limit::Limit::per_route) are reset for the given route. Other nodes of a fleet may
    /// repeat a refusal for a second.
    ///
    /// ```
    /// use tollgate::identity::Key;
    /// use tollgate::limit::RateLimitLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let layer = RateLimitLayer::per_ip("10/min");
    /// layer.subject(Key::ip("192.0.2.1".parse().expect("an address"))).reset().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Returns an error if the shared store did not reset it. This process has.
    pub async fn reset(&self) -> Result<(), Error> {
        match &self.limiter {
            Some(limiter) => limiter.reset_named(&self.named).await,
            None => Ok(()),
        }
    }

    /// Bans the subject from all routes of the layer until a time, or until it is [reset](Self::reset): an address, or a key as
    /// the layer's identity extracts it.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use tollgate::identity::Key;
    /// use tollgate::limit::RateLimitLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let layer = RateLimitLayer::per_ip("10/min");
    /// # #[allow(clippy::disallowed_methods)]
    /// let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    /// layer.subject(Key::ip("192.0.2.1".parse().expect("an address"))).ban(tomorrow).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Returns an error if there are too many bans, or if the shared store did not take this one, which then applies in this
    /// process alone.
    pub async fn ban(&self, until: SystemTime) -> Result<(), Error> {
        match &self.limiter {
            Some(limiter) => limiter.ban_named(&self.named, until).await,
            None => Ok(()),
        }
    }

    /// Grants the subject another quota under a limit or tier, until a time. It keeps the share it has used.
    ///
    /// It applies in this process at once, and within a second in the others of a fleet. After `until` the configured quota is
    /// in force again.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use tollgate::identity::Key;
    /// use tollgate::limit::{Limit, RateLimitLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let layer = RateLimitLayer::builder().limit(Limit::per_user("100/min").named("api")).build()?;
    /// # #[allow(clippy::disallowed_methods)]
    /// let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    /// layer.subject(Key::number("user", 42)).grant("api", "500/min", tomorrow).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Returns an error if there is no such limit, it does not count this subject, or the quota is impossible; or if the shared
    /// store did not take the grant, which then applies in this process alone.
    pub async fn grant(
        &self,
        limit: &str,
        quota: impl TryInto<Quota, Error: Into<Error>>,
        until: SystemTime,
    ) -> Result<(), Error> {
        let quota = quota.try_into().map_err(Into::into)?;
        match &self.limiter {
            Some(limiter) => limiter.grant_named(&self.named, limit, quota, until).await,
            None => Err(Error::config(format!("unknown limit {limit:?}; the layer is disabled"))),
        }
    }
}

impl fmt::Debug for LimitSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitSubject").field("named", &self.named).finish_non_exhaustive()
    }
}

impl Limiter {
    async fn grant_named(
        &self,
        subject: &NamedSubject,
        limit: &str,
        quota: Quota,
        until: SystemTime,
    ) -> Result<(), Error> {
        let check = self.limits.check_to_grant(subject, limit, quota)?;
        let (now, left) = (self.clock.now(), until.duration_since(self.clock.wall()).unwrap_or_default());
        let value = LimitOverride::Quota(quota);
        self.overrides.add(keys_of(&check), value, now + left, now)?;
        self.reloaded.take_slow_path();
        let Some(name) = check.fleet().filter(|_| self.fallback.is_some()) else { return self.unshared() };
        self.store.publish(name.to_bits(), &value.encode(), left).await?;
        self.overrides.confirm(&keys_of(&check).collect::<Vec<_>>());
        Ok(())
    }

    async fn reset_named(&self, subject: &NamedSubject) -> Result<(), Error> {
        let checks = self.limits.checks_to_reset(subject);
        let bans = self.limits.named_keys_to_unban(subject);
        self.overrides.unban(&bans);
        if let Some(counts) = &self.ban_counts {
            drop(counts.reset(&checks));
        }
        let Some(fallback) = &self.fallback else { return self.store.reset(&checks).await };
        fallback.reset(&checks);
        let unbanned = bans.iter().map(|key| self.store.publish(*key, &[], Duration::ZERO)).collect::<Vec<_>>();
        for unbanned in unbanned {
            unbanned.await?;
        }
        self.store.reset(&checks).await
    }

    async fn ban_named(&self, subject: &NamedSubject, until: SystemTime) -> Result<(), Error> {
        let keys = self.limits.named_ban_keys(subject);
        let (now, left) = (self.clock.now(), until.duration_since(self.clock.wall()).unwrap_or_default());
        self.overrides.add(keys.iter().copied(), LimitOverride::Ban, now + left, now)?;
        self.reloaded.take_slow_path();
        let Some(name) = keys.get(1).filter(|_| self.fallback.is_some()) else { return self.unshared() };
        self.store.publish(*name, &LimitOverride::Ban.encode(), left).await?;
        self.overrides.confirm(&keys);
        Ok(())
    }

    fn refusals_of(&self, subject: &NamedSubject) -> Vec<Refusal> {
        let rates = self.limits.checks_to_reset(subject);
        let mut keys: Vec<u64> = rates.iter().map(|check| check.key.to_bits()).collect();
        keys.extend(self.limits.named_place_keys(subject));
        self.refusals.of(&keys).into_iter().map(|record| self.shown(record)).collect()
    }

    /// Returns the refusal with this reference.
    pub(crate) fn refusal(&self, reference: &str) -> Option<Refusal> {
        self.refusals.find(reference).map(|record| self.shown(record))
    }

    /// Returns the last refusals, newest first, at most `n`.
    #[cfg(feature = "admin")]
    pub(crate) fn latest_refusals(&self, n: usize) -> Vec<Refusal> {
        self.refusals.latest(n).into_iter().map(|record| self.shown(record)).collect()
    }

    fn shown(&self, record: RefusalRecord) -> Refusal {
        let quotas = record.labels.iter().map(|label| self.limits.quota(*label));
        Refusal {
            reference: record.reference.as_str().to_owned(),
            at: self.clock.wall().checked_sub(self.clock.now().since(record.at)).unwrap_or(SystemTime::UNIX_EPOCH),
            route: record.route,
            limits: quotas.clone().map(|quota| quota.name.to_string()).collect(),
            tier: quotas.clone().next().map(|quota| quota.tier.to_string()).unwrap_or_default(),
            key: record.shown.map(|key| format!("{:016x}", key.to_bits())).unwrap_or_default(),
            retry_after: record.retry_after,
        }
    }

    /// An action is not shared although the store is: its secret is not known yet.
    fn unshared(&self) -> Result<(), Error> {
        match &self.fallback {
            None => Ok(()),
            Some(_) => Err(Error::store("limits: applied in this process alone", "the store is not connected")),
        }
    }
}

/// Returns the keys of a check: in this process, and in the fleet.
fn keys_of(check: &Check) -> impl Iterator<Item = u64> {
    std::iter::once(check.key.to_bits()).chain(check.fleet().map(|key| key.to_bits()))
}
