//! [`RequestContext`], and calls that pass it on.

use std::task::{Context, Poll};

use http::Request;
use tokio::time::Instant;
use tower_service::Service;

use crate::base::body::{Keep, Wrap};
use crate::base::clock::{Clock, Timestamp, runtime_now};
use crate::base::request_head::{RequestHead, RouteKind};
use crate::base::route::Patterns;
use crate::identity::ExtractedKeys;

/// Context of one request. Its fields are filled by the first layer that needs them.
#[derive(Debug)]
#[expect(unnameable_types, reason = "an argument of sealed traits, which only this crate calls")]
pub struct RequestContext {
    place: GatePlace,
    /// Time at which the request arrived, if all layers read the same clock.
    arrived: Option<Timestamp>,
    /// Route of the request, if all layers declare the same routes.
    route: Option<RouteKind>,
    /// Time until which it may wait for other requests, once it does.
    wait_by: Option<Instant>,
    /// Keys that its identity was extracted as.
    pub(crate) keys: ExtractedKeys,
}

impl RequestContext {
    /// Creates the context of a request that enters a gate.
    #[inline(always)]
    pub(crate) const fn new(place: GatePlace) -> Self {
        // Written field by field, where it lies: a context that is made elsewhere is copied.
        let keys = ExtractedKeys { first: None, is_pending: false, has_failed: false };
        Self { place, arrived: None, route: None, wait_by: None, keys }
    }

    /// Borrows the head of a request, with its route if that is known.
    #[inline]
    pub(crate) fn head<'a, B>(&self, request: &'a Request<B>) -> RequestHead<'a> {
        RequestHead::routed(request, self.route)
    }

    /// As [`head`](Self::head), but determines the route for all layers, if they declare the same ones.
    #[inline(always)]
    pub(crate) fn routed_head<'a, B>(&mut self, request: &'a Request<B>, routes: &Patterns) -> RequestHead<'a> {
        if self.place.shares_routes && self.route.is_none() {
            self.route = Some(routes.determine(&RequestHead::of(request)).kind());
        }
        self.head(request)
    }

    /// Notes the route of the request for all layers, if they declare the same ones.
    #[inline]
    pub(crate) fn note_route(&mut self, route: RouteKind) {
        self.route = self.place.shares_routes.then_some(route);
    }

    /// Returns the time of arrival, as it was first asked for if all layers read the same clock.
    #[inline(always)]
    pub(crate) fn now(&mut self, clock: &Clock) -> Timestamp {
        if let Some(arrived) = self.arrived {
            return arrived;
        }
        let now = clock.now();
        self.arrived = self.place.shares_clock.then_some(now);
        now
    }

    /// Returns the context of a request that is about to wait: it arrived before, and is decided later.
    pub(crate) fn suspend(&mut self) -> Self {
        Self { arrived: None, ..std::mem::replace(self, Self::new(self.place)) }
    }

    /// Returns the time until which the request may wait for others: `latest`, unless it waits already. It will be decided
    /// later than it arrived.
    pub(crate) fn waits(&mut self, latest: Instant) -> Instant {
        self.arrived = None;
        *self.wait_by.get_or_insert(latest)
    }

    /// Notes that the request has waited for a place: it is decided later than it arrived.
    pub(crate) fn has_waited_for_place(&mut self) {
        self.arrived = None;
    }

    /// Whether the request has waited for others as long as it may.
    #[inline]
    pub(crate) fn has_waited(&self) -> bool {
        self.wait_by.is_some_and(|by| runtime_now() >= by)
    }

    /// Polls the pending identities until all are known.
    pub(crate) fn poll_identities(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.keys.poll_pending(cx)
    }
}

/// Place of a layer in a gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GatePlace {
    /// Number of the gate; 0 for a layer of its own.
    pub(crate) number: u16,
    /// Whether all layers read the same clock.
    pub(crate) shares_clock: bool,
    /// Whether all layers declare the same routes.
    pub(crate) shares_routes: bool,
}

impl GatePlace {
    /// Place of a layer of its own.
    pub(crate) const NONE: Self = Self { number: 0, shares_clock: false, shares_routes: false };
}

/// Service that accepts the context of its request from the layer around it.
#[expect(unnameable_types, reason = "sealed: only the layers of this crate share a context")]
pub trait ContextService<Q>: Service<Q> {
    /// Calls the service with the context of `request`.
    fn call_with(&mut self, request: Q, context: &mut RequestContext) -> Self::Future;
}

/// How a layer calls the service inside it: with the context where that is the next layer of the same gate ([`Keep`]),
/// without it where it is any other service ([`Wrap`]).
#[expect(unnameable_types, reason = "sealed: only this crate says how a service is called")]
pub trait CallInner<S: Service<Q>, Q> {
    /// Calls `inner`.
    fn call_inner(inner: &mut S, request: Q, context: &mut RequestContext) -> S::Future;
}

impl<S: Service<Q>, Q> CallInner<S, Q> for Wrap {
    #[inline(always)]
    fn call_inner(inner: &mut S, request: Q, _context: &mut RequestContext) -> S::Future {
        inner.call(request)
    }
}

impl<S: ContextService<Q>, Q> CallInner<S, Q> for Keep {
    #[inline(always)]
    fn call_inner(inner: &mut S, request: Q, context: &mut RequestContext) -> S::Future {
        inner.call_with(request, context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::ManualClock;

    const GATE: GatePlace = GatePlace { number: 1, shares_clock: true, shares_routes: true };

    fn patterns(routes: &[&str]) -> Patterns {
        let mut patterns = Patterns::default();
        patterns.declare(std::sync::Arc::new(Patterns::of(routes).expect("patterns")));
        patterns
    }

    #[test]
    fn a_gate_reads_the_clock_once_and_layers_apart_read_it_each() {
        let hand = ManualClock::new();
        let clock = Clock::Manual(hand.clone());
        let (mut gate, mut apart) = (RequestContext::new(GATE), RequestContext::new(GatePlace::NONE));
        let first = (gate.now(&clock), apart.now(&clock));
        hand.advance(Duration::from_secs(1));
        assert_eq!(gate.now(&clock), first.0);
        assert_eq!(apart.now(&clock), first.1 + Duration::from_secs(1));
        // What waits is decided later than it arrived.
        assert_eq!(gate.suspend().now(&clock), first.0 + Duration::from_secs(1));
    }

    #[test]
    fn a_gate_determines_a_route_once_and_layers_apart_determine_it_each() {
        let request = |path: &str| Request::get(path).body(()).expect("a request");
        let routes = patterns(&["/a/{x}", "/b"]);
        let (mut gate, mut apart) = (RequestContext::new(GATE), RequestContext::new(GatePlace::NONE));
        assert_eq!(gate.routed_head(&request("/b"), &routes).route(), Some(RouteKind::Declared(1)));
        // The next layer does not look at the path.
        assert_eq!(gate.routed_head(&request("/a/1"), &routes).route(), Some(RouteKind::Declared(1)));
        assert_eq!(gate.suspend().head(&request("/a/1")).route(), Some(RouteKind::Declared(1)));
        assert_eq!(apart.routed_head(&request("/b"), &routes).route(), None);
    }

    #[test]
    fn contexts_are_small() {
        assert!(size_of::<RequestContext>() <= 176, "{}", size_of::<RequestContext>());
    }
}
