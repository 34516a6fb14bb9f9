//! The tower contract: a service is called only after *it* was polled ready, and a full inner service does not hold back
//! refusals.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use support::{Req, from};
use tollgate::limit::{Limit, LimitStore, LimitStoreStats, Quota, RateLimitLayer, Settlement, Verdicts};
use tollgate::store::memory::MemoryLimits;
use tollgate::{Error, MaybeReady, Timestamp};
use tower::{Layer, Service, ServiceExt};

/// Panics when it is called without having been polled ready, as some services do. A clone is not ready.
struct Strict {
    ready: bool,
    /// How often it says "not yet" before it is ready.
    patience: usize,
    calls: Arc<AtomicUsize>,
}

impl Strict {
    fn new(patience: usize) -> Self {
        Self { ready: false, patience, calls: Arc::default() }
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false, patience: self.patience, calls: self.calls.clone() }
    }
}

impl Service<Req> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.patience > 0 {
            self.patience -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Req) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been polled ready");
        self.calls.fetch_add(1, Ordering::SeqCst);
        ready(Ok(Response::new(Full::from("ok"))))
    }
}

#[tokio::test]
async fn the_clone_that_is_called_is_the_clone_that_was_ready() {
    for patience in [0, 1, 3] {
        let strict = Strict::new(patience);
        let calls = strict.calls.clone();
        let mut service = RateLimitLayer::per_ip(Quota::per_minute(100)).layer(strict);
        for _ in 0..3 {
            // Not even polled ready itself: it always is.
            let response = service.call(from("192.0.2.1", "/")).await.expect("infallible");
            assert_eq!(response.status(), 200);
        }
        assert_eq!(calls.load(Ordering::SeqCst), 3, "patience {patience}");
    }
}

#[tokio::test]
async fn refusals_are_answered_while_the_inner_service_is_full() {
    let never = tower::service_fn(|_: Req| std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>());
    let full = tower::limit::ConcurrencyLimit::new(never, 1);
    let service = RateLimitLayer::per_ip(Quota::per_minute(2)).layer(full);
    let ask = || tokio::spawn(service.clone().oneshot(from("192.0.2.1", "/")));
    let (first, second) = (ask(), ask());
    tokio::task::yield_now().await;
    let refused = ask().await.expect("no panic").expect("infallible");
    assert_eq!(refused.status(), 429);
    assert!(!first.is_finished() && !second.is_finished(), "one is answered by nobody, the other waits for its place");
    first.abort();
    second.abort();
}

#[tokio::test]
async fn an_inner_service_that_fails_to_become_ready_passes_its_own_error_on() {
    #[derive(Clone)]
    struct Broken;
    impl Service<Req> for Broken {
        type Response = Response<Full<Bytes>>;
        type Error = &'static str;
        type Future = Ready<Result<Response<Full<Bytes>>, &'static str>>;
        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Err("broken"))
        }
        fn call(&mut self, _request: Req) -> Self::Future {
            unreachable!("never ready")
        }
    }
    let error = RateLimitLayer::per_ip(Quota::per_minute(2)).layer(Broken).oneshot(from("192.0.2.1", "/")).await;
    assert_eq!(error.err(), Some("broken"));
}

/// A store that answers later, or not at all.
struct Remote {
    near: Arc<MemoryLimits>,
    fails: bool,
}

impl Remote {
    fn later<T: Send + 'static>(&self, answer: MaybeReady<Result<T, Error>>) -> MaybeReady<Result<T, Error>> {
        let fails = self.fails;
        MaybeReady::Pending(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if fails { Err(Error::store("no answer", "connection reset")) } else { answer.await }
        }))
    }
}

impl LimitStore for Remote {
    fn decide(&self, checks: &[tollgate::limit::Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        self.later(self.near.decide(checks, now))
    }

    fn peek(&self, checks: &[tollgate::limit::Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        self.later(self.near.peek(checks, now))
    }

    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>> {
        self.later(self.near.settle(settlements, now))
    }

    fn stats(&self) -> LimitStoreStats {
        self.near.stats()
    }
}

fn remote(fails: bool) -> (RateLimitLayer, Strict) {
    let store = Arc::new(Remote { near: Arc::new(MemoryLimits::new(100)), fails });
    let layer = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(3)).reserve()).store(store).build();
    (layer.expect("a layer"), Strict::new(2))
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_later_is_waited_for() {
    let (layer, strict) = remote(false);
    let service = layer.layer(strict);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(service.clone().oneshot(from("192.0.2.1", "/")).await.expect("infallible").status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
    assert_eq!(layer.stats().degraded, 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_leaves_the_decision_to_this_process_and_the_response_says_so() {
    let (layer, strict) = remote(true);
    let service = layer.layer(strict);
    let mut admitted = 0;
    for _ in 0..10 {
        let response = service.clone().oneshot(from("192.0.2.1", "/")).await.expect("infallible");
        let decision = response.extensions().get::<tollgate::limit::Decision>().expect("a degraded decision is marked");
        assert!(decision.degraded());
        admitted += usize::from(response.status() == 200);
    }
    assert_eq!(admitted, 3, "the limit holds, decided locally");
    assert_eq!(layer.stats().degraded, 10);
}
