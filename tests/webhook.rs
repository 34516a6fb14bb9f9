//! Invalidation by signed requests, and from a stream.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/cache_world.rs"]
mod world;

use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use sha2::Sha256;
use tollgate::cache::{Invalidation, InvalidationWebhook};
use tollgate::{Clock, ManualClock};
use tower::{Service, ServiceExt};
use world::{World, reply};

const FIELDS: &[(&str, &str)] = &[("cache-control", "max-age=60, stale-while-revalidate=30"), ("cache-tag", "prices")];
const SECRET: &str = "at least sixteen bytes";
const NEXT: &str = "the secret that follows it";

struct Setup {
    world: World,
    clock: ManualClock,
    webhook: InvalidationWebhook,
}

fn setup() -> Setup {
    let clock = ManualClock::new();
    let time = clock.clone();
    let world = World::with(
        |builder| builder.clock(Clock::Manual(time)),
        async |asked| Ok(reply(FIELDS, format!("answer {}", asked.call))),
    );
    let webhook = InvalidationWebhook::new(world.layer.invalidate(), [SECRET, NEXT]).expect("secrets");
    Setup { world, clock, webhook }
}

impl Setup {
    fn now(&self) -> u64 {
        let wall = Clock::Manual(self.clock.clone()).wall();
        wall.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> StatusCode {
        self.webhook.clone().oneshot(request).await.expect("it never fails").status()
    }

    async fn post(&self, body: &str) -> StatusCode {
        self.send(signed(SECRET, self.now(), body)).await
    }
}

fn signature(secret: &str, timestamp: u64, body: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
    let bytes = mac.chain_update(format!("{timestamp}.{body}")).finalize().into_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn signed(secret: &str, timestamp: u64, body: &str) -> Request<Full<Bytes>> {
    Request::post("/invalidate")
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", format!("sha256={}", signature(secret, timestamp, body)))
        .body(Full::from(body.to_owned()))
        .expect("a request")
}

#[tokio::test]
async fn tags_keys_and_prefixes_are_invalidated() {
    let setup = setup();
    for document in [
        r#"{"tags":["prices"]}"#,
        r#"{"keys":["/a"]}"#,
        r#"{"keys":["http://example.com/a"],"tags":["other"]}"#,
        r#"{"prefixes":["/"]}"#,
    ] {
        setup.world.get("/a").await;
        assert!(setup.world.get("/a").await.is_hit());
        assert_eq!(setup.post(document).await, StatusCode::OK, "{document}");
        assert!(!setup.world.get("/a").await.is_hit(), "{document}");
    }
    // A soft purge leaves the entry, to be revalidated.
    setup.world.get("/a").await;
    assert_eq!(setup.post(r#"{"tags":["prices"],"soft":true}"#).await, StatusCode::OK);
    assert!(setup.world.get("/a").await.is_hit());
    assert_eq!(setup.world.stats().routes.values().map(|route| route.stale).sum::<u64>(), 1);
}

#[tokio::test]
async fn what_is_not_signed_for_this_time_invalidates_nothing() {
    let setup = setup();
    setup.world.get("/a").await;
    let (now, body) = (setup.now(), r#"{"tags":["prices"]}"#);
    let refused = [
        (Request::get("/invalidate").body(Full::default()).expect("a request"), StatusCode::METHOD_NOT_ALLOWED),
        (Request::post("/invalidate").body(Full::from(body)).expect("a request"), StatusCode::BAD_REQUEST),
        (signed("another secret of length", now, body), StatusCode::UNAUTHORIZED),
        (signed(SECRET, now - 301, body), StatusCode::UNAUTHORIZED),
        (signed(SECRET, now + 301, body), StatusCode::UNAUTHORIZED),
        (signed(SECRET, now, body).map(|_| Full::from(r#"{"tags":["others"]}"#)), StatusCode::UNAUTHORIZED),
        (signed(SECRET, now, "{"), StatusCode::BAD_REQUEST),
        (signed(SECRET, now, "{}"), StatusCode::BAD_REQUEST),
        (signed(SECRET, now, r#"{"tag":["prices"]}"#), StatusCode::BAD_REQUEST),
        // One mistake, and nothing of the document is applied.
        (signed(SECRET, now, r#"{"tags":["prices","two words"]}"#), StatusCode::BAD_REQUEST),
        (signed(SECRET, now, r#"{"tags":["prices"],"keys":["http://a b/"]}"#), StatusCode::BAD_REQUEST),
        (signed(SECRET, now, &format!(r#"{{"tags":["{}"]}}"#, "x".repeat(70_000))), StatusCode::PAYLOAD_TOO_LARGE),
    ];
    for (request, expected) in refused {
        let shown = format!("{:?}", request.headers());
        assert_eq!(setup.send(request).await, expected, "{shown}");
    }
    let mut moved = signed(SECRET, now, body);
    moved.headers_mut().insert("webhook-timestamp", (now + 1).into());
    assert_eq!(setup.send(moved).await, StatusCode::UNAUTHORIZED, "the time stamp is signed");
    assert!(setup.world.get("/a").await.is_hit());
}

#[tokio::test]
async fn a_replay_is_refused_as_long_as_its_time_stamp_is_accepted() {
    let setup = setup();
    let (now, body) = (setup.now(), r#"{"tags":["prices"]}"#);
    let early = now + 300;
    assert_eq!(setup.send(signed(SECRET, early, body)).await, StatusCode::OK);
    assert_eq!(setup.send(signed(SECRET, early, body)).await, StatusCode::CONFLICT);
    // Two changes in one second are two.
    for id in ["1", "2"] {
        let body = format!(r#"{{"tags":["prices"],"id":"{id}"}}"#);
        assert_eq!(setup.send(signed(SECRET, early, &body)).await, StatusCode::OK);
    }
    // Signed under the other secret, it is still the same request.
    assert_eq!(setup.send(signed(NEXT, early, body)).await, StatusCode::CONFLICT);
    setup.clock.advance(Duration::from_secs(600));
    assert_eq!(setup.send(signed(SECRET, early, body)).await, StatusCode::CONFLICT);
    setup.clock.advance(Duration::from_secs(1));
    assert_eq!(setup.send(signed(SECRET, early, body)).await, StatusCode::UNAUTHORIZED, "by then it is too old");
    assert_eq!(setup.send(signed(NEXT, setup.now(), body)).await, StatusCode::OK, "either secret is accepted");
}

#[tokio::test]
async fn secrets_are_long_and_at_most_two() {
    let setup = setup();
    let with = |secrets: &[&str]| InvalidationWebhook::new(setup.world.layer.invalidate(), secrets);
    assert!(with(&["fifteen bytes.."]).expect_err("refused").to_string().contains("at least 16"));
    assert!(with(&[]).expect_err("refused").to_string().contains("0 secrets"));
    assert!(with(&[SECRET, NEXT, SECRET]).expect_err("refused").to_string().contains("3 secrets"));
    assert!(!format!("{:?}", setup.webhook).contains(SECRET));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_given_up() {
    let setup = setup();
    let request = signed(SECRET, setup.now(), "{}").map(|_| {
        StreamBody::new(futures_util::stream::pending::<Result<http_body::Frame<Bytes>, std::convert::Infallible>>())
    });
    assert_eq!(setup.webhook.handle(request).await.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn it_is_a_service_of_an_axum_router() {
    let setup = setup();
    setup.world.get("/a").await;
    let mut app: Router = Router::new().route_service("/invalidate", setup.webhook.clone());
    let request = signed(SECRET, setup.now(), r#"{"tags":["prices"]}"#).map(axum::body::Body::new);
    let answer = app.call(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "invalidated\n");
    assert!(!setup.world.get("/a").await.is_hit());
}

#[tokio::test]
async fn a_stream_invalidates_until_it_ends() {
    let setup = setup();
    let all = [
        Invalidation::tag("prices").expect("a tag"),
        Invalidation::path("/a").expect("a path"),
        Invalidation::prefix("/").expect("a prefix"),
        Invalidation::all(),
    ];
    for invalidation in all {
        setup.world.get("/a").await;
        assert!(setup.world.get("/a").await.is_hit());
        setup.world.layer.invalidate().follow(futures_util::stream::iter([invalidation.clone()])).await;
        assert!(!setup.world.get("/a").await.is_hit(), "{invalidation:?}");
    }
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let messages =
        futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let invalidate = setup.world.layer.invalidate();
    let task = tokio::spawn(async move { invalidate.follow(messages).await });
    setup.world.get("/a").await;
    sender.send(Invalidation::tag("prices").expect("a tag")).expect("it listens");
    drop(sender);
    task.await.expect("it ends with the stream");
    assert!(!setup.world.get("/a").await.is_hit());
}
