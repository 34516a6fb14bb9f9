//! What an upstream reports about its limits, and what is made of reports that are incomplete, absurd or contradictory.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tollgate::upstream::{Error, Priority, RejectedReason, UpstreamBuilder, UpstreamLayer};
use tollgate::{Body, Clock, ManualClock};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt, service_fn};

type Req = Request<Full<Bytes>>;
type Res = Response<Full<Bytes>>;
type Called = Result<Response<Bytes>, Error<&'static str>>;
type Field = (&'static str, &'static str);
/// A status, fields, a body.
type Answer = (u16, &'static [Field], &'static str);

struct World {
    hand: ManualClock,
    calls: Arc<AtomicUsize>,
    layer: UpstreamLayer,
    service: BoxCloneService<Req, Response<Body<Full<Bytes>>>, Error<&'static str>>,
}

impl World {
    /// An upstream that gives these answers in turn, and the last one from then on: a status, fields, a body.
    fn new(set: impl FnOnce(UpstreamBuilder) -> UpstreamBuilder, answers: &'static [Answer]) -> Self {
        let (hand, calls) = (ManualClock::new(), Arc::<AtomicUsize>::default());
        let builder = UpstreamLayer::builder("api").clock(Clock::Manual(hand.clone())).circuit(None);
        let builder = builder.share(Priority::Normal, 1.0);
        let layer = set(builder).build().expect("a layer");
        let counter = calls.clone();
        let inner = service_fn(move |_: Req| {
            let n = counter.fetch_add(1, Ordering::SeqCst);
            let (status, fields, body) = answers[n.min(answers.len() - 1)];
            let mut response = Response::builder().status(status);
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            std::future::ready(Ok::<Res, &'static str>(response.body(Full::from(body)).expect("a response")))
        });
        let service = BoxCloneService::new(layer.layer(inner));
        Self { hand, calls, layer, service }
    }

    async fn get(&self) -> Called {
        let request = Request::get("http://api.example.com/").body(Full::default()).expect("a request");
        let response = self.service.clone().oneshot(request).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Ok(Response::from_parts(parts, body))
    }

    /// How many of `n` calls are made.
    async fn made(&self, n: usize) -> usize {
        let before = self.calls.load(Ordering::SeqCst);
        for _ in 0..n {
            let _ = self.get().await;
        }
        self.calls.load(Ordering::SeqCst) - before
    }

    /// Why a call is rejected, and for how many seconds.
    async fn rejected(&self) -> (RejectedReason, u64) {
        match self.get().await {
            Err(Error::Rejected(rejected)) => (rejected.reason, rejected.retry_after.as_secs()),
            other => unreachable!("{:?}", other.map(|response| response.status())),
        }
    }

    fn passes(&self, seconds: u64) {
        self.hand.advance(Duration::from_secs(seconds));
    }
}

/// Without a stated limit, a report holds until its reset.
#[tokio::test]
async fn what_remains_of_an_unknown_limit_holds_until_the_reset_only() {
    const USED_UP: [&[Field]; 3] = [
        &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "2")],
        &[("ratelimit", "\"default\";r=0;t=2")],
        &[("ratelimit", "remaining=0, reset=2")],
    ];
    static ANSWERS: [[Answer; 2]; 3] = [
        [(200, USED_UP[0], ""), (200, &[], "")],
        [(200, USED_UP[1], ""), (200, &[], "")],
        [(200, USED_UP[2], ""), (200, &[], "")],
    ];
    for answers in &ANSWERS {
        let world = World::new(|builder| builder, answers);
        assert_eq!(world.made(5).await, 1);
        assert_eq!(world.rejected().await, (RejectedReason::Quota, 2));
        world.passes(2);
        assert_eq!(world.made(50).await, 50);
        assert!(world.layer.stats().learned.is_empty(), "nothing is known of this window");
    }
}

/// A limit of 0 is obeyed, and one call in each window finds out whether it still is.
#[tokio::test]
async fn a_limit_of_nothing_lets_one_call_through_after_each_reset() {
    const NOTHING: &[Field] =
        &[("x-ratelimit-limit", "0"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "60")];
    const MUCH: &[Field] = &[("x-ratelimit-limit", "90"), ("x-ratelimit-remaining", "89"), ("x-ratelimit-reset", "60")];
    let world = World::new(|builder| builder, &[(429, NOTHING, ""), (429, NOTHING, ""), (200, MUCH, "")]);
    for _ in 0..2 {
        assert_eq!(world.made(9).await, 1);
        world.passes(60);
    }
    assert_eq!(world.made(9).await, 9);
}

#[tokio::test]
async fn a_call_that_costs_more_than_the_limit_takes_all_of_it() {
    const FIELDS: &[Field] =
        &[("x-ratelimit-limit", "10"), ("x-ratelimit-remaining", "10"), ("x-ratelimit-reset", "60")];
    let world = World::new(|builder| builder.cost(|_| 50), &[(200, FIELDS, ""), (200, &[], "")]);
    assert_eq!(world.made(1).await, 1);
    assert_eq!(world.made(9).await, 1, "all that is left");
    assert_eq!(world.rejected().await, (RejectedReason::Quota, 60));
    world.passes(60);
    assert_eq!(world.made(9).await, 1);
}

/// Only a call can correct a report: one is made after an hour, or after `probe_interval`.
#[tokio::test]
async fn a_long_pause_is_checked_by_one_call_an_hour() {
    const DAY: &[Field] =
        &[("x-ratelimit-limit", "10"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "86400")];
    const RETRY: &[Field] = &[("retry-after", "86400")];
    let world = |fields: &'static [Field], seconds: u64| {
        let answers: &'static [_] = if fields == DAY { &[(429, DAY, "")] } else { &[(429, RETRY, "")] };
        World::new(|builder| builder.probe_interval(Duration::from_secs(seconds)), answers)
    };
    for fields in [DAY, RETRY] {
        let world = world(fields, 3_600);
        assert_eq!(world.made(5).await, 1);
        for _ in 0..3 {
            assert_eq!(world.rejected().await.1, 3_600);
            world.passes(3_599);
            assert_eq!(world.made(5).await, 0);
            world.passes(1);
            assert_eq!(world.made(5).await, 1);
        }
    }
    let world = world(RETRY, 60);
    world.made(1).await;
    world.passes(60);
    assert_eq!(world.made(5).await, 1);
    assert!(UpstreamLayer::builder("api").probe_interval(Duration::ZERO).build().is_err());
}

/// The default guess is a minute; a plausible time is believed, in any unit.
#[tokio::test]
async fn a_reset_that_cannot_be_read_is_guessed() {
    static ANSWERS: [[Answer; 2]; 3] = [
        [
            (
                200,
                &[
                    ("x-ratelimit-limit", "9"),
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "99999999999999999999999"),
                ],
                "",
            ),
            (200, &[], ""),
        ],
        [
            (
                200,
                &[("x-ratelimit-limit", "9"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "999999999")],
                "",
            ),
            (200, &[], ""),
        ],
        [
            (200, &[("x-ratelimit-limit", "9"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "soon")], ""),
            (200, &[], ""),
        ],
    ];
    for answers in &ANSWERS {
        let world = World::new(|builder| builder, answers);
        world.made(1).await;
        assert_eq!(world.rejected().await, (RejectedReason::Quota, 60));
        world.passes(60);
        assert_eq!(world.made(3).await, 3);
    }
}

#[tokio::test]
async fn a_window_without_a_reset_is_as_long_as_it_is_stated() {
    static ANSWERS: [([Answer; 1], u64); 3] = [
        ([(200, &[("x-ratelimit-limit", "100;w=1800"), ("x-ratelimit-remaining", "0")], "")], 1_800),
        ([(200, &[("x-ratelimit-limit-minute", "9"), ("x-ratelimit-remaining-minute", "0")], "")], 60),
        ([(200, &[("x-ratelimit-limit-hour", "9"), ("x-ratelimit-remaining-hour", "0")], "")], 3_600),
    ];
    for (answers, seconds) in &ANSWERS {
        let world = World::new(|builder| builder, answers);
        world.made(1).await;
        assert_eq!(world.rejected().await.1, *seconds);
    }
}

/// <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>: at least a minute, doubling.
#[tokio::test]
async fn a_403_whose_body_tells_of_a_secondary_limit_pauses_for_a_minute_and_longer_each_time() {
    const LEFT: &[Field] =
        &[("x-ratelimit-limit", "5000"), ("x-ratelimit-remaining", "4999"), ("x-ratelimit-reset", "1800")];
    static SECONDARY: [Answer; 5] = [
        (403, LEFT, r#"{"message":"You have exceeded a secondary rate limit. Please wait a few minutes."}"#),
        (
            403,
            LEFT,
            r#"{"documentation_url":"https://docs.github.com/free-pro-team@latest/rest/overview/rate-limits"}"#,
        ),
        (403, LEFT, r#"{"message":"You have triggered an abuse detection mechanism."}"#),
        (403, LEFT, r#"{"error":{"errors":[{"reason":"userRateLimitExceeded"}]}}"#),
        (200, LEFT, ""),
    ];
    let world = World::new(|builder| builder, &SECONDARY);
    for minutes in [1, 2, 4, 8] {
        let answer = world.get().await.expect("an answer");
        assert_eq!(answer.status(), 403, "it is passed on, with its body");
        assert!(!answer.body().is_empty());
        assert_eq!(world.rejected().await, (RejectedReason::RetryAfter, minutes * 60));
        world.passes(minutes * 60);
    }
    assert_eq!(world.made(5).await, 5);
    let world = World::new(|builder| builder, &[(403, LEFT, r#"{"message":"Must have admin rights to Repository."}"#)]);
    assert_eq!(world.made(5).await, 5, "that one concerns permissions");
}

/// RFC 9111 §5.1: the answer was made for someone else, a while ago.
#[tokio::test]
async fn limits_in_an_answer_from_a_cache_are_not_believed() {
    const OLD: &[Field] =
        &[("age", "30"), ("x-ratelimit-limit", "9"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "60")];
    let world = World::new(|builder| builder, &[(200, OLD, "")]);
    assert_eq!(world.made(5).await, 5);
    let world = World::new(|builder| builder, &[(429, &[("age", "30"), ("retry-after", "100")], "")]);
    world.made(1).await;
    assert_eq!(world.rejected().await, (RejectedReason::RetryAfter, 70));
}

#[tokio::test]
async fn of_several_statements_of_one_limit_the_strictest_counts() {
    const TWICE: &[Field] = &[
        ("x-ratelimit-limit", "9"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-remaining", "8"),
        ("x-ratelimit-reset", "60"),
        ("x-ratelimit-reset", "1"),
    ];
    let world = World::new(|builder| builder, &[(200, TWICE, "")]);
    assert_eq!(world.made(5).await, 1);
    assert_eq!(world.rejected().await, (RejectedReason::Quota, 60));
    let world = World::new(|builder| builder, &[(429, &[("retry-after", "90"), ("retry-after", "1")], "")]);
    world.made(1).await;
    assert_eq!(world.rejected().await, (RejectedReason::RetryAfter, 90));
}
