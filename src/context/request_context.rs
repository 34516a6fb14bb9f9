//! [`RequestContext`], and calls that pass it on.

use std::task::{Context, Poll};

use http::Request;
use tower_service::Service;

use crate::base::body::{Keep, Wrap};
use crate::base::clock::{Clock, Timestamp};
use crate::base::request_head::RequestHead;
use crate::base::route::{Patterns, RouteKind};
use crate::identity::ExtractedKeys;

/// What is known of one request. Its fields are filled by the first layer that needs them.
#[derive(Debug, Default)]
#[expect(unnameable_types, reason = "an argument of sealed traits, which only this crate calls")]
pub struct RequestContext {
    place: GatePlace,
    /// Time at which the request arrived, if all layers read the same clock.
    arrived: Option<Timestamp>,
    /// Route of the request, if all layers declare the same routes.
    route: Option<RouteKind>,
    /// Keys that its identity was extracted as.
    pub(crate) keys: ExtractedKeys,
}

impl RequestContext {
    /// Creates the context of a request that enters a gate.
    #[inline]
    pub(crate) fn new(place: GatePlace) -> Self {
        Self { place, ..Self::default() }
    }

    /// Borrows the head of a request, with its route if that is known.
    #[inline]
    pub(crate) fn head<'a, B>(&self, request: &'a Request<B>) -> RequestHead<'a> {
        RequestHead::of(request).with_route(self.route)
    }

    /// Determines the route of the request for all layers, if they declare the same ones.
    #[inline]
    pub(crate) fn routed<'a>(&mut self, routes: &Patterns, head: RequestHead<'a>) -> RequestHead<'a> {
        if self.place.shares_routes && self.route.is_none() {
            self.route = Some(routes.kind(&head));
        }
        head.with_route(self.route)
    }

    /// Returns the time of arrival, as it was first asked for if all layers read the same clock.
    #[inline]
    pub(crate) fn now(&mut self, clock: &Clock) -> Timestamp {
        let now = self.arrived.unwrap_or_else(|| clock.now());
        if self.place.shares_clock {
            self.arrived = Some(now);
        }
        now
    }

    /// Returns the context of a request that is about to wait: it arrived before, and is decided later.
    pub(crate) fn suspend(&mut self) -> Self {
        Self { arrived: None, ..std::mem::take(self) }
    }

    /// Polls the pending identities until all are known.
    pub(crate) fn poll_identities(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.keys.poll_pending(cx)
    }
}

/// Place of a layer in a gate.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GatePlace {
    /// Number of the gate; 0 for a layer of its own.
    pub(crate) number: u16,
    /// Whether all layers read the same clock.
    pub(crate) shares_clock: bool,
    /// Whether all layers declare the same routes.
    pub(crate) shares_routes: bool,
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
