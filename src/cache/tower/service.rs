//! [`Cache`]: the service. One `call`: a hit is answered here and now, everything else becomes a future.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use tower::util::Oneshot;
use tower_service::Service;

use super::fetch::FetchJob;
use super::future::{After, Bypass, ResponseFuture};
use super::lookup::LookupResult;
use super::origin::InnerService;
use super::respond::{self, Asker};
use super::serve;
use super::shared::{CacheRequest, CacheShared};
use super::stats::answered;
use super::unsafe_invalidation::UnsafeRequest;
use crate::base::body::{Adopt, Body, Wrap};
use crate::base::detached_context::CacheNote;
use crate::base::error::BoxError;
use crate::base::mode::Switch;
use crate::base::request_head::RequestHead;
use crate::cache::http::cache_status::{Forward, Report};
use crate::cache::http::key::CacheKey;
use crate::cache::http::key_builder::KeyBuilder;
use crate::cache::http::policy::Freshness;
use crate::cache::http::reason::Reason;

/// The cache in front of `S`. Made by [`CacheLayer`](crate::cache::CacheLayer).
///
/// It is always ready: a hit neither waits for the inner service nor touches it. A request that is fetched waits for a
/// clone of the inner service to be ready, then calls that clone.
///
/// Fetching, timers and background work need a tokio runtime with time enabled.
pub struct Cache<S, W = Wrap> {
    inner: S,
    core: Arc<CacheShared>,
    adopt: PhantomData<fn() -> W>,
}

impl<S, W> Cache<S, W> {
    pub(crate) const fn new(inner: S, core: Arc<CacheShared>) -> Self {
        Self { inner, core, adopt: PhantomData }
    }
}

impl<S: Clone, W> Clone for Cache<S, W> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.core.clone())
    }
}

impl<S: fmt::Debug, W> fmt::Debug for Cache<S, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("inner", &self.inner).finish_non_exhaustive()
    }
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
        if !self.core.enabled {
            return self.past(request, None);
        }
        let head = RequestHead::of(&request);
        let switch = self.core.switch.get();
        if switch == Switch::Off {
            return self.unseen(request);
        }
        let ask = match self.core.ask(&head, has_body(&request)) {
            Ok(ask) if switch == Switch::Shadow && !ask.post => {
                return ResponseFuture::work(Box::pin(serve::shadow(self.job(request, ask))));
            }
            _ if switch == Switch::Shadow => return self.unseen(request),
            Ok(ask) => ask,
            Err((reason, _)) => {
                let after = self.after(&head, reason);
                return self.past(request, Some(after));
            }
        };
        if ask.post {
            return ResponseFuture::work(Box::pin(serve::post(self.job(request, ask))));
        }
        let now = self.core.clock.now();
        let (variant, found) = match self.core.look_at_hand(&ask, request.headers(), now) {
            Ok(found) => found,
            Err(pending) => {
                let job = self.job(request, ask);
                return ResponseFuture::work(Box::pin(serve::run(job, pending)));
            }
        };
        let asker = Asker { headers: request.headers(), flags: ask.flags, head_only: ask.head_only };
        match found {
            LookupResult::Entry(entry, Freshness::Fresh) if respond::holds(&entry, asker) => {
                answered(&ask.route.hits, CacheNote::Hit);
                self.core.counters.avoided(entry.meta.took);
                self.core.useful(&ask.rule);
                ResponseFuture::ready(respond::stored(&self.core, &entry, asker, now, Report::default()))
            }
            found => ResponseFuture::work(Box::pin(serve::handle_lookup(self.job(request, ask), variant, found))),
        }
    }
}

/// The future of a request that passes by, or may.
type BypassFuture<S, B, W, E, I> = ResponseFuture<Bypass<Oneshot<S, Request<B>>, W>, E, I>;

impl<S: Clone, W> Cache<S, W> {
    fn job<B>(&self, request: Request<B>, ask: CacheRequest) -> FetchJob<InnerService<S, W>, B> {
        let origin = InnerService::new(self.inner.clone());
        FetchJob {
            core: self.core.clone(),
            origin,
            request,
            ask,
            stale: None,
            beginning: None,
            unchanged: false,
            is_shadow: false,
            forward: Forward::UriMiss,
        }
    }

    fn past<B, E, I>(&self, request: Request<B>, after: Option<After>) -> BypassFuture<S, B, W, E, I>
    where
        S: Service<Request<B>>,
    {
        ResponseFuture::past(Bypass::new(Oneshot::new(self.inner.clone(), request), after))
    }

    /// A request that passes by a cache that is off. What it changes still invalidates, so that nothing stale is served
    /// afterwards.
    #[cold]
    fn unseen<B, E, I>(&self, request: Request<B>) -> BypassFuture<S, B, W, E, I>
    where
        S: Service<Request<B>>,
    {
        let target = self.unsettled(&RequestHead::of(&request));
        let after = target.map(|target| After { core: self.core.clone(), report: None, target: Some(target) });
        self.past(request, after)
    }

    /// What to do when this request, which passes by, is answered.
    fn after(&self, head: &RequestHead<'_>, reason: Reason) -> After {
        let core = self.core.clone();
        let forward = if reason == Reason::Method { Forward::Method } else { Forward::Bypass };
        core.counters.called();
        let target = self.unsettled(head);
        After { core, report: Some(Report { detail: Some(reason), ..Report::forward(forward) }), target }
    }

    /// What an unsafe request invalidates once it succeeds.
    fn unsettled(&self, head: &RequestHead<'_>) -> Option<UnsafeRequest> {
        match *head.method() {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE => None,
            _ => self.target(head).map(|key| UnsafeRequest::new(self.core.clone(), head.method().clone(), key)),
        }
    }

    /// The key of the resource that an unsafe request addresses.
    fn target(&self, head: &RequestHead<'_>) -> Option<CacheKey> {
        let ruling = self.core.rules.find(head);
        let rule = self.core.rules.rule(&ruling);
        let mut key = KeyBuilder::new();
        key.request(head, self.core.key_parts(rule)).ok()?;
        key.finish().ok()
    }
}

/// Whether the request has a body that its fields need not announce: over HTTP/2, and before a client has sent it.
fn has_body<B: http_body::Body>(request: &Request<B>) -> bool {
    !request.body().is_end_stream() && request.body().size_hint().exact() != Some(0)
}
