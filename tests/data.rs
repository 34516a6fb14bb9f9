//! Typed values: what is kept, for how long, under which key, and how it is taken back.
#![expect(clippy::disallowed_methods, reason = "a paused clock is read")]

#[path = "support/data_world.rs"]
mod data_world;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_world::{Fault, World, seconds};
use serde::{Deserialize, Serialize};
use tollgate::cache::{CacheLayer, Cached, DataCache, LoadError, Loaded};
use tollgate::store::memory::MemoryCache;
use tollgate::{Clock, Event, ManualClock, Mode};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Price {
    symbol: String,
    cents: u64,
}

#[tokio::test]
async fn a_fresh_value_is_shared_and_neither_loaded_nor_cloned_again() {
    let world = World::new(|space| space.ttl(seconds(60)));
    let first = world.load("a").await.expect("loaded");
    world.clock.advance(seconds(59));
    let second = world.load("a").await.expect("there");
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(world.loads("a"), 1);
    world.clock.advance(seconds(1));
    assert_eq!((*world.load("a").await.expect("loaded"), world.loads("a")), (2, 2));
}

#[tokio::test]
async fn nothing_zero_and_empty_are_values_like_any_other() {
    let data = DataCache::in_memory(1 << 20);
    let perhaps: Cached<Option<u64>> = data.cached("perhaps").build().expect("a namespace");
    let texts: Cached<String> = data.cached("texts").build().expect("a namespace");
    for _ in 0..2 {
        let none = perhaps.get_or_load("none", || async { Ok::<_, Infallible>(None) }).await.expect("infallible");
        let zero = perhaps.get_or_load("zero", || async { Ok::<_, Infallible>(Some(0)) }).await.expect("infallible");
        let empty = texts.get_or_load("", || async { Ok::<_, Infallible>(String::new()) }).await.expect("infallible");
        assert_eq!((*none, *zero, empty.as_str()), (None, Some(0), ""));
    }
    assert_eq!((perhaps.stats().loads, texts.stats().loads), (2, 1));
    assert_eq!((perhaps.stats().hits, perhaps.stats().hit_ratio), (2, 0.5));
}

#[tokio::test]
async fn the_load_says_how_long_and_by_which_tags() {
    let world = World::new(|space| space.ttl(seconds(60)));
    let cached = &world.cached;
    let load = |ttl| move || async move { Ok::<_, Fault>(Loaded::new(1).ttl(ttl).tag("short")) };
    cached.get_or_load("a", load(seconds(5))).await.expect("loaded");
    world.clock.advance(seconds(4));
    assert!(cached.get("a").await.is_some());
    world.clock.advance(seconds(1));
    assert!(cached.get("a").await.is_none());
    cached.get_or_load("a", load(seconds(5))).await.expect("loaded");
    cached.invalidate().tag("short").await.expect("here");
    assert!(cached.get("a").await.is_none());
    // Not at all.
    cached.get_or_load("b", load(Duration::ZERO)).await.expect("loaded");
    assert!(cached.get("b").await.is_none());
    // A tag that nobody could take it back by.
    cached.get_or_load("c", || async { Ok::<_, Fault>(Loaded::new(1).tag("two words")) }).await.expect("loaded");
    assert!(cached.get("c").await.is_none());
    assert!(
        cached.put("c", Loaded::new(1).tag("two words")).await.expect_err("a tag").to_string().contains("two words")
    );
    assert!(cached.put("c", Loaded::new(1).ttl(Duration::ZERO)).await.is_err());
}

#[tokio::test]
async fn values_are_taken_back_by_key_prefix_tag_and_namespace() {
    let data = DataCache::in_memory(1 << 20);
    let users: Cached<u64> = data.cached("users").tag("people").build().expect("a namespace");
    let others: Cached<u64> = data.cached("others").build().expect("a namespace");
    let fill = async || {
        for key in [("user", 7, "a"), ("user", 7, "b"), ("user", 70, "a")] {
            users.put(key, 1_u64).await.expect("kept");
            others.put(key, 2_u64).await.expect("kept");
        }
    };
    let there = async || {
        let keys = [("user", 7, "a"), ("user", 7, "b"), ("user", 70, "a")];
        users.get_many(keys).await.iter().map(Option::is_some).collect::<Vec<_>>()
    };
    fill().await;
    assert_eq!(there().await, [true, true, true]);
    users.invalidate().key(("user", 7, "a")).await.expect("here");
    assert_eq!(there().await, [false, true, true]);
    fill().await;
    users.invalidate().prefix(("user", 7)).await.expect("here");
    assert_eq!(there().await, [false, false, true]);
    fill().await;
    users.invalidate().prefix(("us",)).await.expect("here");
    assert_eq!(there().await, [true, true, true], "a part of a part is no beginning");
    users.invalidate().tag("people").await.expect("here");
    assert_eq!(there().await, [false, false, false]);
    fill().await;
    users.invalidate().all().await.expect("here");
    assert_eq!(there().await, [false, false, false]);
    assert_eq!(others.get(("user", 7, "a")).await.as_deref(), Some(&2), "another namespace keeps its own");
    fill().await;
    users.remove(("user", 70, "a")).await.expect("here");
    assert_eq!(there().await, [true, true, false]);
}

#[tokio::test]
async fn responses_and_values_of_one_store_go_by_the_same_tags_and_never_by_each_others_urls() {
    let layer = CacheLayer::in_memory(1 << 20);
    let prices: Cached<u64> = layer.data().cached("prices").tag("prices").build().expect("a namespace");
    assert!(layer.data().cached::<u8>("prices").build().is_err(), "one place for names");
    prices.put("/prices/ACME", 1_u64).await.expect("kept");
    for url in ["/prices/ACME", "http://prices/prices/ACME", "prices:80/"] {
        layer.invalidate().key(url).await.expect("here");
    }
    for prefix in ["/", "prices:80", "http://prices/"] {
        layer.invalidate().prefix(prefix).await.expect("here");
    }
    assert!(prices.get("/prices/ACME").await.is_some());
    layer.invalidate().tag("prices").await.expect("here");
    assert!(prices.get("/prices/ACME").await.is_none());
    let stats = layer.stats();
    assert_eq!((stats.levels[0].capacity_bytes, &*stats.data[0].name, stats.data[0].hits), (1 << 20, "prices", 1));
}

#[tokio::test]
async fn marked_stale_a_value_is_served_while_it_is_refreshed() {
    let world = World::new(|space| space.ttl(seconds(60)).stale_while_revalidate(seconds(60)));
    world.load("a").await.expect("loaded");
    world.cached.invalidate().soft().all().await.expect("here");
    assert_eq!(*world.load("a").await.expect("stale"), 1);
    world.quiet().await;
    assert_eq!((*world.load("a").await.expect("refreshed"), world.loads("a")), (2, 2));
    assert_eq!((world.stats().stale, world.stats().hits), (1, 1));
}

#[tokio::test]
async fn many_are_looked_up_at_once_and_only_the_missing_are_loaded() {
    let world = World::new(|space| space.ttl(seconds(60)));
    world.load("b").await.expect("loaded");
    let loader = world.loader();
    let found = world.cached.get_or_load_many(["a", "b", "a", "fails"], loader).await;
    let values: Vec<_> = found.iter().map(|found| found.as_ref().map(|value| **value).ok()).collect();
    assert_eq!(values, [Some(1), Some(1), Some(1), None]);
    assert!(matches!(found[3], Err(LoadError::Failed(_))));
    assert_eq!((world.loads("a"), world.loads("b"), world.loads("fails")), (1, 1, 1));
    let there: Vec<_> = world.cached.get_many(["fails", "b", "a"]).await.iter().map(Option::is_some).collect();
    assert_eq!(there, [false, true, true]);
    world.cached.put_many([("x", 10_u64), ("y", 20)]).await.expect("kept");
    assert_eq!(world.cached.get("y").await.as_deref(), Some(&20));
}

#[tokio::test]
async fn a_store_behind_is_asked_once_for_many_and_its_values_are_read_once() {
    let far = Arc::new(data_world::Counted::new(MemoryCache::new(1 << 20)));
    let make = |version| {
        let data = DataCache::builder().level_2(far.clone()).build();
        data.cached::<Price>("prices").version(version).build().expect("a namespace")
    };
    let (writer, reader) = (make(1), make(1));
    let price = |n: u64| Price { symbol: format!("S{n}"), cents: n };
    writer.put_many((0..100_u64).map(|n| (n, price(n)))).await.expect("kept");
    let before = far.calls();
    let found = reader.get_many(0..100_u64).await;
    assert_eq!(far.calls() - before, 1, "one round trip");
    assert!(found.iter().zip(0..).all(|(found, n)| found.as_deref() == Some(&price(n))));
    let again = reader.get_many(0..100_u64).await;
    assert_eq!(far.calls() - before, 1, "copies are near");
    assert!(found.iter().flatten().zip(again.iter().flatten()).all(|(a, b)| Arc::ptr_eq(a, b)), "read once");
    // Another version, another type: misses, counted, and loaded anew.
    let other = make(2);
    assert_eq!(other.get(1).await, None);
    let data = DataCache::builder().level_2(far.clone()).build();
    let numbers: Cached<(String, u64)> = data.cached("prices").version(1).build().expect("a namespace");
    assert_eq!(numbers.get(1).await, None);
    assert_eq!((other.stats().decode_errors, numbers.stats().decode_errors), (1, 1));
}

#[tokio::test]
async fn a_value_that_cannot_be_encoded_is_kept_and_shared_in_this_process_only() {
    #[derive(Debug)]
    struct Opaque;

    impl Serialize for Opaque {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("a handle of this process"))
        }
    }

    impl<'de> Deserialize<'de> for Opaque {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Ok(Self)
        }
    }

    let warnings = Arc::new(Mutex::new(Vec::new()));
    let seen = warnings.clone();
    let data = DataCache::builder()
        .level_2(Arc::new(MemoryCache::new(1 << 20)))
        .hook(move |event| {
            if let Event::Warning { code, message } = event {
                seen.lock().expect("no panic").push((code.to_owned(), message.to_string()));
            }
        })
        .build();
    let cached: Cached<Opaque> = data.cached("handles").build().expect("a namespace");
    let load = || async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok::<_, Infallible>(Opaque)
    };
    let (one, two) = tokio::join!(cached.get_or_load(1, load), cached.get_or_load(1, load));
    assert!(Arc::ptr_eq(&one.expect("loaded"), &two.expect("shared")));
    assert!(cached.get(1).await.is_some(), "kept");
    assert!(cached.get_or_load(2, load).await.is_ok());
    let error = cached.put(3, Opaque).await.expect_err("other processes could not see it");
    assert!(error.to_string().contains("handles"), "{error}");
    assert!(cached.get(3).await.is_none());
    let stats = cached.stats();
    assert_eq!((stats.loads, stats.collapsed, stats.encode_errors, stats.decode_errors), (2, 1, 3, 0));
    let warnings = warnings.lock().expect("no panic");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].1.contains("handles") && warnings[0].1.contains("a handle of this process"), "{warnings:?}");
}

#[tokio::test]
async fn putting_what_does_not_fit_is_an_error_and_leaves_the_old_value() {
    for level_2 in [false, true] {
        let data = match level_2 {
            true => DataCache::builder().memory(1 << 20).level_2(Arc::new(MemoryCache::new(1 << 20))).build(),
            false => DataCache::in_memory(1 << 20),
        };
        let cached: Cached<Vec<u8>> = data.cached("blobs").build().expect("a namespace");
        cached.put(1, vec![1; 10]).await.expect("kept");
        let error = cached.put(1, vec![2; 2 << 20]).await.expect_err("larger than memory");
        assert!(error.is_store() && error.to_string().contains("1048576"), "{error}");
        assert_eq!(cached.get(1).await.as_deref(), Some(&vec![1; 10]));
        // A load is returned all the same.
        let loaded = cached.get_or_load(2, || async { Ok::<_, Infallible>(vec![3; 2 << 20]) }).await.expect("loaded");
        assert_eq!(loaded.len(), 2 << 20);
        assert!(cached.get(2).await.is_none());
    }
}

#[tokio::test]
async fn memory_is_bounded_by_what_values_weigh() {
    let data = DataCache::in_memory(1 << 20);
    let large: Cached<Vec<u8>> = data.cached("large").weigher(Vec::len).build().expect("a namespace");
    for n in 0..100 {
        large.put(n, vec![0; 100_000]).await.expect("kept");
    }
    let level = &data.levels()[0];
    assert!(level.bytes <= 1 << 20 && level.entries >= 5, "{level:?}");
}

#[tokio::test]
async fn a_store_that_fails_costs_a_load_and_no_error() {
    use tollgate::testing::{Faulty, InjectedFault};
    for does in [InjectedFault::Err, InjectedFault::WrongAnswer, InjectedFault::Panic, InjectedFault::PanicOnPoll] {
        let store = Arc::new(Faulty::new(MemoryCache::new(1 << 20)));
        let data = DataCache::builder().store(store.clone()).build();
        let cached: Cached<u64> = data.cached("space").build().expect("a namespace");
        cached.put("other", 7_u64).await.expect("kept");
        store.inject(does);
        for n in 0..3_u64 {
            let found = cached.get_or_load(("a", n), move || async move { Ok::<_, Infallible>(n) }).await;
            assert_eq!(*found.expect("infallible"), n, "{does:?}");
            assert_eq!(cached.get_many(["b", "c"]).await, [None, None], "{does:?}");
        }
    }
}

#[tokio::test]
async fn switched_off_every_caller_loads_and_in_the_shadow_it_is_counted() {
    let world = World::new(|space| space.ttl(seconds(60)));
    world.load("a").await.expect("loaded");
    world.cached.set_mode(Mode::Off);
    assert_eq!(*world.load("a").await.expect("loaded"), 2);
    assert!(world.cached.get("a").await.is_none());
    world.cached.set_mode(Mode::Shadow);
    assert_eq!(*world.load("a").await.expect("loaded"), 3);
    assert_eq!(world.stats().hits, 1);
    assert!(world.cached.get("a").await.is_none());
    assert_eq!((world.cached.get_many(["a"]).await, world.stats().hits), (vec![None], 3));
    world.cached.set_mode(Mode::On);
    assert_eq!(world.loads("a"), 3);
    assert!(*world.load("a").await.expect("there") <= 3);
}

#[tokio::test(start_paused = true)]
async fn a_warm_up_keeps_its_pace_and_leaves_what_is_known() {
    use tollgate::cache::WarmUpLimits;
    let world = World::new(|space| space.ttl(seconds(60)));
    world.load("7").await.expect("loaded");
    let begun = tokio::time::Instant::now();
    let loader = world.loader();
    let keys = (0..21).map(|n| if n == 20 { "fails".to_owned() } else { n.to_string() });
    let warmed = world.cached.warm(keys, move |key: String| loader(&key), WarmUpLimits::default().per_second(10)).await;
    assert_eq!((warmed.known, warmed.loaded, warmed.failed), (1, 19, 1));
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1_900) && took < Duration::from_millis(2_200), "{took:?}");
    assert!(world.most_at_once() <= 8);
}

#[tokio::test]
async fn figures_are_those_of_their_namespace_and_read_as_json() {
    let (data, clock) = data_world::clocked();
    let slow: Cached<u64> =
        data.cached("github").ttl(seconds(900)).target_hit_ratio(0.95).build().expect("a namespace");
    let _idle: Cached<u64> = data.cached("session").build().expect("a namespace");
    for _ in 0..200 {
        let turned: ManualClock = clock.clone();
        let load = move || async move {
            turned.advance(Duration::from_millis(40));
            Ok::<_, Infallible>(1)
        };
        slow.get_or_load("a", load).await.expect("infallible");
    }
    let stats: HashMap<String, _> = data.stats().into_iter().map(|stats| (stats.name.clone(), stats)).collect();
    let github = &stats["github"];
    assert_eq!((github.hits, github.loads, github.misses, github.avoided), (199, 1, 1, 199));
    assert_eq!((github.mean_load, github.time_saved), (Duration::from_millis(40), Duration::from_millis(40 * 199)));
    assert!(!github.is_below_target() && github.hit_ratio > 0.99);
    let json = serde_json::to_value(github).expect("JSON");
    assert_eq!((json["mean_load_ms"].as_f64(), json["target_hit_ratio"].as_f64()), (Some(40.0), Some(0.95)));
    assert_eq!(stats["session"].loads, 0);
    let _ = Clock::Manual(clock);
}
