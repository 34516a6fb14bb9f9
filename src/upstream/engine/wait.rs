//! Waits for a turn, for a window, for a booking. Each wait is bounded.

use std::sync::Arc;
use std::time::Duration;

use super::shared::UpstreamShared;
use crate::base::clock::runtime_now;
use crate::base::error::Error;
use crate::base::event::Event;
use crate::resilience::isolate::{PATIENCE, isolate};
use crate::upstream::quota::account::{AccountTicket, BookingRequest, CallVerdict, PlannedCall};
use crate::upstream::quota::balance::{Balance, Booking};
use crate::upstream::quota::mode::Mode;
use crate::upstream::quota::rejected::{Rejected, RejectedReason};

/// Minimum interval between two checks.
const SHORTEST: Duration = Duration::from_millis(1);

/// Waits for the call's turn, then for leave.
pub(crate) async fn turn(core: Arc<UpstreamShared>, call: PlannedCall) -> Result<AccountTicket, Rejected> {
    let by = runtime_now() + core.mode.patience();
    core.lock().account.waits += 1;
    if let Some(pacer) = &core.pacer
        && let Err(wait) = pacer.acquire(by).await
    {
        return Err(core.shed(RejectedReason::Paced, wait));
    }
    leave_by(core, call, by).await
}

/// Waits for leave to make the call, as long as calls may wait.
pub(crate) async fn leave(core: Arc<UpstreamShared>, call: PlannedCall) -> Result<AccountTicket, Rejected> {
    let by = runtime_now() + core.mode.patience();
    leave_by(core, call, by).await
}

async fn leave_by(
    core: Arc<UpstreamShared>,
    mut call: PlannedCall,
    by: tokio::time::Instant,
) -> Result<AccountTicket, Rejected> {
    let patience = runtime_now() + PATIENCE;
    // What is left of the time it may wait: some may have gone by in the line for its turn.
    let owes_from = if matches!(core.mode, Mode::Wait(_)) { patience.min(by) } else { patience };
    loop {
        match core.admit(call) {
            CallVerdict::Send(ticket) => return Ok(ticket),
            CallVerdict::Book => {
                // Whoever is overtaken each time, or waits in a line before a slow store, owes in the end.
                let booked = tokio::time::timeout_at(owes_from, book(&core, call.cost)).await;
                call.owes = booked.is_err() || runtime_now() >= owes_from;
            }
            CallVerdict::Refuse(reason, until) => {
                let wait = until.since(core.clock.now()).max(SHORTEST);
                if !matches!(core.mode, Mode::Wait(_)) || runtime_now() + wait > by {
                    return Err(core.shed(reason, wait));
                }
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Books what this call needs and a block more, unless somebody has just done so. The store is waited for as long as
/// [`isolate`] does, and then left alone for a second.
async fn book(core: &Arc<UpstreamShared>, cost: u64) {
    let Ok(_turn) = core.booking.acquire().await else { return };
    let owing = {
        let (mut held, moment) = core.now();
        if !held.account.must_book(cost, moment.now) {
            return;
        }
        held.account.next_block(cost, moment.now)
    };
    settle(core, &owing, ask(core, &owing).await);
}

/// Books the next block in the background.
pub(crate) fn top_up(core: &Arc<UpstreamShared>, cost: u64) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if core.booking.available_permits() == 0 || core.is_stopped() {
        return;
    }
    let core = core.clone();
    runtime.spawn(async move {
        let Ok(_turn) = core.booking.try_acquire() else { return };
        let owing = {
            let (mut held, moment) = core.now();
            if !held.account.runs_low(moment.now) {
                return;
            }
            held.account.next_block(cost, moment.now)
        };
        settle(&core, &owing, ask(&core, &owing).await);
    });
}

/// Gives back what was booked and not spent, and books what is owed.
pub(crate) async fn close(core: &Arc<UpstreamShared>) {
    let Ok(_turn) = core.booking.acquire().await else { return };
    let owed = core.now().0.account.to_settle();
    if !owed.is_empty() {
        settle(core, &owed, ask(core, &owed).await);
    }
    let unspent = core.now().0.account.to_return();
    if !unspent.is_empty() {
        settle(core, &unspent, ask(core, &unspent).await);
    }
}

fn settle(core: &UpstreamShared, owing: &[BookingRequest], answer: Result<Vec<Balance>, Error>) {
    let (mut held, moment) = core.now();
    match answer {
        Ok(balances) => held.account.booked(owing, &balances),
        Err(error) => {
            held.account.not_booked(moment.now);
            drop(held);
            let event = Event::StoreFailed { store: "credits", error: &error };
            if error.is_outage() { core.events.emit_unlogged(&event) } else { core.events.emit(&event) }
        }
    }
}

/// Asks the store to book these.
async fn ask(core: &UpstreamShared, owing: &[BookingRequest]) -> Result<Vec<Balance>, Error> {
    let Some(store) = core.store.clone() else { return Ok(Vec::new()) };
    let windows: Vec<&'static str> = core.lock().account.calendars.iter().map(|c| c.credits.window()).collect();
    let bookings: Vec<Booking> = owing
        .iter()
        .map(|owing| Booking {
            upstream: core.name.clone(),
            window: windows[owing.at],
            start: owing.start,
            ends: std::time::UNIX_EPOCH + Duration::from_secs(owing.end.max(0).unsigned_abs()),
            credits: owing.credits,
        })
        .collect();
    let answer = isolate("credits", move || store.book(&bookings)).await?;
    if answer.len() == owing.len() {
        return Ok(answer);
    }
    Err(Error::store(format!("the store of the credits answered {} for {}", answer.len(), owing.len()), "mismatch"))
}
