//! [`UpstreamShared`]: state shared by all services of one layer, around the [`Account`].

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use tokio::sync::Semaphore;

use super::body_inspector::BodyHook;
use super::call_series::CallSeries;
use super::credit_store::CreditStore;
use super::wait;
use crate::base::budget::Budget;
use crate::base::clock::{Clock, Timestamp};
use crate::base::event::{Event, Events};
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::base::metrics::http_labels::RequestKind;
use crate::base::request_head::RequestHead;
use crate::base::route::Patterns;
use crate::store::governor::Pacer;
use crate::upstream::learn::headers::learn;
use crate::upstream::learn::observed_limits::ObservedLimits;
use crate::upstream::quota::account::{
    Account, AccountEvents, AccountTicket, Alert, CallEnding, CallVerdict, PlannedCall,
};
use crate::upstream::quota::meter::PointInTime;
use crate::upstream::quota::on_limit::OnLimit;
use crate::upstream::quota::priority::{Priority, Shares};
use crate::upstream::quota::rejected::{Rejected, RejectedReason};

/// Interval between readings of the calendar.
const CALENDAR_INTERVAL: Duration = Duration::from_secs(1);

/// Returns the cost of a call in credits.
pub(crate) type CreditCost = Arc<dyn Fn(&RequestHead<'_>) -> u64 + Send + Sync>;

/// See the [module](self).
pub(crate) struct UpstreamShared {
    pub(crate) name: Arc<str>,
    /// Exported durations of calls.
    pub(crate) calls: CallSeries,
    pub(crate) on_limit: OnLimit,
    pub(crate) patterns: Patterns,
    pub(crate) cost: Option<CreditCost>,
    pub(crate) shares: Shares,
    pub(crate) pacer: Option<Pacer>,
    pub(crate) in_body: Option<BodyHook>,
    pub(crate) store: Option<Arc<dyn CreditStore>>,
    pub(crate) budget: Budget,
    pub(crate) clock: Clock,
    pub(crate) events: Events,
    /// Held while credits are booked, so that bookings are sequential.
    pub(crate) booking: Semaphore,
    /// Whether a task waits for the store to book unbooked credits.
    pub(crate) books_debt: AtomicBool,
    pub(crate) stopped: AtomicBool,
    pub(crate) state: Mutex<AccountState>,
}

/// State behind the lock.
pub(crate) struct AccountState {
    pub(super) account: Account,
    clocks: Clocks,
}

/// Both clocks at one time.
#[derive(Clone, Copy)]
pub(crate) struct Clocks(PointInTime);

/// Next step for a call.
pub(crate) enum CallStep {
    /// Send the call.
    Send(AccountTicket),
    /// Send it after a wait.
    Wait(BoxFuture<Result<AccountTicket, Rejected>>),
    /// Reject it.
    Rejected(Rejected),
}

impl AccountState {
    pub(crate) const fn new(account: Account, point: PointInTime) -> Self {
        Self { account, clocks: Clocks(point) }
    }

    /// Returns the current time; the calendar is read once a second and computed in between.
    fn point_in_time(&mut self, clock: &Clock) -> PointInTime {
        let now = clock.now();
        let since = now.since(self.clocks.0.now);
        if since >= CALENDAR_INTERVAL {
            self.clocks = Clocks(point_in_time(clock, now));
            self.account.reset_clock(self.clocks.0);
            return self.clocks.0;
        }
        let unix = self.clocks.0.unix.saturating_add(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        PointInTime { now, unix }
    }
}

/// Reads both clocks.
pub(crate) fn point_in_time(clock: &Clock, now: Timestamp) -> PointInTime {
    let unix = clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    PointInTime { now, unix: i64::try_from(unix.as_nanos()).unwrap_or(i64::MAX) }
}

impl UpstreamShared {
    /// Returns the planned call of a request.
    pub(crate) fn call(&self, head: &RequestHead<'_>) -> PlannedCall {
        let endpoint = self.patterns.at(head.uri().path()).unwrap_or(self.patterns.names().len());
        let cost =
            self.cost.as_ref().map_or(1, |cost| crate::upstream::learn::observed_limits::clamp_limit(cost(head)));
        let share = self.shares.of(head.extension::<Priority>().copied().unwrap_or_default());
        PlannedCall { endpoint, cost, share, unbooked: false }
    }

    /// Returns the next step for a call.
    #[inline]
    pub(crate) fn begin(self: &Arc<Self>, call: PlannedCall) -> CallStep {
        if let Some(pacer) = self.pacer.as_ref().filter(|_| matches!(self.on_limit, OnLimit::Wait(_)))
            && !pacer.try_acquire()
        {
            return CallStep::Wait(Box::pin(wait::admit_in_order(self.clone(), call)));
        }
        match self.admit(call) {
            CallVerdict::Send(ticket) => CallStep::Send(ticket),
            CallVerdict::Reject(reason, until) => {
                let wait = until.since(self.clock.now());
                match self.on_limit {
                    OnLimit::Wait(most) if wait <= most => {
                        self.lock().account.waits += 1;
                        CallStep::Wait(Box::pin(wait::permission(self.clone(), call)))
                    }
                    _ => CallStep::Rejected(self.reject(reason, wait)),
                }
            }
            CallVerdict::Book => CallStep::Wait(Box::pin(wait::permission(self.clone(), call))),
        }
    }

    /// Admits a call, and emits the events that result.
    #[inline]
    pub(super) fn admit(self: &Arc<Self>, call: PlannedCall) -> CallVerdict {
        let mut held = self.lock();
        let point = held.point_in_time(&self.clock);
        let verdict = held.account.admit(call, point);
        let alerts = if matches!(verdict, CallVerdict::Send(_)) { held.account.alerts() } else { Default::default() };
        let runs_low = self.store.is_some() && held.account.runs_low(point.now);
        drop(held);
        if runs_low {
            wait::top_up(self, call.cost);
        }
        self.emit(&AccountEvents { alerts, circuit: None }, point.now);
        verdict
    }

    /// Records a response; returns whether its body must say whether the call was rejected.
    pub(crate) fn answered(&self, ticket: &AccountTicket, status: StatusCode, headers: &HeaderMap) -> bool {
        let mut held = self.lock();
        let point = held.point_in_time(&self.clock);
        let observed = learn(status, headers, point.unix as f64 / 1e9);
        let events = held.account.settle(ticket, CallEnding::Answered(status, &observed), point);
        self.feed(&mut held);
        drop(held);
        self.emit(&events, point.now);
        observed.undecided
    }

    /// Records the end of a call without a response.
    pub(crate) fn ended(&self, ticket: &AccountTicket, ending: CallEnding<'_>) {
        let mut held = self.lock();
        let point = held.point_in_time(&self.clock);
        let events = held.account.settle(ticket, ending, point);
        self.feed(&mut held);
        drop(held);
        self.emit(&events, point.now);
    }

    /// Exports the duration of a call that ended; without a status, it failed.
    pub(crate) fn export(&self, ticket: &AccountTicket, kind: RequestKind, status: Option<StatusCode>) {
        let endpoint = ticket.endpoint();
        let name = self.patterns.names().get(endpoint).map_or("", |name| &**name);
        self.calls.record((endpoint, name), kind, status, ticket.age(self.clock.now()));
    }

    /// Applies limits observed in a response body.
    pub(super) fn observed_in_body(&self, ticket: &AccountTicket, observed: &ObservedLimits) {
        let mut held = self.lock();
        let point = held.point_in_time(&self.clock);
        let events = held.account.observed_in_body(ticket, observed, point);
        self.feed(&mut held);
        drop(held);
        self.emit(&events, point.now);
    }

    /// Counts a rejected call and emits the event.
    pub(crate) fn reject(&self, reason: RejectedReason, retry_after: Duration) -> Rejected {
        self.lock().account.rejections[reason as usize] += 1;
        let upstream = &*self.name;
        self.events.emit(&Event::CallRejected { upstream, reason: reason.as_str(), retry_after });
        Rejected { upstream: upstream.into(), reason, retry_after }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, AccountState> {
        self.state.lock()
    }

    /// Returns the account after advancing its windows to now.
    pub(crate) fn now(&self) -> (MutexGuard<'_, AccountState>, PointInTime) {
        let mut held = self.lock();
        let point = held.point_in_time(&self.clock);
        held.account.advance(point);
        (held, point)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Reports changed allowances to the caches, after a call has ended. Their lock is taken while holding the
    /// account's, never the other way round.
    fn feed(&self, held: &mut AccountState) {
        if let Some(allowances) = held.account.changed_allowances() {
            self.budget.set(&allowances);
        }
    }

    fn emit(&self, events: &AccountEvents, now: Timestamp) {
        for alert in &events.alerts {
            self.alert(alert, now);
        }
        match events.circuit {
            Some(true) => self.events.emit(&Event::CircuitOpened { upstream: &self.name }),
            Some(false) => self.events.emit(&Event::CircuitClosed { upstream: &self.name }),
            None => {}
        }
    }

    #[cold]
    fn alert(&self, alert: &Alert, now: Timestamp) {
        let left = alert.limit.saturating_sub(alert.spent);
        let exhausted_in = self.lock().account.burn.exhausted_in(left, now, alert.ends);
        self.events.emit(&Event::QuotaUsed {
            upstream: &self.name,
            window: std::str::from_utf8(&alert.window).unwrap_or_default(),
            percent: alert.percent,
            spent: alert.spent,
            limit: alert.limit,
            resets_in: alert.ends.since(now),
            exhausted_in,
        });
    }
}

impl fmt::Debug for UpstreamShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamShared")
            .field("name", &self.name)
            .field("on_limit", &self.on_limit)
            .finish_non_exhaustive()
    }
}
