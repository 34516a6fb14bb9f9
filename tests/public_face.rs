//! What users of the crate see: how much there is to learn, and what compiles.

#[path = "house/scan.rs"]
#[allow(dead_code, reason = "the house uses more of it")]
mod scan;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Empty};
use scan::{sources, tokens, without_tests};
use tollgate::Tollgate;
use tollgate::cache::{CacheLayer, Rule, Rules};
use tollgate::identity::by;
use tollgate::limit::{Limit, Quota, RateLimitLayer};
use tollgate::timing::TimingLayer;
use tollgate::upstream::UpstreamLayer;
use tower::{Layer, ServiceExt, service_fn};

/// Traits that users implement.
const TRAITS: [&str; 8] =
    ["ByteLog", "ByteStore", "CacheStore", "CreditStore", "Identity", "KeyExtractor", "KeyPart", "LimitStore"];
/// Public types, of which about a hundred would be enough: this number rises only with a new level, layer or kind of limit.
const TYPES: usize = 210;

/// The public items of these sources, as lists of tokens that begin after `pub` and end before the body.
fn public_items() -> Vec<Vec<String>> {
    let mut items = Vec::new();
    for (path, source) in sources() {
        if !path.starts_with("src/") {
            continue;
        }
        let tokens = tokens(&without_tests(&source));
        for (at, _) in tokens.iter().enumerate().filter(|(_, token)| *token == "pub") {
            let item = tokens[at + 1..].iter().take_while(|token| !matches!(token.as_str(), "{" | ";" | "}"));
            items.push(item.cloned().collect::<Vec<_>>());
        }
    }
    items
}

/// Traits and types that cannot be named from outside: arguments of hidden methods, and bounds that seal a trait.
fn is_hidden(name: &str) -> bool {
    ["Sealed", "ContextService", "CallInner", "RequestContext", "ExtractedKeys"].contains(&name)
}

#[test]
fn users_implement_at_most_eight_traits() {
    let items = public_items();
    let traits = items.iter().filter(|item| item[0] == "trait" && !item.iter().any(|token| token == "sealed"));
    let mut names: Vec<&str> = traits.map(|item| item[1].as_str()).filter(|name| !is_hidden(name)).collect();
    names.sort_unstable();
    assert_eq!(names, TRAITS);
}

#[test]
fn there_are_no_more_public_types_than_before() {
    let items = public_items();
    let types = items.iter().filter(|item| ["struct", "enum", "union", "type"].contains(&item[0].as_str()));
    let count = types.filter(|item| !is_hidden(&item[1])).count();
    assert!(count <= TYPES, "{count} public types");
}

#[test]
fn signatures_name_no_type_of_a_crate_that_is_an_implementation_detail() {
    for item in public_items().iter().filter(|item| ["fn", "const", "async", "type"].contains(&item[0].as_str())) {
        for detail in ["SmallVec", "smallvec", "Oneshot", "foldhash", "moka", "matchit"] {
            assert!(!item.iter().any(|token| token == detail), "{}", item.join(" "));
        }
    }
}

type BoxError = Box<dyn StdError + Send + Sync>;

/// Bodies of requests and responses whose errors are boxed can be sent from a task, through every layer.
macro_rules! spawn_through {
    ($layer:expr, $body:ty) => {{
        let inner = service_fn(async |_: Request<$body>| {
            Ok::<_, Infallible>(Response::new(<$body>::new(Empty::<Bytes>::new().map_err(BoxError::from))))
        });
        let service = $layer.layer(inner);
        let body = <$body>::new(Empty::<Bytes>::new().map_err(BoxError::from));
        let request = Request::get("http://example.com/").body(body).expect("a request");
        let answer = tokio::spawn(service.oneshot(request)).await.expect("no panic");
        let body = answer.expect("an answer").into_body();
        tokio::spawn(body.collect()).await.expect("no panic").expect("a body");
    }};
}

#[tokio::test]
async fn bodies_with_boxed_errors_pass_through_every_layer_in_a_task() {
    let limits = || RateLimitLayer::per_ip(Quota::per_minute(20));
    let gate = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(20))).build().expect("a gate");
    let upstream = Tollgate::upstream("market").build().expect("a gate");
    spawn_through!(limits(), BoxBody<Bytes, BoxError>);
    spawn_through!(limits(), UnsyncBoxBody<Bytes, BoxError>);
    spawn_through!(TimingLayer::new(), BoxBody<Bytes, BoxError>);
    spawn_through!(TimingLayer::new(), UnsyncBoxBody<Bytes, BoxError>);
    spawn_through!(CacheLayer::in_memory(1 << 20), BoxBody<Bytes, BoxError>);
    spawn_through!(CacheLayer::in_memory(1 << 20), UnsyncBoxBody<Bytes, BoxError>);
    spawn_through!(gate.layer(), BoxBody<Bytes, BoxError>);
    spawn_through!(gate.layer(), UnsyncBoxBody<Bytes, BoxError>);
    spawn_through!(upstream.layer(), BoxBody<Bytes, BoxError>);
    spawn_through!(UpstreamLayer::builder("market").build().expect("a layer"), UnsyncBoxBody<Bytes, BoxError>);
}

#[tokio::test]
async fn setters_given_twice_are_joined_or_refused() {
    let calls = Arc::<AtomicUsize>::default();
    let hook = || {
        let calls = calls.clone();
        move |_: &tollgate::Event<'_>| {
            calls.fetch_add(1, Ordering::SeqCst);
        }
    };
    let rules = |route: &str| Rules::new().route(route, Rule::never());
    let gate = || Tollgate::builder().limit(Limit::per_user(Quota::per_minute(5)));

    let joined = gate().cache(rules("/a/{x}")).cache(rules("/b")).hook(hook()).hook(hook()).build().expect("a gate");
    assert_eq!(joined.stats().unmatched_rules, ["/a/{x}", "/b"]);
    let service =
        joined.layer().layer(service_fn(async |_: Request<String>| Ok::<_, Infallible>(Response::new(String::new()))));
    drop(service.oneshot(Request::new(String::new())).await);
    let heard = calls.load(Ordering::SeqCst);
    assert!(heard > 0 && heard % 2 == 0, "both hooks hear every event: {heard}");

    let who = || by::header("x-key");
    for refused in [
        gate().identify(who()).identify(who()).build().map(drop),
        gate().cache(rules("/a/{x}")).cache(rules("/a/{y}")).build().map(drop),
        gate()
            .cache(Rules::new().otherwise(Rule::never()))
            .cache(Rules::new().otherwise(Rule::never()))
            .build()
            .map(drop),
        CacheLayer::builder().identity(who()).identity(who()).build().map(drop),
        RateLimitLayer::builder()
            .identify(who())
            .identify(who())
            .limit(Limit::global(Quota::per_minute(1)))
            .build()
            .map(drop),
    ] {
        assert!(refused.expect_err("set twice").is_config());
    }
}
