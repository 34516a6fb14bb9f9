//! The admin service as attackers, proxies and load balancers meet it.

#[path = "support/ops.rs"]
mod ops;

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use ops::{Ops, SECRET, VIEWER, basic, bearer, builder, text};
use tollgate::testing::FakePeer;
use tollgate::{Actor, Clock, ManualClock};
use tower::ServiceExt;

#[tokio::test]
async fn nothing_is_answered_without_a_secret_but_to_load_balancers() {
    let ops = Ops::new(builder());
    for path in ["/", "/stats.json", "/events", "/dashboard.js", "/report.txt", "/explain.json?url=/a", "/audit.json"] {
        let answer = ops.ask(Method::GET, path, &[], "").await;
        assert_eq!(answer.status(), 401, "{path}");
        assert_eq!(answer.headers()["www-authenticate"], "Basic realm=\"tollgate\", charset=\"UTF-8\"");
        assert_eq!(answer.headers()["cache-control"], "no-store");
    }
    for path in ["/health/live", "/health/ready"] {
        let answer = ops.ask(Method::GET, path, &[], "").await;
        assert_eq!((answer.status(), text(answer).await.as_str()), (StatusCode::OK, "ok\n"), "{path}");
    }
    let head = ops.ask(Method::HEAD, "/stats.json", &[("authorization", &bearer(VIEWER))], "").await;
    assert_eq!((head.status(), text(head).await.as_str()), (StatusCode::OK, ""));
    assert_eq!(ops.ask(Method::GET, "/etc/passwd", &[], "").await.status(), 404);
    let wrong = ops.ask(Method::GET, "/purge", &[("authorization", &bearer(SECRET))], "").await;
    assert_eq!(
        (wrong.status(), &wrong.headers()["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().expect("a value"))
    );
}

#[tokio::test]
async fn a_readiness_probe_fails_with_a_check_of_the_application() {
    let ops = Ops::new(builder().health_with(|health| health.check("database", || async { Err::<(), _>("refused") })));
    ops.ask(Method::GET, "/health/ready", &[], "").await;
    tokio::task::yield_now().await;
    let ready = ops.ask(Method::GET, "/health/ready", &[], "").await;
    assert_eq!((ready.status(), text(ready).await.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "a check fails\n"));
    assert_eq!(ops.ask(Method::GET, "/health/live", &[], "").await.status(), 200);
}

#[tokio::test]
async fn every_answer_forbids_framing_sniffing_storing_and_loading_from_elsewhere() {
    let ops = Ops::new(builder());
    for path in ["/", "/stats.json", "/dashboard.css", "/dashboard.js", "/icon.svg", "/report.txt", "/nothing"] {
        let answer = ops.ask(Method::GET, path, &[("authorization", &bearer(SECRET))], "").await;
        let field = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
        let policy = field("content-security-policy");
        assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{path}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!((field("x-content-type-options"), field("x-frame-options")), ("nosniff".into(), "DENY".into()));
        assert_eq!((field("cache-control"), field("referrer-policy")), ("no-store".into(), "no-referrer".into()));
        assert_eq!(field("cross-origin-resource-policy"), "same-origin");
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
    }
    let page = text(ops.ask(Method::GET, "/", &[("authorization", &bearer(SECRET))], "").await).await;
    for forbidden in ["<script>", " style=", " onclick=", "javascript:", "href=\"http", "src=\"http"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[tokio::test]
async fn wrong_secrets_are_limited_by_address_and_the_right_one_is_never_locked_out() {
    let ops = Ops::new(builder());
    let ops = &ops;
    let wrong = join_all((0..1_000).map(|n| async move {
        let secret = bearer(&format!("{SECRET}{n}"));
        ops.ask(Method::GET, "/stats.json", &[("authorization", &secret)], "").await.status()
    }));
    let wrong = wrong.await;
    let count = |status: u16| wrong.iter().filter(|known| known.as_u16() == status).count();
    assert_eq!((count(401), count(429)), (10, 990));
    for fields in [("authorization", bearer(SECRET)), ("authorization", basic("ann", SECRET))] {
        assert_eq!(ops.ask(Method::GET, "/stats.json", &[(fields.0, &fields.1)], "").await.status(), 200);
    }
    let waits = ops.ask(Method::GET, "/", &[("authorization", &bearer("wrong"))], "").await;
    assert_eq!((waits.status().as_u16(), &waits.headers()["retry-after"]), (429, &"60".parse().expect("a value")));
    assert_eq!(ops.ask(Method::GET, "/", &[], "").await.status(), 401, "no secret is not a wrong one");
}

#[tokio::test]
async fn a_form_needs_the_pages_token_and_the_same_origin() {
    let ops = Ops::new(builder());
    let token = ops.token().await;
    let ann = basic("ann", SECRET);
    let form = |token: &str| format!("what=/articles/1&token={token}");
    let send = async |fields: &[(&str, &str)], body: &str| {
        let fields = [&[("authorization", ann.as_str())], fields].concat();
        ops.ask(Method::POST, "/purge", &fields, body).await
    };
    // A hostile page in the same browser, by form, fetch or frame: the browser adds the password, and says where it comes from.
    for fields in [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..],
        &[("sec-fetch-site", "same-site"), ("origin", "https://evil.ops.example")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[],
    ] {
        assert_eq!(send(fields, &form(&token)).await.status(), 403, "{fields:?}");
    }
    let own = [("sec-fetch-site", "same-origin")];
    for body in ["what=/articles/1".to_owned(), form("1.00"), form(&format!("9{token}")), form("")] {
        assert_eq!(send(&own, &body).await.status(), 403, "{body}");
    }
    assert_eq!(ops.json("/audit.json").await, serde_json::json!([]), "nothing was done");
    let done = send(&own, &form(&token)).await;
    assert_eq!((done.status().as_u16(), &done.headers()["location"]), (303, &"./#happened".parse().expect("a value")));
    assert_eq!(
        send(&[("origin", "http://ops.example")], &form(&token)).await.status(),
        303,
        "a browser without Sec-Fetch-Site"
    );
    let audit = ops.json("/audit.json").await;
    assert_eq!((&audit[0]["actor"], audit.as_array().map(Vec::len)), (&"ann".into(), Some(2)));
    // Another node with the same secret accepts it, one with another does not.
    let other = Ops::new(builder());
    let fields = [("authorization", ann.as_str()), own[0]];
    assert_eq!(other.ask(Method::POST, "/purge", &fields, &form(&token)).await.status(), 303);
    let gate = builder().build().expect("a gate");
    let admin = gate.admin().secret("another secret of others").build().expect("an admin service");
    let stranger = Ops { gate, admin };
    let fields =
        [("authorization", basic("ann", "another secret of others")), ("sec-fetch-site", "same-origin".to_owned())];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(stranger.ask(Method::POST, "/purge", &fields, &form(&token)).await.status(), 403);
}

#[tokio::test]
async fn a_token_is_valid_for_twelve_hours() {
    let hand = ManualClock::new();
    let ops = Ops::new(builder().clock(Clock::Manual(hand.clone())));
    let token = ops.token().await;
    let fields = [("authorization", basic("ann", SECRET)), ("sec-fetch-site", "same-origin".to_owned())];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let form = format!("what=/articles/1&token={token}");
    hand.advance(Duration::from_secs(12 * 3_600));
    assert_eq!(ops.ask(Method::POST, "/purge", &fields, &form).await.status(), 303);
    hand.advance(Duration::from_secs(1));
    assert_eq!(ops.ask(Method::POST, "/purge", &fields, &form).await.status(), 403);
}

#[tokio::test]
async fn a_viewer_reads_everything_and_changes_nothing() {
    let ops = Ops::new(builder());
    let viewer = bearer(VIEWER);
    let fields = [("authorization", viewer.as_str())];
    assert_eq!(ops.ask(Method::GET, "/stats.json", &fields, "").await.status(), 200);
    let page = text(ops.ask(Method::GET, "/", &fields, "").await).await;
    assert!(page.contains("Who is limited?") && !page.contains("method=\"post\""), "no forms");
    for path in ["/purge", "/override", "/end-override", "/reset-subject", "/grant-subject"] {
        assert_eq!(ops.ask(Method::POST, path, &fields, "what=*").await.status(), 403, "{path}");
    }
}

#[tokio::test]
async fn the_application_decides_by_its_own_authentication() {
    #[derive(Clone)]
    struct Staff(&'static str);
    let gate = builder().build().expect("a gate");
    let admin = gate.admin().authorize(|head| head.extension::<Staff>().map(|staff| Actor::admin(staff.0)));
    let admin = admin.build().expect("an admin service");
    let request = |staff: bool| {
        let mut request = Request::get("/stats.json").header("authorization", "Bearer of the application's own");
        if staff {
            request = request.extension(Staff("ann"));
        }
        request.body(Full::<Bytes>::default()).expect("a request")
    };
    assert_eq!(admin.handle(request(true)).await.status(), 200);
    let denied = admin.handle(request(false)).await;
    assert_eq!((denied.status().as_u16(), denied.headers().contains_key("www-authenticate")), (401, false));
}

#[tokio::test]
async fn a_rebound_name_or_a_proxy_does_not_make_a_request_local() {
    let gate = builder().build().expect("a gate");
    let admin = gate.admin().local_only().build().expect("an admin service");
    let status = async |peer: &str, fields: &[(&str, &str)]| {
        let mut request = Request::get("/stats.json");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        admin.handle(FakePeer::at(peer).mark(request)).await.status().as_u16()
    };
    assert_eq!(status("127.0.0.1", &[("host", "localhost:3000")]).await, 200);
    assert_eq!(status("::1", &[("host", "[::1]:3000")]).await, 200);
    assert_eq!(status("127.0.0.1", &[("host", "rebound.example:3000")]).await, 403);
    assert_eq!(status("192.0.2.1", &[("host", "localhost:3000")]).await, 403);
    assert_eq!(status("127.0.0.1", &[("host", "localhost"), ("x-forwarded-for", "192.0.2.1")]).await, 403);
}

#[tokio::test]
async fn it_works_under_any_prefix_stripped_or_kept() {
    let ops = Ops::new(builder());
    let app: Router = Router::new().route("/", get(async || "app")).nest_service("/deep/ops", ops.admin.clone());
    let ask = async |path: &str| {
        let request = Request::get(path).header("authorization", bearer(SECRET)).body(axum::body::Body::empty());
        app.clone().oneshot(request.expect("a request")).await.expect("infallible")
    };
    let moved = ask("/deep/ops").await;
    assert_eq!((moved.status().as_u16(), &moved.headers()["location"]), (308, &"ops/".parse().expect("a value")));
    for path in ["/deep/ops/", "/deep/ops/stats.json", "/deep/ops/health/live"] {
        assert_eq!(ask(path).await.status(), 200, "{path}");
    }
    // A server without a router keeps the prefix.
    for path in ["/kept/ops/", "/kept/ops/stats.json"] {
        assert_eq!(ops.ask(Method::GET, path, &[("authorization", &bearer(SECRET))], "").await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn its_requests_pass_no_layer_of_the_gate() {
    let ops = Ops::new(builder());
    let app: Router = Router::new()
        .route("/other", get(async || "app"))
        .layer(ops.gate.layer())
        .nest_service("/ops", ops.admin.clone());
    for _ in 0..150 {
        let request = Request::get("/ops/stats.json").header("authorization", bearer(SECRET));
        let request = request.body(axum::body::Body::empty()).expect("a request");
        assert_eq!(app.clone().oneshot(request).await.expect("infallible").status(), 200);
    }
    assert_eq!(ops.gate.stats().requests, 0);
}

#[test]
fn nobody_is_let_in_by_accident() {
    let gate = builder().build().expect("a gate");
    for (admin, reason) in [
        (gate.admin(), "lets nobody in"),
        (gate.admin().secret("too short"), "9 bytes is too short"),
        (gate.admin().secret(SECRET).viewer_secret(""), "0 bytes is too short"),
    ] {
        let error = admin.build().expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
}
