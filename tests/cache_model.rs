//! The cache against a slow and obvious reading of RFC 9111 that shares no code with it: nothing is prepared, every
//! question is answered from the stored text, each time anew.
//!
//! A random sequence of requests, answers and waits runs through both; what the client gets, whether the origin is asked,
//! and what it is asked must agree. `TOLLGATE_MODEL_CASES=1000000 cargo test --release --test cache_model` runs a million.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/cache_model.rs"]
mod model;
#[path = "support/cache_world.rs"]
mod world;

use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use model::{Ask, BASE, Client, Model, Says};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use world::{Asked, Fault, Reply, World, reply};

const RESPONSE: [&str; 24] = [
    "max-age=0",
    "max-age=5",
    "max-age=30",
    "max-age=\"20\"",
    "MAX-AGE=7",
    "max-age=-1",
    "max-age=x",
    "max-age=99999999999",
    "s-maxage=10",
    "s-maxage=0",
    "no-store",
    "no-cache",
    "private",
    "public",
    "Public",
    "must-revalidate",
    "proxy-revalidate",
    "stale-while-revalidate=10",
    "stale-if-error=15",
    "stale-if-error=3",
    "immutable",
    "must-understand",
    "foo=\"no-store, max-age=1\"",
    "no-storex",
];
const REQUEST: [&str; 10] = [
    "no-cache",
    "no-store",
    "max-age=0",
    "max-age=8",
    "min-fresh=5",
    "max-stale",
    "max-stale=6",
    "only-if-cached",
    "stale-if-error=20",
    "unknown=1",
];

fn says() -> impl Strategy<Value = Says> {
    let status = select(vec![200_u16, 200, 200, 200, 203, 201, 302, 404, 500, 503, 599, 0]);
    let directives = subsequence(RESPONSE.to_vec(), 0..4);
    let expires =
        prop_oneof![4 => Just(None), 2 => (-20_i64..40).prop_map(|by| Some(Ok(by))), 1 => Just(Some(Err("0")))];
    let date = prop_oneof![3 => Just(None), 2 => (-15_i64..15).prop_map(Some)];
    let age = select(vec![None, None, None, Some("4"), Some("12"), Some("x"), Some("3, 99")]);
    let etag = select(vec![None, Some("\"a\""), Some("\"b\""), Some("W/\"a\"")]);
    let modified = prop_oneof![2 => Just(None), 1 => (0_i64..400).prop_map(Some)];
    let vary = select(vec![None, None, None, Some("x-v"), Some("*")]);
    (status, directives, expires, date, age, etag, modified, vary, any::<bool>()).prop_map(
        |(status, directives, expires, date, age, etag, modified, vary, honest)| {
            let directives = directives.into_iter().map(str::to_owned).collect();
            Says { status, directives, expires, date, age, etag, modified, vary, honest }
        },
    )
}

fn ask() -> impl Strategy<Value = Ask> {
    let method = select(vec!["GET", "GET", "GET", "GET", "GET", "GET", "HEAD", "DELETE"]);
    let directives = prop_oneof![3 => Just(Vec::new()), 2 => subsequence(REQUEST.to_vec(), 1..3)];
    let condition = select(vec![None, None, None, Some("\"a\""), Some("\"x\", \"b\"")]);
    let since = prop_oneof![6 => Just(None), 1 => (-20_i64..60).prop_map(Some)];
    let v = select(vec![None, Some("1"), Some("2")]);
    (method, select(vec!["/a", "/a", "/b"]), directives, condition, since, v, any::<u8>()).prop_map(
        |(method, path, directives, condition, since, v, auth)| Ask {
            method,
            path,
            directives,
            condition,
            since,
            v,
            authorised: auth < 32,
        },
    )
}

/// What the origin does when it is asked: the step's answer, its body the number of the step.
fn answer(says: &Says, step: usize, now: i64, asked: &Asked) -> Result<Reply, Fault> {
    if says.status == 0 {
        return Err(Fault("gone"));
    }
    let fields = says.fields(now);
    let mut fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let status = says.status.to_string();
    if says.answers_304(asked.header("if-none-match")) {
        fields.push((":status", "304"));
        return Ok(reply(&fields, ""));
    }
    fields.push((":status", &status));
    Ok(reply(&fields, step.to_string()))
}

type Step = (Ask, Says, i64);

async fn run(steps: Vec<Step>) {
    let current: Arc<Mutex<(usize, Says, i64)>> = Arc::new(Mutex::new((0, Says::default(), BASE)));
    let script = current.clone();
    let world = World::shared(move |asked| {
        let (step, says, now) = script.lock().expect("not poisoned").clone();
        let answer = answer(&says, step, now, &asked);
        async move { answer }
    });
    world.clock.set_wall(UNIX_EPOCH + Duration::from_secs(BASE as u64));
    let mut model = Model::default();
    let mut now = BASE;
    // A refresh in the background that fails is not repeated for up to 30 s, of which the text says nothing.
    let mut pause = 0;
    for (step, (ask, says, wait)) in steps.iter().enumerate() {
        let wait = &(wait + pause);
        world.clock.advance(Duration::from_secs(*wait as u64));
        now += wait;
        *current.lock().expect("not poisoned") = (step, says.clone(), now);
        let before = world.calls();
        let fields = ask.fields(now);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = tower::ServiceExt::oneshot(world.service(), world::request(ask.method, ask.path, &fields)).await;
        let got = match answer {
            Err(_) => Client { status: 0, body: String::new(), age: None },
            Ok(response) => {
                let got = world::got(response).await;
                let age = got.header("age").map(str::to_owned);
                Client { status: got.status, body: got.body, age }
            }
        };
        assert!(world.is_quiet().await);
        let expected = model.step(ask, says, step, now);
        let asked = world.asked().get(before).map(|asked| asked.header("if-none-match").map(str::to_owned));
        pause = if expected.in_background && (says.status == 0 || says.status >= 400) { 31 } else { 0 };
        assert!(world.calls() <= before + 1);
        let context = || format!("step {step} of {steps:#?}");
        assert_eq!(asked, expected.asked, "what the origin was asked, {}", context());
        assert_eq!((got.status, &got.body), (expected.client.status, &expected.client.body), "{}", context());
        if expected.asked.is_none() {
            assert_eq!(got.age, expected.client.age, "{}", context());
        }
    }
}

fn cases() -> u32 {
    std::env::var("TOLLGATE_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_cache_agrees_with_the_text(steps in proptest::collection::vec((ask(), says(), 0_i64..13), 1..14)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run(steps));
    }
}
