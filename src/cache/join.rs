//! What happens when the store has no fresh answer: lead, wait, or go alone.
//!
//! A leader's fetch runs in a task of its own, so that a client that leaves cancels nothing.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::{Either, select};
use http::{HeaderMap, Response};

use super::barrier::Validity;
use super::core::{Ask, Core, Found, Search, Step};
use super::entry::Entry;
use super::fetch::{Answer, Job, fetch};
use super::flight::{Join, Lead, Live, Progress, Waiter};
use super::key::CacheKey;
use super::origin::Origin;
use super::policy::Standing;
use super::reason::Reason;
use super::respond;
use super::stats::count;
use super::status::{Forward, Report};
use super::vary;
use crate::body::Body;
use crate::carrier::carry;

/// Looks up to the end, then does what was found demands.
pub(crate) async fn run<O: Origin<B>, B: Send + 'static>(job: Job<O, B>, search: Search) -> Answer<O::Body, O::Error> {
    let (key, found) = look(&job.core, &job.ask, job.request.headers(), search).await;
    go(job, key, found).await
}

async fn look(core: &Core, ask: &Ask, headers: &HeaderMap, mut search: Search) -> (CacheKey, Found) {
    loop {
        let answer = search.answer.await;
        match core.step(ask, headers, search.key, answer, core.clock.now()) {
            Step::Next(next) => search = next,
            Step::Done(key, found) => return (key, found),
        }
    }
}

/// Acts on what was found under `key`, which is also what requests like this one share a fetch by.
pub(crate) async fn go<O: Origin<B>, B: Send + 'static>(
    mut job: Job<O, B>,
    key: CacheKey,
    found: Found,
) -> Answer<O::Body, O::Error> {
    match found {
        Found::Entry(entry, Standing::Fresh) => return Ok(hit(&job, &entry)),
        Found::Entry(entry, Standing::StaleWhileRevalidate) => return Ok(refresh(job, &key, entry)),
        Found::Entry(entry, _) => {
            job.stale = Some(entry);
            job.forward = Forward::Stale;
        }
        Found::Nothing(forward) => job.forward = forward,
    }
    // A HEAD has no body to store: it goes by itself, and what is stored stays as it is.
    if job.ask.head_only {
        return alone(job, None).await;
    }
    if job.core.passing.is_marked(&job.ask.key, job.core.clock.now()) {
        return alone(job, Some(Reason::HitForMiss)).await;
    }
    together(job, key).await
}

/// Leads a flight, or waits for one.
async fn together<O: Origin<B>, B: Send + 'static>(job: Job<O, B>, mut key: CacheKey) -> Answer<O::Body, O::Error> {
    let core = job.core.clone();
    let mut deadline = std::pin::pin!(tokio::time::sleep(core.settings.wait));
    loop {
        let mut waiter = match join(&core, &job.ask, &key) {
            Join::Lead(lead) => return in_a_task(job, lead).await,
            Join::Wait(waiter) => waiter,
        };
        let decided = {
            let decided = std::pin::pin!(waiter.decided());
            match select(decided, deadline.as_mut()).await {
                Either::Left((progress, _)) => Some(progress),
                Either::Right(_) => None,
            }
        };
        let Some(progress) = decided else {
            return a_few_at_a_time(job, waiter, Reason::WaitedTooLong).await;
        };
        let shared = match &progress {
            Progress::Alone => return alone(job, Some(Reason::HitForMiss)).await,
            Progress::Live(live) => share_live(&job, live),
            Progress::Stored(entry) => share_stored(&job, entry),
            Progress::Failed | Progress::Airborne => None,
        };
        match (shared, progress) {
            (Some(response), _) => return Ok(response),
            // It varies on something this request does not share: fetch with those that do.
            (None, Progress::Live(live)) if !live.names.is_empty() => {
                let selection = vary::selection(&live.names, job.request.headers(), core.settings.profile);
                let own = job.ask.key.variant(&selection);
                if own == key {
                    return alone(job, Some(Reason::FlightFailed)).await;
                }
                key = own;
            }
            _ => return a_few_at_a_time(job, waiter, Reason::FlightFailed).await,
        }
    }
}

fn join(core: &Arc<Core>, ask: &Ask, key: &CacheKey) -> Join {
    core.flights.join(key, core.barriers.generation(), |began| core.is_void(&ask.key, began))
}

/// The answer from a fresh entry.
fn hit<O, B, I>(job: &Job<O, B>, entry: &Entry) -> Response<Body<I>> {
    count(&job.ask.route.hits);
    job.core.counters.avoided(entry.meta.took);
    job.core.useful(job.ask.rule);
    respond::stored(&job.core, entry, job.asker(), job.core.clock.now(), Report::default())
}

/// Serves a stale entry, and lets one request refresh it in the background (RFC 5861 §3).
fn refresh<O: Origin<B>, B: Send + 'static>(
    mut job: Job<O, B>,
    key: &CacheKey,
    entry: Arc<Entry>,
) -> Response<Body<O::Body>> {
    let core = job.core.clone();
    count(&job.ask.route.stale);
    core.counters.avoided(entry.meta.took);
    let response = respond::stored(&core, &entry, job.asker(), core.clock.now(), Report::default());
    // A HEAD cannot refresh a body; the next GET does.
    if job.ask.head_only {
        return response;
    }
    if let Join::Lead(lead) = join(&core, &job.ask, key) {
        job.stale = Some(entry);
        job.forward = Forward::Stale;
        detach(async move {
            if let (_, Some(rest)) = fetch(job, Some(lead), None).await {
                rest.await;
            }
        });
    }
    response
}

/// Waits for a turn, looks once more, and goes alone: after a failure the inner service is not stormed.
async fn a_few_at_a_time<O: Origin<B>, B: Send + 'static>(
    job: Job<O, B>,
    waiter: Waiter,
    reason: Reason,
) -> Answer<O::Body, O::Error> {
    let core = job.core.clone();
    let now = core.clock.now();
    if let Some(entry) = job.stale.as_ref().filter(|entry| now < entry.meta.windows.error_until) {
        count(&job.ask.route.stale);
        let report = Report { detail: Some(reason), ..Report::forward(job.forward) };
        return Ok(respond::stored(&core, entry, job.asker(), now, report));
    }
    let turn = tokio::time::timeout(core.settings.wait, waiter.turnstile.acquire()).await;
    // Whoever went before may have stored an answer meanwhile.
    let search = core.search(&job.ask.key, now);
    if let (_, Found::Entry(entry, Standing::Fresh)) = look(&core, &job.ask, job.request.headers(), search).await {
        return Ok(hit(&job, &entry));
    }
    let answer = alone(job, Some(reason)).await;
    drop(turn);
    answer
}

/// Fetches for this request only; a client that leaves takes its fetch along.
async fn alone<O: Origin<B>, B: Send + 'static>(job: Job<O, B>, reason: Option<Reason>) -> Answer<O::Body, O::Error> {
    if let Some(reason) = reason {
        job.ask.route.bypass(reason);
    }
    let (answer, rest) = fetch(job, None, reason).await;
    if let Some(rest) = rest {
        detach(rest);
    }
    answer
}

/// Fetches in a task of its own. A panic of the inner service goes on where it would have been without this layer.
async fn in_a_task<O: Origin<B>, B: Send + 'static>(job: Job<O, B>, lead: Lead) -> Answer<O::Body, O::Error> {
    let task = tokio::spawn(carry(async move {
        let (answer, rest) = fetch(job, Some(lead), None).await;
        if let Some(rest) = rest {
            detach(rest);
        }
        answer
    }));
    match task.await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

fn detach(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(carry(work));
}

/// The answer for a waiter from a body that is still arriving, if it is for requests like this one.
fn share_live<O, B, I>(job: &Job<O, B>, live: &Live) -> Option<Response<Body<I>>> {
    let core = &job.core;
    let headers = job.request.headers();
    let selection = vary::selection(&live.names, headers, core.settings.profile);
    let suits = *selection == *live.selection
        && (live.names.is_empty() || vary::is_readable(&live.meta.headers, headers))
        && core.barriers.check(&job.ask.key, &live.meta) == Validity::Valid;
    if !suits {
        return None;
    }
    count(&job.ask.route.collapsed);
    core.counters.avoided(live.meta.took);
    let body = Body::stream(Box::pin(live.tee.reader(false)));
    let report = Report { collapsed: true, ..Report::forward(job.forward) };
    Some(respond::from_meta(core, &live.meta, body, job.asker(), core.clock.now(), report))
}

/// The answer for a waiter from an entry that was revalidated while it waited.
fn share_stored<O, B, I>(job: &Job<O, B>, entry: &Entry) -> Option<Response<Body<I>>> {
    let core = &job.core;
    if core.barriers.check(&job.ask.key, &entry.meta) != Validity::Valid {
        return None;
    }
    count(&job.ask.route.collapsed);
    core.counters.avoided(entry.meta.took);
    let report = Report { collapsed: true, ..Report::forward(job.forward) };
    Some(respond::stored(core, entry, job.asker(), core.clock.now(), report))
}
