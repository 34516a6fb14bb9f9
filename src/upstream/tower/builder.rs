//! [`UpstreamBuilder`]: configuration of a layer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::response::Parts;
use smallvec::SmallVec;
use tokio::sync::Semaphore;

use super::layer::UpstreamLayer;
use crate::base::budget::{Budget, BudgetPolicy};
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Event, Events, Hook, both_hooks};
use crate::base::lock::Mutex;
use crate::base::request_head::RequestHead;
use crate::base::route::Patterns;
use crate::resilience::breaker::Breaker;
use crate::resilience::circuit::Circuit;
use crate::store::governor::Pacer;
use crate::upstream::engine::body_inspector::BodyHook;
use crate::upstream::engine::call_series::CallSeries;
use crate::upstream::engine::credit_store::CreditStore;
use crate::upstream::engine::shared::{AccountState, CreditCost, UpstreamShared, point_in_time};
use crate::upstream::learn::observed_limits::ObservedLimits;
use crate::upstream::quota::account::{Account, AccountConfig};
use crate::upstream::quota::alert;
use crate::upstream::quota::call_pace::CallPace;
use crate::upstream::quota::credit::Credits;
use crate::upstream::quota::meter::Calendar;
use crate::upstream::quota::on_limit::OnLimit;
use crate::upstream::quota::priority::{Priority, Shares};

/// Duration from which calls are slow.
const SLOW: Duration = Duration::from_secs(10);
/// Interval between calls that check whether a report still holds.
const PROBE_INTERVAL: Duration = Duration::from_secs(3_600);

/// Builds an [`UpstreamLayer`]. Made by [`UpstreamLayer::builder`].
///
/// ```
/// use std::time::Duration;
/// use tollgate::upstream::{Credits, OnLimit, Priority, UpstreamLayer};
///
/// let search = UpstreamLayer::builder("search")
///     .quota(Credits::per_minute(100))
///     .quota(Credits::per_month(60_000).reset_day(15))
///     .on_limit(OnLimit::Wait(Duration::from_secs(2)))
///     .routes(["/search", "/items/{id}"])
///     .cost(|head| if head.uri().path() == "/search" { 5 } else { 1 })
///     .free_not_modified()
///     .share(Priority::Low, 0.3)
///     .build()?;
/// # let _ = search;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[must_use = "a builder does nothing until it is built"]
pub struct UpstreamBuilder {
    name: String,
    quotas: Vec<Credits>,
    on_limit: OnLimit,
    pace: Option<CallPace>,
    circuit: Option<Circuit>,
    shares: Shares,
    alert_at: Vec<u8>,
    cost: Option<CreditCost>,
    free_not_modified: bool,
    patterns: Patterns,
    error: Option<Error>,
    in_body: Option<BodyHook>,
    store: Option<Arc<dyn CreditStore>>,
    effect: BudgetPolicy,
    probe_interval: Duration,
    clock: Clock,
    hook: Option<Hook>,
}

impl UpstreamBuilder {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            quotas: Vec::new(),
            on_limit: OnLimit::default(),
            pace: None,
            circuit: Some(Circuit::default().percent(50).slow_after(SLOW)),
            shares: Shares::default(),
            alert_at: vec![80, 90],
            cost: None,
            free_not_modified: false,
            patterns: Patterns::default(),
            error: None,
            in_body: None,
            store: None,
            effect: BudgetPolicy::default(),
            probe_interval: PROBE_INTERVAL,
            clock: Clock::default(),
            hook: None,
        }
    }

    /// Adds a quota for a window; all windows apply. Without one, only the upstream's reported limits apply.
    ///
    /// ```
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// let layer = UpstreamLayer::builder("search").quota(Credits::per_minute(100)).quota(Credits::per_month(60_000)).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn quota(mut self, credits: Credits) -> Self {
        self.quotas.push(credits);
        self
    }

    /// Sets the treatment of calls beyond the quota. Defaults to [`OnLimit::Reject`].
    ///
    /// ```
    /// use tollgate::upstream::{OnLimit, UpstreamLayer};
    ///
    /// let layer = UpstreamLayer::builder("search").on_limit(OnLimit::Observe).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn on_limit(mut self, on_limit: OnLimit) -> Self {
        self.on_limit = on_limit;
        self
    }

    /// Sets the spacing of calls in [`OnLimit::Wait`]. Defaults to none: calls wait only for the quota.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::upstream::{CallPace, OnLimit, UpstreamLayer};
    ///
    /// let layer = UpstreamLayer::builder("search")
    ///     .on_limit(OnLimit::Wait(Duration::from_secs(2)))
    ///     .pace(CallPace::per_second(10))
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn pace(mut self, pace: CallPace) -> Self {
        self.pace = Some(pace);
        self
    }

    /// Sets the circuit breaker; `None` disables it.
    ///
    /// Defaults to opening after five consecutive failures, or if more than 50 per cent of the last ten seconds'
    /// calls failed or took 10 s.
    ///
    /// ```
    /// use tollgate::Circuit;
    /// use tollgate::upstream::UpstreamLayer;
    ///
    /// let layer = UpstreamLayer::builder("search").circuit(Circuit::default().failures(3)).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn circuit(mut self, circuit: impl Into<Option<Circuit>>) -> Self {
        self.circuit = circuit.into();
        self
    }

    /// Sets the share of each limit for a priority class, 0 to 1. Defaults to 1 for high, 0.9 for normal, 0.5 for
    /// low.
    ///
    /// ```
    /// use tollgate::upstream::{Priority, UpstreamLayer};
    ///
    /// let layer = UpstreamLayer::builder("search").share(Priority::Low, 0.3).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn share(mut self, priority: Priority, share: f64) -> Self {
        self.shares.set(priority, share);
        self
    }

    /// Sets the percentages of a limit at which [`Event::QuotaUsed`] is emitted, at most eight. Defaults to 80 and
    /// 90.
    ///
    /// ```
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// let layer = UpstreamLayer::builder("github").quota(Credits::per_hour(5_000)).alert_at([50, 90, 100]).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn alert_at(mut self, percents: impl IntoIterator<Item = u8>) -> Self {
        self.alert_at = percents.into_iter().collect();
        self
    }

    /// Sets the cost of a call in credits. Defaults to 1.
    ///
    /// ```
    /// use tollgate::upstream::UpstreamLayer;
    ///
    /// let layer = UpstreamLayer::builder("search").cost(|head| if head.uri().path() == "/search" { 5 } else { 1 }).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn cost(mut self, cost: impl Fn(&RequestHead<'_>) -> u64 + Send + Sync + 'static) -> Self {
        self.cost = Some(Arc::new(cost));
        self
    }

    /// Makes 304 (Not Modified) responses free, as at GitHub. By default they have the full cost.
    ///
    /// ```
    /// use tollgate::upstream::UpstreamLayer;
    ///
    /// let layer = UpstreamLayer::builder("search").free_not_modified().build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn free_not_modified(mut self) -> Self {
        self.free_not_modified = true;
        self
    }

    /// Declares endpoints by patterns, in axum's syntax; other calls share the name [`UNMATCHED`](crate::UNMATCHED).
    /// An upstream with several limits reports them by endpoint.
    ///
    /// ```
    /// use tollgate::upstream::UpstreamLayer;
    ///
    /// let layer = UpstreamLayer::builder("search").routes(["/search", "/items/{id}"]).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn routes(mut self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        for pattern in patterns {
            if let Err(error) = self.patterns.place(pattern.as_ref()) {
                self.error.get_or_insert(error);
            }
        }
        self
    }

    /// Reads limits from the first `most` bytes of every response body, for upstreams that report a rejection with a
    /// 200.
    ///
    /// The body is forwarded unchanged meanwhile. Costs a box per call and a copy of these bytes.
    pub fn limits_in_body(
        mut self,
        most: usize,
        read: impl Fn(&Parts, &[u8]) -> Option<ObservedLimits> + Send + Sync + 'static,
    ) -> Self {
        self.in_body = Some(BodyHook { most, read: Arc::new(read) });
        self
    }

    /// Sets the store in which credits are booked, so that restarts and other nodes lose nothing.
    ///
    /// By default this process counts alone, starting from zero.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tollgate::upstream::{MemoryCredits, UpstreamLayer};
    ///
    /// let layer = UpstreamLayer::builder("search").store(Arc::new(MemoryCredits::default())).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn store(mut self, store: Arc<dyn CreditStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets the interval between calls that check whether a used-up limit, a pause or a `Retry-After` of the upstream
    /// still holds. Defaults to an hour.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::upstream::UpstreamLayer;
    ///
    /// let layer = UpstreamLayer::builder("search").probe_interval(Duration::from_secs(600)).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn probe_interval(mut self, interval: Duration) -> Self {
        self.probe_interval = interval;
        self
    }

    /// Sets the policy of caches for a low budget.
    pub fn effect(mut self, policy: BudgetPolicy) -> Self {
        self.effect = policy;
        self
    }

    /// Sets the clock; tests use a [`ManualClock`](crate::ManualClock). Waits use the runtime's clock.
    ///
    /// ```
    /// use tollgate::{Clock, ManualClock};
    /// use tollgate::upstream::UpstreamLayer;
    ///
    /// let layer = UpstreamLayer::builder("search").clock(Clock::Manual(ManualClock::new())).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Adds a callback for every [`Event`].
    ///
    /// ```
    /// use tollgate::upstream::UpstreamLayer;
    ///
    /// let layer = UpstreamLayer::builder("github").hook(|event| eprintln!("{event:?}")).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn hook(mut self, hook: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.hook = Some(both_hooks(self.hook, Arc::new(hook)));
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// Returns an error that names the first invalid value: an empty name, a quota, pace, share, threshold, circuit
    /// or pattern, or two windows of one length.
    pub fn build(mut self) -> Result<UpstreamLayer, Error> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        self.check()?;
        let Self { name, quotas, on_limit, pace, circuit, shares, alert_at, cost, free_not_modified, .. } = self;
        self.clock.warm_up();
        let first = point_in_time(&self.clock, self.clock.now());
        let calendars: SmallVec<[Calendar; 2]> = quotas.iter().map(|credits| Calendar::new(*credits, first)).collect();
        let circuit = circuit.map(Circuit::check).transpose()?;
        let breaker = circuit.map(|circuit| Breaker::new(circuit.policy));
        let config = AccountConfig {
            enforce: on_limit != OnLimit::Observe,
            booked: self.store.is_some() && !calendars.is_empty(),
            free_not_modified,
            alert_at: SmallVec::from_vec(alert_at),
            usual_share: shares.of(Priority::Normal),
            slow_after: Account::slow_after(circuit.and_then(|circuit| circuit.slow_after)),
            probe_interval: self.probe_interval,
        };
        let account = Account::new(config, calendars, breaker, self.patterns.names().len() + 1);
        let store = self.store;
        if let (Some(store), Some(hook)) = (&store, &self.hook) {
            store.listen(hook.clone());
        }
        let name: Arc<str> = name.into();
        let core = UpstreamShared {
            calls: CallSeries::new(name.clone()),
            name,
            on_limit,
            patterns: self.patterns,
            cost,
            shares,
            pacer: pace.map(Pacer::new),
            in_body: self.in_body,
            store,
            budget: Budget::new(self.effect)?,
            clock: self.clock,
            events: Events::new(self.hook),
            booking: Semaphore::new(1),
            books_debt: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            state: Mutex::new(AccountState::new(account, first)),
        };
        Ok(UpstreamLayer { core: Arc::new(core) })
    }

    fn check(&self) -> Result<(), Error> {
        if self.name.is_empty() {
            return Err(Error::config("an upstream's name cannot be empty"));
        }
        for (at, credits) in self.quotas.iter().enumerate() {
            credits.check()?;
            if let Some(other) = self.quotas[..at].iter().find(|other| other.window() == credits.window()) {
                return Err(Error::config(format!("duplicate quotas for one window: {other} and {credits}; keep one")));
            }
        }
        if self.alert_at.len() > alert::MAX_THRESHOLDS
            || self.alert_at.iter().any(|percent| !(1..=100).contains(percent))
        {
            let given = &self.alert_at;
            return Err(Error::config(format!("thresholds {given:?}: at most eight, each within 1 and 100 per cent")));
        }
        if self.probe_interval.is_zero() {
            return Err(Error::config("the probe interval must be at least a nanosecond"));
        }
        self.shares.check()?;
        self.pace.map(CallPace::check).transpose()?;
        Ok(())
    }
}

impl fmt::Debug for UpstreamBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBuilder")
            .field("name", &self.name)
            .field("quotas", &self.quotas)
            .field("on_limit", &self.on_limit)
            .finish_non_exhaustive()
    }
}
