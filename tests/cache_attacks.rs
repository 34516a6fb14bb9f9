//! Attacks on what is shared: each was possible once.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tollgate::{
    PeerAddr, Tollgate,
    cache::{CacheLayer, Profile, Rule, Rules},
    identity::{Key, KeyExtractor, TrustedProxies, by},
    limit::{Limit, Quota},
};
use tower::{Layer, ServiceExt, service_fn};
type Req = Request<Body>;
const S: Duration = Duration::from_secs(1);
const NO: [(&str, &str); 0] = [];
fn req(m: &str, u: &str, h: &[(&str, &str)]) -> Req {
    let mut r = Request::builder().method(m).uri(u).header("host", "h");
    for (a, b) in h {
        r = r.header(*a, *b)
    }
    r.body(Body::empty()).unwrap()
}
macro_rules! ask {
    ($s:expr, $r:expr) => {{
        let r = $s.clone().oneshot($r).await.unwrap();
        let (p, b) = r.into_parts();
        let b = b.collect().await.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or("ERR".into());
        tokio::time::sleep(Duration::from_millis(15)).await;
        (
            p.status.as_u16(),
            p.headers.get("cache-status").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default(),
            b,
            p.headers,
        )
    }};
}
fn full(status: u16, b: impl Into<Bytes>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::builder().status(status).body(Full::from(b.into())).unwrap())
}
fn rule(r: Rule) -> tollgate::cache::CacheBuilder {
    CacheLayer::builder().cache_status(true).rules(Rules::new().otherwise(r))
}

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
async fn two_fields_never_share_an_identity() {
    let g = Tollgate::builder()
        .identify(by::header("x-user-id").or(by::header("x-tenant-id")))
        .cache(Rules::new().route("/me", Rule::ttl(60 * S).per_identity()))
        .build()
        .unwrap();
    let app =
        Router::new()
            .route(
                "/me",
                get(|h: HeaderMap| async move {
                    format!("user {:?} tenant {:?}", h.get("x-user-id"), h.get("x-tenant-id"))
                }),
            )
            .layer(g.layer());
    ask!(app, req("GET", "/me", &[("x-user-id", "7")]));
    let r = ask!(app, req("GET", "/me", &[("x-tenant-id", "7")]));
    assert!(r.2.contains("user None"), "tenant 7 got: {}", r.2);
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
async fn a_get_with_a_body_on_its_way_out_bypasses() {
    let up = Tollgate::upstream("es").cache(Rules::new().route("/_search", Rule::ttl(60 * S))).build().unwrap();
    let s = up.layer().layer(service_fn(|r: Request<Full<Bytes>>| async move {
        Ok::<_, std::io::Error>(Response::new(Full::from(r.into_body().collect().await.unwrap().to_bytes())))
    }));
    let q = |t: &'static str| Request::get("http://es/_search").body(Full::<Bytes>::from(t)).unwrap();
    ask!(s, q("user:alice"));
    assert_eq!(ask!(s, q("user:bob")).2, "user:bob");
}

#[tokio::test]
async fn a_get_with_a_body_in_process_bypasses() {
    let s = rule(Rule::ttl(60 * S)).build().unwrap().layer(service_fn(|r: Request<Full<Bytes>>| async move {
        full(200, r.into_body().collect().await.unwrap().to_bytes())
    }));
    let q = |t: &'static str| Request::get("http://es/_search").body(Full::<Bytes>::from(t)).unwrap();
    ask!(s, q("one"));
    assert_eq!(ask!(s, q("two")).2, "two");
}

#[tokio::test]
async fn a_rule_names_the_whole_route_in_a_nested_service() {
    let who = |h: HeaderMap| async move { format!("{:?}", h.get("authorization")) };
    let g = Tollgate::builder()
        .cache(Rules::new().route("/status", Rule::ttl(60 * S).same_for_everyone()))
        .build()
        .unwrap();
    let app = Router::new()
        .route("/status", get(|| async { "public" }).layer(g.layer()))
        .nest_service("/admin", g.layer().layer(Router::new().route("/status", get(who))));
    ask!(app, req("GET", "/admin/status", &[("authorization", "alice")]));
    assert_eq!(ask!(app, req("GET", "/admin/status", &[("authorization", "bob")])).2, "Some(\"bob\")");
}

#[tokio::test]
async fn a_route_that_mounts_the_service_does_not_hide_declared_routes() {
    let who = |h: HeaderMap| async move { format!("{:?}", h.get("authorization")) };
    let g = Tollgate::builder()
        .routes(["/users/{name}", "/users/me"])
        .cache(Rules::new().route("/users/{name}", Rule::ttl(60 * S).same_for_everyone()))
        .build()
        .unwrap();
    let inner = g.layer().layer(Router::new().route("/users/{name}", get(who)).route("/users/me", get(who)));
    let app = Router::new().route_service("/users/{name}", service_fn(move |q: Req| inner.clone().oneshot(q)));
    ask!(app, req("GET", "/users/me", &[("authorization", "alice")]));
    assert_eq!(ask!(app, req("GET", "/users/me", &[("authorization", "bob")])).2, "Some(\"bob\")");
}

#[tokio::test]
async fn limits_and_never_rules_hold_where_the_service_is_mounted() {
    let g = Tollgate::builder()
        .routes(["/login", "/me"])
        .limit(Limit::per_ip(Quota::per_minute(2)).on("/login"))
        .cache(Rules::new().route("/me", Rule::never()).otherwise(Rule::ttl(60 * S)))
        .cache_with(|c| c.cache_status(true))
        .build()
        .unwrap();
    let inner =
        g.layer().layer(Router::new().route("/login", get(|| async { "login" })).route("/me", get(|| async { "me" })));
    let app = Router::new().route_service("/{*rest}", service_fn(move |q: Req| inner.clone().oneshot(q)));
    ask!(app, req("GET", "/me", &NO));
    let me = ask!(app, req("GET", "/me", &NO)).1;
    let mut refused = 0;
    for _ in 0..5 {
        refused += (ask!(app, req("GET", "/login", &NO)).0 == 429) as u32
    }
    assert!(refused == 3 && me.contains("rule"), "refused {refused} of 5; /me: {me}");
}

#[tokio::test]
async fn neighbours_in_one_network_do_not_share_an_identity() {
    let g = Tollgate::builder()
        .identify(by::client_ip(TrustedProxies::none()))
        .cache(Rules::new().route("/me", Rule::ttl(60 * S).per_identity()))
        .build()
        .unwrap();
    let s = g.layer().layer(service_fn(|r: Req| async move {
        full(200, format!("{}", r.extensions().get::<PeerAddr>().unwrap().0.ip()))
    }));
    let from = |a: &str| {
        let mut r = req("GET", "/me", &NO);
        r.extensions_mut().insert(PeerAddr(a.parse().unwrap()));
        r
    };
    ask!(s, from("[2001:db8::1]:1"));
    assert_eq!(ask!(s, from("[2001:db8::2]:1")).2, "2001:db8::2");
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
async fn an_upstream_that_refuses_is_stood_in_for() {
    let status = Arc::new(AtomicUsize::new(200));
    let st = status.clone();
    let up = Tollgate::upstream("m")
        .cache(Rules::new().route("/p", Rule::ttl(S / 10).stale_if_error(86_400 * S)))
        .rules_decide()
        .build()
        .unwrap();
    let s = up.layer().layer(service_fn(move |_: Req| {
        let st = st.load(SeqCst) as u16;
        async move {
            Ok::<_, std::io::Error>(
                Response::builder().status(st).header("retry-after", "60").body(Full::<Bytes>::from("price")).unwrap(),
            )
        }
    }));
    ask!(s, req("GET", "http://h/p", &NO));
    tokio::time::sleep(S / 5).await;
    status.store(429, SeqCst);
    let mut seen = vec![];
    for _ in 0..3 {
        seen.push(match s.clone().oneshot(req("GET", "http://h/p", &NO)).await {
            Ok(r) => r.status().to_string(),
            Err(e) => e.to_string(),
        })
    }
    assert!(seen.iter().all(|s| s.starts_with("200")), "{seen:?}");
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
        testing::{Faulty, Misbehaviour as M},
    };
    let (f, n) = (Arc::new(Faulty::new(MemoryCache::new(1 << 20))), Arc::new(AtomicUsize::new(0)));
    let s = rule(Rule::ttl(600 * S)).level_2(f.clone()).build().unwrap().layer(service_fn(move |_: Req| {
        let i = n.fetch_add(1, SeqCst);
        async move { full(200, format!("{i}")) }
    }));
    ask!(s, req("GET", "/x", &NO));
    f.begin(M::Lie);
    ask!(s, req("POST", "/x", &NO));
    ask!(s, req("GET", "/y", &NO));
    f.begin(M::None);
    assert_ne!(ask!(s, req("GET", "/x", &NO)).2, "0");
}

#[tokio::test]
async fn forwarded_proto_is_a_reason_to_bypass() {
    let s = rule(Rule::ttl(60 * S)).build().unwrap().layer(service_fn(|r: Req| async move {
        let http = r.headers().get("forwarded").is_some_and(|f| f == "proto=http");
        full(if http { 301 } else { 200 }, "x")
    }));
    ask!(s, req("GET", "/a", &[("forwarded", "proto=http")]));
    assert_eq!(ask!(s, req("GET", "/a", &[("forwarded", "proto=https")])).0, 200);
}

#[tokio::test]
async fn a_number_is_not_its_bytes() {
    let who = by::func(|h| match h.header("x-n") {
        Some(_) => Some(Key::number("user", u64::from_be_bytes(*b"aaaaaaaa"))),
        None => Some(Key::bytes("user", h.header("x-u")?.as_bytes())),
    });
    let g = Tollgate::builder()
        .identify(who)
        .cache(Rules::new().route("/me", Rule::ttl(60 * S).per_identity()))
        .build()
        .unwrap();
    let s = g.layer().layer(service_fn(|r: Req| async move { full(200, format!("{:?}", r.headers().get("x-n"))) }));
    ask!(s, req("GET", "/me", &[("x-n", "1")]));
    assert_eq!(ask!(s, req("GET", "/me", &[("x-u", "aaaaaaaa")])).2, "None");
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
async fn never_with_a_catch_all_holds_inside_a_router() {
    let l = CacheLayer::builder()
        .cache_status(true)
        .rules(Rules::new().route("/admin/{*rest}", Rule::never()).otherwise(Rule::ttl(60 * S)))
        .build()
        .unwrap();
    let app = Router::new().route("/admin/stats", get(|| async { "x" })).layer(l);
    ask!(app, req("GET", "/admin/stats", &NO));
    assert!(!ask!(app, req("GET", "/admin/stats", &NO)).1.contains("hit"));
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
