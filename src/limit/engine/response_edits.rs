//! [`ResponseEdits`]: what an admission leaves to be done when the response arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Extensions, Response, StatusCode};
use smallvec::SmallVec;

use super::held_places::{HeldPlaces, PlacesWatch};
use super::limiter::Limiter;
use super::outcome_charge::OutcomeCharge;
use super::reservation::Reservation;
use crate::base::body::BodyWatch;
use crate::base::detached_context;
use crate::limit::algorithm::check::Settlement;
use crate::limit::policy::decision::Decision;
use crate::limit::policy::headers::{DraftFields, RateLimitHeaders};

/// Changes to the response of an admitted request.
#[derive(Debug, Default)]
pub(crate) struct ResponseEdits {
    pub(super) fields: Option<RateLimitHeaders>,
    pub(super) rare: Option<Box<RareEdits>>,
}

/// Rarely needed edits, boxed.
#[derive(Debug, Default)]
pub(super) struct RareEdits {
    pub(super) draft: Option<DraftFields>,
    pub(super) decision: Option<Decision>,
    pub(super) reservation: Option<Reservation>,
    pub(super) discount: Option<Discount>,
    pub(super) charge: Option<OutcomeCharge>,
    pub(super) places: Option<Arc<HeldPlaces>>,
}

/// Refund if the cache answers.
#[derive(Debug)]
pub(super) struct Discount {
    pub(super) limiter: Arc<Limiter>,
    pub(super) settlements: SmallVec<[(Settlement, Shared); 2]>,
    /// Taken by whichever settles the charges that a reservation holds too.
    pub(super) settled: Arc<AtomicBool>,
    pub(super) degraded: bool,
}

/// Observers of a response's body.
pub(crate) type BodyWatches = SmallVec<[Box<dyn BodyWatch>; 1]>;

/// Whether a charge can be settled both by the handler and for a cache hit: the first of them does.
pub(crate) type Shared = bool;

impl ResponseEdits {
    /// Inserts the reservation and a link to the places into the request's extensions.
    #[inline]
    pub(crate) fn prepare(&mut self, extensions: &mut Extensions) {
        if let Some(rare) = &mut self.rare {
            rare.prepare(extensions);
        }
    }

    /// Whether there is more than the rate-limit fields.
    #[inline(always)]
    pub(crate) const fn are_rare(&self) -> bool {
        self.rare.is_some()
    }

    /// Writes the rate-limit fields into the response.
    #[inline(always)]
    pub(crate) fn write<B>(&mut self, response: &mut Response<B>) {
        if let Some(fields) = self.fields.take() {
            fields.write(response.headers_mut());
        }
    }

    /// Writes the rate-limit fields and the decision into the response, and settles what its head decides. Returns what
    /// its body decides.
    #[cold]
    pub(crate) fn write_rare<B>(&mut self, response: &mut Response<B>) -> BodyWatches {
        self.write(response);
        self.rare.take().map(|rare| rare.write(response)).unwrap_or_default()
    }

    /// Settles what an error of the inner service decides.
    #[cold]
    pub(crate) fn fail(&mut self) {
        if let Some(charge) = self.rare.take().and_then(|rare| rare.charge) {
            charge.settle(StatusCode::INTERNAL_SERVER_ERROR);
        }
    }
}

impl RareEdits {
    #[cold]
    fn prepare(&mut self, extensions: &mut Extensions) {
        if let Some(reservation) = self.reservation.take() {
            extensions.insert(reservation);
        }
        if let Some(places) = &self.places {
            HeldPlaces::link(places, extensions);
        }
    }

    #[cold]
    #[inline(never)]
    fn write<B>(self: Box<Self>, response: &mut Response<B>) -> BodyWatches {
        let settling = self.charge.and_then(|charge| charge.settle_by(response));
        let places = self.places.map(|places| Box::new(PlacesWatch(Some(places))) as Box<dyn BodyWatch>);
        if let Some(draft) = self.draft {
            draft.write(response.headers_mut());
        }
        if let Some(decision) = self.decision {
            response.extensions_mut().insert(decision);
        }
        if let Some(discount) = self.discount.filter(|_| detached_context::answered_from_cache()) {
            discount.settle();
        }
        settling.into_iter().chain(places).collect()
    }
}

impl Discount {
    fn settle(&self) {
        let shares = self.settlements.iter().any(|(_, shared)| *shared);
        let first = !shares || !self.settled.swap(true, Ordering::AcqRel);
        let due = self.settlements.iter().filter(|(_, shared)| first || !shared);
        let due: SmallVec<[Settlement; 2]> = due.map(|(settlement, _)| *settlement).collect();
        self.limiter.settle(&due, self.limiter.clock.now(), self.degraded);
    }
}
