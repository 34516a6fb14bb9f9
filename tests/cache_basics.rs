//! What a cache is for: hits, ages, validators, variants, rules, invalidation.

#[path = "support/cache_world.rs"]
mod world;

use std::time::Duration;

use tollgate::cache::{Rule, Rules, StoreHint};
use world::{World, get, reply, request};

const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60")];

#[tokio::test]
async fn a_fresh_answer_is_served_with_its_age_until_it_is_stale() {
    let world = World::numbered(MINUTE);
    assert_eq!(world.get("/a").await.body, "0");
    world.advance(59);
    let hit = world.get("/a").await;
    assert_eq!((hit.body.as_str(), hit.header("age")), ("0", Some("59")));
    assert_eq!(hit.status_line(), "hit; ttl=1");
    world.advance(1);
    assert_eq!(world.get("/a").await.body, "1");
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn a_hit_keeps_fields_in_order_and_says_when_it_was_made() {
    let fields = &[("cache-control", "max-age=60"), ("x-a", "1"), ("x-a", "2"), ("connection", "x-b"), ("x-b", "1")];
    let world = World::numbered(fields);
    let first = world.get("/a").await;
    world.advance(5);
    let second = world.get("/a").await;
    assert_eq!(second.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert!(second.header("x-b").is_none() && second.header("connection").is_none());
    assert_eq!(first.header("date"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
    assert_eq!(second.header("date"), first.header("date"));
    assert_eq!(second.header("content-length"), Some("1"));
}

#[tokio::test]
async fn paths_queries_hosts_and_schemes_are_told_apart() {
    let world = World::numbered(MINUTE);
    let urls = ["/a", "/a?", "/a?x", "/a?X", "/A", "/a/", "//a", "https://example.com/a", "http://example.com:81/a"];
    for (n, url) in urls.iter().enumerate() {
        let authority = if url.contains(":81") { "example.com:81" } else { "example.com" };
        for _ in 0..2 {
            assert_eq!(world.get_with(url, &[("host", authority)]).await.body, n.to_string(), "{url}");
        }
    }
    assert_eq!(world.get_with("/a", &[("host", "other.example")]).await.body, urls.len().to_string());
    assert_eq!(world.get_with("/a", &[("host", "EXAMPLE.com:80")]).await.body, "0");
}

#[tokio::test]
async fn head_is_answered_from_get_and_never_stored() {
    let world = World::numbered(MINUTE);
    assert!(!world.ask(request("HEAD", "/a", &[])).await.is_hit());
    assert_eq!(world.get("/a").await.body, "1", "a HEAD's answer is no answer to GET");
    let head = world.ask(request("HEAD", "/a", &[])).await;
    assert!(head.is_hit());
    assert_eq!((head.body.as_str(), head.header("content-length")), ("", Some("1")));
}

#[tokio::test]
async fn clients_that_have_it_get_304() {
    let world = World::numbered(&[("cache-control", "max-age=60"), ("etag", "\"v1\""), ("content-type", "text/plain")]);
    let first = world.get_with("/a", &[("if-none-match", "\"v1\"")]).await;
    assert_eq!((first.status, first.body.as_str()), (304, ""), "of the fetched response");
    assert!(world.asked()[0].header("if-none-match").is_none(), "the whole response was asked for");
    let second = world.get_with("/a", &[("if-none-match", "W/\"v1\", \"v0\"")]).await;
    assert_eq!((second.status, second.header("etag")), (304, Some("\"v1\"")));
    assert!(second.header("content-type").is_none() && second.header("content-length").is_none());
    assert_eq!(world.get_with("/a", &[("if-none-match", "\"v2\"")]).await.status, 200);
    assert_eq!(world.get("/a").await.status, 200);
    assert_eq!(world.calls(), 1);
}

#[tokio::test]
async fn a_stale_answer_is_revalidated_and_a_304_refreshes_it() {
    let world = World::new(|asked| async move {
        Ok(match asked.header("if-none-match") {
            Some("\"v1\"") => reply(&[(":status", "304"), ("cache-control", "max-age=60"), ("x-new", "1")], ""),
            _ => reply(&[("cache-control", "max-age=60"), ("etag", "\"v1\""), ("x-old", "1")], "body"),
        })
    });
    world.get("/a").await;
    world.advance(61);
    let refreshed = world.get("/a").await;
    assert_eq!((refreshed.status, refreshed.body.as_str()), (200, "body"));
    assert_eq!((refreshed.header("x-new"), refreshed.header("x-old")), (Some("1"), Some("1")));
    assert_eq!(refreshed.status_line(), "fwd=stale; fwd-status=304; ttl=60");
    world.advance(59);
    assert!(world.get("/a").await.is_hit());
    assert_eq!(world.calls(), 2);
    assert_eq!(world.stats().routes["unmatched"].revalidated, 1);
    world.advance(2);
    let mine = world.get_with("/a", &[("if-none-match", "\"v1\"")]).await;
    assert_eq!(mine.status, 304, "the client's own condition counts too");
}

#[tokio::test]
async fn a_full_answer_to_a_revalidation_replaces() {
    let world = World::new(|asked| async move {
        let tag = format!("\"{}\"", asked.call);
        Ok(reply(&[("cache-control", "max-age=60"), ("etag", &tag)], asked.call.to_string()))
    });
    world.get("/a").await;
    world.advance(61);
    assert_eq!(world.get("/a").await.body, "1");
    assert_eq!(world.asked()[1].header("if-none-match"), Some("\"0\""));
    assert_eq!(world.get("/a").await.body, "1");
}

#[tokio::test]
async fn variants_live_side_by_side() {
    let world = World::numbered(&[("cache-control", "max-age=60"), ("vary", "X-Lang")]);
    for (lang, body) in [("de", "0"), ("en", "1"), ("de", "0"), ("en", "1")] {
        assert_eq!(world.get_with("/a", &[("x-lang", lang)]).await.body, body);
    }
    assert_eq!(world.get("/a").await.body, "2", "an absent field is a value of its own");
    assert_eq!(world.get("/a").await.body, "2");
}

#[tokio::test]
async fn an_encoding_the_client_cannot_read_is_not_served() {
    let world = World::new(|asked| async move {
        let gzip = asked.header("accept-encoding").is_some_and(|accepted| accepted.contains("gzip"));
        let coding = if gzip { ("content-encoding", "gzip") } else { ("x-plain", "1") };
        Ok(reply(&[("cache-control", "max-age=60"), ("vary", "accept-encoding"), coding], asked.call.to_string()))
    });
    let body = async |accepted| world.get_with("/a", &[("accept-encoding", accepted)]).await.body;
    assert_eq!(body("br, gzip").await, "0");
    assert_eq!(body("br;q=1.0, gzip;q=0.8, *;q=0.1").await, "0");
    assert_eq!(body("br").await, "1", "the same class, but gzip is unreadable");
    assert_eq!(body("identity").await, "2");
}

#[tokio::test]
async fn rules_speak_where_responses_are_silent() {
    let rules = Rules::new()
        .route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15)).tag("prices"))
        .route("/never", Rule::never())
        .route("/missing", Rule::from_headers().negative_ttl(Duration::from_secs(5)));
    let world = World::with(
        |b| b.rules(rules),
        |asked| async move {
            let status = if asked.path == "/missing" { "404" } else { "200" };
            let fields: &[_] = match asked.path.as_str() {
                "/prices/PRIVATE" => &[(":status", status), ("cache-control", "private")],
                "/never" => &[(":status", status), ("cache-control", "max-age=60")],
                _ => &[(":status", status)],
            };
            Ok(reply(fields, asked.call.to_string()))
        },
    );
    for (path, cached) in
        [("/prices/ACME", true), ("/prices/PRIVATE", false), ("/never", false), ("/missing", true), ("/other", false)]
    {
        world.get(path).await;
        assert_eq!(world.get(path).await.is_hit(), cached, "{path}");
    }
    world.advance(15);
    assert!(!world.get("/prices/ACME").await.is_hit());
}

#[tokio::test]
async fn a_lifetime_without_end_is_a_long_one() {
    let rules = Rules::new().otherwise(Rule::ttl(Duration::MAX).stale_if_error(Duration::MAX));
    let world = World::with(|b| b.rules(rules).jitter(0.5).refresh_ahead(0.5), |_| async { Ok(reply(&[], "")) });
    world.get("/a").await;
    world.advance(86_400 * 365);
    assert!(world.get("/a").await.is_hit());
}

#[tokio::test]
async fn the_handler_may_decide() {
    let world = World::new(|asked| async move {
        let mut response = reply(&[], asked.call.to_string());
        let word =
            if asked.path == "/no" { StoreHint::never() } else { StoreHint::ttl(Duration::from_secs(5)).tag("t") };
        response.extensions_mut().insert(word);
        Ok(response)
    });
    world.get("/a").await;
    assert!(world.get("/a").await.is_hit());
    world.layer.invalidate().tag("t").await.expect("a tag");
    assert!(!world.get("/a").await.is_hit());
    world.get("/no").await;
    assert_eq!(world.get("/no").await.status_line(), "fwd=uri-miss; detail=handler");
}

#[tokio::test]
async fn invalidation_by_tag_key_prefix_and_all() {
    let world = World::new(|asked| async move {
        let tag = if asked.path.starts_with("/a") { "a" } else { "b*" };
        Ok(reply(&[("cache-control", "max-age=60"), ("cache-tag", tag)], ""))
    });
    let urls = ["/a/1", "/a/2?x=1", "/b"];
    let hits = async || {
        let mut hits = Vec::new();
        for url in urls {
            hits.push(world.get(url).await.is_hit());
        }
        hits
    };
    hits().await;
    assert_eq!(hits().await, [true; 3]);
    let handle = world.layer.invalidate();
    handle.tag("a").await.expect("a tag");
    assert_eq!(hits().await, [false, false, true]);
    handle.tag("*").await.expect("a tag");
    assert_eq!(hits().await, [true; 3], "a star stands for itself");
    handle.key("http://example.com/a/1").await.expect("a url");
    assert_eq!(hits().await, [false, true, true]);
    handle.key("EXAMPLE.com/a/2?x=1").await.expect("a url");
    assert_eq!(hits().await, [true, false, true]);
    handle.key("/b").await.expect("a path");
    assert_eq!(hits().await, [true, true, false]);
    handle.prefix("/a/").await.expect("a prefix");
    assert_eq!(hits().await, [false, false, true]);
    handle.prefix("http://example.com/").await.expect("a prefix");
    assert_eq!(hits().await, [false; 3]);
    handle.all().await.expect("everything");
    assert_eq!(hits().await, [false; 3]);
    for wrong in ["http://a b/", "://", "", "a/1", "b", "a?x=1"] {
        let error = handle.key(wrong).await.expect_err(wrong).to_string();
        assert!(error.contains("begin a path with a slash"), "{wrong:?}: {error}");
        assert!(handle.prefix(wrong).await.is_err(), "{wrong:?}");
    }
    for host in ["localhost/a/1", "a:8080/1", "[::1]/a", "example.com"] {
        handle.key(host).await.expect(host);
        handle.prefix(host).await.expect(host);
    }
    assert!(handle.matching("/a/*").await.expect_err("no URL").to_string().contains("begin it with"));
}

#[tokio::test]
async fn a_soft_purge_revalidates_before_it_serves() {
    let world = World::new(|asked| async move {
        Ok(match asked.header("if-none-match") {
            Some(_) => reply(&[(":status", "304")], ""),
            None => reply(&[("cache-control", "max-age=60"), ("etag", "\"a\"")], "body"),
        })
    });
    world.get("/a").await;
    world.layer.invalidate().soft().all().await.expect("everything");
    let revalidated = world.get("/a").await;
    assert_eq!((revalidated.body.as_str(), revalidated.is_hit()), ("body", false));
    assert!(world.get("/a").await.is_hit());
    assert_eq!(world.asked()[1].header("if-none-match"), Some("\"a\""));
}

#[tokio::test]
async fn stale_is_served_while_one_request_refreshes() {
    let world = World::numbered(&[("cache-control", "max-age=10, stale-while-revalidate=20")]);
    world.get("/a").await;
    world.advance(15);
    let stale = world.get("/a").await;
    assert_eq!((stale.body.as_str(), stale.status_line()), ("0", "hit; ttl=-5"));
    assert!(world.is_quiet().await);
    assert_eq!(world.get("/a").await.body, "1");
    world.advance(30);
    assert_eq!(world.get("/a").await.body, "2", "beyond the window it is fetched");
    assert_eq!(world.stats().routes["unmatched"].stale, 1);
}

#[tokio::test]
async fn stats_add_up() {
    let rules = Rules::new().route("/a/{x}", Rule::ttl(Duration::from_secs(60))).route("/typo", Rule::never());
    let clock_step = Duration::from_millis(200);
    let world = World::with(|b| b.rules(rules), move |_| async move { Ok(reply(&[], "x")) });
    let slow = {
        let clock = world.clock.clone();
        world::Origin::new(move |asked| {
            clock.advance(clock_step);
            async move { Ok(reply(&[], asked.call.to_string())) }
        })
    };
    let world = World { origin: slow, ..world };
    for _ in 0..5 {
        world.get("/a/1").await;
    }
    world.ask(request("POST", "/a/2", &[])).await;
    world.get("/b").await;
    let stats = world.stats();
    let route = &stats.routes["/a/{x}"];
    assert_eq!((route.hits, route.misses, route.stored), (4, 1, 1));
    assert_eq!(route.bypassed["method"], 1);
    assert_eq!(stats.routes["unmatched"].bypassed["no-freshness"], 1);
    assert_eq!((stats.inner_calls, stats.inner_calls_avoided), (3, 4));
    assert_eq!(stats.time_saved, clock_step * 4);
    assert_eq!(stats.unmatched_rules, ["/typo"]);
    assert_eq!((stats.levels[0].hits, stats.levels[0].entries), (4, 1));
    assert!(stats.levels[0].bytes > 0 && stats.levels[0].bytes < stats.levels[0].capacity_bytes);
    let json = serde_json::to_value(&stats).expect("json");
    assert_eq!(json["time_saved_ms"], 800.0);
}

#[tokio::test]
async fn a_layer_that_is_off_does_nothing() {
    let world = World::with(|b| b.enabled(false), |_| async { Ok(reply(MINUTE, "x")) });
    world.get("/a").await;
    assert!(world.get("/a").await.header("cache-status").is_none());
    assert_eq!((world.calls(), world.stats().inner_calls), (2, 0));
}

#[tokio::test]
async fn identity_in_the_key_lets_each_user_have_a_cache() {
    use tollgate::identity::by;
    let rules = Rules::new().route("/me", Rule::from_headers().per_identity());
    let world = World::with(
        |b| b.identity(by::header("authorization")).rules(rules),
        |asked| async move { Ok(reply(MINUTE, asked.header("authorization").unwrap_or("nobody").to_owned())) },
    );
    for _ in 0..2 {
        for who in ["alice", "bob"] {
            assert_eq!(world.get_with("/me", &[("authorization", who), ("cookie", "s=1")]).await.body, who);
        }
        assert_eq!(world.get("/me").await.body, "nobody");
    }
    assert_eq!(world.calls(), 4, "without an identity nothing is kept");
}

#[tokio::test]
async fn jitter_shortens_and_never_lengthens() {
    let world = World::with(|b| b.jitter(0.5), |_| async { Ok(reply(&[("cache-control", "max-age=1000")], "")) });
    let mut ttls = Vec::new();
    for n in 0..50 {
        let path = format!("/{n}");
        world.get(&path).await;
        let hit = world.ask(get(&path, &[])).await;
        ttls.push(hit.status_line().strip_prefix("hit; ttl=").expect("a ttl").parse::<u64>().expect("a number"));
    }
    assert!(ttls.iter().all(|ttl| (500..=1000).contains(ttl)), "{ttls:?}");
    assert!(ttls.iter().max() > ttls.iter().min());
}
