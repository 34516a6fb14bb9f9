//! Parts of representations: served from what is stored, stored, joined, completed, and never a wrong byte.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/cache_world.rs"]
mod world;

use proptest::prelude::*;
use world::{Fault, Got, World, reply};

const DIGITS: &str = "0123456789";

/// An origin of ten digits that serves ranges as it should, under this tag.
fn ranged(etag: &'static str) -> World {
    World::shared(move |asked| async move {
        let fields = [("cache-control", "max-age=60"), ("etag", etag), ("content-type", "text/plain")];
        let Some(wanted) = asked.header("range").filter(|_| asked.header("if-range").is_none_or(|tag| tag == etag))
        else {
            return Ok(reply(&fields, DIGITS));
        };
        let (first, last) = wanted.strip_prefix("bytes=").expect("bytes").split_once('-').expect("a range");
        let (start, end) = match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) => (first, (last + 1).min(10)),
            (Ok(first), Err(_)) => (first, 10),
            (Err(_), Ok(suffix)) => (10 - suffix.min(10), 10),
            _ => (0, 10),
        };
        let range = format!("bytes {start}-{}/10", end - 1);
        let fields = [fields[0], fields[1], fields[2], (":status", "206"), ("content-range", range.as_str())];
        Ok(reply(&fields, &DIGITS[start..end]))
    })
}

async fn part(world: &World, range: &str) -> Got {
    world.get_with("/a", &[("range", range)]).await
}

#[tokio::test]
async fn a_complete_entry_answers_every_kind_of_range() {
    let world = ranged("\"a\"");
    world.get("/a").await;
    for (range, body, content_range) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=8-100", "89", "bytes 8-9/10"),
    ] {
        let got = part(&world, range).await;
        assert_eq!((got.status, got.body.as_str(), got.header("content-range")), (206, body, Some(content_range)));
        assert_eq!(got.header("content-length"), Some(body.len().to_string().as_str()));
        assert!(got.is_hit() && got.header("etag").is_some() && got.header("date").is_some());
    }
    let none = part(&world, "bytes=10-").await;
    assert_eq!((none.status, none.header("content-range"), none.body.as_str()), (416, Some("bytes */10"), ""));
    for ignored in ["bytes=3-2", "lines=0-1", "bytes=", "bytes=0-9,0-9", "nonsense"] {
        let got = part(&world, ignored).await;
        assert_eq!((got.status, got.body.as_str()), (200, DIGITS), "{ignored}");
    }
    let head = world.ask(world::request("HEAD", "/a", &[("range", "bytes=0-0")])).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    assert_eq!(world.calls(), 1);
}

#[tokio::test]
async fn several_ranges_come_as_multipart() {
    let world = ranged("\"a\"");
    world.get("/a").await;
    let got = part(&world, "bytes=0-1, 5-5,-1").await;
    assert_eq!(got.status, 206);
    let boundary = got
        .header("content-type")
        .and_then(|kind| kind.strip_prefix("multipart/byteranges; boundary="))
        .expect("multipart");
    let parts: Vec<_> = [("0-1", "01"), ("5-5", "5"), ("9-9", "9")]
        .iter()
        .map(|(span, bytes)| {
            format!("\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {span}/10\r\n\r\n{bytes}")
        })
        .collect();
    assert_eq!(got.body, format!("{}\r\n--{boundary}--\r\n", parts.concat()));
    assert_eq!(got.header("content-length"), Some(got.body.len().to_string().as_str()));
    assert!(got.header("content-range").is_none());
}

#[tokio::test]
async fn a_multipart_response_does_not_repeat_a_content_range_that_was_stored() {
    let world = World::shared(|_| async {
        Ok(reply(&[("cache-control", "max-age=60"), ("content-range", "bytes 0-9/10")], DIGITS))
    });
    world.get("/a").await;
    let got = part(&world, "bytes=0-1, 5-5").await;
    assert_eq!((got.status, got.header("content-range")), (206, None));
    assert_eq!(part(&world, "bytes=0-1").await.header("content-range"), Some("bytes 0-1/10"));
}

#[tokio::test]
async fn if_range_of_both_kinds_guards_a_range() {
    let world = ranged("\"a\"");
    world.get("/a").await;
    for (condition, status) in
        [("\"a\"", 206), ("\"b\"", 200), ("W/\"a\"", 200), ("Thu, 01 Jan 2026 00:00:00 GMT", 200)]
    {
        let got = world.get_with("/a", &[("range", "bytes=0-0"), ("if-range", condition)]).await;
        assert_eq!((got.status, got.is_hit()), (status, true), "{condition}");
    }
    let both = world.get_with("/a", &[("range", "bytes=0-0"), ("if-none-match", "\"a\"")]).await;
    assert_eq!(both.status, 304, "the condition comes first");
}

#[tokio::test]
async fn a_part_is_stored_and_answers_what_lies_within_it() {
    let world = ranged("\"a\"");
    assert_eq!(part(&world, "bytes=4-8").await.body, "45678");
    for (range, body) in [("bytes=4-8", "45678"), ("bytes=6-7", "67"), ("bytes=4-4", "4")] {
        let got = part(&world, range).await;
        assert_eq!((got.status, got.body.as_str(), got.is_hit()), (206, body, true), "{range}");
    }
    let outside = part(&world, "bytes=3-4").await;
    assert_eq!((outside.body.as_str(), outside.status_line()), ("34", "fwd=partial; stored"));
    let gone = part(&world, "bytes=10-").await;
    assert_eq!((gone.status, gone.is_hit()), (416, true), "the length is known");
}

#[tokio::test]
async fn parts_that_touch_are_joined_under_one_strong_tag() {
    let world = ranged("\"a\"");
    for range in ["bytes=4-6", "bytes=6-8", "bytes=2-3"] {
        part(&world, range).await;
    }
    let got = part(&world, "bytes=2-8").await;
    assert_eq!((got.body.as_str(), got.is_hit()), ("2345678", true));
    part(&world, "bytes=0-1").await;
    part(&world, "bytes=-1").await;
    let whole = world.get("/a").await;
    assert_eq!((whole.status, whole.body.as_str(), whole.is_hit()), (200, DIGITS, true));
    assert_eq!(whole.header("content-length"), Some("10"));
    let weak = ranged("W/\"a\"");
    part(&weak, "bytes=0-4").await;
    part(&weak, "bytes=5-9").await;
    assert!(!part(&weak, "bytes=4-5").await.is_hit(), "weak tags join nothing");
}

#[tokio::test]
async fn a_beginning_is_completed_by_fetching_the_rest() {
    let world = ranged("\"a\"");
    part(&world, "bytes=0-4").await;
    let whole = world.get("/a").await;
    assert_eq!((whole.status, whole.body.as_str()), (200, DIGITS));
    assert!(whole.header("content-range").is_none());
    let asked = world.asked();
    assert_eq!((asked[1].header("range"), asked[1].header("if-range")), (Some("bytes=5-"), Some("\"a\"")));
    assert!(world.get("/a").await.is_hit());
    assert_eq!(part(&world, "bytes=3-6").await.body, "3456");
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn a_representation_that_changed_is_not_completed() {
    let world = World::shared(|asked| async move {
        Ok(match asked.call {
            0 => reply(
                &[
                    (":status", "206"),
                    ("cache-control", "max-age=60"),
                    ("etag", "\"a\""),
                    ("content-range", "bytes 0-4/10"),
                ],
                "01234",
            ),
            _ => reply(&[("cache-control", "max-age=60"), ("etag", "\"b\"")], "abcdefghij"),
        })
    });
    part(&world, "bytes=0-4").await;
    assert_eq!(world.get("/a").await.body, "abcdefghij");
    assert_eq!(part(&world, "bytes=0-4").await.body, "abcde");
}

#[tokio::test]
async fn a_completion_that_fails_in_any_way_becomes_one_plain_request() {
    let part_of = |etag: &'static str, range: &'static str, body: &'static str| {
        let fields = [(":status", "206"), ("cache-control", "max-age=60"), ("etag", etag), ("content-range", range)];
        reply(&fields, body)
    };
    for failure in 0..7 {
        let world = World::shared(move |asked| async move {
            match (asked.call, failure) {
                (0, _) => Ok(part_of("\"a\"", "bytes 0-4/10", "01234")),
                (1, 0) => Err(Fault("refused")),
                (1, 1) => Ok(reply(&[(":status", "503")], "")),
                (1, 2) => Ok(reply(&[(":status", "416"), ("content-range", "bytes */10")], "")),
                (1, 3) => Ok(reply(&[(":status", "304"), ("etag", "\"a\"")], "")),
                (1, 4) => Ok(part_of("\"b\"", "bytes 5-9/10", "fghij")),
                (1, 5) => Ok(part_of("\"a\"", "bytes 4-9/10", "456789")),
                (1, 6) => Ok(reply(&[(":status", "206"), ("etag", "\"a\"")], "56789")),
                _ => Ok(reply(&[("cache-control", "max-age=60"), ("etag", "\"a\"")], DIGITS)),
            }
        });
        part(&world, "bytes=0-4").await;
        let whole = world.get("/a").await;
        assert_eq!((whole.status, whole.body.as_str()), (200, DIGITS), "failure {failure}");
        let asked = world.asked();
        assert_eq!((asked.len(), asked[1].header("range"), asked[2].header("range")), (3, Some("bytes=5-"), None));
        assert!(asked[2].header("if-range").is_none());
        assert!(world.get("/a").await.is_hit(), "failure {failure}");
    }
    // A second failure is the client's to see.
    let world = World::shared(move |asked| async move {
        match asked.call {
            0 => Ok(part_of("\"a\"", "bytes 0-4/10", "01234")),
            _ => Ok(reply(&[(":status", "503")], "down")),
        }
    });
    part(&world, "bytes=0-4").await;
    assert_eq!((world.get("/a").await.status, world.calls()), (503, 3));
}

#[tokio::test]
async fn a_beginning_is_completed_only_where_an_empty_body_can_be_made() {
    use tollgate::cache::{CacheLayer, Profile};
    use tower::{Layer, ServiceExt};

    for known in [false, true] {
        let builder = CacheLayer::builder().profile(Profile::Shared);
        let builder = if known { builder.empty_body(String::new) } else { builder };
        let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = asked.clone();
        let origin = tower::service_fn(move |request: http::Request<String>| {
            let range = request.headers().get("range").map(|range| range.to_str().expect("text").to_owned());
            log.lock().expect("no panic").push(range.clone());
            let response = http::Response::builder().header("cache-control", "max-age=60").header("etag", "\"a\"");
            let response = match range.as_deref() {
                Some("bytes=0-4") => response.status(206).header("content-range", "bytes 0-4/10").body(&DIGITS[..5]),
                Some(_) => response.status(206).header("content-range", "bytes 5-9/10").body(&DIGITS[5..]),
                None => response.body(DIGITS),
            };
            async move { Ok::<_, std::convert::Infallible>(response.expect("a response").map(str::to_owned)) }
        });
        let service = builder.build().expect("a layer").layer(origin);
        let request = |range: Option<&str>| {
            let request = http::Request::get("/a").header("host", "example.com");
            let request = range.into_iter().fold(request, |request, range| request.header("range", range));
            request.body(String::new()).expect("a request")
        };
        for range in [Some("bytes=0-4"), None] {
            let response = service.clone().oneshot(request(range)).await.expect("infallible");
            let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
            assert_eq!(body, if range.is_some() { &DIGITS[..5] } else { DIGITS });
        }
        let second = if known { Some("bytes=5-".to_owned()) } else { None };
        assert_eq!(*asked.lock().expect("no panic"), [Some("bytes=0-4".to_owned()), second]);
    }
}

#[tokio::test]
async fn a_part_that_is_not_what_it_says_is_not_stored() {
    for (content_range, body) in [
        ("bytes 4-9/10", "01234"),
        ("bytes 4-10/10", "0123456"),
        ("bytes */10", ""),
        ("bytes 0-4/*", "01234"),
        ("bytes 4-3/10", ""),
    ] {
        let world = World::shared(move |_| async move {
            Ok(reply(
                &[
                    (":status", "206"),
                    ("cache-control", "max-age=60"),
                    ("etag", "\"a\""),
                    ("content-range", content_range),
                ],
                body,
            ))
        });
        part(&world, "bytes=4-8").await;
        assert!(!part(&world, "bytes=4-8").await.is_hit(), "{content_range}");
    }
    let world = World::shared(|_| async {
        Ok(reply(
            &[
                (":status", "206"),
                ("cache-control", "max-age=60"),
                ("content-type", "multipart/byteranges; boundary=x"),
            ],
            "--x--",
        ))
    });
    part(&world, "bytes=0-1,4-5").await;
    assert!(!part(&world, "bytes=0-1,4-5").await.is_hit());
}

#[tokio::test]
async fn a_part_never_replaces_a_fresh_whole() {
    let world = ranged("\"a\"");
    world.get("/a").await;
    world.get_with("/a", &[("range", "bytes=0-1"), ("cache-control", "no-cache")]).await;
    assert!(world.get("/a").await.is_hit());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_sequence_of_ranges_yields_a_wrong_byte(
        ranges in proptest::collection::vec((0_usize..12, 0_usize..12, 0_u8..4, 0_u64..40), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let world = ranged("\"a\"");
            for (a, b, kind, wait) in ranges {
                let (first, last) = (a.min(b), a.max(b));
                let range = match kind {
                    0 => format!("bytes={first}-{last}"),
                    1 => format!("bytes={first}-"),
                    2 => format!("bytes=-{}", last.max(1)),
                    _ => String::new(),
                };
                let (start, end) = match kind {
                    0 => (first, (last + 1).min(10)),
                    1 => (first, 10),
                    2 => (10 - last.clamp(1, 10), 10),
                    _ => (0, 10),
                };
                // The scripted origin knows no 416.
                if start >= end {
                    continue;
                }
                let got = if range.is_empty() { world.get("/a").await } else { part(&world, &range).await };
                match got.status {
                    200 => assert_eq!(got.body, DIGITS, "{range}"),
                    status => assert_eq!((status, got.body.as_str()), (206, &DIGITS[start..end]), "{range}"),
                }
                world.advance(wait);
            }
        });
    }
}
