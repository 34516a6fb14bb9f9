//! One cache for a fleet: what nodes share through Redis, and what they tell one another.

#[path = "support/cache_world.rs"]
mod cache_world;
#[path = "support/fault_proxy.rs"]
mod fault_proxy;
#[path = "support/fleet.rs"]
mod fleet;
#[path = "support/redis.rs"]
mod redis;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cache_world::{Asked, Fault, Reply, World, reply};
use fault_proxy::FaultProxy;
use fleet::{far, joined, node, until, until_async};
use redis::{RedisServer, wanted};
use tollgate::ManualClock;

const TAGGED: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("cache-tag", "prices")];

/// Nodes over one server, whose origin is one: it answers the number of the call.
struct Fleet {
    server: RedisServer,
    clock: ManualClock,
    calls: Arc<AtomicUsize>,
    fields: &'static [(&'static str, &'static str)],
}

impl Fleet {
    fn new(fields: &'static [(&'static str, &'static str)]) -> Self {
        Self { server: RedisServer::start(), clock: ManualClock::new(), calls: Arc::default(), fields }
    }

    async fn node(&self) -> World {
        self.node_at(&self.server.url()).await
    }

    async fn node_at(&self, url: &str) -> World {
        let node = node(url, &self.clock, |builder| builder, self.origin());
        joined(&node).await;
        node
    }

    fn origin(&self) -> impl Fn(Asked) -> std::future::Ready<Result<Reply, Fault>> + Send + Sync + 'static {
        let (calls, fields) = (self.calls.clone(), self.fields);
        move |_| std::future::ready(Ok(reply(fields, calls.fetch_add(1, Ordering::SeqCst).to_string())))
    }

    /// Waits until so many entries lie in Redis: they are put there behind the client's back.
    async fn shared(&self, entries: usize) {
        let entry = |key: &&String| key.starts_with("tollgate:entry:");
        until("the entry is in Redis", || self.server.keys().iter().filter(entry).count() == entries).await;
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn what_one_node_fetched_all_serve_and_keep_a_copy_of() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(&[("cache-control", "max-age=60"), ("x-a", "1"), ("x-a", "2")]);
    let (a, b) = (fleet.node().await, fleet.node().await);
    let first = a.get("/a").await;
    fleet.shared(1).await;
    let second = b.get("/a").await;
    assert_eq!((second.body.as_str(), fleet.calls()), ("0", 1));
    assert!(second.is_hit(), "{}", second.status_line());
    assert_eq!(second.headers.get_all("x-a").iter().count(), 2);
    assert_eq!(first.header("date"), second.header("date"));
    assert_eq!((far(&a).hits, far(&b).hits), (0, 1));
    fleet.server.kill();
    assert!(b.get("/a").await.is_hit(), "from its own memory");
    assert_eq!(fleet.calls(), 1);
}

#[tokio::test]
async fn a_copy_lives_no_longer_than_what_it_is_a_copy_of() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(&[("cache-control", "max-age=10")]);
    let (a, b) = (fleet.node().await, fleet.node().await);
    a.get("/a").await;
    fleet.shared(1).await;
    fleet.clock.advance(Duration::from_secs(6));
    let copy = b.get("/a").await;
    let age: u64 = copy.header("age").expect("an age").parse().expect("seconds");
    // The nodes met the server's clock one after the other.
    assert!(copy.is_hit() && (5..=7).contains(&age), "age {age}");
    fleet.clock.advance(Duration::from_secs(6));
    assert!(!b.get("/a").await.is_hit());
    assert_eq!(fleet.calls(), 2);
}

#[tokio::test]
async fn nothing_in_redis_lives_for_ever_and_no_name_can_be_read() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(&[("cache-control", "max-age=60"), ("vary", "cookie"), ("cache-tag", "hush")]);
    let a = node(
        &fleet.server.url(),
        &fleet.clock,
        |builder| builder.rules(tollgate::cache::Rules::new().otherwise(shared_by_all())),
        fleet.origin(),
    );
    joined(&a).await;
    a.get_with("/secret-path?token=hunter2", &[("cookie", "session=hunter2")]).await;
    fleet.shared(2).await;
    a.layer.invalidate().tag("hush").await.expect("told");
    let keys = fleet.server.keys();
    assert!(keys.len() >= 5, "{keys:?}");
    for key in &keys {
        assert!(!key.contains("hunter2") && !key.contains("secret-path"), "{key}");
        let life: i64 = fleet.server.cli(&["PTTL", key]).trim().parse().expect("a number");
        assert!(life > 0, "{key} lives for ever");
    }
    assert_eq!(fleet.server.calls("keys"), 0, "KEYS is never used");
}

fn shared_by_all() -> tollgate::cache::Rule {
    tollgate::cache::Rule::ttl(Duration::from_secs(60)).same_for_everyone()
}

#[tokio::test]
async fn an_invalidation_is_heard_by_all() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(TAGGED);
    let (a, b) = (fleet.node().await, fleet.node().await);
    let invalidate = a.layer.invalidate();
    for round in 0..4 {
        let calls = fleet.calls();
        a.get("/prices/x?y").await;
        until("it is in Redis", || a.stats().fetches_in_flight == 0).await;
        until("all have heard the same", || far(&a).invalidations_received == far(&b).invalidations_received).await;
        let found = b.get("/prices/x?y").await;
        assert!(found.is_hit(), "round {round}: {} {} {:?} {:?}", found.body, found.status_line(), far(&a), far(&b));
        assert_eq!(fleet.calls(), calls + 1, "one fetch for both");
        let told = match round {
            0 => invalidate.tag("prices").await,
            1 => invalidate.prefix("/prices/").await,
            2 => invalidate.key("http://example.com/prices/x?y").await,
            _ => invalidate.all().await,
        };
        told.expect("Redis is there");
        until_async("the other node has heard", || async { !b.get("/prices/x?y").await.is_hit() }).await;
        assert_eq!(fleet.calls(), calls + 2);
        // And what the other node fetched then is good for both.
        until("it is in Redis", || b.stats().fetches_in_flight == 0).await;
        assert_eq!(a.get("/prices/x?y").await.body, b.get("/prices/x?y").await.body);
        assert_eq!(fleet.calls(), calls + 2);
        invalidate.prefix("/").await.expect("Redis is there");
        until_async("heard again", || async { !b.get("/prices/x?y").await.is_hit() }).await;
        invalidate.prefix("/").await.expect("Redis is there");
    }
}

#[tokio::test]
async fn an_unsafe_request_on_one_node_is_heard_by_all() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(TAGGED);
    let (a, b) = (fleet.node().await, fleet.node().await);
    b.get("/thing").await;
    fleet.shared(1).await;
    assert!(a.get("/thing").await.is_hit());
    a.ask(cache_world::request("PUT", "/thing", &[])).await;
    assert!(!a.get("/thing").await.is_hit(), "here at once");
    until_async("there soon", || async { b.get("/thing").await.body != "0" }).await;
}

#[tokio::test]
async fn a_slow_fetch_brings_old_data_back_to_no_node() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(TAGGED);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held = gate.clone();
    let slow = node(
        &fleet.server.url(),
        &fleet.clock,
        |builder| builder,
        move |_| {
            let held = held.clone();
            async move {
                held.acquire().await.expect("open").forget();
                Ok(reply(TAGGED, "old"))
            }
        },
    );
    joined(&slow).await;
    let other = fleet.node().await;
    let reading = slow.clone();
    let request = tokio::spawn(async move { reading.get("/a").await });
    until("the fetch is under way", || slow.calls() == 1).await;
    other.layer.invalidate().tag("prices").await.expect("told");
    gate.add_permits(1);
    assert_eq!(request.await.expect("answered").body, "old", "who asked before gets what was there before");
    until("the fetch is over", || slow.stats().fetches_in_flight == 0).await;
    let third = fleet.node().await;
    assert_ne!(third.get("/a").await.body, "old");
    assert_ne!(other.get("/a").await.body, "old");
}

#[tokio::test]
async fn a_lost_message_is_found_in_the_log() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(TAGGED);
    let proxy = FaultProxy::before(fleet.server.port());
    let (a, b) = (fleet.node().await, fleet.node_at(&proxy.url()).await);
    a.get("/a").await;
    fleet.shared(1).await;
    assert!(b.get("/a").await.is_hit());
    proxy.set(fault_proxy::Fault::DropMessages);
    a.layer.invalidate().tag("prices").await.expect("told");
    until_async("found in the log", || async { b.get("/a").await.body != "0" }).await;
}

#[tokio::test]
async fn what_was_said_while_a_node_was_not_listening_is_made_up_for() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(TAGGED);
    let proxy = FaultProxy::before(fleet.server.port());
    let (a, b) = (fleet.node().await, fleet.node_at(&proxy.url()).await);
    a.get("/a").await;
    a.get("/untagged").await;
    fleet.shared(2).await;
    assert!(b.get("/a").await.is_hit() && b.get("/untagged").await.is_hit());
    proxy.set(fault_proxy::Fault::Reset);
    until("cut off", || !far(&b).up).await;
    assert!(b.get("/a").await.is_hit(), "its memory serves meanwhile");
    a.layer.invalidate().key("/a").await.expect("told");
    let before = far(&b).hits;
    proxy.heal();
    until_async("made up for", || async { b.get("/a").await.body != "0" }).await;
    assert!(b.get("/untagged").await.is_hit(), "what nobody took back is kept");
    assert_eq!(far(&b).hits, before, "in memory");
}

#[tokio::test]
async fn an_invalidation_that_cannot_be_told_says_so_and_is_told_later() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(TAGGED);
    let proxy = FaultProxy::before(fleet.server.port());
    let (a, b) = (fleet.node_at(&proxy.url()).await, fleet.node().await);
    a.get("/a").await;
    fleet.shared(1).await;
    assert!(b.get("/a").await.is_hit());
    proxy.set(fault_proxy::Fault::Reset);
    until("cut off", || !far(&a).up).await;
    let error = a.layer.invalidate().tag("prices").await.expect_err("nobody hears");
    assert!(
        error.is_store() && error.to_string().starts_with("invalidated in this process; other processes"),
        "{error}"
    );
    assert_eq!(far(&a).invalidations_pending, 1);
    assert_eq!(a.get("/a").await.body, "1", "here it binds");
    assert!(b.get("/a").await.is_hit(), "there nobody knows yet");
    proxy.heal();
    until_async("told later", || async { b.get("/a").await.body != "0" }).await;
    until("nothing is left to tell", || far(&a).invalidations_pending == 0).await;
}

#[tokio::test]
async fn a_server_that_comes_back_empty_begins_history_anew() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(TAGGED);
    let (a, b) = (fleet.node().await, fleet.node().await);
    a.get("/a").await;
    fleet.shared(1).await;
    assert!(b.get("/a").await.is_hit());
    fleet.server.kill();
    until("noticed", || !far(&a).up && !far(&b).up).await;
    assert!(a.layer.invalidate().tag("prices").await.is_err());
    assert!(b.get("/a").await.is_hit(), "its memory serves meanwhile");
    fleet.server.restart();
    // Whatever was said meanwhile is lost with the server's memory: nothing from before is used again.
    until_async("dropped", || async { b.get("/a").await.body != "0" }).await;
    joined(&a).await;
    let (fetched, calls) = (b.get("/a").await.body, fleet.calls());
    until_async("shared again", || async { a.get("/a").await.body == fetched }).await;
    assert!(fleet.calls() <= calls + 1);
    a.layer.invalidate().tag("prices").await.expect("told");
    until_async("heard again", || async { b.get("/a").await.body != fetched }).await;
}

#[tokio::test]
async fn a_flushed_server_is_noticed_within_a_second_or_so() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(TAGGED);
    let (a, b) = (fleet.node().await, fleet.node().await);
    a.get("/a").await;
    fleet.shared(1).await;
    assert!(b.get("/a").await.is_hit());
    fleet.server.cli(&["FLUSHALL"]);
    until_async("dropped", || async { b.get("/a").await.body != "0" }).await;
}

#[tokio::test]
async fn a_stale_entry_is_refreshed_by_one_node_for_all() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(&[("cache-control", "max-age=10, stale-while-revalidate=60")]);
    let nodes = [fleet.node().await, fleet.node().await, fleet.node().await];
    nodes[0].get("/a").await;
    fleet.shared(1).await;
    for node in &nodes {
        assert_eq!(node.get("/a").await.body, "0");
    }
    fleet.clock.advance(Duration::from_secs(20));
    for node in &nodes {
        assert_eq!(node.get("/a").await.body, "0", "stale, while somebody refreshes it");
    }
    for node in &nodes {
        until_async("everybody has the new one", || async { node.get("/a").await.body == "1" }).await;
    }
    assert_eq!(fleet.calls(), 2);
}

#[tokio::test]
async fn variants_of_all_nodes_are_known_to_all() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(&[("cache-control", "max-age=60"), ("vary", "accept-language")]);
    let (a, b) = (fleet.node().await, fleet.node().await);
    let ask = async |node: &World, language: &str| node.get_with("/a", &[("accept-language", language)]).await.body;
    assert_eq!(ask(&a, "en").await, "0");
    fleet.shared(2).await;
    assert_eq!(ask(&b, "de").await, "1");
    fleet.shared(3).await;
    assert_eq!((ask(&a, "de").await, ask(&b, "en").await), ("1".to_owned(), "0".to_owned()));
    assert_eq!(fleet.calls(), 2);
}

#[tokio::test]
async fn garbage_in_redis_is_a_miss_and_a_counter() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(&[("cache-control", "max-age=60")]);
    let a = fleet.node().await;
    a.get("/a").await;
    a.get("/b").await;
    fleet.shared(2).await;
    let names: Vec<String> = fleet.server.keys().into_iter().filter(|key| key.starts_with("tollgate:entry:")).collect();
    // The entry of another key; then one that is cut short; then something else.
    fleet.server.cli(&["COPY", &names[0], &names[1], "REPLACE"]);
    let b = fleet.node().await;
    let bodies = [b.get("/a").await.body, b.get("/b").await.body];
    assert!(bodies.contains(&"2".to_owned()) && (bodies[0] == "0" || bodies[1] == "1"), "{bodies:?}");
    assert!(far(&b).decode_errors > 0);
    for garbage in ["", "TGC", "{\"a\":1}"] {
        fleet.server.cli(&["SET", &names[0], garbage]);
        fleet.server.cli(&["SET", &names[1], garbage]);
        let c = fleet.node().await;
        let calls = fleet.calls();
        c.get("/a").await;
        assert_eq!(fleet.calls(), calls + 1, "{garbage:?}");
        assert!(far(&c).decode_errors > 0);
        until("it is in Redis", || c.stats().fetches_in_flight == 0).await;
    }
}

#[tokio::test]
async fn an_administrator_sweeps_by_pattern_everywhere() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(&[("cache-control", "max-age=60")]);
    let (a, b) = (fleet.node().await, fleet.node().await);
    for number in 0..700 {
        a.get(&format!("/prices/{number}?in=eur")).await;
    }
    a.get("/prices/[x]*").await;
    fleet.shared(701).await;
    assert!(b.get("/prices/7?in=eur").await.is_hit() && b.get("/prices/[x]*").await.is_hit());
    let sweep = a.layer.invalidate();
    assert_eq!(sweep.matching("*/prices/\\[x]\\*").await.expect("asked"), 1, "it means itself only");
    assert_eq!(sweep.matching("http://example.com/prices/7?\\?in=eur").await.expect("asked"), 10);
    fleet.shared(690).await;
    assert!(!a.get("/prices/70?in=eur").await.is_hit(), "gone here");
    until_async("gone there", || async { !b.get("/prices/[x]*").await.is_hit() }).await;
    assert!(b.get("/prices/7?in=eur").await.is_hit(), "not meant");
    assert_eq!(fleet.server.calls("keys"), 0);
    assert!(fleet.server.calls("scan") > 2 && fleet.server.calls("unlink") > 0);
    fleet.server.kill();
    assert!(sweep.matching("*").await.is_err(), "Redis could not be asked");
}

#[tokio::test]
async fn unsafe_requests_while_redis_is_away_are_told_later() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new(TAGGED);
    let proxy = FaultProxy::before(fleet.server.port());
    let (a, b) = (fleet.node_at(&proxy.url()).await, fleet.node().await);
    a.get("/a").await;
    fleet.shared(1).await;
    assert!(b.get("/a").await.is_hit());
    proxy.set(fault_proxy::Fault::Reset);
    until("cut off", || !far(&a).up).await;
    for _ in 0..50 {
        assert_eq!(a.ask(cache_world::request("PUT", "/a", &[])).await.status, 200);
    }
    assert!(b.get("/a").await.is_hit(), "there nobody knows yet");
    proxy.heal();
    until_async("told later", || async { b.get("/a").await.body != "0" }).await;
    until("nothing is left to tell", || far(&a).invalidations_pending == 0).await;
}

#[tokio::test]
async fn a_cluster_and_a_promoted_replica_pass_invalidations_on() {
    if !wanted() {
        return;
    }
    let (cluster, sentinel) = (redis::RedisCluster::start(), redis::RedisSentinel::start());
    for url in [cluster.url(), sentinel.url()] {
        let (clock, calls) = (ManualClock::new(), Arc::new(AtomicUsize::new(0)));
        let origin = || {
            let calls = calls.clone();
            move |_| std::future::ready(Ok(reply(TAGGED, calls.fetch_add(1, Ordering::SeqCst).to_string())))
        };
        let nodes = [(); 2].map(|()| node(&url, &clock, |builder| builder, origin()));
        for round in 0..2 {
            for node in &nodes {
                joined(node).await;
            }
            let [a, b] = &nodes;
            let path = format!("/{round}");
            let first = a.get(&path).await.body;
            until("kept", || a.stats().fetches_in_flight == 0).await;
            assert_eq!(b.get(&path).await.body, first, "shared through {url}");
            a.layer.invalidate().tag("prices").await.expect("told");
            until_async("heard", || async { b.get(&path).await.body != first }).await;
            if round == 0 && url == sentinel.url() {
                sentinel.fail_over();
                until("noticed", || nodes.iter().all(|node| !far(node).up)).await;
            }
        }
    }
}
