//! Revalidation: which 304 updates which stored response (RFC 9111 §4.3.4).

#[path = "support/cache_world.rs"]
mod world;

use world::{World, reply};

const NOW: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

#[tokio::test]
async fn a_304_about_another_representation_freshens_nothing() {
    let world = World::shared(|asked| async move {
        Ok(match asked.call {
            0 => reply(&[("cache-control", "max-age=10"), ("etag", "\"a\"")], "old"),
            1 => reply(&[(":status", "304"), ("cache-control", "max-age=1000"), ("etag", "\"b\"")], ""),
            _ => reply(&[("cache-control", "max-age=10"), ("etag", "\"b\"")], "new"),
        })
    });
    world.get("/a").await;
    world.advance(20);
    assert_eq!(world.get("/a").await.body, "old", "it confirmed the tag we asked about");
    assert_eq!(world.get("/a").await.body, "new", "but is not believed for longer");
    assert!(world.asked()[2].header("if-none-match").is_none());
}

#[tokio::test]
async fn a_304_with_a_strong_tag_does_not_update_an_entry_with_a_weak_one() {
    for (stored, said, updated) in [
        (&[("etag", "W/\"a\"")][..], &[("etag", "\"a\"")][..], false),
        (&[("etag", "W/\"a\"")], &[("etag", "W/\"a\"")], true),
        (&[("etag", "\"a\"")], &[("etag", "W/\"a\"")], true),
        (&[("etag", "\"a\"")], &[("last-modified", NOW)], false),
        (&[("etag", "\"a\"")], &[], true),
        (&[("last-modified", NOW)], &[("etag", "W/\"a\"")], false),
    ] {
        let (stored, said) = (stored.to_vec(), said.to_vec());
        let (first, then) = (stored.clone(), said.clone());
        let world = World::shared(move |asked| {
            let fields = match asked.call {
                0 => [&[("cache-control", "max-age=10")], &first[..]].concat(),
                _ => {
                    [&[(":status", "304"), ("cache-control", "max-age=1000"), ("x-updated", "yes")], &then[..]].concat()
                }
            };
            async move { Ok(reply(&fields, "body")) }
        });
        world.get("/a").await;
        world.advance(20);
        let got = world.get("/a").await;
        assert_eq!((got.status, got.body.as_str()), (200, "body"), "{stored:?} {said:?}");
        assert_eq!(got.header("x-updated").is_some(), updated, "{stored:?} {said:?}");
        let tag =
            |fields: &[(&str, &'static str)]| fields.iter().find(|(name, _)| *name == "etag").map(|(_, tag)| *tag);
        assert_eq!(got.header("etag"), tag(&said).filter(|_| updated).or(tag(&stored)));
    }
}

#[tokio::test]
async fn a_304_that_was_not_asked_for_is_not_sent_to_a_client_without_a_copy() {
    let world = World::shared(|asked| async move {
        Ok(match asked.call {
            0 => reply(&[("cache-control", "max-age=10")], "body"),
            _ => reply(&[(":status", "304"), ("cache-control", "max-age=30")], ""),
        })
    });
    world.get("/a").await;
    world.advance(20);
    let got = world.get("/a").await;
    assert_eq!((got.status, got.body.as_str()), (200, "body"));
    world.advance(20);
    assert!(world.get("/a").await.is_hit(), "it updated the entry");
}
