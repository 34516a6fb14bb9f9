//! An error that one client's own fields provoked is that client's alone.
#[path = "support/cache_world.rs"]
mod world;

use std::time::Duration;

use tollgate::cache::{Profile, Rule, Rules};
use world::{Asked, Reply, World, get, reply};

/// A service that answers these fields with this status, for an hour, and everything else with a page.
fn strict(profile: Profile, field: &'static str, status: &'static str) -> World {
    let rules = Rules::new().otherwise(Rule::from_headers().negative_ttl(Duration::from_secs(600)));
    World::with(
        |b| b.profile(profile).rules(rules),
        move |asked| async move {
            Ok(match asked.header(field) {
                Some(_) => reply(&[(":status", status), ("cache-control", "public, max-age=3600")], "refused"),
                None => reply(&[("cache-control", "no-store")], "page"),
            })
        },
    )
}

#[tokio::test]
async fn an_error_provoked_by_a_range_a_condition_or_an_expectation_is_stored_for_no_one() {
    for (name, value, statuses) in [
        ("range", "bytes=99-", &["416", "400", "403", "404", "500"][..]),
        ("if-none-match", "\"x\"", &["412", "400", "403", "404"]),
        ("if-match", "\"x\"", &["412", "400", "403", "404"]),
        ("if-unmodified-since", "Thu, 01 Jan 2026 00:00:00 GMT", &["412", "404"]),
        ("expect", "100-continue", &["417", "400", "403", "404", "410"]),
    ] {
        for status in statuses {
            for profile in [Profile::Shared, Profile::App] {
                let world = strict(profile, name, status);
                // The second is answered while the cache remembers that the first was not worth waiting for.
                for _ in 0..2 {
                    world.get_with("/a", &[(name, value)]).await;
                }
                let plain = world.get("/a").await;
                assert_eq!((plain.status, plain.body.as_str()), (200, "page"), "{profile:?} {name}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn statuses_that_speak_of_one_request_are_never_stored() {
    for status in ["406", "407", "408", "412", "416", "417", "421", "425", "426", "428", "429", "431", "511"] {
        let world = World::shared(move |asked: Asked| async move {
            Ok(match asked.call {
                0 => reply(&[(":status", status), ("cache-control", "public, max-age=3600")], ""),
                _ => reply(&[], "page"),
            })
        });
        assert_eq!(world.get("/a").await.status.to_string(), status);
        assert_eq!(world.get("/a").await.body, "page", "{status}");
        assert_eq!(world.stats().routes["unmatched"].bypassed["request-specific"], 1);
    }
}

#[tokio::test]
async fn an_error_for_everyone_is_still_kept() {
    for status in ["404", "410", "400", "414", "500", "501"] {
        let world =
            World::shared(
                move |_| async move { Ok(reply(&[(":status", status), ("cache-control", "max-age=60")], "")) },
            );
        for fields in [&[][..], &[("accept-encoding", "gzip, br")], &[("if-none-match", "\"x\"")]] {
            world.get_with("/a", fields).await;
        }
        assert_eq!(world.calls(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_406_does_not_cross_the_classes_of_accept_encoding() {
    let negotiate = |asked: Asked| -> Reply {
        let refused = asked.header("accept-encoding").is_some_and(|accepted| accepted.contains("q=0"));
        let vary = ("vary", "accept-encoding");
        match refused {
            true => reply(
                &[
                    (":status", if asked.path.ends_with('b') { "404" } else { "406" }),
                    ("cache-control", "max-age=600"),
                    vary,
                ],
                "",
            ),
            false => reply(&[("cache-control", "max-age=600"), vary], "page"),
        }
    };
    for profile in [Profile::Shared, Profile::App] {
        let rules = Rules::new().otherwise(Rule::from_headers().negative_ttl(Duration::from_secs(600)));
        let world = World::with(|b| b.profile(profile).rules(rules), move |asked| async move { Ok(negotiate(asked)) });
        for path in ["/a", "/b"] {
            for refusal in ["identity;q=0", "*;q=0", "deflate, *;q=0", "gzip;q=0, identity;q=0"] {
                assert_ne!(world.get_with(path, &[("accept-encoding", refusal)]).await.status, 200);
            }
            assert_eq!(world.get(path).await.body, "page");
            assert_eq!(world.get_with(path, &[("accept-encoding", "deflate")]).await.body, "page");
        }
    }
}

#[tokio::test]
async fn a_restriction_that_cannot_be_read_restricts() {
    for list in ["\"\"", "", "\"a b\"", "\"set-cookie", "\"a;b\"", "\",\""] {
        for directive in ["private", "no-cache"] {
            let value = format!("max-age=600, {directive}={list}");
            let world = World::shared(move |asked: Asked| {
                let value = value.clone();
                async move { Ok(reply(&[("cache-control", &value)], asked.call.to_string())) }
            });
            world.get("/a").await;
            assert_eq!(world.get("/a").await.body, "1", "{directive}={list}");
        }
    }
    let world = World::gateway(&[("cache-control", "max-age=600, private=\"x-name\""), ("x-name", "alice")]);
    world.get("/a").await;
    let hit = world.ask(get("/a", &[])).await;
    assert!(hit.is_hit() && hit.header("x-name").is_none(), "a list that can be read strips its fields");
}
