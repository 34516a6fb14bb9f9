//! [`Core`]: what all services of one layer share, around the [`Account`].

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use tokio::sync::Semaphore;

use super::account::{Account, Alert, Call, Ending, News, Ticket, Verdict};
use super::learn::learn;
use super::ledger::CreditStore;
use super::meter::Moment;
use super::mode::{Mode, Priority, Shares};
use super::peek::InBody;
use super::shed::{Shed, ShedReason};
use super::told::Told;
use super::wait;
use crate::answer::BoxFuture;
use crate::budget::Budget;
use crate::clock::{Clock, Timestamp};
use crate::event::{Event, Events};
use crate::head::RequestHead;
use crate::route::Patterns;
use crate::store::governor::Pacer;

/// The calendar is read anew so often.
const LOOK: Duration = Duration::from_secs(1);

/// What a call costs, in credits.
pub(super) type Cost = Arc<dyn Fn(&RequestHead<'_>) -> u64 + Send + Sync>;

/// See the [module](self).
pub(super) struct Core {
    pub(super) name: Arc<str>,
    pub(super) mode: Mode,
    pub(super) patterns: Patterns,
    pub(super) cost: Option<Cost>,
    pub(super) shares: Shares,
    pub(super) pacer: Option<Pacer>,
    pub(super) in_body: Option<InBody>,
    pub(super) store: Option<Arc<dyn CreditStore>>,
    pub(super) budget: Budget,
    pub(super) clock: Clock,
    pub(super) events: Events,
    /// Held while credits are booked: one booking at a time.
    pub(super) booking: Semaphore,
    pub(super) stopped: AtomicBool,
    pub(super) held: Mutex<Held>,
}

/// What is behind the lock.
pub(super) struct Held {
    pub(super) account: Account,
    clocks: Clocks,
}

/// Both clocks at one moment.
#[derive(Clone, Copy)]
pub(super) struct Clocks(Moment);

/// What a call comes to at first.
pub(super) enum Step {
    /// It is made.
    Send(Ticket),
    /// It may be, after a while.
    Wait(BoxFuture<Result<Ticket, Shed>>),
    /// It is not.
    Shed(Shed),
}

impl Held {
    pub(super) const fn new(account: Account, moment: Moment) -> Self {
        Self { account, clocks: Clocks(moment) }
    }

    /// This moment by both clocks; the calendar is read each second and reckoned in between.
    fn moment(&mut self, clock: &Clock) -> Moment {
        let now = clock.now();
        let since = now.since(self.clocks.0.now);
        if since >= LOOK {
            self.clocks = Clocks(moment(clock, now));
            self.account.reset_clock(self.clocks.0);
            return self.clocks.0;
        }
        let unix = self.clocks.0.unix.saturating_add(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        Moment { now, unix }
    }
}

/// Both clocks, read now.
pub(super) fn moment(clock: &Clock, now: Timestamp) -> Moment {
    let unix = clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment { now, unix: i64::try_from(unix.as_nanos()).unwrap_or(i64::MAX) }
}

impl Core {
    /// What the quota makes of a request.
    pub(super) fn call(&self, head: &RequestHead<'_>) -> Call {
        let endpoint = self.patterns.at(head.uri().path()).unwrap_or(self.patterns.names().len());
        let cost = self.cost.as_ref().map_or(1, |cost| super::told::credible(cost(head)));
        let share = self.shares.of(head.extension::<Priority>().copied().unwrap_or_default());
        Call { endpoint, cost, share, owes: false }
    }

    /// What to do with it.
    #[inline]
    pub(super) fn begin(self: &Arc<Self>, call: Call) -> Step {
        if let Some(pacer) = self.pacer.as_ref().filter(|_| matches!(self.mode, Mode::Wait(_)))
            && !pacer.may_go()
        {
            return Step::Wait(Box::pin(wait::turn(self.clone(), call)));
        }
        match self.admit(call) {
            Verdict::Send(ticket) => Step::Send(ticket),
            Verdict::Refuse(reason, until) => {
                let wait = until.since(self.clock.now());
                match self.mode {
                    Mode::Wait(most) if wait <= most => {
                        self.lock().account.waits += 1;
                        Step::Wait(Box::pin(wait::leave(self.clone(), call)))
                    }
                    _ => Step::Shed(self.shed(reason, wait)),
                }
            }
            Verdict::Book => Step::Wait(Box::pin(wait::leave(self.clone(), call))),
        }
    }

    /// Asks the account, and tells what there is to tell.
    #[inline]
    pub(super) fn admit(self: &Arc<Self>, call: Call) -> Verdict {
        let mut held = self.lock();
        let moment = held.moment(&self.clock);
        let verdict = held.account.admit(call, moment);
        let alerts = if matches!(verdict, Verdict::Send(_)) { held.account.alerts() } else { Default::default() };
        let runs_low = self.store.is_some() && held.account.runs_low(moment.now);
        drop(held);
        if runs_low {
            wait::top_up(self, call.cost);
        }
        self.tell(&News { alerts, circuit: None }, moment.now);
        verdict
    }

    /// A call was answered.
    pub(super) fn answered(&self, ticket: &Ticket, status: StatusCode, headers: &HeaderMap) {
        let mut held = self.lock();
        let moment = held.moment(&self.clock);
        let told = learn(status, headers, moment.unix as f64 / 1e9);
        let news = held.account.settle(ticket, Ending::Answered(status, &told), moment);
        self.feed(&mut held);
        drop(held);
        self.tell(&news, moment.now);
    }

    /// A call ended without an answer.
    pub(super) fn ended(&self, ticket: &Ticket, ending: Ending<'_>) {
        let mut held = self.lock();
        let moment = held.moment(&self.clock);
        let news = held.account.settle(ticket, ending, moment);
        self.feed(&mut held);
        drop(held);
        self.tell(&news, moment.now);
    }

    /// An answer's body told something.
    pub(super) fn heard_in_body(&self, ticket: &Ticket, told: &Told) {
        let mut held = self.lock();
        let moment = held.moment(&self.clock);
        let news = held.account.heard_in_body(ticket, told, moment);
        self.feed(&mut held);
        drop(held);
        self.tell(&news, moment.now);
    }

    /// Counts a call that is not made, and says so.
    pub(super) fn shed(&self, reason: ShedReason, retry_after: Duration) -> Shed {
        self.lock().account.sheds[reason as usize] += 1;
        let upstream = &*self.name;
        self.events.emit(&Event::CallShed { upstream, reason: reason.as_str(), retry_after });
        Shed { upstream: upstream.into(), reason, retry_after }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account as of now, its windows turned.
    pub(super) fn now(&self) -> (MutexGuard<'_, Held>, Moment) {
        let mut held = self.lock();
        let moment = held.moment(&self.clock);
        held.account.turn(moment);
        (held, moment)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Tells the caches what is left, where that has changed: when a call has ended, not when it begins. Their lock is taken under ours, never the other way round.
    fn feed(&self, held: &mut Held) {
        if let Some(allowances) = held.account.news_for_caches() {
            self.budget.set(&allowances);
        }
    }

    fn tell(&self, news: &News, now: Timestamp) {
        for alert in &news.alerts {
            self.alert(alert, now);
        }
        match news.circuit {
            Some(true) => self.events.emit(&Event::CircuitOpened { upstream: &self.name }),
            Some(false) => self.events.emit(&Event::CircuitShut { upstream: &self.name }),
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

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("name", &self.name).field("mode", &self.mode).finish_non_exhaustive()
    }
}
