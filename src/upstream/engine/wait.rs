//! Bounded waits: for the pace, for a window, for a booking.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::shared::UpstreamShared;
use crate::base::clock::runtime_now;
use crate::base::error::Error;
use crate::base::event::Event;
use crate::resilience::isolate::{TIMEOUT, isolate};
use crate::upstream::quota::account::{AccountTicket, BookingRequest, CallVerdict, Correction, PlannedCall};
use crate::upstream::quota::balance::{Balance, Booking};
use crate::upstream::quota::on_limit::OnLimit;
use crate::upstream::quota::rejected::{Rejected, RejectedReason};

/// Interval of attempts to book unbooked credits while the store is away.
const DEBT_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum interval between two checks.
const SHORTEST: Duration = Duration::from_millis(1);

/// Waits for the call's turn, then for permission.
pub(super) async fn admit_in_order(core: Arc<UpstreamShared>, call: PlannedCall) -> Result<AccountTicket, Rejected> {
    let by = runtime_now() + core.on_limit.max_wait();
    core.lock().account.waits += 1;
    if let Some(pacer) = &core.pacer
        && let Err(wait) = pacer.acquire(by).await
    {
        return Err(core.reject(RejectedReason::Paced, wait));
    }
    permission_by(core, call, by).await
}

/// Waits for permission to send the call, within the maximum wait.
pub(super) async fn permission(core: Arc<UpstreamShared>, call: PlannedCall) -> Result<AccountTicket, Rejected> {
    let by = runtime_now() + core.on_limit.max_wait();
    permission_by(core, call, by).await
}

async fn permission_by(
    core: Arc<UpstreamShared>,
    mut call: PlannedCall,
    by: tokio::time::Instant,
) -> Result<AccountTicket, Rejected> {
    let deadline = runtime_now() + TIMEOUT;
    // Remaining part of the maximum wait, after the wait for its turn.
    let unbooked_from = if matches!(core.on_limit, OnLimit::Wait(_)) { deadline.min(by) } else { deadline };
    loop {
        match core.admit(call) {
            CallVerdict::Send(ticket) => return Ok(ticket),
            CallVerdict::Book => {
                // Bookings of other calls may overtake this one, or the store may be slow: at the deadline the call
                // is sent and its cost is booked later.
                let booked = tokio::time::timeout_at(unbooked_from, book(&core, call.cost)).await;
                call.unbooked = booked.is_err() || runtime_now() >= unbooked_from;
            }
            CallVerdict::Reject(reason, until) => {
                let wait = until.since(core.clock.now()).max(SHORTEST);
                if !matches!(core.on_limit, OnLimit::Wait(_)) || runtime_now() + wait > by {
                    return Err(core.reject(reason, wait));
                }
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Books the credits for this call and a further block, unless another call has just done so.
///
/// The wait is bounded by [`isolate`]; after a timeout the store is not called for a second.
async fn book(core: &Arc<UpstreamShared>, cost: u64) {
    let Ok(_turn) = core.booking.acquire().await else { return };
    let bookings = {
        let (mut held, point) = core.now();
        if !held.account.must_book(cost, point.now) {
            return;
        }
        held.account.next_block(cost, point.now)
    };
    settle(core, &bookings, send_bookings(core, &bookings).await);
}

/// Books the next block in the background.
pub(super) fn top_up(core: &Arc<UpstreamShared>, cost: u64) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if core.booking.available_permits() == 0 || core.is_stopped() {
        return;
    }
    let core = core.clone();
    runtime.spawn(async move {
        let Ok(_turn) = core.booking.try_acquire() else { return };
        let bookings = {
            let (mut held, point) = core.now();
            if !held.account.runs_low(point.now) {
                return;
            }
            held.account.next_block(cost, point.now)
        };
        settle(&core, &bookings, send_bookings(&core, &bookings).await);
    });
}

/// Returns unspent bookings, and books unbooked credits.
pub(crate) async fn close(core: &Arc<UpstreamShared>) {
    let Ok(_turn) = core.booking.acquire().await else { return };
    let unbooked = core.now().0.account.to_settle();
    if !unbooked.is_empty() {
        settle(core, &unbooked, send_bookings(core, &unbooked).await);
    }
    let unspent = core.now().0.account.to_return();
    if !unspent.is_empty() {
        settle(core, &unspent, send_bookings(core, &unspent).await);
    }
}

/// Corrects a window: by what the store knows, here and then in the store.
pub(crate) async fn correct(core: &Arc<UpstreamShared>, window: &str, correction: Correction) -> Result<(), Error> {
    if core.store.is_some() {
        let Ok(_turn) = core.booking.acquire().await else { return Ok(()) };
        let balances = core.now().0.account.to_compare();
        settle(core, &balances, send_bookings(core, &balances).await);
    }
    {
        let (mut held, point) = core.now();
        held.account.correct(window, correction, point)?;
    }
    if core.store.is_some() {
        close(core).await;
    }
    Ok(())
}

/// Books unbooked credits once the store is back, also if no call follows. One task at a time.
fn book_debt(core: &Arc<UpstreamShared>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if core.is_stopped() || core.books_debt.swap(true, Ordering::AcqRel) {
        return;
    }
    let running = DebtTask(Arc::downgrade(core));
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(DEBT_INTERVAL).await;
            let Some(core) = running.0.upgrade() else { return };
            let Ok(_turn) = core.booking.acquire().await else { return };
            let debt = core.now().0.account.to_settle();
            if debt.is_empty() || core.is_stopped() {
                return;
            }
            let answer = send_bookings(&core, &debt).await;
            let (mut held, point) = core.now();
            match answer {
                // The balance shows whether the store has lost earlier bookings: they are booked again in the next round.
                Ok(balances) => held.account.booked(&debt, &balances),
                Err(_) => held.account.not_booked(point.now),
            }
        }
    });
}

/// Marks the task as running; released when it ends, also with its runtime.
struct DebtTask(Weak<UpstreamShared>);

impl Drop for DebtTask {
    fn drop(&mut self) {
        if let Some(core) = self.0.upgrade() {
            core.books_debt.store(false, Ordering::Release);
        }
    }
}

fn settle(core: &Arc<UpstreamShared>, bookings: &[BookingRequest], answer: Result<Vec<Balance>, Error>) {
    let (mut held, point) = core.now();
    match answer {
        Ok(balances) => held.account.booked(bookings, &balances),
        Err(error) => {
            held.account.not_booked(point.now);
            drop(held);
            book_debt(core);
            let event = Event::StoreFailed { store: "credits", error: &error };
            if error.is_outage() { core.events.emit_unlogged(&event) } else { core.events.emit(&event) }
        }
    }
}

/// Sends bookings to the store.
async fn send_bookings(core: &UpstreamShared, requests: &[BookingRequest]) -> Result<Vec<Balance>, Error> {
    let Some(store) = core.store.clone() else { return Ok(Vec::new()) };
    let windows: Vec<&'static str> = core.lock().account.calendars.iter().map(|c| c.credits.window()).collect();
    let bookings: Vec<Booking> = requests
        .iter()
        .map(|request| Booking {
            upstream: core.name.clone(),
            window: windows[request.at],
            start: request.start,
            ends: std::time::UNIX_EPOCH + Duration::from_secs(request.end.max(0).unsigned_abs()),
            credits: request.credits,
        })
        .collect();
    let answer = isolate("credits", move || store.book(&bookings)).await?;
    if answer.len() == requests.len() {
        return Ok(answer);
    }
    Err(Error::store(
        format!("the credit store returned {} balances for {} bookings", answer.len(), requests.len()),
        "mismatch",
    ))
}
