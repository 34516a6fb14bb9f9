//! [`Cache`]: tower service. Hits return a ready future; requests that bypass the cache, or that no rule covers, the inner
//! service's; all others a boxed one.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use tower_service::Service;

use super::fetch::FetchJob;
use super::future::{AfterBypass, AfterResponse, Bypass, ResponseFuture};
use super::live_rules::MatchedRule;
use super::lookup::LookupResult;
use super::origin::{InnerService, Origin};
use super::respond::{self, RequestView};
use super::serve;
use super::shared::{CacheRequest, CacheShared, Unusable};
use super::stats::record_outcome;
use super::uncovered::UncoveredFetch;
use super::unsafe_invalidation::UnsafeRequest;
use crate::base::body::{Adopt, Body, Wrap};
use crate::base::clock::Timestamp;
use crate::base::detached_context::{self, CacheNote};
use crate::base::error::BoxError;
use crate::base::maybe_ready::BoxFuture;
use crate::base::mode::Mode;
use crate::base::request_head::RequestHead;
use crate::cache::http::cache_status::{Forward, Report};
use crate::cache::http::key::CacheKey;
use crate::cache::http::key_builder::KeyBuilder;
use crate::cache::http::policy::Freshness;
use crate::cache::http::reason::Reason;
use crate::cache::http::request_flags::RequestFlags;
use crate::context::{ContextService, GatePlace, RequestContext};

/// Cache in front of the service `S`. Created by [`CacheLayer`](crate::cache::CacheLayer).
///
/// It is always ready: a hit neither waits for the inner service nor touches it. A fetch waits for a clone of the inner
/// service to be ready, then calls that clone.
///
/// Fetching, timers and background work need a tokio runtime with time enabled.
///
/// ```
/// use tollgate::cache::{Cache, CacheLayer};
/// use tower::Layer;
///
/// let service: Cache<&str> = CacheLayer::in_memory(1 << 20).layer("the inner service");
/// # let _ = service;
/// ```
pub struct Cache<S, W = Wrap> {
    inner: S,
    core: Arc<CacheShared>,
    /// Number of the gate it belongs to; 0 for a layer of its own.
    gate: u16,
    adopt: PhantomData<fn() -> W>,
}

impl<S, W> Cache<S, W> {
    pub(super) const fn new(inner: S, core: Arc<CacheShared>, gate: u16) -> Self {
        Self { inner, core, gate, adopt: PhantomData }
    }
}

impl<S: Clone, W> Clone for Cache<S, W> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.core.clone(), self.gate)
    }
}

impl<S: fmt::Debug, W> fmt::Debug for Cache<S, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// The future of a request. A macro, since a request that is handed to another function is copied.
macro_rules! respond {
    ($service:ident, $request:ident, $context:expr) => {{
        let context: &mut RequestContext = $context;
        if !$service.core.enabled || detached_context::is_repeated($service.gate) {
            return $service.bypass($request, None);
        }
        let mode = $service.core.mode.get();
        if mode == Mode::Off {
            return $service.forward_while_off($request);
        }
        let head = $service.core.head(&$request, context);
        let params = match $service.core.evaluate_request(&head, &mut context.keys, has_body(&$request)) {
            Ok(params) if params.rule.mode != Mode::On => return $service.respond_to_overridden($request, params),
            Ok(params) if mode == Mode::Shadow && !params.post => {
                return ResponseFuture::boxed(serve::shadow(Box::new($service.job($request, params))));
            }
            Err(Unusable::Pending) => {
                return ResponseFuture::boxed($service.clone().after_identity($request, context.suspend()));
            }
            _ if mode == Mode::Shadow => return $service.forward_while_off($request),
            Ok(params) => params,
            Err(Unusable::Bypass(reason)) => {
                let after = $service.after(&head, reason);
                return $service.bypass($request, Some(AfterResponse::Bypass(after)));
            }
        };
        if params.post {
            return ResponseFuture::boxed(serve::post(Box::new($service.job($request, params))));
        }
        let now = context.now(&$service.core.clock);
        let is_uncovered = $service.core.is_uncovered(&params, now);
        if is_uncovered && $service.core.was_never_stored(&params.key) {
            return $service.forward_uncovered($request, params, now);
        }
        let (variant, found) = match $service.core.lookup_ready(&params, $request.headers(), now) {
            Ok(found) => found,
            Err(pending) => {
                let job = $service.job($request, params);
                return ResponseFuture::boxed(Box::pin(serve::run(job, pending)));
            }
        };
        let view = RequestView { headers: $request.headers(), flags: params.flags, head_only: params.head_only };
        match found {
            LookupResult::Entry(entry, Freshness::Fresh) if respond::satisfies(&entry, view) => {
                record_outcome(&params.route.hits, CacheNote::Hit);
                $service.core.counters.avoided(entry.meta.took);
                $service.core.mark_useful(&params.rule);
                ResponseFuture::ready(respond::from_entry(&$service.core, &entry, view, now, Report::default()))
            }
            LookupResult::Miss(Forward::UriMiss) if is_uncovered => $service.forward_uncovered($request, params, now),
            found => {
                let job = $service.job($request, params);
                ResponseFuture::boxed(Box::pin(async move { serve::handle_lookup(job, variant, found).finish().await }))
            }
        }
    }};
}

impl<S, W, ReqB, ResB> Service<Request<ReqB>> for Cache<S, W>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: http_body::Body + Send + 'static,
    ResB: 'static,
    W: Adopt<ResB> + 'static,
    W::Inner: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Body<W::Inner>>;
    type Error = S::Error;
    type Future = BypassFuture<S, ReqB, W, S::Error, W::Inner>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let mut context = RequestContext::new(GatePlace::NONE);
        respond!(self, request, &mut context)
    }
}

impl<S, W, ReqB, ResB> ContextService<Request<ReqB>> for Cache<S, W>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: http_body::Body + Send + 'static,
    ResB: 'static,
    W: Adopt<ResB> + 'static,
    W::Inner: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    fn call_with(&mut self, request: Request<ReqB>, context: &mut RequestContext) -> Self::Future {
        respond!(self, request, context)
    }
}

impl<S, W> Cache<S, W> {
    /// Serves a request when its identity is known, or will not be.
    #[cold]
    fn after_identity<ReqB>(
        mut self,
        request: Request<ReqB>,
        mut context: RequestContext,
    ) -> BoxFuture<<<Self as Service<Request<ReqB>>>::Future as Future>::Output>
    where
        Self: ContextService<Request<ReqB>, Future: Send> + Send + 'static,
        ReqB: Send + 'static,
    {
        Box::pin(async move {
            poll_fn(|cx| context.poll_identities(cx)).await;
            self.core.warn_of_unresolved(&context.keys);
            let response = self.call_with(request, &mut context);
            response.await
        })
    }
}

/// Future of a request that bypasses the cache, or may.
type BypassFuture<S, B, W, E, I> = ResponseFuture<Bypass<S, B, W>, E, I>;

impl<S: Clone, W> Cache<S, W> {
    fn job<B>(&self, request: Request<B>, params: CacheRequest) -> FetchJob<InnerService<S, W>, B> {
        let origin = InnerService::new(self.inner.clone());
        FetchJob {
            core: self.core.clone(),
            origin,
            request,
            params,
            stale: None,
            beginning: None,
            unchanged: false,
            is_shadow: false,
            forward: Forward::UriMiss,
            is_refetch: false,
            refresh: None,
            asked: None,
            lease: None,
        }
    }

    fn bypass<B, E, I>(&self, request: Request<B>, after: Option<AfterResponse>) -> BypassFuture<S, B, W, E, I>
    where
        S: Service<Request<B>>,
    {
        ResponseFuture::bypass(Bypass::new(self.inner.clone(), request, after))
    }

    /// Forwards a request that missed and that no rule covers.
    #[inline(always)]
    fn forward_uncovered<B, E, I>(
        &self,
        request: Request<B>,
        params: CacheRequest,
        now: Timestamp,
    ) -> BypassFuture<S, B, W, E, I>
    where
        S: Service<Request<B>>,
    {
        let fetch = UncoveredFetch::new(&self.core, params, request.headers(), now);
        self.bypass(request, Some(AfterResponse::Uncovered(fetch)))
    }

    /// Responds to a request whose rule an operator has switched to shadow or off.
    #[cold]
    fn respond_to_overridden<B, I>(
        &self,
        request: Request<B>,
        params: CacheRequest,
    ) -> BypassFuture<S, B, W, S::Error, I>
    where
        S: Service<Request<B>> + Send + 'static,
        InnerService<S, W>: Origin<B, Body = I, Error = S::Error>,
        B: Send + 'static,
    {
        match params.rule.mode {
            Mode::Shadow if !params.post => ResponseFuture::boxed(serve::shadow(Box::new(self.job(request, params)))),
            _ => self.forward_while_off(request),
        }
    }

    /// Forwards a request while the cache is off. Unsafe methods still invalidate, so that no stale response is served
    /// later.
    #[cold]
    fn forward_while_off<B, E, I>(&self, request: Request<B>) -> BypassFuture<S, B, W, E, I>
    where
        S: Service<Request<B>>,
    {
        let target = self.unsafe_request(&RequestHead::of(&request));
        let after = target.map(|target| {
            AfterResponse::Bypass(AfterBypass { core: self.core.clone(), report: None, target: Some(target) })
        });
        self.bypass(request, after)
    }

    /// Returns the processing for the response to this bypassing request.
    fn after(&self, head: &RequestHead<'_>, reason: Reason) -> AfterBypass {
        let core = self.core.clone();
        let forward = if reason == Reason::Method { Forward::Method } else { Forward::Bypass };
        core.counters.called();
        let target = self.unsafe_request(head);
        AfterBypass { core, report: Some(Report { detail: Some(reason), ..Report::forward(forward) }), target }
    }

    /// Returns the pending invalidation of an unsafe request.
    fn unsafe_request(&self, head: &RequestHead<'_>) -> Option<Box<UnsafeRequest>> {
        match *head.method() {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE => None,
            _ => {
                let matched = self.core.rules.find(head);
                let key = self.target(head, &matched)?;
                Some(Box::new(UnsafeRequest::new(self.core.clone(), head.method().clone(), key, &matched)))
            }
        }
    }

    /// Returns the key of an unsafe request's target.
    fn target(&self, head: &RequestHead<'_>, matched: &MatchedRule) -> Option<CacheKey> {
        let rule = self.core.rules.rule(matched);
        let mut key = KeyBuilder::new();
        key.request(head, RequestFlags::scan(head.headers()).1, self.core.key_parts(rule)).ok()?;
        key.finish().ok()
    }
}

/// Whether the request has a body, whether or not its fields announce it: over HTTP/2, and before a client has sent it.
fn has_body<B: http_body::Body>(request: &Request<B>) -> bool {
    !request.body().is_end_stream() && request.body().size_hint().exact() != Some(0)
}
