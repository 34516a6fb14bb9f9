//! A gateway's cache: what RFC 9111 lets a shared cache do, and what it forbids.

#[path = "support/cache_world.rs"]
mod world;

use std::time::Duration;

use tollgate::cache::Profile;
use world::{Fault, World, reply, request};

/// Whether a second request is answered from the store.
async fn is_cached(fields: &[(&str, &str)]) -> bool {
    let world = World::gateway(fields);
    world.get("/a").await;
    world.get("/a").await.is_hit()
}

const NOW: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
const HOUR_AGO: &str = "Wed, 31 Dec 2025 23:00:00 GMT";
const LATER: &str = "Thu, 01 Jan 2026 01:00:00 GMT";

#[tokio::test]
async fn freshness_comes_from_the_first_that_speaks() {
    for (fields, cached) in [
        (&[("cache-control", "max-age=60")][..], true),
        (&[("cache-control", "max-age=0, s-maxage=60")], true),
        (&[("cache-control", "max-age=60, s-maxage=0")], false),
        (&[("expires", LATER)], true),
        (&[("expires", LATER), ("cache-control", "max-age=0")], false),
        (&[("expires", HOUR_AGO), ("cache-control", "max-age=60")], true),
        (&[("expires", LATER), ("date", LATER)], false),
        (&[("expires", LATER), ("expires", LATER)], false),
        (&[("expires", "0")], false),
        (&[("cache-control", "max-age=60"), ("age", "60")], false),
        (&[("cache-control", "max-age=60"), ("age", "59")], true),
        (&[("cache-control", "max-age=60"), ("age", "abc")], true),
        (&[("cache-control", "max-age=60"), ("age", "7200.0")], true),
        (&[("cache-control", "max-age=60"), ("age", "0, 7200")], true),
        (&[("cache-control", "max-age=60"), ("age", "7200, 0")], false),
        (&[("cache-control", "max-age=60"), ("date", HOUR_AGO)], false),
        (&[("cache-control", "max-age=60"), ("date", LATER)], true),
        (&[], false),
        (&[("last-modified", HOUR_AGO)], true),
        (&[("last-modified", HOUR_AGO), (":status", "201")], false),
        (&[("last-modified", HOUR_AGO), (":status", "599")], false),
        (&[("last-modified", HOUR_AGO), (":status", "599"), ("cache-control", "public")], true),
        (&[("pragma", "no-cache"), ("cache-control", "max-age=60")], true),
    ] {
        assert_eq!(is_cached(fields).await, cached, "{fields:?}");
    }
}

#[tokio::test]
async fn every_final_status_is_stored_with_explicit_freshness() {
    for status in [
        200, 201, 202, 203, 204, 299, 300, 301, 302, 303, 307, 308, 400, 403, 404, 410, 499, 500, 501, 502, 503, 504,
        599,
    ] {
        let status = status.to_string();
        assert!(is_cached(&[(":status", &status), ("cache-control", "max-age=60")]).await, "{status}");
    }
    for status in ["203", "204", "300", "301", "308", "404", "405", "410", "414", "501"] {
        assert!(is_cached(&[(":status", status), ("last-modified", HOUR_AGO)]).await, "{status} by a guess");
    }
    // RFC 6585: 428, 429, 431 and 511 "MUST NOT be stored by a cache".
    for status in ["206", "304", "428", "429", "431", "511"] {
        assert!(!is_cached(&[(":status", status), ("cache-control", "max-age=60")]).await, "{status}");
    }
}

#[tokio::test]
async fn directives_of_the_response_are_obeyed() {
    for (line, cached) in [
        ("private, max-age=60", false),
        ("private=\"x-a\", max-age=60", true),
        ("No-Store, max-age=60", false),
        ("no-cache, max-age=60", false),
        ("no-cache=\"x-a\", max-age=60", true),
        ("no-store, must-understand, max-age=60", true),
        ("must-revalidate, max-age=60", true),
        ("foo=\"no-store\", max-age=60", true),
        ("max-age=60, unknown", true),
    ] {
        assert_eq!(is_cached(&[("cache-control", line)]).await, cached, "{line}");
    }
    assert!(!is_cached(&[(":status", "599"), ("cache-control", "must-understand, max-age=60")]).await);
    let world = World::gateway(&[
        ("cache-control", "max-age=60, no-cache=\"x-a\", private=\"x-b\""),
        ("x-a", "1"),
        ("x-b", "1"),
    ]);
    assert_eq!(world.get("/a").await.header("x-a"), Some("1"));
    let hit = world.get("/a").await;
    assert!(hit.is_hit() && hit.header("x-a").is_none() && hit.header("x-b").is_none());
}

#[tokio::test]
async fn authorised_requests_share_only_what_the_response_allows() {
    for (line, shared) in [
        ("max-age=60", false),
        ("max-age=60, public", true),
        ("max-age=60, must-revalidate", true),
        ("s-maxage=60", true),
        ("max-age=60, proxy-revalidate", false),
    ] {
        let world = World::gateway(&[("cache-control", line)]);
        world.get_with("/a", &[("authorization", "x")]).await;
        assert_eq!(world.get("/a").await.is_hit(), shared, "{line}");
    }
}

#[tokio::test]
async fn cookies_are_fields_like_any_other() {
    let world = World::gateway(&[("cache-control", "max-age=60"), ("set-cookie", "a=b"), ("set-cookie", "c=d")]);
    world.get("/a").await;
    let hit = world.get_with("/a", &[("cookie", "x=y")]).await;
    assert!(hit.is_hit());
    assert_eq!(hit.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=b", "c=d"]);
}

#[tokio::test]
async fn all_end_to_end_fields_are_kept_and_no_others() {
    let kept = ["x-a", "content-range", "content-encoding", "content-md5", "set-cookie2", "trailer", "clear-site-data"];
    let dropped =
        ["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "upgrade", "transfer-encoding"];
    for (name, stays) in kept.map(|name| (name, true)).into_iter().chain(dropped.map(|name| (name, false))) {
        let world = World::gateway(&[("cache-control", "max-age=60"), (name, "some-value")]);
        world.get("/a").await;
        let hit = world.get("/a").await;
        assert!(hit.is_hit(), "{name}");
        assert_eq!(hit.header(name), stays.then_some("some-value"));
    }
}

#[tokio::test]
async fn what_a_request_says_is_obeyed() {
    let world = World::gateway(&[("cache-control", "max-age=60"), ("etag", "\"a\"")]);
    world.get("/a").await;
    world.advance(20);
    for (line, hit) in [
        ("max-age=20", true),
        ("max-age=19", false),
        ("min-fresh=40", true),
        ("min-fresh=41", false),
        ("no-cache", false),
        ("max-stale=1", true),
        ("only-if-cached", true),
        ("unknown", true),
    ] {
        let world = World::gateway(&[("cache-control", "max-age=60")]);
        world.get("/a").await;
        world.advance(20);
        let got = world.get_with("/a", &[("cache-control", line)]).await;
        assert_eq!(got.is_hit(), hit, "{line}");
        assert!(hit || got.status_line().starts_with("fwd=request"), "{}", got.status_line());
    }
    let refreshed = world.get_with("/a", &[("pragma", "no-cache")]).await;
    assert!(!refreshed.is_hit());
    assert_eq!(world.asked()[1].header("if-none-match"), Some("\"a\""), "no-cache revalidates");
}

#[tokio::test]
async fn stale_is_served_to_those_who_take_it_and_only_then() {
    for (said, asked, served) in [
        ("max-age=60", "max-stale", true),
        ("max-age=60", "max-stale=10", true),
        ("max-age=60", "max-stale=9", false),
        ("max-age=60, must-revalidate", "max-stale", false),
        ("s-maxage=60", "max-stale", false),
        ("max-age=60, proxy-revalidate", "max-stale", false),
        ("max-age=60", "max-stale, max-age=50", false),
    ] {
        let world = World::gateway(&[("cache-control", said)]);
        world.get("/a").await;
        world.advance(70);
        assert_eq!(world.get_with("/a", &[("cache-control", asked)]).await.is_hit(), served, "{said} {asked}");
    }
    // An upper bound also where the response lets stale be served.
    for (asked, served) in [("max-stale=50", true), ("max-stale=45", true), ("max-stale=40", false), ("", true)] {
        let world = World::gateway(&[("cache-control", "max-age=60, stale-while-revalidate=100")]);
        world.get("/a").await;
        world.advance(105);
        assert_eq!(world.get_with("/a", &[("cache-control", asked)]).await.is_hit(), served, "{asked}");
    }
    let old = World::gateway(&[("cache-control", "max-age=1500"), ("age", "2000")]);
    old.get("/a").await;
    assert!(old.get_with("/a", &[("cache-control", "max-stale=1000")]).await.is_hit());
}

#[tokio::test]
async fn only_if_cached_is_504_and_no_store_leaves_nothing() {
    let world = World::gateway(&[("cache-control", "max-age=60")]);
    let refused = world.get_with("/a", &[("cache-control", "only-if-cached")]).await;
    assert_eq!((refused.status, refused.status_line()), (504, "fwd=uri-miss; detail=only-if-cached"));
    assert_eq!(world.calls(), 0);
    world.get_with("/a", &[("cache-control", "no-store")]).await;
    assert!(!world.get("/a").await.is_hit());
}

#[tokio::test]
async fn an_immutable_response_is_not_revalidated_for_a_reload() {
    let world = World::gateway(&[("cache-control", "max-age=60, immutable")]);
    world.get("/a").await;
    world.advance(1);
    assert!(world.get_with("/a", &[("cache-control", "max-age=0")]).await.is_hit());
    assert!(!world.get_with("/a", &[("cache-control", "no-cache")]).await.is_hit());
    world.advance(60);
    assert!(!world.get("/a").await.is_hit());
}

/// A stored response with this `Cache-Control`, 10 s past its end, before an origin that then answers `failure`.
async fn after_failure(said: &'static str, asked: &[(&str, &str)], failure: Option<u16>) -> Result<u16, Fault> {
    let world = World::shared(move |call| async move {
        match (call.call, failure) {
            (0, _) => Ok(reply(&[("cache-control", said), ("etag", "\"a\"")], "good")),
            (_, Some(status)) => Ok(reply(&[(":status", &status.to_string())], "bad")),
            (_, None) => Err(Fault("gone")),
        }
    });
    world.get("/a").await;
    world.advance(70);
    let answer = tower::ServiceExt::oneshot(world.service(), world::get("/a", asked)).await?;
    assert!(world.is_quiet().await);
    Ok(answer.status().as_u16())
}

#[tokio::test]
async fn a_stale_answer_stands_in_for_a_failed_origin_unless_it_forbids_that() {
    for failure in [None, Some(502), Some(503), Some(504)] {
        assert_eq!(after_failure("max-age=60", &[], failure).await.expect("stale"), 200, "{failure:?}");
        assert_eq!(
            after_failure("max-age=60, stale-if-error=10", &[], failure).await.map_err(|_| 0).unwrap_or(1),
            failure.unwrap_or(1),
            "its end"
        );
        for forbidden in ["max-age=60, must-revalidate", "max-age=60, proxy-revalidate", "s-maxage=60", "no-cache"] {
            let found = after_failure(forbidden, &[], failure).await.ok();
            assert_eq!(found, failure, "{forbidden}");
        }
    }
    assert_eq!(after_failure("max-age=60", &[], Some(500)).await.expect("no error"), 500);
    assert_eq!(after_failure("max-age=60, stale-if-error=11", &[], Some(500)).await.expect("no error"), 200);
    assert_eq!(after_failure("max-age=60, stale-if-error=10", &[], Some(500)).await.expect("no error"), 500);
    let asked = &[("cache-control", "stale-if-error=10")][..];
    assert_eq!(after_failure("max-age=60", asked, Some(500)).await.expect("no error"), 200);
    assert_eq!(
        after_failure("max-age=60", &[("cache-control", "stale-if-error=9")], Some(500)).await.expect("no error"),
        500
    );
    assert_eq!(after_failure("max-age=60", &[("cache-control", "no-cache")], Some(503)).await.expect("no error"), 503);
}

#[tokio::test]
async fn a_post_answers_a_later_get_only_if_it_says_so() {
    for (fields, stored) in [
        (&[("cache-control", "max-age=60"), ("content-location", "/a")][..], true),
        (&[("cache-control", "max-age=60"), ("content-location", "http://example.com/a")], true),
        (&[("cache-control", "max-age=60"), ("content-location", "/b")], false),
        (&[("cache-control", "max-age=60")], false),
        (&[("last-modified", HOUR_AGO), ("content-location", "/a")], false),
    ] {
        let world = World::gateway(fields);
        world.ask(request("POST", "/a", &[("content-length", "0")])).await;
        assert_eq!(world.get("/a").await.body == "0", stored, "{fields:?}");
        assert_eq!(
            world.ask(request("POST", "/a", &[])).await.body,
            world.calls().saturating_sub(1).to_string(),
            "a POST is always sent"
        );
    }
}

#[tokio::test]
async fn unsafe_methods_invalidate_location_and_content_location_of_the_same_origin() {
    for profile in [Profile::App, Profile::Shared] {
        let world = World::with(
            |b| b.profile(profile),
            |asked| async move {
                let fields: &[_] = match asked.method.as_str() {
                    "GET" => &[("cache-control", "max-age=60")],
                    _ => &[("location", "b?x"), ("content-location", "http://EXAMPLE.com:80/c")],
                };
                Ok(reply(fields, ""))
            },
        );
        for url in ["/a/a", "/a/b?x", "/c", "/d"] {
            world.get(url).await;
        }
        world.ask(request("PURGE-IT", "/a/a", &[])).await;
        for (url, hit) in [("/a/a", false), ("/a/b?x", false), ("/c", false), ("/d", true)] {
            assert_eq!(world.get(url).await.is_hit(), hit, "{url}");
        }
    }
    let world = World::shared(|asked| async move {
        let fields: &[_] = match asked.method.as_str() {
            "GET" => &[("cache-control", "max-age=60")],
            _ => &[("location", "http://victim.example/b"), ("content-location", "//victim.example/b")],
        };
        Ok(reply(fields, ""))
    });
    let victim = &[("host", "victim.example")];
    world.get_with("/b", victim).await;
    world.ask(request("POST", "/b", &[])).await;
    assert!(world.get_with("/b", victim).await.is_hit(), "another origin's entries are safe");
}

#[tokio::test]
async fn a_head_refreshes_or_invalidates_what_get_stored() {
    for (head, expected) in [
        (&[("cache-control", "max-age=1000"), ("etag", "\"a\""), ("x-a", "2")][..], Some("2")),
        (&[("cache-control", "max-age=1000"), ("x-a", "2")], Some("2")),
        (&[("cache-control", "max-age=1000"), ("etag", "\"b\"")], None),
        (&[("cache-control", "max-age=1000"), ("content-length", "9")], None),
        (&[("cache-control", "no-store"), ("etag", "\"a\"")], None),
        (&[(":status", "410"), ("cache-control", "max-age=1000"), ("etag", "\"a\"")], None),
    ] {
        let head: Vec<(String, String)> = head.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        let world = World::shared(move |asked| {
            let head = head.clone();
            async move {
                let fields: Vec<_> = head.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
                Ok(match asked.method.as_str() {
                    "HEAD" => reply(&fields, ""),
                    _ => reply(
                        &[("cache-control", "max-age=10"), ("etag", "\"a\""), ("x-a", "1"), ("content-length", "4")],
                        "body",
                    ),
                })
            }
        });
        world.get("/a").await;
        world.advance(20);
        assert!(!world.ask(request("HEAD", "/a", &[])).await.is_hit(), "written through");
        let got = world.get("/a").await;
        assert_eq!((got.is_hit(), got.body.as_str()), (expected.is_some(), "body"));
        if expected.is_some() {
            assert_eq!(got.header("x-a"), expected);
        }
    }
}

#[tokio::test]
async fn targeted_fields_decide_first_and_are_forwarded_but_for_our_own() {
    let set = |b: tollgate::cache::CacheBuilder| b.profile(Profile::Shared).targeted_field("CDN-Cache-Control");
    for (fields, cached) in [
        (&[("cdn-cache-control", "max-age=60")][..], true),
        (&[("cdn-cache-control", "max-age=60"), ("cache-control", "no-store")], true),
        (&[("cdn-cache-control", "max-age=60"), ("expires", "0")], true),
        (&[("cdn-cache-control", "no-store"), ("cache-control", "max-age=60")], false),
        (&[("cdn-cache-control", "private"), ("cache-control", "max-age=60")], false),
        (&[("cdn-cache-control", "max-age=0"), ("expires", LATER)], false),
        (&[("cdn-cache-control", "max-age=60, &&&&&"), ("cache-control", "no-store")], false),
        (&[("cdn-cache-control", "max-age=\"60\""), ("cache-control", "no-store")], false),
        (&[("cdn-cache-control", "MaX-aGe=60"), ("cache-control", "no-store")], false),
        (&[("cdn-cache-control", ""), ("cache-control", "max-age=60")], true),
        (&[("cdn-cache-control", "max-age=99999999999")], true),
        (&[("cdn-cache-control", "max-age=60"), ("age", "61")], false),
        (&[("cdn-cache-control", "max-age=60"), ("tollgate-cache-control", "no-store")], false),
    ] {
        let fields: Vec<(&'static str, &'static str)> = fields.to_vec();
        let sent = fields.clone();
        let world = World::with(set, move |_| {
            let fields = sent.clone();
            async move { Ok(reply(&fields, "")) }
        });
        let first = world.get("/a").await;
        let second = world.get("/a").await;
        assert_eq!(second.is_hit(), cached, "{:?}", first.headers);
        for got in [first, second] {
            assert!(got.header("tollgate-cache-control").is_none(), "meant for this cache alone");
            let said = fields.iter().find(|(name, _)| *name == "cdn-cache-control").map(|(_, value)| *value);
            assert_eq!(got.header("cdn-cache-control"), said, "RFC 9213 §3: there may be another such cache in front");
        }
    }
    let world = World::with(
        |b| set(b).forward_targeted(false),
        |_| async { Ok(reply(&[("cdn-cache-control", "max-age=60")], "")) },
    );
    world.get("/a").await;
    assert_eq!(world.get("/a").await.header("cdn-cache-control"), None);
}

#[tokio::test]
async fn a_client_condition_is_forwarded_where_nothing_is_stored() {
    let world = World::shared(|asked| async move {
        Ok(match asked.header("if-none-match") {
            Some(_) => reply(&[(":status", "304"), ("etag", "\"a\"")], ""),
            None => reply(&[("cache-control", "max-age=60"), ("etag", "\"a\"")], "body"),
        })
    });
    let first = world.get_with("/a", &[("if-none-match", "\"a\"")]).await;
    assert_eq!(first.status, 304);
    assert_eq!(world.asked()[0].header("if-none-match"), Some("\"a\""));
    assert_eq!(world.get("/a").await.body, "body");
    assert_eq!(world.get_with("/a", &[("if-modified-since", NOW)]).await.status, 304);
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn variants_are_chosen_as_the_fields_mean() {
    let world = World::shared(|asked| async move {
        Ok(reply(
            &[("cache-control", "max-age=60"), ("vary", "Accept-Language"), ("content-language", "de")],
            asked.call.to_string(),
        ))
    });
    let body = async |lang: &str| world.get_with("/a", &[("accept-language", lang)]).await.body;
    assert_eq!(body("en, de").await, "0");
    assert_eq!(body("DE,EN").await, "0");
    assert_eq!(body("fr;q=0.5, de;q=1.0").await, "0", "the best language is the stored one");
    assert_eq!(body("fr, de;q=0.5").await, "1");
    let world = World::gateway(&[("cache-control", "max-age=60"), ("vary", "x-a"), ("vary", "X-B, x-a,")]);
    let body = async |fields: &[(&str, &str)]| world.get_with("/a", fields).await.body;
    assert_eq!(body(&[("x-a", "1, 2")]).await, "0");
    assert_eq!(body(&[("x-a", "1"), ("x-a", "2")]).await, "0");
    assert_eq!(body(&[("x-a", "1,2"), ("x-b", "")]).await, "1");
    assert_eq!(body(&[("x-a", "1 , 2")]).await, "0");
}

#[tokio::test]
async fn refreshing_ahead_and_minimum_uses() {
    use tollgate::cache::{Rule, Rules};
    let world = World::with(
        |b| b.refresh_ahead(0.9),
        |asked| async move { Ok(reply(&[("cache-control", "max-age=100")], asked.call.to_string())) },
    );
    world.get("/a").await;
    world.advance(89);
    assert!(world.get("/a").await.is_hit());
    assert!(world.is_quiet().await);
    assert_eq!(world.calls(), 1);
    world.advance(2);
    assert_eq!(world.get("/a").await.body, "0", "served while it is refreshed");
    assert!(world.is_quiet().await);
    assert_eq!(world.get("/a").await.body, "1");
    let rules = Rules::new().otherwise(Rule::ttl(Duration::from_secs(60)).min_uses(3));
    let world = World::with(|b| b.rules(rules), |_| async { Ok(reply(&[], "")) });
    for expected in [false, false, false, true] {
        assert_eq!(world.get("/a").await.is_hit(), expected);
    }
}

#[tokio::test]
async fn cache_status_can_name_the_resource() {
    let world =
        World::with(|b| b.cache_status_key(true), |_| async { Ok(reply(&[("cache-control", "max-age=60")], "")) });
    world.get("/a?x=1").await;
    assert_eq!(world.get("/a?x=1").await.status_line(), "hit; ttl=60; key=\"http://example.com/a?x=1\"");
}
