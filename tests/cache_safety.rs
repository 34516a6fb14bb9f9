//! What a cache must never do: each attack and fault found in the field, with the defence that stops it.

#[path = "support/cache_world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use tollgate::cache::{Profile, Rule, Rules};
use world::{World, get, reply, request};

const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60")];
const PUBLIC: &[(&str, &str)] = &[("cache-control", "public, max-age=60")];

/// Asks twice and tells whether the second answer came from the cache.
async fn is_cached(world: &World, path: &str, fields: &[(&str, &str)]) -> bool {
    world.get_with(path, fields).await;
    world.get_with(path, fields).await.is_hit()
}

/// A world whose origin answers these fields, and nothing else.
fn answers(fields: &'static [(&'static str, &'static str)]) -> World {
    World::numbered(fields)
}

#[tokio::test]
async fn authorised_requests_pass_by_unless_the_operator_says_they_are_all_the_same() {
    let world = answers(PUBLIC);
    world.get("/a").await;
    let mine = world.get_with("/a", &[("authorization", "Bearer x")]).await;
    assert_eq!(mine.status_line(), "fwd=bypass; detail=authorization");
    assert_eq!(mine.body, "1", "neither looked up nor, as the next line shows, stored");
    assert_eq!(world.get("/a").await.body, "0");
    let rules = Rules::new().route("/a", Rule::from_headers().same_for_everyone());
    let world = World::with(|b| b.rules(rules), |_| async { Ok(reply(MINUTE, "x")) });
    assert!(is_cached(&world, "/a", &[("authorization", "Bearer x"), ("cookie", "s=1")]).await);
}

#[tokio::test]
async fn requests_with_cookies_pass_by_unless_all_of_them_are_ignorable() {
    let world = World::with(|b| b.ignore_cookies(["_ga", "theme"]), |_| async { Ok(reply(MINUTE, "x")) });
    assert!(!is_cached(&world, "/a", &[("cookie", "session=1")]).await);
    assert!(!is_cached(&world, "/a", &[("cookie", "_ga=1; session=1")]).await);
    assert!(is_cached(&world, "/a", &[("cookie", "_ga=1; theme=dark")]).await);
}

#[tokio::test]
async fn a_response_that_sets_a_cookie_is_never_stored() {
    let world = answers(&[("cache-control", "public, max-age=60"), ("set-cookie", "session=1")]);
    assert!(!is_cached(&world, "/a", &[]).await);
    let rules = Rules::new().otherwise(Rule::ttl(Duration::from_secs(60)).same_for_everyone());
    let world = World::with(|b| b.rules(rules), |_| async { Ok(reply(&[("set-cookie", "session=1")], "")) });
    assert!(!is_cached(&world, "/a", &[]).await);
    assert_eq!(world.get("/a").await.status_line(), "fwd=uri-miss; detail=set-cookie");
}

#[tokio::test]
async fn directives_are_read_in_every_spelling_and_the_strictest_wins() {
    for fields in [
        &[("cache-control", "Private, max-age=60")][..],
        &[("cache-control", "max-age=60"), ("cache-control", "NO-STORE")],
        &[("cache-control", "max-age=60, private=\"x-a\"")],
        &[("cache-control", "max-age=60, no-cache=\"x-a\"")],
        &[("cache-control", "max-age=60, no-cache")],
        &[("cache-control", "max-age=60, no-store, must-understand")],
        &[("cache-control", "max-age=60, max-age=0")],
        &[("cache-control", "max-age = 60")],
        &[("cache-control", "max-age=-60")],
        &[("cache-control", "max-age=60, s-maxage=0")],
        &[("cache-control", "public, private, max-age=60")],
        &[("cache-control", "x=\"unclosed, no-store, max-age=60")],
        &[("expires", "0")],
    ] {
        let fields: Vec<(&'static str, &'static str)> = fields.to_vec();
        let world = World::new(move |_| {
            let fields = fields.clone();
            async move { Ok(reply(&fields, "")) }
        });
        assert!(!is_cached(&world, "/a", &[]).await, "{:?}", world.get("/a").await.headers);
    }
    for good in ["MAX-AGE=60", "max-age=\"60\"", "max-age=99999999999999999999", "x=\"no-store\", max-age=60"] {
        let world = World::new(move |_| async move { Ok(reply(&[("cache-control", good)], "")) });
        assert!(is_cached(&world, "/a", &[]).await, "{good}");
    }
}

#[tokio::test]
async fn vary_is_obeyed_and_its_variants_are_bounded() {
    let world = answers(&[("cache-control", "max-age=60"), ("vary", "x-a, *")]);
    assert!(!is_cached(&world, "/a", &[]).await);
    let world = answers(&[("cache-control", "max-age=60"), ("vary", "x-a")]);
    for n in 0..100 {
        world.get_with("/a", &[("x-a", &n.to_string())]).await;
    }
    assert!(world.get_with("/a", &[("x-a", "99")]).await.is_hit());
    assert!(world.get_with("/a", &[("x-a", "68")]).await.is_hit(), "32 are kept");
    assert!(!world.get_with("/a", &[("x-a", "67")]).await.is_hit(), "the 33rd is not");
}

#[tokio::test]
async fn an_authority_that_is_missing_doubled_or_contradicted_passes_by() {
    let world = answers(MINUTE);
    world.get("/a").await;
    let lie = get("http://evil.example/a", &[]);
    assert_eq!(world.ask(lie).await.status_line(), "fwd=bypass; detail=authority");
    let two = get("/a", &[("host", "example.com"), ("host", "example.com")]);
    assert_eq!(world.ask(two).await.status_line(), "fwd=bypass; detail=authority");
    let mut none = get("/a", &[]);
    none.headers_mut().remove("host");
    assert_eq!(world.ask(none).await.status_line(), "fwd=bypass; detail=authority");
    assert_eq!(world.get("/a").await.body, "0");
}

#[tokio::test]
async fn fields_that_applications_reflect_pass_by_or_are_keyed() {
    let world = World::with(
        |b| b.key_field("x-forwarded-host"),
        |asked| async move { Ok(reply(MINUTE, asked.header("x-forwarded-host").unwrap_or("own").to_owned())) },
    );
    for name in ["x-original-url", "x-rewrite-url", "x-http-method-override", "x-forwarded-scheme"] {
        assert!(!is_cached(&world, "/a", &[(name, "/evil")]).await, "{name}");
    }
    assert!(!is_cached(&world, "/a", &[("forwarded", "for=1.2.3.4; Host=evil.example")]).await);
    assert!(is_cached(&world, "/b", &[("forwarded", "for=1.2.3.4;proto=http")]).await, "part of the key");
    assert!(is_cached(&world, "/a", &[("x-forwarded-host", "evil.example")]).await);
    assert_eq!(world.get("/a").await.body, "own");
    assert!(!world.get_with("/b", &[("x-forwarded-proto", "https")]).await.is_hit(), "part of the key");
}

#[tokio::test]
async fn a_get_with_a_body_and_a_cloaked_parameter_are_no_hit() {
    let world = answers(MINUTE);
    world.get("/a?q=1").await;
    let mut with_body = get("/a?q=1", &[("content-length", "3")]);
    *with_body.body_mut() = Full::from("q=2");
    assert_eq!(world.ask(with_body).await.status_line(), "fwd=bypass; detail=request-body");
    let mut http2 = get("/a?q=1", &[]);
    *http2.version_mut() = http::Version::HTTP_2;
    *http2.body_mut() = Full::from("q=2");
    assert_eq!(world.ask(http2).await.status_line(), "fwd=bypass; detail=request-body");
    for other in ["/a?q=1;q=2", "/a?q=1&q=2", "/a?q=1&", "/a%3fq=1", "/a;x?q=1", "/a/x.css?q=1"] {
        assert!(!world.get(other).await.is_hit(), "{other}");
    }
}

#[tokio::test]
async fn only_known_statuses_are_stored() {
    for (status, cached) in [
        ("200", true),
        ("203", true),
        ("301", true),
        ("308", true),
        ("404", true),
        ("410", true),
        ("201", false),
        ("204", false),
        ("206", false),
        ("302", false),
        ("304", false),
        ("400", false),
        ("403", false),
        ("429", false),
        ("500", false),
        ("503", false),
    ] {
        let world = World::new(move |_| async move { Ok(reply(&[(":status", status), MINUTE[0]], "")) });
        assert_eq!(is_cached(&world, "/a", &[]).await, cached, "{status}");
    }
    let world = answers(&[("cache-control", "max-age=60"), ("content-range", "bytes 0-0/9")]);
    assert!(!is_cached(&world, "/a", &[]).await, "a part that claims to be the whole");
}

#[tokio::test]
async fn unsafe_methods_invalidate_and_their_answers_are_not_replayed() {
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "FOO"] {
        let world = answers(MINUTE);
        world.get("/a?x").await;
        world.get("/b").await;
        let posted = world.ask(request(method, "/a?x", &[])).await;
        assert_eq!((posted.body.as_str(), posted.status_line()), ("2", "fwd=method; detail=method"));
        assert_eq!(world.get("/a?x").await.body, "3", "{method}");
        assert_eq!(world.get("/b").await.body, "1");
    }
    let world = World::new(|asked| async move {
        let status = if asked.method == "POST" { "500" } else { "200" };
        Ok(reply(&[(":status", status), MINUTE[0]], asked.call.to_string()))
    });
    world.get("/a").await;
    world.ask(request("POST", "/a", &[])).await;
    assert_eq!(world.get("/a").await.body, "0", "an error changes nothing");
    for safe in ["OPTIONS", "TRACE", "HEAD"] {
        world.ask(request(safe, "/a", &[])).await;
        assert_eq!(world.get("/a").await.body, "0", "{safe}");
    }
}

#[tokio::test]
async fn upgrades_and_grpc_are_not_touched() {
    let world = answers(MINUTE);
    world.get("/a").await;
    let upgrade = world.get_with("/a", &[("connection", "upgrade"), ("upgrade", "websocket")]).await;
    assert_eq!(upgrade.status_line(), "fwd=bypass; detail=upgrade");
    let grpc = world.get_with("/a", &[("content-type", "application/grpc+proto")]).await;
    assert_eq!(grpc.status_line(), "fwd=bypass; detail=grpc");
}

#[tokio::test]
async fn a_thousand_spellings_of_accept_encoding_are_four_variants() {
    let world = answers(&[("cache-control", "max-age=60"), ("vary", "accept-encoding")]);
    for n in 0..1000 {
        let coding = ["br", "gzip", "zstd", "deflate"][n % 4];
        world.get_with("/a", &[("accept-encoding", &format!("{coding}, x{n};q=0.{n}"))]).await;
    }
    assert!(world.calls() <= 4, "{}", world.calls());
}

#[tokio::test]
async fn a_flood_of_random_queries_stays_within_memory_and_leaves_the_hot_set_alone() {
    let world =
        World::with(|b| b.memory(768 << 10).max_entry(64 << 10), |_| async { Ok(reply(MINUTE, vec![7; 1000])) });
    let hot: Vec<_> = (0..50).map(|n| format!("/hot/{n}")).collect();
    for _ in 0..20 {
        for path in &hot {
            world.get(path).await;
        }
    }
    let mut hits = 0;
    for n in 0..5000 {
        world.get(&format!("/flood?{n}")).await;
        hits += usize::from(n % 5 == 0 && world.get(&hot[n / 5 % 50]).await.is_hit());
    }
    let level = &world.stats().levels[0];
    assert!(level.bytes <= level.capacity_bytes + level.capacity_bytes / 10, "{level:?}");
    assert!(hits >= 950, "{hits} of 1000");
}

#[tokio::test]
async fn clients_cannot_bust_the_cache() {
    let world = answers(MINUTE);
    world.get("/a").await;
    for fields in [
        &[("cache-control", "no-cache")][..],
        &[("cache-control", "no-store")],
        &[("cache-control", "max-age=0")],
        &[("pragma", "no-cache")],
    ] {
        assert!(world.get_with("/a", fields).await.is_hit(), "{fields:?}");
    }
}

#[tokio::test]
async fn limits_of_another_user_are_never_replayed() {
    let world = answers(&[
        ("cache-control", "max-age=60"),
        ("x-ratelimit-remaining", "4"),
        ("x-ratelimit-limit", "5"),
        ("x-ratelimit-reset", "9"),
        ("ratelimit", "\"a\";r=4"),
        ("ratelimit-policy", "\"a\";q=5"),
    ]);
    assert_eq!(world.get("/a").await.header("x-ratelimit-remaining"), Some("4"), "one's own is passed on");
    let hit = world.get("/a").await;
    assert!(hit.is_hit() && !hit.headers.keys().any(|name| name.as_str().contains("ratelimit")));
}

#[tokio::test]
async fn ranges_and_preconditions_are_left_to_the_origin() {
    let world = answers(&[("cache-control", "max-age=60"), ("etag", "\"a\"")]);
    world.get("/a").await;
    for (fields, reason) in [
        (&[("range", "bytes=0-0")][..], "range"),
        (&[("range", "bytes=18446744073709551615-0,0-0,1-1")], "range"),
        (&[("if-match", "\"a\"")], "precondition"),
        (&[("if-unmodified-since", "Thu, 01 Jan 2026 00:00:00 GMT")], "precondition"),
    ] {
        let passed = world.get_with("/a", fields).await;
        assert_eq!(passed.status_line(), format!("fwd=bypass; detail={reason}"));
        assert!(fields.iter().all(|(name, value)| world.asked().last().expect("a call").header(name) == Some(value)));
    }
}

#[tokio::test]
async fn a_targeted_field_of_our_own_goes_no_further() {
    let world = answers(&[("cache-control", "no-store"), ("tollgate-cache-control", "max-age=60")]);
    assert!(world.get("/a").await.header("tollgate-cache-control").is_none());
    let hit = world.get("/a").await;
    assert!(hit.is_hit() && hit.header("tollgate-cache-control").is_none());
    assert_eq!(hit.header("cache-control"), Some("no-store"));
    assert!(world.ask(request("POST", "/a", &[])).await.header("tollgate-cache-control").is_none());
}

#[tokio::test]
async fn a_rule_that_only_bypasses_is_reported_once() {
    let warnings = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = warnings.clone();
    let hook: tollgate::Hook = Arc::new(move |event: &tollgate::Event<'_>| {
        if let tollgate::Event::Warning { code, message } = event {
            sink.lock().expect("not poisoned").push(format!("{code}: {message}"));
        }
    });
    let rules = Rules::new().route("/me", Rule::ttl(Duration::from_secs(1)));
    let world = World::with(|b| b.rules(rules).hook(hook), |_| async { Ok(reply(&[], "")) });
    for _ in 0..150 {
        world.get_with("/me", &[("cookie", "session=1")]).await;
    }
    let warnings = warnings.lock().expect("not poisoned");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("/me") && warnings[0].contains("cookie") && !warnings[0].contains("session"));
}

#[tokio::test]
async fn a_wall_clock_that_jumps_changes_no_lifetime() {
    let world = answers(MINUTE);
    world.get("/a").await;
    world.clock.set_wall(std::time::UNIX_EPOCH);
    assert_eq!(world.get("/a").await.header("age"), Some("0"));
    world.advance(30);
    assert_eq!(world.get("/a").await.header("age"), Some("30"));
    world.advance(30);
    assert!(!world.get("/a").await.is_hit());
}

#[tokio::test]
async fn what_a_gateway_must_not_do_either() {
    let shared = |fields: &'static [(&'static str, &'static str)]| {
        World::with(
            |b| b.profile(Profile::Shared),
            move |asked| async move {
                tokio::task::yield_now().await;
                Ok(reply(fields, asked.call.to_string()))
            },
        )
    };
    let world = shared(PUBLIC);
    for fields in [
        &[("x-original-url", "/evil")][..],
        &[("x-forwarded-host", "evil.example")],
        &[("content-length", "3")],
        &[("upgrade", "websocket")],
        &[("if-match", "\"a\"")],
        &[("host", "a"), ("host", "b")],
    ] {
        assert!(!is_cached(&world, "/a", fields).await, "{fields:?}");
    }
    assert_eq!(world.ask(get("http://evil.example/a", &[])).await.status_line(), "fwd=bypass; detail=authority");
    for fields in [
        &[("cache-control", "private, max-age=60")][..],
        &[("cache-control", "no-store, max-age=60")],
        &[("cache-control", "max-age=60"), ("vary", "*")],
        &[("cache-control", "max-age=60"), ("content-length", "9")],
        &[("cache-control", "max-age=60"), (":status", "206"), ("content-range", "bytes 0-0/9")],
        &[("cache-control", "max-age=60"), ("content-type", "text/event-stream")],
    ] {
        let world = shared(fields);
        assert!(!is_cached(&world, "/a", &[]).await, "{fields:?}");
    }
    let world = shared(&[("cache-control", "private")]);
    let mine = futures_util::future::join_all((0..30).map(|_| world.get("/a"))).await;
    let mut bodies: Vec<_> = mine.into_iter().map(|got| got.body).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 30, "each has its own");
    let world = shared(&[("cache-control", "max-age=60"), ("x-ratelimit-remaining", "4")]);
    futures_util::future::join_all((0..1000).map(|_| world.get("/a"))).await;
    assert_eq!(world.calls(), 1);
    assert!(world.get("/a").await.header("x-ratelimit-remaining").is_none());
    world.ask(request("DELETE", "/a", &[])).await;
    assert!(!world.get("/a").await.is_hit());
    assert!(world.is_quiet().await);
}
