//! Tags with the parameters of a route, and write routes that say what they invalidate.

#[path = "support/cache_world.rs"]
mod world;

use std::time::Duration;

use tollgate::cache::{Rule, Rules};
use world::{Asked, Fault, World, reply, request};

fn articles(answer: fn(&Asked) -> Result<&'static str, Fault>) -> World {
    let minute = Duration::from_secs(60);
    let rules = Rules::new()
        .route("/articles", Rule::ttl(minute).tag("articles").invalidates(["articles"]))
        .route("/articles/{id}", Rule::ttl(minute).tag("article:{id}").invalidates(["articles", "article:{id}"]))
        .route("/articles/{id}/comments", Rule::ttl(minute).tag("article:{id}"))
        .route("/other", Rule::ttl(minute).tag("other"));
    World::with(
        |builder| builder.rules(rules).routes(["/articles", "/articles/{id}", "/articles/{id}/comments", "/other"]),
        move |asked: Asked| async move {
            let status = answer(&asked)?;
            Ok(reply(&[(":status", status)], asked.call.to_string()))
        },
    )
}

async fn fill(world: &World) -> [&'static str; 6] {
    let all = ["/articles", "/articles/7", "/articles/8", "/articles/7/comments", "/articles/8/comments", "/other"];
    for path in all {
        world.get(path).await;
        assert!(world.get(path).await.is_hit(), "{path}");
    }
    all
}

async fn gone(world: &World, all: [&'static str; 6]) -> Vec<&'static str> {
    let mut gone = Vec::new();
    for path in all {
        if !world.get(path).await.is_hit() {
            gone.push(path);
        }
    }
    gone
}

#[tokio::test]
async fn a_write_invalidates_what_its_route_says_with_its_parameters() {
    for (method, path, expected) in [
        ("POST", "/articles", vec!["/articles"]),
        ("PUT", "/articles/7", vec!["/articles", "/articles/7", "/articles/7/comments"]),
        ("DELETE", "/articles/%37", vec!["/articles", "/articles/7", "/articles/7/comments"]),
        ("PUT", "/articles/9", vec!["/articles"]),
        ("POST", "/other", vec!["/other"]),
        ("OPTIONS", "/articles/7", vec![]),
    ] {
        let world = articles(|_| Ok("200"));
        let all = fill(&world).await;
        world.ask(request(method, path, &[])).await;
        assert_eq!(gone(&world, all).await, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn a_write_that_failed_invalidates_nothing_and_one_without_an_answer_does() {
    let world = articles(|asked| if asked.method == "PUT" { Ok("422") } else { Ok("200") });
    let all = fill(&world).await;
    world.ask(request("PUT", "/articles/7", &[])).await;
    assert!(gone(&world, all).await.is_empty());
    let world = articles(|asked| if asked.method == "PUT" { Err(Fault("cut off")) } else { Ok("200") });
    let all = fill(&world).await;
    let sent = tower::ServiceExt::oneshot(world.service(), request("PUT", "/articles/7", &[])).await;
    assert!(sent.is_err());
    assert_eq!(gone(&world, all).await, ["/articles", "/articles/7", "/articles/7/comments"]);
}

#[tokio::test]
async fn a_tag_is_filled_for_each_entry() {
    let world = articles(|_| Ok("200"));
    let all = fill(&world).await;
    world.layer.invalidate().tag("article:8").await.expect("here");
    assert_eq!(gone(&world, all).await, ["/articles/8", "/articles/8/comments"]);
}
