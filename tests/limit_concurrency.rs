//! Limits on requests in progress: places, queues, and whatever ends a request.
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail; it measures")]

mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Empty};
use support::{Req, field, from};
use tokio::sync::oneshot;
use tollgate::identity::by;
use tollgate::limit::{ConcurrencyLimit, Count, Limit, RateLimitBuilder, RateLimitLayer};
use tollgate::{Clock, Event, ManualClock, Mode};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt, service_fn};

type InnerBody = Channel<Bytes, std::io::Error>;
type Sent = Result<Response<tollgate::Body<InnerBody>>, &'static str>;
type Answer = Result<Response<InnerBody>, &'static str>;

/// A service whose requests are answered when the test says so.
struct Exports {
    layer: RateLimitLayer,
    service: BoxCloneService<Req, Response<tollgate::Body<InnerBody>>, &'static str>,
    held: Arc<Mutex<VecDeque<oneshot::Sender<Answer>>>>,
    events: Arc<Mutex<Vec<String>>>,
}

impl Exports {
    fn new(limit: impl Into<Limit>) -> Self {
        Self::with(RateLimitLayer::builder().limit(limit))
    }

    fn with(builder: RateLimitBuilder) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = events.clone();
        let hook = move |event: &Event<'_>| {
            let text = match event {
                Event::Queued { limit, route, .. } => format!("queued {limit} {route}"),
                Event::Refused { limit, .. } => format!("refused {limit}"),
                Event::WouldRefuse { limit } => format!("would refuse {limit}"),
                _ => return,
            };
            log.lock().expect("not poisoned").push(text);
        };
        let layer = builder.clock(Clock::Manual(ManualClock::new())).hook(hook).build().expect("a layer");
        let held = Arc::new(Mutex::new(VecDeque::<oneshot::Sender<Answer>>::new()));
        let inner = held.clone();
        let service = layer.layer(service_fn(move |_: Req| {
            let (send, answer) = oneshot::channel();
            inner.lock().expect("not poisoned").push_back(send);
            async move { answer.await.expect("the inner service panics") }
        }));
        Self { layer, service: BoxCloneService::new(service), held, events }
    }

    async fn send(&self, request: Req) -> tokio::task::JoinHandle<Sent> {
        let sent = tokio::spawn(self.service.clone().oneshot(request));
        settle().await;
        sent
    }

    async fn export(&self) -> tokio::task::JoinHandle<Sent> {
        self.send(from("192.0.2.1", "/export")).await
    }

    /// Sends a request that is refused at once.
    async fn refused(&self) -> Response<tollgate::Body<InnerBody>> {
        self.export().await.now_or_never().expect("at once").expect("no panic").expect("a response")
    }

    /// Answers the oldest request, and returns the sender of its body.
    async fn answer(&self) -> http_body_util::channel::Sender<Bytes, std::io::Error> {
        let (frames, body) = Channel::new(4);
        let held = self.held.lock().expect("not poisoned").pop_front().expect("a request in progress");
        assert!(held.send(Ok(Response::new(body))).is_ok(), "it still waits for its answer");
        settle().await;
        frames
    }

    fn started(&self) -> usize {
        self.held.lock().expect("not poisoned").len()
    }

    /// Requests in progress, and those in the queue.
    fn gauges(&self) -> (u64, u64) {
        let stats = &self.layer.stats().concurrency[0];
        (stats.in_progress, stats.queued)
    }

    fn events(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.lock().expect("not poisoned"))
    }
}

/// Lets every task run as far as it can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn two() -> ConcurrencyLimit {
    ConcurrencyLimit::per_ip(2).named("exports")
}

#[tokio::test(start_paused = true)]
async fn the_third_is_refused_until_the_body_of_one_has_ended() {
    let exports = Exports::new(two());
    let (first, _second) = (exports.export().await, exports.export().await);
    let refused = exports.refused().await;
    assert_eq!((refused.status().as_u16(), field(&refused, "retry-after")), (429, "1"));
    let problem = refused.into_body().collect().await.expect("a body").to_bytes();
    assert!(String::from_utf8_lossy(&problem).contains("\"violated-policies\":[\"exports\"]"), "{problem:?}");
    assert!(exports.send(from("192.0.2.2", "/export")).await.now_or_never().is_none(), "another client's");

    let mut frames = exports.answer().await;
    let response = first.await.expect("no panic").expect("a response");
    assert_eq!(exports.refused().await.status(), 429, "the head is not the end");
    frames.send_data(Bytes::from_static(b"rows")).await.expect("a receiver");
    drop(frames);
    assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), "rows");
    assert!(exports.export().await.now_or_never().is_none(), "admitted");
    assert_eq!(exports.gauges(), (3, 0));
    let stats = &exports.layer.stats();
    assert_eq!((stats.refused, stats.concurrency[0].refused, stats.concurrency[0].admitted), (2, 2, 4));
    assert_eq!(exports.events(), ["refused exports", "refused exports"]);
    assert!(exports.layer.prometheus().contains("tollgate_limit_in_progress{limit=\"exports\"} 3"));
}

#[tokio::test(start_paused = true)]
async fn whatever_ends_a_request_frees_its_place() {
    let exports = Exports::new(ConcurrencyLimit::per_ip(1));
    // A body that is dropped.
    let sent = exports.export().await;
    let _frames = exports.answer().await;
    let response = sent.await.expect("no panic").expect("a response");
    assert_eq!(exports.gauges(), (1, 0));
    drop(response);
    assert_eq!(exports.gauges(), (0, 0));
    // A body that ends with an error.
    let sent = exports.export().await;
    let frames = exports.answer().await;
    let mut body = sent.await.expect("no panic").expect("a response").into_body();
    frames.abort(std::io::Error::other("broken"));
    assert!(body.frame().await.expect("a frame").is_err());
    assert_eq!(exports.gauges(), (0, 0));
    // An error of the service.
    let sent = exports.export().await;
    let held = exports.held.lock().expect("not poisoned").pop_front().expect("a request");
    assert!(held.send(Err("broken")).is_ok());
    assert!(sent.await.expect("no panic").is_err());
    assert_eq!(exports.gauges(), (0, 0));
    // A panic.
    let sent = exports.export().await;
    exports.held.lock().expect("not poisoned").clear();
    assert!(sent.await.expect_err("a panic").is_panic());
    assert_eq!(exports.gauges(), (0, 0));
    // A client that leaves.
    let sent = exports.export().await;
    assert_eq!(exports.gauges(), (1, 0));
    sent.abort();
    settle().await;
    assert_eq!(exports.gauges(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_served_in_order_and_for_a_time() {
    let exports = Exports::new(two().queue(2, Duration::from_secs(2)));
    let (first, _second) = (exports.export().await, exports.export().await);
    let (third, fourth) = (exports.export().await, exports.export().await);
    assert_eq!((exports.started(), exports.gauges()), (2, (2, 2)));
    assert_eq!(field(&exports.refused().await, "retry-after"), "2", "the queue is full");
    // The third leaves the queue; the fourth moves up, and takes the place of the first.
    third.abort();
    settle().await;
    assert_eq!(exports.gauges(), (2, 1));
    tokio::time::advance(Duration::from_millis(1_900)).await;
    first.abort();
    settle().await;
    assert_eq!((exports.started(), exports.gauges()), (3, (2, 0)));
    assert!(fourth.now_or_never().is_none(), "it is in progress");
    let before = tokio::time::Instant::now();
    let late = exports.export().await.await.expect("no panic").expect("a response");
    assert_eq!((late.status().as_u16(), field(&late, "retry-after")), (429, "2"));
    assert!((2_000..2_010).contains(&before.elapsed().as_millis()), "{:?}", before.elapsed());
    assert_eq!(exports.gauges(), (2, 0));
    let stats = exports.layer.stats();
    assert_eq!((stats.concurrency[0].queued_before, stats.concurrency[0].refused, stats.refused), (3, 2, 2));
    let queued = "queued exports unmatched";
    assert_eq!(exports.events(), [queued, queued, "refused exports", queued, "refused exports"]);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_all_share_refuses_with_503_and_grpc_with_resource_exhausted() {
    let exports = Exports::new(ConcurrencyLimit::global(1));
    let _first = exports.export().await;
    let refused = exports.send(from("192.0.2.2", "/export")).await.await.expect("no panic").expect("a response");
    assert_eq!((refused.status().as_u16(), field(&refused, "retry-after")), (503, "1"));
    let problem = refused.into_body().collect().await.expect("a body").to_bytes();
    assert!(String::from_utf8_lossy(&problem).contains("temporary-reduced-capacity"), "{problem:?}");
    let mut grpc = from("192.0.2.2", "/export");
    grpc.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    let refused = exports.send(grpc).await.await.expect("no panic").expect("a response");
    assert_eq!((refused.status().as_u16(), field(&refused, "grpc-status")), (200, "8"));
}

#[tokio::test(start_paused = true)]
async fn routes_methods_and_keys_are_counted_apart() {
    let exports = Exports::new(ConcurrencyLimit::by(by::header("x-user"), 1).on("GET /export"));
    let request = |user: &'static str, method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).header("x-user", user);
        request.body(Empty::new()).expect("a request")
    };
    let mut running = Vec::new();
    for (user, method, path, admitted) in [
        ("a", "GET", "/export", true),
        ("a", "GET", "/export", false),
        ("b", "GET", "/export", true),
        ("a", "POST", "/export", true),
        ("a", "GET", "/other", true),
    ] {
        let mut sent = exports.send(request(user, method, path)).await;
        assert_eq!((&mut sent).now_or_never().is_none(), admitted, "{user} {method} {path}");
        running.push(sent);
    }
    let each = ConcurrencyLimit::global(1).per_route();
    let each = Exports::with(RateLimitLayer::builder().limit(each).routes(["/a", "/b"]));
    for (path, admitted) in [("/a", true), ("/b", true), ("/a", false)] {
        assert_eq!(each.send(from("192.0.2.1", path)).await.now_or_never().is_none(), admitted, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_rate_a_refused_request_neither_keeps_a_place_nor_is_charged() {
    let builder = RateLimitLayer::builder().limit(Limit::per_ip("3/min")).limit(two());
    let exports = Exports::with(builder);
    let (first, second) = (exports.export().await, exports.export().await);
    assert_eq!(exports.refused().await.headers().get("x-ratelimit-limit"), None, "no place: not charged");
    first.abort();
    second.abort();
    settle().await;
    let third = exports.export().await;
    assert_eq!(field(&exports.refused().await, "x-ratelimit-remaining"), "0", "the rate refuses");
    assert_eq!(exports.gauges(), (1, 0), "and gives the place back");
    let reference = exports.layer.stats();
    assert_eq!((reference.admitted, reference.refused), (3, 2));
    third.abort();
    // A limit that counts outcomes settles by the head, and the place stays until the end of the body.
    let both = RateLimitLayer::builder().limit(Limit::per_ip("1/min").count(Count::failures())).limit(two());
    let exports = Exports::with(both);
    let first = exports.export().await;
    let _frames = exports.answer().await;
    let response = first.await.expect("no panic").expect("a response");
    assert_eq!(exports.gauges(), (1, 0));
    drop(response);
    assert_eq!(exports.gauges(), (0, 0));
    assert!(exports.export().await.now_or_never().is_none(), "the first did not fail");
}

#[tokio::test(start_paused = true)]
async fn in_shadow_all_are_admitted_and_reported() {
    let exports = Exports::new(ConcurrencyLimit::per_ip(1).named("one").shadow());
    let _running = (exports.export().await, exports.export().await);
    assert_eq!((exports.started(), exports.gauges()), (2, (2, 0)));
    assert_eq!(exports.events(), ["would refuse one"]);
    assert_eq!(exports.layer.stats().concurrency[0].would_refuse, 1);

    let exports = Exports::new(ConcurrencyLimit::per_ip(1));
    exports.layer.set_mode(Mode::Off);
    let _running = (exports.export().await, exports.export().await);
    assert_eq!((exports.started(), exports.gauges()), (2, (0, 0)));
    exports.layer.set_mode(Mode::Shadow);
    let _more = (exports.export().await, exports.export().await);
    assert_eq!((exports.started(), exports.gauges()), (4, (2, 0)));
}

#[tokio::test]
async fn a_refusal_is_found_by_its_reference_and_the_response_can_be_replaced() {
    let builder = RateLimitLayer::builder().limit(two()).on_reject(|rejection| {
        let busy = rejection.decision().violated().next()?;
        let text = format!("{} of {:?} {}", busy.name(), busy.concurrency(), rejection.reference());
        Response::builder().status(420).body(text.into()).ok()
    });
    let exports = Exports::with(builder);
    let _running = (exports.export().await, exports.export().await);
    let refused = exports.refused().await;
    assert_eq!((refused.status().as_u16(), field(&refused, "retry-after")), (420, "1"));
    let text = refused.into_body().collect().await.expect("a body").to_bytes();
    let text = String::from_utf8(text.to_vec()).expect("text");
    let reference = text.strip_prefix("exports of Some(2) ").expect("name, places and reference");
    assert_eq!(exports.layer.refusal(reference).expect("found").limits, ["exports"]);
    let subject = exports.layer.subject(tollgate::identity::Key::ip("192.0.2.1".parse().expect("an address")));
    assert_eq!(subject.refusals().len(), 1);
}

#[tokio::test]
async fn a_handler_holds_its_places_beyond_the_response_under_every_layer() {
    let layer = || RateLimitLayer::builder().limit(ConcurrencyLimit::global(1)).build().expect("a layer");
    let (outer, inner) = (layer(), layer());
    let in_progress = || [&outer, &inner].map(|layer| layer.stats().concurrency[0].in_progress);
    let held = Arc::new(Mutex::new(Vec::<Box<dyn Send>>::new()));
    let (holds, cloned) = (held.clone(), Arc::new(Mutex::new(None)));
    let keeps = cloned.clone();
    let service = outer.layer(inner.layer(service_fn(move |request: Req| {
        if request.uri().path() == "/holds" {
            holds.lock().expect("not poisoned").push(Box::new(RateLimitLayer::hold_places(request.extensions())));
        }
        // A clone of the extensions keeps nothing.
        *keeps.lock().expect("not poisoned") = Some(request.extensions().clone());
        std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new())))
    })));
    drop(service.clone().oneshot(from("192.0.2.1", "/")).await);
    assert_eq!(in_progress(), [0, 0]);
    drop(service.clone().oneshot(from("192.0.2.1", "/holds")).await);
    assert_eq!(in_progress(), [1, 1], "its response has ended");
    assert_eq!(service.clone().oneshot(from("192.0.2.1", "/")).await.expect("infallible").status(), 503);
    held.lock().expect("not poisoned").clear();
    assert_eq!(in_progress(), [0, 0]);
    let late = cloned.lock().expect("not poisoned").take().expect("extensions");
    let nothing = RateLimitLayer::hold_places(&late);
    assert_eq!(in_progress(), [0, 0], "the response has ended");
    drop(nothing);
}

/// Two websockets over real connections, one of which holds its place.
#[tokio::test]
async fn a_websocket_is_in_progress_until_its_handshake_or_as_long_as_its_handler_says() {
    let layer = RateLimitLayer::builder().limit(ConcurrencyLimit::global(1)).build().expect("a layer");
    let socket = async |extensions: http::Extensions, uri: http::Uri, upgrade: WebSocketUpgrade| {
        let place = (uri.path() == "/holds").then(|| RateLimitLayer::hold_places(&extensions));
        upgrade.on_upgrade(async move |mut socket| {
            while let Some(Ok(_)) = socket.recv().await {}
            drop(place);
        })
    };
    let app = axum::Router::new().route("/{holds}", axum::routing::get(socket)).layer(layer.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    let connect = async |path: &str| tokio_tungstenite::connect_async(format!("ws://{address}{path}")).await;
    let in_progress = |n| {
        let layer = &layer;
        async move {
            while layer.stats().concurrency[0].in_progress != n {
                tokio::task::yield_now().await;
            }
        }
    };
    let _open = connect("/goes-on").await.expect("a socket");
    in_progress(0).await;
    let held = connect("/holds").await.expect("a socket");
    for _ in 0..3 {
        let refused = connect("/goes-on").await.expect_err("the place is held").to_string();
        assert!(refused.contains("503"), "{refused}");
    }
    drop(held);
    in_progress(0).await;
    connect("/holds").await.expect("a socket");
}

#[test]
fn what_cannot_be_enforced_fails_when_the_layer_is_built() {
    let second = Duration::from_secs(1);
    for limit in [
        ConcurrencyLimit::per_ip(0).into(),
        ConcurrencyLimit::per_ip(1).queue(0, second).into(),
        ConcurrencyLimit::per_ip(1).queue(1, Duration::ZERO).into(),
        ConcurrencyLimit::per_ip(1).named("").into(),
        Limit::from(two()).cost(2),
        Limit::from(two()).reserve(),
        Limit::from(two()).count(Count::failures()),
        Limit::from(two()).ban_after(2, second),
    ] {
        assert!(RateLimitLayer::builder().limit(limit).build().expect_err("a mistake").is_config());
    }
    let twice = RateLimitLayer::builder().limit(two()).limit(Limit::per_ip("1/s").named("exports"));
    assert!(twice.build().expect_err("a name twice").to_string().contains("duplicate limit name"));
}

/// A response of one frame, which a thread reads or drops.
fn page() -> InnerBody {
    let (mut frames, body) = Channel::new(1);
    frames.try_send(Frame::data(Bytes::from_static(b"page"))).map_err(|_| "full").expect("room");
    body
}

/// Clients of several threads read, drop bodies, leave and panic: never more than the limit are in progress, and in the end
/// none is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn never_more_in_progress_than_the_limit() {
    const PLACES: usize = 3;
    let limit = ConcurrencyLimit::global(PLACES as u32).queue(8, Duration::from_secs(30));
    let layer = RateLimitLayer::builder().limit(limit).build().expect("a layer");
    let (now, most, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let inner = (now.clone(), most.clone());
    let service = layer.layer(service_fn(move |request: Req| {
        let (now, most) = inner.clone();
        let progress = InProgress::new(now, &most);
        async move {
            tokio::task::yield_now().await;
            assert!(request.uri().path() != "/panic", "as the test asks");
            let mut response = Response::new(page());
            response.extensions_mut().insert(Arc::new(progress));
            Ok::<_, &'static str>(response)
        }
    }));
    let clients = (0..16_usize).map(|client| {
        let service = service.clone();
        tokio::spawn(async move {
            let mut read = 0;
            for turn in 0..200 {
                let path = if (client + turn) % 7 == 0 { "/panic" } else { "/page" };
                let sent = tokio::spawn(service.clone().oneshot(from("192.0.2.1", path)));
                if (client * turn) % 5 == 1 {
                    tokio::task::yield_now().await;
                    sent.abort();
                }
                let Ok(Ok(response)) = sent.await else { continue };
                let (mut parts, body) = response.into_parts();
                let progress = parts.extensions.remove::<Arc<InProgress>>();
                tokio::task::yield_now().await;
                // It ends before its place is free.
                drop(progress);
                if (client + turn) % 3 == 0 { drop(body) } else { read += usize::from(body.collect().await.is_ok()) }
            }
            read
        })
    });
    for client in clients.collect::<Vec<_>>() {
        done.fetch_add(client.await.expect("no panic"), Ordering::SeqCst);
    }
    assert!(done.into_inner() > 0);
    assert!((1..=PLACES).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    assert_eq!(now.load(Ordering::SeqCst), 0);
    let stats = &layer.stats().concurrency[0];
    assert_eq!((stats.in_progress, stats.queued), (0, 0));
}

/// Counts a request while it is in progress.
struct InProgress(Arc<AtomicUsize>);

impl InProgress {
    fn new(now: Arc<AtomicUsize>, most: &AtomicUsize) -> Self {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(now)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
