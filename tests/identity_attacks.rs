//! Attacks on identities, keys and routes: each was possible once.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[macro_use]
#[path = "support/attack.rs"]
mod attack;

use attack::{NO, Req, S, full, req, rule};
use axum::{Router, routing::get};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tollgate::{
    PeerAddr, Tollgate,
    cache::{CacheLayer, Rule, Rules},
    identity::{Key, KeyExtractor, TrustedProxies, by},
    limit::{Limit, Quota},
};
use tower::{Layer, ServiceExt, service_fn};

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
async fn the_scheme_that_forwarded_names_is_part_of_the_key() {
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

fn from(peer: &str, fields: &[(&str, &str)]) -> Req {
    let mut request = req("GET", "/", fields);
    request.extensions_mut().insert(PeerAddr(std::net::SocketAddr::new(peer.parse().unwrap(), 1)));
    request
}

#[tokio::test]
async fn a_list_with_empty_elements_still_names_each_client() {
    for (field, values) in [
        ("x-forwarded-for", ["203.0.113.9,", "203.0.113.10 , ,"]),
        ("x-forwarded-for", ["203.0.113.9:70000", "203.0.113.10:70000"]),
        ("forwarded", ["for=203.0.113.9;", "for=203.0.113.10;"]),
        ("forwarded", ["for=\"203.0.113.9:_p\"", "for=\"203.0.113.10:_p\""]),
        ("forwarded", ["for=203.0.113.9, ,", "for=203.0.113.10,"]),
    ] {
        let proxies = TrustedProxies::cidrs(["::ffff:10.0.0.0/104"]).header(field);
        let layer = tollgate::limit::RateLimitLayer::builder()
            .identify(by::client_ip(proxies))
            .limit(Limit::per_ip(Quota::per_minute(1)))
            .build()
            .unwrap();
        let s = layer.layer(service_fn(|_: Req| async { full(200, "ok") }));
        let statuses: Vec<u16> = [
            ask!(s, from("10.0.0.1", &[(field, values[0])])).0,
            ask!(s, from("10.0.0.1", &[(field, values[0]), (field, "")])).0,
            ask!(s, from("10.0.0.1", &[(field, values[1])])).0,
        ]
        .into();
        assert_eq!(statuses, [200, 429, 200], "{values:?}");
    }
}

#[tokio::test]
async fn only_the_addresses_that_are_allowed_are_exempt() {
    for (allowed, peer, exempt) in [
        ("::1", "::1", true),
        ("2001:db8::5", "2001:db8::5", true),
        ("2001:db8::5", "2001:db8::6", false),
        ("2001:db8::/128", "2001:db8::1", false),
        ("2001:db8::/64", "2001:db8::1", true),
        ("::ffff:192.0.2.0/120", "192.0.2.7", true),
        ("192.0.2.7", "::ffff:192.0.2.7", true),
        ("::/0", "192.0.2.7", false),
    ] {
        let layer = tollgate::limit::RateLimitLayer::builder()
            .limit(Limit::per_ip(Quota::per_minute(1)))
            .allow_ips([allowed])
            .build()
            .unwrap();
        let s = layer.layer(service_fn(|_: Req| async { full(200, "ok") }));
        ask!(s, from(peer, &[]));
        assert_eq!(ask!(s, from(peer, &[])).0 == 200, exempt, "{allowed} for {peer}");
    }
    let refused = tollgate::limit::RateLimitLayer::builder()
        .limit(Limit::per_ip(Quota::per_minute(1)))
        .allow_ips(["::ffff:10.0.0.0/90"])
        .build()
        .unwrap_err();
    assert!(refused.to_string().contains("::ffff:10.0.0.0/90"), "{refused}");
}

/// A proxy on a Unix socket: the server knows no peer.
#[tokio::test]
async fn clients_behind_a_socket_without_addresses_are_told_apart() {
    let layer = tollgate::limit::RateLimitLayer::builder()
        .identify(by::client_ip(TrustedProxies::hops(1)))
        .limit(Limit::per_ip(Quota::per_minute(1)))
        .build()
        .unwrap();
    let s = layer.layer(service_fn(|_: Req| async { full(200, "ok") }));
    let mut statuses = Vec::new();
    for client in ["203.0.113.9", "203.0.113.10", "203.0.113.9"] {
        statuses.push(ask!(s, req("GET", "/", &[("x-forwarded-for", &format!("6.6.6.6, {client}"))])).0);
    }
    assert_eq!(statuses, [200, 200, 429]);
}
