//! A fleet of caches over one Redis: each node has its own memory, its own connections and its own origin's counter.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::must_use_candidate,
    clippy::disallowed_methods,
    reason = "each test uses its part, and may fail"
)]

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollgate::cache::{CacheBuilder, LevelStats};
use tollgate::store::RemoteStore;
use tollgate::store::redis::Redis;
use tollgate::{Clock, ManualClock};

use super::cache_world::{Asked, Fault, Reply, World};

/// A node of the fleet: a cache of 1 MiB in front of the Redis at this URL.
pub fn node<F>(
    url: &str,
    clock: &ManualClock,
    set: impl FnOnce(CacheBuilder) -> CacheBuilder,
    script: impl Fn(Asked) -> F + Send + Sync + 'static,
) -> World
where
    F: Future<Output = Result<Reply, Fault>> + Send + 'static,
{
    let redis = RemoteStore::redis(Redis::new(url).expect("a URL")).expect("settings");
    let world = |builder: CacheBuilder| {
        set(builder.memory(1 << 20).clock(Clock::Manual(clock.clone())).level_2(Arc::new(redis)))
    };
    World { clock: clock.clone(), ..World::with(world, script) }
}

/// The figures of the level in Redis.
pub fn far(world: &World) -> LevelStats {
    world.stats().levels.into_iter().find(|level| level.name == "redis").expect("a level in Redis")
}

/// Waits until the node knows the fleet's history.
pub async fn joined(world: &World) {
    until("the node has joined", || far(world).up).await;
}

/// Polls until `done`, for at most ten seconds.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The same for something that has to be asked for.
pub async fn until_async<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let since = Instant::now();
    while !done().await {
        assert!(since.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
