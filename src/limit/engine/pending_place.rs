//! Decides on requests under limits on requests in progress.
//!
//! Places are taken before the other limits decide: what they refuse gives its places back, and nothing has to be refunded. A
//! request under several such limits takes its places in the order of the configuration, and keeps the first while it waits
//! for the second.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::concurrency::{ConcurrencyPlaces, Place, PlaceAttempt, QueuedPlace};
use super::held_places::HeldPlaces;
use super::limiter::{LimitStep, Limiter};
use super::refusals::RefusalRecord;
use super::shared_limits::PendingDecision;
use crate::base::clock::runtime_now;
use crate::base::detached_context::{self, LimitNote};
use crate::base::event::Event;
use crate::base::maybe_ready::BoxFuture;
use crate::base::mode::Mode;
use crate::base::request_head::RequestHead;
use crate::context::RequestContext;
use crate::identity::KeyHash;
use crate::limit::algorithm::verdict::Verdict;
use crate::limit::policy::decision::{Decision, LimitDecision, LimitOutcome};
use crate::limit::policy::wanted_place::{WantedPlace, WantedPlaces};

/// Shortest time after which a refused request is asked to come back.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);

/// A request in the queue of a limit.
pub(crate) struct PendingPlace {
    limiter: Arc<Limiter>,
    granted: BoxFuture<Option<Place>>,
    wanted: WantedPlace,
    left: WantedPlaces,
    held: HeldPlaces,
}

impl PendingPlace {
    /// Resolves to the next step, when it is this request's turn or its wait is over.
    pub(super) fn poll(
        &mut self,
        head: &RequestHead<'_>,
        context: &mut RequestContext,
        cx: &mut Context<'_>,
    ) -> Poll<LimitStep> {
        let place = ready!(self.granted.as_mut().poll(cx));
        context.has_waited_for_place();
        let (left, mut held) = (std::mem::take(&mut self.left), std::mem::take(&mut self.held));
        Poll::Ready(match place {
            Some(place) => {
                held.0.push(place);
                self.limiter.take_places(head, context, left, held)
            }
            None => {
                self.limiter.concurrency_of(self.wanted.index).inspect(|places| places.count_refusal());
                self.limiter.refuse_place(head, context, self.wanted)
            }
        })
    }
}

impl Limiter {
    /// Takes the places that the request needs, then decides.
    #[cold]
    pub(super) fn decide_with_places(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        context: &mut RequestContext,
    ) -> LimitStep {
        let (mut places, seen) = self.limits.places(head, &mut context.keys);
        self.reloaded.apply_to_places(&mut places);
        if context.keys.is_pending() {
            return self.wait_for_identity();
        }
        self.warn(head, seen);
        self.take_places(head, context, places, HeldPlaces::default())
    }

    fn take_places(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        context: &mut RequestContext,
        mut left: WantedPlaces,
        mut held: HeldPlaces,
    ) -> LimitStep {
        let is_shadow = self.reloaded.mode() == Mode::Shadow;
        while !left.is_empty() {
            let wanted = left.remove(0);
            let Some(places) = self.concurrency_of(wanted.index) else { continue };
            match places.take(wanted.key, wanted.enforced && !is_shadow) {
                PlaceAttempt::Taken(place) => held.0.push(place),
                PlaceAttempt::Exceeded(place) => {
                    held.0.push(place);
                    self.events.emit(&Event::WouldRefuse { limit: &self.limits.quota(wanted.label).name });
                }
                PlaceAttempt::Queued(queued) => {
                    let Some(granted) = granted_within(queued, places.policy.wait) else {
                        places.count_refusal();
                        return self.refuse_place(head, context, wanted);
                    };
                    let (route, limit) = (self.limits.route_name(head), &*self.limits.quota(wanted.label).name);
                    self.events.emit(&Event::Queued { route, limit, key: wanted.key });
                    let pending = PendingPlace { limiter: self.clone(), granted, wanted, left, held };
                    return LimitStep::Wait(Box::new(PendingDecision::Place(pending)));
                }
                PlaceAttempt::Full => return self.refuse_place(head, context, wanted),
            }
        }
        hold(self.decide_with_lookups(head, context), held)
    }

    fn concurrency_of(&self, index: usize) -> Option<&Arc<ConcurrencyPlaces>> {
        self.concurrency.get(index)
    }

    /// Rejects a request that found no place.
    fn refuse_place(&self, head: &RequestHead<'_>, context: &mut RequestContext, wanted: WantedPlace) -> LimitStep {
        let (at, route) = (context.now(&self.clock), self.limits.route_name(head));
        let (key, quota) = (Some(wanted.key), self.limits.quota(wanted.label));
        let wait = self.concurrency_of(wanted.index).map_or(SHORTEST_RETRY, |places| places.policy.wait);
        let retry_after = wait.max(SHORTEST_RETRY);
        self.counters.count(false, false);
        self.counters.count_route(route);
        let reference = self.refusals.reference(wanted.key);
        let record = RefusalRecord {
            reference,
            keys: key.into_iter().collect(),
            shown: key.map(KeyHash::from_bits),
            at,
            route: String::new(),
            labels: std::iter::once(wanted.label).collect(),
            retry_after,
        };
        self.refusals.keep(record, route);
        let event =
            Event::Refused { route, limit: &quota.name, tier: "", key, reference: reference.as_str(), retry_after };
        let is_logged = self.warnings.logged.admits(at);
        if is_logged {
            self.events.emit(&event)
        } else {
            self.events.emit_unlogged(&event)
        }
        detached_context::note(|notes| notes.limit = Some(LimitNote::Refused));
        let verdict = Verdict::new(Some(retry_after), 0, retry_after);
        let part = LimitOutcome { label: wanted.label, quota: quota.quota, verdict, cost: 1, enforced: true };
        let decision = Decision::busy(LimitDecision::new(quota.clone(), part), wanted.is_global, reference);
        LimitStep::Reject(Box::new(self.denial(head, route, &decision)))
    }
}

/// Returns the future of a place in the queue; none outside of a runtime, which has no timers.
fn granted_within(queued: QueuedPlace, wait: Duration) -> Option<BoxFuture<Option<Place>>> {
    let _runtime = tokio::runtime::Handle::try_current().ok()?;
    let until = runtime_now() + wait;
    Some(Box::pin(async move { tokio::time::timeout_at(until, queued.granted()).await.ok().flatten() }))
}

/// Lets a request keep its places until its body ends, or gives them back if it is rejected.
pub(super) fn hold(step: LimitStep, places: HeldPlaces) -> LimitStep {
    match step {
        _ if places.0.is_empty() => step,
        LimitStep::Admit(mut edits) => {
            edits.rare.get_or_insert_default().places = Some(Arc::new(places));
            LimitStep::Admit(edits)
        }
        LimitStep::Reject(response) => LimitStep::Reject(response),
        LimitStep::Wait(pending) => LimitStep::Wait(Box::new(PendingDecision::Held { pending, places })),
    }
}
