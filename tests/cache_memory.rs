//! Memory stays within its bound, by what is really allocated. Its own binary and one test, so that the process's memory is
//! the cache's.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/cache_world.rs"]
mod world;

use std::alloc::System;
use std::time::Duration;

use bytes::Bytes;
use cap::Cap;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tollgate::cache::Profile;
use world::{Asked, World, get, reply};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

const MIB: usize = 1 << 20;
/// Of entries, and as much again of bodies outside the store.
const BOUND: usize = 8 * MIB;
const HOUR: (&str, &str) = ("cache-control", "max-age=3600");

/// A service whose paths say what it answers.
async fn answer(asked: Asked) -> Result<world::Reply, world::Fault> {
    let path = asked.path.as_str();
    if path.starts_with("/crumbs") {
        // A fifth of a megabyte in crumbs of 16 bytes: each is an allocation of the service's own.
        let crumbs = stream::unfold(0, |n| async move {
            if n % 64 == 0 {
                tokio::task::yield_now().await;
            }
            (n < 12_500).then(|| (Ok(Frame::data(Bytes::from(vec![7_u8; 16]))), n + 1))
        });
        let mut response = reply(&[HOUR], "");
        *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(crumbs));
        return Ok(response);
    }
    if path.starts_with("/ranges") {
        let size = 900_000_usize;
        let range = asked.header("range").and_then(|range| range.strip_prefix("bytes=")).expect("a range");
        let (from, to) = range.split_once('-').expect("a range");
        let (from, to): (usize, usize) = (from.parse().expect("a number"), to.parse().expect("a number"));
        let described = format!("bytes {from}-{to}/{size}");
        let fields = [(":status", "206"), HOUR, ("etag", "\"a\""), ("content-range", described.as_str())];
        return Ok(reply(&fields, vec![1; to - from + 1]));
    }
    if path.starts_with("/stalls") {
        let body = stream::iter([Ok(Frame::data(Bytes::from(vec![1; 1000])))]);
        let mut response = reply(&[HOUR, ("content-length", "1000000")], "");
        let body = futures_util::StreamExt::chain(body, stream::pending());
        *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(body));
        return Ok(response);
    }
    if path.starts_with("/large") {
        // Made as it is read: what is not read takes no memory of the service's.
        let pieces = stream::iter((0..16).map(|_| Ok(Frame::data(Bytes::from(vec![7; 60_000])))));
        let mut response = reply(&[HOUR, ("content-length", "960000")], "");
        *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(pieces));
        return Ok(response);
    }
    Ok(reply(&[HOUR], vec![7; 2_000]))
}

/// The most that was allocated while `work` ran, beyond what was before; looked at whenever it waits.
async fn most<F: Future<Output = ()>>(work: F) -> usize {
    let (before, mut most) = (MEMORY.allocated(), 0);
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| {
        let polled = work.as_mut().poll(cx);
        most = most.max(MEMORY.allocated().saturating_sub(before));
        polled
    })
    .await;
    most
}

fn world(profile: Profile) -> World {
    World::with(|b| b.profile(profile).memory(BOUND as u64).max_entry(MIB as u64), answer)
}

/// Bodies of that kind which no one reads.
async fn unread(world: &World, kind: &str, bodies: usize) {
    let mut unread = Vec::new();
    for n in 0..bodies {
        unread.push(world.send(get(&format!("/{kind}/{n}"), &[])).await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(world.stats().routes["unmatched"].bypassed["no-room"] > 0, "their clients get them as they come");
}

/// Hits that no one reads, of entries that are evicted by those that come after.
async fn unread_hits(world: &World) {
    let mut unread = Vec::new();
    for n in 0..40 {
        world.get(&format!("/large/{n}")).await;
        let hit = world.send(get(&format!("/large/{n}"), &[])).await;
        if hit.headers()["cache-status"].to_str().expect("text").contains("hit") {
            unread.push(hit);
        }
    }
    assert!((8..=16).contains(&unread.len()), "beyond the bound nothing is stored: {}", unread.len());
}

async fn overlapping_ranges(world: &World) {
    for n in 0..2_000_usize {
        let from = (n * 7_919) % 700_000;
        world.get_with("/ranges", &[("range", &format!("bytes={from}-{}", from + 100_000))]).await;
    }
    assert!(world.is_quiet().await, "{:?}", world.stats());
}

/// No more is allocated than entries, bodies, and an eighth for keys, tasks, and the store's own lists.
fn within(what: &str, most: usize) {
    let bound = 2 * BOUND + BOUND / 8 + 2 * MIB;
    assert!(most <= bound, "{what}: {most} bytes of {bound}");
}

#[tokio::test(start_paused = true)]
async fn whatever_clients_do_no_more_is_allocated_than_the_bound_says() {
    for profile in [Profile::App, Profile::Shared] {
        within("bodies in small chunks", most(unread(&world(profile), "crumbs", 100)).await);
        within("large bodies", most(unread(&world(profile), "large", 100)).await);
        within("hits", most(unread_hits(&world(profile))).await);
        let stalled = world(profile);
        let abandoned = async {
            for n in 0..3_000 {
                drop(stalled.send(get(&format!("/stalls/{n}"), &[])).await);
            }
        };
        within("stalled bodies whose clients left", most(abandoned).await);
        let small = world(profile);
        let flood = async {
            for n in 0..20_000 {
                small.get(&format!("/small/{n}")).await;
            }
        };
        within("a flood of small entries", most(flood).await);
    }
    within("overlapping ranges of one object", most(overlapping_ranges(&world(Profile::Shared))).await);
}
