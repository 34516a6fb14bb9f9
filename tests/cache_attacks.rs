//! Attacks on what is shared: each was possible once.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[macro_use]
#[path = "support/attack.rs"]
mod attack;

use attack::{NO, Req, S, full, req, rule};
use axum::{Router, routing::get};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tollgate::cache::{CacheLayer, Profile, Rule};
use tower::{Layer, ServiceExt, service_fn};

async fn calls_for_100<Q>(
    s: impl tower::Service<Req, Response = Response<tollgate::Body<Q>>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static,
    u: &'static str,
) where
    Q: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send> + Send + 'static,
{
    let mut js = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let s = s.clone();
        js.spawn(async move {
            let _ = s.oneshot(req("GET", u, &NO)).await.unwrap().into_body().collect().await;
        });
    }
    js.join_all().await;
}

#[tokio::test]
async fn an_empty_first_line_is_a_line_of_the_selection() {
    let app = Router::new()
        .route(
            "/p",
            get(|h: HeaderMap| async move { ([("vary", "x-tenant")], format!("page of {:?}", h.get("x-tenant"))) }),
        )
        .layer(rule(Rule::ttl(60 * S)).build().unwrap());
    ask!(app, req("GET", "/p", &[("x-tenant", ""), ("x-tenant", "acme")]));
    let r = ask!(app, req("GET", "/p", &[("x-tenant", "acme")]));
    assert_eq!(r.2, "page of Some(\"acme\")");
}

#[tokio::test]
async fn an_error_of_one_client_leaves_the_stale_entry() {
    let down = Arc::new(AtomicBool::new(false));
    let d = down.clone();
    let s = rule(Rule::ttl(S / 10).stale_if_error(600 * S)).build().unwrap().layer(service_fn(move |r: Req| {
        let d = d.load(SeqCst);
        async move {
            if d {
                full(503, "down")
            } else if r.headers().get("accept").is_some_and(|a| a == "bogus/x") {
                full(406, "")
            } else {
                full(200, "good")
            }
        }
    }));
    ask!(s, req("GET", "/a", &NO));
    tokio::time::sleep(S / 5).await;
    ask!(s, req("GET", "/a", &[("accept", "bogus/x")])); // somebody else
    down.store(true, SeqCst);
    let r = ask!(s, req("GET", "/a", &NO));
    assert_eq!((r.0, &*r.2), (200, "good"));
}

#[tokio::test]
async fn a_bad_credential_leaves_the_fresh_entry() {
    let down = Arc::new(AtomicBool::new(false));
    let d = down.clone();
    let s = CacheLayer::builder().profile(Profile::Shared).build().unwrap().layer(service_fn(move |r: Req| {
        let d = d.load(SeqCst);
        async move {
            let st = if d {
                503
            } else if r.headers().contains_key("authorization") {
                401
            } else {
                200
            };
            Ok::<_, Infallible>(
                Response::builder()
                    .status(st)
                    .header("cache-control", if st == 200 { "max-age=600" } else { "no-store" })
                    .body(Full::<Bytes>::from("x"))
                    .unwrap(),
            )
        }
    }));
    ask!(s, req("GET", "/a", &NO));
    ask!(s, req("GET", "/a", &[("cache-control", "no-cache"), ("authorization", "Basic bogus")]));
    down.store(true, SeqCst);
    assert_eq!(ask!(s, req("GET", "/a", &NO)).0, 200, "fresh for 600 s");
}

#[tokio::test]
async fn an_error_of_one_client_does_not_end_coalescing() {
    let n = Arc::new(AtomicUsize::new(0));
    let m = n.clone();
    let s = rule(Rule::ttl(60 * S)).build().unwrap().layer(service_fn(move |r: Req| {
        m.fetch_add(1, SeqCst);
        async move {
            if r.headers().contains_key("accept") {
                return full(406, "");
            }
            tokio::time::sleep(S / 5).await;
            full(200, "x")
        }
    }));
    ask!(s, req("GET", "/a", &[("accept", "bogus/x")]));
    n.store(0, SeqCst);
    calls_for_100(s, "/a").await;
    assert_eq!(n.load(SeqCst), 1);
}

#[tokio::test]
async fn a_failure_does_not_end_coalescing() {
    let n = Arc::new(AtomicUsize::new(0));
    let m = n.clone();
    let s = rule(Rule::ttl(60 * S)).build().unwrap().layer(service_fn(move |_: Req| {
        let i = m.fetch_add(1, SeqCst);
        async move {
            if i == 0 {
                return full(503, "");
            }
            tokio::time::sleep(S / 5).await;
            full(200, "x")
        }
    }));
    ask!(s, req("GET", "/a", &NO));
    n.store(0, SeqCst);
    // The next leader fails too; then those who waited go on, eight at a time.
    calls_for_100(s, "/a").await;
    assert!(n.load(SeqCst) <= 9, "{} calls", n.load(SeqCst));
}

#[tokio::test]
async fn a_promised_body_is_shared_on_a_fast_route() {
    let n = Arc::new(AtomicUsize::new(0));
    let m = n.clone();
    let s = rule(Rule::ttl(60 * S)).build().unwrap().layer(service_fn(move |r: Req| {
        let slow = r.uri().path() == "/slow";
        if slow {
            m.fetch_add(1, SeqCst);
        }
        async move {
            let st = futures_util::stream::unfold(0, move |i| async move {
                if i == 5 {
                    return None;
                }
                if slow {
                    tokio::time::sleep(S / 10).await
                }
                Some((Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"0123456789"))), i + 1))
            });
            Ok::<_, Infallible>(
                Response::builder().header("content-length", "50").body(StreamBody::new(Box::pin(st))).unwrap(),
            )
        }
    }));
    for i in 0..100 {
        s.clone().oneshot(req("GET", &format!("/{i}"), &NO)).await.unwrap().into_body().collect().await.unwrap();
    }
    calls_for_100(s, "/slow").await;
    assert_eq!(n.load(SeqCst), 1);
}

#[tokio::test]
async fn a_rule_hands_no_cookie_to_others() {
    let n = Arc::new(AtomicUsize::new(0));
    let s = rule(Rule::ttl(60 * S)).profile(Profile::Shared).build().unwrap().layer(service_fn(move |_: Req| {
        let i = n.fetch_add(1, SeqCst);
        async move {
            Ok::<_, Infallible>(
                Response::builder()
                    .header("set-cookie", format!("session={i}"))
                    .body(Full::<Bytes>::from("x"))
                    .unwrap(),
            )
        }
    }));
    ask!(s, req("GET", "/a", &NO));
    assert_eq!(ask!(s, req("GET", "/a", &NO)).3["set-cookie"], "session=1");
}

#[tokio::test]
async fn malformed_restrictions_restrict() {
    let mut stored = vec![];
    for cc in [
        "private; max-age=60",
        "private;max-age=60",
        "no-store; max-age=60",
        "no-store no-cache",
        "max-age=60, private ;",
        "\"no-store\"",
        "no-store\"",
    ] {
        let s = rule(Rule::ttl(60 * S)).build().unwrap().layer(service_fn(move |_: Req| async move {
            Ok::<_, Infallible>(Response::builder().header("cache-control", cc).body(Full::<Bytes>::from("x")).unwrap())
        }));
        ask!(s, req("GET", "/a", &NO));
        if ask!(s, req("GET", "/a", &NO)).1.contains("hit") {
            stored.push(cc)
        }
    }
    assert!(stored.is_empty(), "{stored:?}");
}

#[tokio::test]
async fn a_415_is_stored_for_no_one() {
    let s =
        CacheLayer::builder().profile(Profile::Shared).build().unwrap().layer(service_fn(move |r: Req| async move {
            Ok::<_, Infallible>(
                Response::builder()
                    .status(if r.headers().contains_key("content-type") { 415 } else { 200 })
                    .header("cache-control", "max-age=60")
                    .body(Full::<Bytes>::from("x"))
                    .unwrap(),
            )
        }));
    ask!(s, req("GET", "/a", &[("content-type", "x/y")]));
    assert_eq!(ask!(s, req("GET", "/a", &NO)).0, 200);
}

#[tokio::test]
async fn a_head_without_validators_makes_nothing_fresh() {
    let price = Arc::new(AtomicUsize::new(0));
    let p = price.clone();
    let s = CacheLayer::builder().profile(Profile::Shared).build().unwrap().layer(service_fn(move |r: Req| {
        let p = p.load(SeqCst);
        async move {
            Ok::<_, Infallible>(
                Response::builder()
                    .header("cache-control", "max-age=1")
                    .body(Full::<Bytes>::from(if r.method() == "HEAD" { String::new() } else { format!("price {p}") }))
                    .unwrap(),
            )
        }
    }));
    ask!(s, req("GET", "/a", &NO));
    price.store(1, SeqCst);
    tokio::time::sleep(S + S / 10).await;
    ask!(s, req("HEAD", "/a", &NO));
    assert_eq!(ask!(s, req("GET", "/a", &NO)).2, "price 1");
}

#[tokio::test]
async fn an_entry_of_another_key_revives_nothing() {
    use tollgate::{
        store::memory::MemoryCache,
        testing::{Faulty, InjectedFault as M},
    };
    let (f, n) = (Arc::new(Faulty::new(MemoryCache::new(1 << 20))), Arc::new(AtomicUsize::new(0)));
    let s = rule(Rule::ttl(600 * S)).level_2(f.clone()).build().unwrap().layer(service_fn(move |_: Req| {
        let i = n.fetch_add(1, SeqCst);
        async move { full(200, format!("{i}")) }
    }));
    ask!(s, req("GET", "/x", &NO));
    f.inject(M::WrongAnswer);
    ask!(s, req("POST", "/x", &NO));
    ask!(s, req("GET", "/y", &NO));
    f.inject(M::None);
    assert_ne!(ask!(s, req("GET", "/x", &NO)).2, "0");
}

#[tokio::test]
async fn a_content_range_at_the_end_of_numbers_is_none() {
    let s = CacheLayer::builder().profile(Profile::Shared).build().unwrap().layer(service_fn(|_: Req| async {
        Ok::<_, Infallible>(
            Response::builder()
                .status(206)
                .header("content-range", "bytes 0-18446744073709551615/18446744073709551615")
                .body(Full::<Bytes>::from("x"))
                .unwrap(),
        )
    }));
    assert_eq!(ask!(s, req("GET", "/a", &[("range", "bytes=0-")])).0, 206);
}

#[tokio::test]
async fn an_event_stream_is_known_in_any_case() {
    let s = rule(Rule::ttl(60 * S)).build().unwrap().layer(service_fn(|_: Req| async {
        Ok::<_, Infallible>(
            Response::builder().header("content-type", "Text/Event-Stream").body(Full::<Bytes>::from("x")).unwrap(),
        )
    }));
    assert!(!ask!(s, req("GET", "/a", &NO)).1.contains("stored"));
}

#[tokio::test]
async fn one_users_credential_does_not_end_coalescing() {
    let n = Arc::new(AtomicUsize::new(0));
    let m = n.clone();
    let s = CacheLayer::builder().profile(Profile::Shared).build().unwrap().layer(service_fn(move |_: Req| {
        m.fetch_add(1, SeqCst);
        async {
            tokio::time::sleep(S / 10).await;
            Ok::<_, Infallible>(
                Response::builder().header("cache-control", "max-age=60").body(Full::<Bytes>::from("x")).unwrap(),
            )
        }
    }));
    ask!(s, req("GET", "/a", &[("authorization", "Bearer valid")]));
    n.store(0, SeqCst);
    calls_for_100(s, "/a").await;
    assert_eq!(n.load(SeqCst), 1);
}

#[tokio::test]
async fn unsafe_requests_to_many_urls_invalidate_what_they_name_and_nothing_else() {
    let s = rule(Rule::ttl(600 * S))
        .build()
        .unwrap()
        .layer(service_fn(move |r: Req| async move { full(200, if r.method() == "POST" { "done" } else { "page" }) }));
    let send = async |method: &str, path: String| {
        let response = s.clone().oneshot(req(method, &path, &NO)).await.unwrap();
        let status = response.headers().get("cache-status").map(|value| value.to_str().unwrap().to_owned());
        response.into_body().collect().await.unwrap();
        status.unwrap_or_default()
    };
    for n in 0..1_000 {
        send("GET", format!("/kept/{n}")).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    for n in 0..60_000 {
        send("POST", format!("/other/{n}")).await;
    }
    send("POST", "/kept/0".into()).await;
    assert!(!send("GET", "/kept/0".into()).await.contains("; hit"), "invalidated");
    let mut hits = 0;
    for n in 1..1_000 {
        hits += usize::from(send("GET", format!("/kept/{n}")).await.contains("; hit"));
    }
    assert!(hits > 990, "{hits} of 999 are left");
}
