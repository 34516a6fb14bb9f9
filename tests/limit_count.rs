//! Limits that count outcomes: charged at admission, settled by the response.
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and measures the runtime's time")]

mod support;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use support::{Req, from};
use tokio::sync::oneshot;
use tollgate::identity::by;
use tollgate::limit::{Count, Limit, Quota, RateLimitLayer};
use tollgate::{BodyError, Clock, ManualClock};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt, service_fn};

type Frames = Vec<Result<Frame<Bytes>, Infallible>>;
type InnerBody = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;
type Answer = Result<Response<tollgate::Body<InnerBody>>, &'static str>;
type Service = BoxCloneService<Req, Response<tollgate::Body<InnerBody>>, &'static str>;

fn body(frames: Frames) -> InnerBody {
    StreamBody::new(futures_util::stream::iter(frames))
}

fn status(code: u16) -> Response<InnerBody> {
    Response::builder().status(code).body(body(Vec::new())).expect("a response")
}

/// Requests in progress, answered when the test says so.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<VecDeque<oneshot::Sender<InnerAnswer>>>>);

/// The inner service's answer to a request.
type InnerAnswer = Result<Response<InnerBody>, &'static str>;

impl Held {
    fn len(&self) -> usize {
        self.0.lock().expect("not poisoned").len()
    }

    /// Answers the oldest request.
    fn answer(&self, answer: Result<Response<InnerBody>, &'static str>) {
        let held = self.0.lock().expect("not poisoned").pop_front().expect("a request in progress");
        let _ = held.send(answer);
    }
}

struct Logins {
    hand: ManualClock,
    layer: RateLimitLayer,
    service: Service,
    held: Held,
}

impl Logins {
    fn new(limit: Limit) -> Self {
        let (hand, held) = (ManualClock::new(), Held::default());
        let layer = RateLimitLayer::builder().limit(limit).clock(Clock::Manual(hand.clone())).build().expect("a layer");
        let inner = held.clone();
        let service = layer.layer(service_fn(move |_: Req| {
            let (send, answer) = oneshot::channel();
            inner.0.lock().expect("not poisoned").push_back(send);
            async move { answer.await.expect("the inner service panics") }
        }));
        Self { hand, layer, service: BoxCloneService::new(service), held }
    }

    fn send(&self) -> tokio::task::JoinHandle<Answer> {
        tokio::spawn(self.service.clone().oneshot(from("192.0.2.1", "/login")))
    }

    /// Sends a request that is answered at once, if it is admitted.
    async fn answered(&self, answer: Result<Response<InnerBody>, &'static str>) -> Answer {
        let sent = self.send();
        settle().await;
        if self.held.len() > 0 {
            self.held.answer(answer);
        }
        sent.await.expect("no panic")
    }

    async fn status(&self, code: u16) -> u16 {
        self.answered(Ok(status(code))).await.expect("a response").status().as_u16()
    }
}

/// Lets every task run as far as it can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn failures() -> Limit {
    Limit::per_ip("2/15min").count(Count::failures())
}

#[tokio::test(start_paused = true)]
async fn only_failures_are_counted_and_freed_one_period_later() {
    let logins = Logins::new(failures());
    for _ in 0..10 {
        assert_eq!(logins.status(200).await, 200);
        assert_eq!(logins.status(302).await, 302);
    }
    assert_eq!(logins.status(401).await, 401);
    assert_eq!(logins.status(200).await, 200);
    assert_eq!(logins.status(503).await, 503);
    assert_eq!(logins.status(200).await, 429, "two have failed");
    logins.hand.advance(Duration::from_secs(15 * 60));
    assert_eq!(logins.status(200).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_good_login_waits_for_those_in_progress_and_is_not_refused() {
    let logins = Logins::new(failures());
    let (first, second, third) = (logins.send(), logins.send(), logins.send());
    settle().await;
    assert_eq!(logins.held.len(), 2, "the third waits");
    logins.held.answer(Ok(status(200)));
    settle().await;
    assert_eq!(logins.held.len(), 2, "the third took its place");
    logins.held.answer(Ok(status(401)));
    logins.held.answer(Ok(status(200)));
    settle().await;
    let statuses = [first, second, third].map(|sent| sent.now_or_never().expect("answered").expect("no panic"));
    assert_eq!(statuses.map(|answer| answer.expect("a response").status().as_u16()), [200, 401, 200]);
}

#[tokio::test(start_paused = true)]
async fn it_is_refused_when_they_have_failed_and_after_a_second_at_the_latest() {
    let logins = Logins::new(failures());
    let (_first, _second, third) = (logins.send(), logins.send(), logins.send());
    settle().await;
    let before = tokio::time::Instant::now();
    logins.held.answer(Ok(status(401)));
    logins.held.answer(Ok(status(401)));
    let refused = third.await.expect("no panic").expect("a response");
    assert_eq!((refused.status().as_u16(), support::field(&refused, "retry-after")), (429, "900"));
    assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());

    let logins = Logins::new(failures());
    let (_first, _second, third) = (logins.send(), logins.send(), logins.send());
    settle().await;
    let before = tokio::time::Instant::now();
    assert_eq!(third.await.expect("no panic").expect("a response").status(), 429);
    assert!((1_000..1_100).contains(&before.elapsed().as_millis()), "{:?}", before.elapsed());
    assert_eq!(logins.layer.stats().refused, 1, "counted once");
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_and_what_panics_stays_counted_and_an_error_is_a_failure() {
    let logins = Logins::new(failures());
    let dropped = logins.send();
    settle().await;
    dropped.abort();
    settle().await;
    logins.held.0.lock().expect("not poisoned").clear();
    assert_eq!(logins.answered(Err("broken")).await.map(|_| ()), Err("broken"));
    assert_eq!(logins.status(200).await, 429);

    let logins = Logins::new(failures());
    let panics = logins.send();
    settle().await;
    logins.held.0.lock().expect("not poisoned").clear();
    assert!(panics.await.expect_err("a panic").is_panic());
    assert_eq!(logins.status(401).await, 401);
    assert_eq!(logins.status(200).await, 429);

    let orders = Logins::new(Limit::per_ip("1/h").count(Count::successes()));
    assert_eq!(orders.answered(Err("broken")).await.map(|_| ()), Err("broken"));
    assert_eq!(orders.status(409).await, 409);
    assert_eq!(orders.status(201).await, 201);
    assert_eq!(orders.status(409).await, 429);
}

fn grpc(head: Option<&str>, frames: Frames) -> Response<InnerBody> {
    let response = Response::builder().header("content-type", "application/grpc");
    let response = head.into_iter().fold(response, |response, status| response.header("grpc-status", status));
    response.body(body(frames)).expect("a response")
}

fn trailers(status: &str) -> Result<Frame<Bytes>, Infallible> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().expect("a value"));
    Ok(Frame::trailers(trailers))
}

#[tokio::test(start_paused = true)]
async fn a_grpc_status_settles_in_the_head_or_in_the_trailers() {
    let data = || Ok(Frame::data(Bytes::from_static(b"reply")));
    let denied = || Count::status(|status| status == StatusCode::UNAUTHORIZED);
    let logins = Logins::new(Limit::per_ip("1/15min").count(denied()));
    for (head, frames) in
        [(Some("0"), Vec::new()), (Some("5"), Vec::new()), (None, vec![data(), trailers("0")]), (None, vec![data()])]
    {
        let response = logins.answered(Ok(grpc(head, frames))).await.expect("a response");
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.map(drop).map_err(BodyError::into_inner).expect("a body");
    }
    let response = logins.answered(Ok(grpc(None, vec![data(), trailers("16")]))).await.expect("a response");
    let collected = response.into_body().collect().await.expect("a body");
    assert_eq!(collected.trailers().expect("trailers")["grpc-status"], "16", "they pass through");
    assert_eq!(logins.status(200).await, 429);

    let logins = Logins::new(failures());
    assert!(logins.answered(Ok(grpc(Some("16"), Vec::new()))).await.is_ok());
    drop(logins.answered(Ok(grpc(None, vec![data(), trailers("0")]))).await.expect("a response"));
    assert_eq!(logins.status(200).await, 429, "a body that is dropped stays counted");
}

#[test]
fn what_cannot_be_counted_fails_when_the_layer_is_built() {
    for limit in [failures().reserve(), failures().cost(2).hit_cost(1), Limit::per_node("5/s").count(Count::failures())]
    {
        assert!(RateLimitLayer::builder().limit(limit).build().expect_err("a mistake").is_config());
    }
    let users = Limit::by(by::header("x-user"), Quota::per_minute(5)).count(Count::failures()).shadow();
    assert!(RateLimitLayer::builder().limit(users).build().is_ok());
}

/// In whatever order requests are answered and let fail, no more than the limit of failures is admitted in any window.
#[tokio::test(start_paused = true)]
async fn never_more_failures_than_the_limit_in_any_order() {
    const LIMIT: usize = 3;
    let mut random = 7_u64;
    let mut next = move |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    for _ in 0..30 {
        let logins = Logins::new(Limit::per_ip(Quota::per_minute(LIMIT as u32)).count(Count::failures()));
        // When the requests in progress were admitted, and those that failed.
        let (mut admitted, mut failed, mut now) = (VecDeque::new(), Vec::new(), 0);
        for _ in 0..150 {
            match next(6) {
                0 | 1 => drop(logins.send()),
                2 if !admitted.is_empty() => {
                    failed.push(admitted.pop_front().unwrap_or_default());
                    logins.held.answer(Ok(status(401)));
                }
                3 | 4 if !admitted.is_empty() => {
                    admitted.pop_front();
                    logins.held.answer(Ok(status(200)));
                }
                _ => {
                    let span = next(20);
                    logins.hand.advance(Duration::from_secs(span));
                    now += span;
                }
            }
            settle().await;
            admitted.resize(logins.held.len(), now);
        }
        assert!(failed.len() > LIMIT);
        for from in &failed {
            let within = failed.iter().filter(|at| (*from..from + 60).contains(at)).count();
            assert!(within <= LIMIT, "{within} failures from {from} on: {failed:?}");
        }
    }
}
