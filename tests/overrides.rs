//! Overrides of modes and quotas: in force at once, on all nodes, until they end.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/directory.rs"]
mod directory;
#[path = "support/gate.rs"]
mod gate;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/redis.rs"]
mod redis;

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use directory::TestDirectory;
use gate::Gate;
use http::StatusCode;
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{ConcurrencyLimit, Limit, OnOutage, Tiers};
use tollgate::{
    Budget, BudgetPolicy, Clock, Event, ManualClock, Mode, Override, OverrideStatus, Tollgate, TollgateBuilder,
};

const HOUR: Duration = Duration::from_secs(3_600);

fn builder() -> TollgateBuilder {
    let rule = Rule::ttl(Duration::from_secs(60)).same_for_everyone();
    Tollgate::builder()
        .routes(["/{*rest}"])
        .cache(Rules::new().route("/{*rest}", rule))
        .limit(Limit::per_ip("3/hour").named("api"))
}

/// Number of `n` requests that were not refused.
async fn admitted(node: &Gate, n: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..n {
        admitted += usize::from(node.send("/a").await.status() != StatusCode::TOO_MANY_REQUESTS);
    }
    admitted
}

async fn apply(node: &Gate, asked: Override) -> OverrideStatus {
    node.gate.overrides().apply(asked).await.expect("a valid override")
}

#[tokio::test]
async fn a_quota_is_overridden_until_it_expires() {
    let hand = ManualClock::new();
    let node = Gate::build(builder().clock(Clock::Manual(hand.clone())));
    let asked = Override::quota("limit api", "5/hour").by("ann").because("launch");
    let status = apply(&node, asked).await;
    assert_eq!((status.id.as_str(), status.value.as_str()), ("limit api quota", "5/hour"));
    assert_eq!((status.actor.as_str(), status.reason.as_str()), ("ann", "launch"));
    assert_eq!(status.expires_in, Some(HOUR), "the default");
    assert!(status.is_local && !status.is_pending, "no store is shared");
    assert_eq!(node.gate.stats().limits[0].quota, "5/hour");
    assert_eq!(admitted(&node, 9).await, 5);
    hand.advance(HOUR);
    assert!(node.gate.overrides().list().is_empty());
    assert_eq!((admitted(&node, 9).await, node.gate.stats().limits[0].quota.as_str()), (3, "3/hour"));
}

#[tokio::test]
async fn a_limit_is_switched_alone() {
    let second = Limit::per_ip("6/h").named("second");
    let node = Gate::build(builder().limit(second));
    apply(&node, Override::mode("limit api", Mode::Shadow)).await;
    assert_eq!(admitted(&node, 9).await, 6, "the other one still limits");
    let limit = &node.gate.stats().limits[0];
    assert_eq!((limit.mode, limit.would_refuse > 0), (Mode::Shadow, true));
    apply(&node, Override::mode("limit second", Mode::Off)).await;
    assert_eq!(admitted(&node, 9).await, 9);
    apply(&node, Override::mode("limit api", Mode::On)).await;
    assert_eq!(admitted(&node, 1).await, 0);
    assert!(node.gate.overrides().remove("limit api mode", "ann").await);
    assert!(!node.gate.overrides().remove("limit api mode", "ann").await, "once");
}

#[tokio::test]
async fn a_limit_that_was_built_in_shadow_is_enforced_by_an_override() {
    let limit = Limit::per_ip("1/h").named("new").shadow();
    let node = Gate::build(Tollgate::builder().limit(limit));
    assert_eq!((admitted(&node, 5).await, node.gate.stats().limits[0].mode), (5, Mode::Shadow));
    apply(&node, Override::mode("limit new", Mode::On)).await;
    assert_eq!((admitted(&node, 5).await, node.gate.stats().limits[0].mode), (0, Mode::On));
}

#[tokio::test]
async fn a_name_means_a_tier_or_all_tiers_of_a_limit() {
    let tiers = Tiers::new("1/h").tier("pro", "2/h").assign(|_| Some("pro"));
    let node = Gate::build(Tollgate::builder().limit(Limit::from(tiers).named("api")));
    assert_eq!(admitted(&node, 5).await, 2, "the tier's");
    let names: Vec<String> = node.gate.stats().limits.iter().map(|limit| limit.name.clone()).collect();
    for name in &names {
        apply(&node, Override::quota(&format!("limit {name}"), "7/hour")).await;
    }
    assert!(node.gate.stats().limits.iter().all(|limit| limit.quota == "7/hour"));
    apply(&node, Override::mode("limit api", Mode::Off)).await;
    assert!(node.gate.stats().limits.iter().all(|limit| limit.mode == Mode::Off));
    assert_eq!(admitted(&node, 20).await, 20);
    let whole = node.gate.overrides().apply(Override::quota("limit api", "7/hour")).await.expect_err("which tier?");
    assert!(whole.to_string().contains("has 2 tiers"), "{whole}");
}

#[tokio::test]
async fn a_limit_on_requests_in_progress_is_switched() {
    let node = Gate::build(Tollgate::builder().limit(ConcurrencyLimit::per_ip(1)));
    let name = node.gate.stats().concurrency[0].name.clone();
    // Its body is not read: the place is held.
    let held = node.send("/a").await;
    assert_eq!(admitted(&node, 1).await, 0);
    apply(&node, Override::mode(&format!("limit {name}"), Mode::Shadow)).await;
    assert_eq!(admitted(&node, 1).await, 1);
    apply(&node, Override::mode(&format!("limit {name}"), Mode::Off)).await;
    assert_eq!((admitted(&node, 1).await, node.gate.stats().concurrency[0].in_progress), (1, 1));
    drop(held);
}

#[tokio::test]
async fn rules_and_layers_are_switched() {
    let rule = || Rule::ttl(Duration::from_secs(60)).same_for_everyone();
    let rules = Rules::new().route("/a/{id}", rule()).route("/b/{id}", rule());
    let node = Gate::build(Tollgate::builder().routes(["/a/{id}", "/b/{id}"]).cache(rules));
    let calls = async |path: &str| {
        let before = node.calls();
        for _ in 0..3 {
            let _ = node.get(path).await;
        }
        node.calls() - before
    };
    assert_eq!((calls("/a/1").await, calls("/b/1").await), (1, 1));
    apply(&node, Override::mode("rule /a/{id}", Mode::Off)).await;
    assert_eq!((calls("/a/1").await, calls("/b/1").await), (3, 0));
    apply(&node, Override::mode("rule /a/{id}", Mode::Shadow)).await;
    assert_eq!((calls("/a/1").await, node.gate.stats().routes["/a/{id}"].shadowed), (3, 3));
    apply(&node, Override::mode("cache", Mode::Off)).await;
    assert_eq!((calls("/b/1").await, node.gate.stats().modes.cache), (3, Mode::Off));
    node.gate.set_cache_mode(Mode::On);
    assert_eq!(calls("/b/1").await, 3, "an override prevails over code");
    for status in node.gate.overrides().list() {
        assert!(node.gate.overrides().remove(&status.id, "ann").await);
    }
    assert_eq!((calls("/a/1").await, calls("/b/1").await), (0, 0));
    apply(&node, Override::mode("timing", Mode::Off)).await;
    let before = node.gate.stats().requests;
    assert_eq!((calls("/a/1").await, node.gate.stats().requests), (0, before));
}

#[tokio::test]
async fn what_a_gate_does_not_have_is_an_error_that_names_it() {
    let node = Gate::build(builder().limit(Limit::per_node("9/s").named("node")));
    let long = "x".repeat(257);
    for (asked, reason) in [
        (Override::mode("limit apo", Mode::Off), "unknown limit \"apo\""),
        (Override::mode("rule /nothing", Mode::Off), "unknown cache rule \"/nothing\""),
        (Override::mode("the moon", Mode::Off), "unknown target \"the moon\""),
        (Override::quota("cache", "5/hour"), "cache has no setting quota"),
        (Override::on_outage(OnOutage::Deny), "in this process alone"),
        (Override::conserve(), "the cache has no budget"),
        (Override::quota("limit api", "many"), "many"),
        (Override::quota("limit node", "5/hour"), "per-node"),
        (Override::mode("limit node", Mode::Off), "per-node"),
        (Override::mode("cache", Mode::Off).because(long), "at most 256 bytes"),
        (Override::mode("cache", Mode::Off).expires_in(Duration::ZERO), "more than 0 s"),
        (Override::mode("cache", Mode::Off).expires_in(Duration::MAX), "permanently"),
    ] {
        let error = node.gate.overrides().apply(asked).await.expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(node.gate.overrides().list().is_empty());
}

#[tokio::test]
async fn events_say_who_and_why_and_that_one_has_ended() {
    let (hand, seen) = (ManualClock::new(), Arc::new(Mutex::new(Vec::new())));
    let sink = seen.clone();
    let gate = builder().clock(Clock::Manual(hand.clone())).hook(move |event: &Event<'_>| {
        if matches!(event, Event::Overridden { .. } | Event::OverrideEnded { .. }) {
            sink.lock().expect("not poisoned").push(format!("{event:?}"));
        }
    });
    let gate = gate.build().expect("a gate");
    let asked = || Override::mode("cache", Mode::Off).by("ann").because("stale");
    let status = gate.overrides().apply(asked()).await.expect("valid");
    gate.overrides().remove(&status.id, "bob").await;
    gate.overrides().apply(asked()).await.expect("valid");
    hand.advance(HOUR);
    gate.overrides().sync().await;
    let applied = "Overridden { id: \"cache mode\", value: \"off\", actor: \"ann\", reason: \"stale\" }";
    let ended = "OverrideEnded { id: \"cache mode\", actor: Some(\"bob\") }";
    let expired = "OverrideEnded { id: \"cache mode\", actor: None }";
    assert_eq!(*seen.lock().expect("not poisoned"), [applied, ended, applied, expired]);
}

#[tokio::test]
async fn a_store_is_switched_off_as_if_it_were_away() {
    if !redis::wanted() {
        return;
    }
    let server = redis::RedisServer::start();
    let rule = Rule::ttl(Duration::from_secs(60)).same_for_everyone();
    let node = Gate::build(builder().cache(Rules::new().otherwise(rule)).redis(server.url().as_str()));
    let up = async |up: bool| {
        for _ in 0..1_000 {
            node.send("/up").await;
            let stats = node.gate.stats();
            if stats.cache[1].up == up && stats.remote.as_ref().is_some_and(|remote| remote.up == up) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not so within ten seconds: up {up}");
    };
    up(true).await;
    apply(&node, Override::mode("store redis", Mode::Off).because("it is slow")).await;
    up(false).await;
    let commands =
        || server.cli(&["INFO", "commandstats"]).lines().filter(|line| line.contains("evalsha")).collect::<String>();
    let before = commands();
    for n in 0..20 {
        node.send(&format!("/{n}")).await;
    }
    assert_eq!(commands(), before, "limits are decided here");
    let pending = node.gate.invalidate().tag("prices").await.expect_err("others are not told");
    assert!(pending.to_string().contains("switched off"), "{pending}");
    assert!(node.gate.overrides().remove("store redis mode", "ann").await, "overrides are still stored");
    up(true).await;
    for _ in 0..1_000 {
        if node.gate.stats().cache[1].invalidations_pending == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.gate.stats().cache[1].invalidations_pending, 0, "they are told now");
    for (target, mode, reason) in
        [("store redis", Mode::Shadow, "on or off"), ("store postgres", Mode::Off, "unknown store")]
    {
        let refused = node.gate.overrides().apply(Override::mode(target, mode)).await.expect_err("refused");
        assert!(refused.to_string().contains(reason), "{refused}");
    }
}

#[tokio::test]
async fn the_policy_of_an_outage_is_changed_during_it() {
    if !redis::wanted() {
        return;
    }
    let server = redis::RedisServer::start();
    let node = Gate::build(builder().redis(server.url().as_str()));
    node.gate.overrides().sync().await;
    while node.gate.health().checks.iter().any(|check| check.status != "pass")
        || !node.gate.stats().remote.is_some_and(|remote| remote.up)
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _ = node.gate.health();
    server.kill();
    for _ in 0..8 {
        node.send("/a").await;
    }
    assert_eq!(admitted(&node, 3).await, 0, "the limit is enforced in this process");
    apply(&node, Override::on_outage(OnOutage::Allow).on_this_node()).await;
    assert_eq!(admitted(&node, 5).await, 5);
    apply(&node, Override::on_outage(OnOutage::Deny).on_this_node()).await;
    assert_eq!(admitted(&node, 5).await, 0);
    let health = node.gate.health();
    let closed = "redis limits is unavailable: requests are refused";
    assert!(health.status == "fail" && health.reasons.iter().any(|reason| reason == closed), "{health:?}");
    assert!(node.gate.overrides().remove("limits on_outage on this node", "ann").await);
}

#[tokio::test]
async fn a_budget_is_conserved_on_demand() {
    let (hand, budget) = (ManualClock::new(), Budget::new(BudgetPolicy::default()).expect("a budget"));
    let rules = Rules::new().route("/{*rest}", Rule::ttl(Duration::from_secs(60)).same_for_everyone());
    let gate = Tollgate::builder().routes(["/{*rest}"]).cache(rules).clock(Clock::Manual(hand.clone()));
    let node = Gate::build(gate.cache_with(|cache| cache.budget(budget)));
    node.get("/a").await;
    hand.advance(Duration::from_secs(90));
    apply(&node, Override::conserve()).await;
    assert!(node.get("/a").await, "it lives longer");
    assert_eq!(node.calls(), 1);
    assert!(node.gate.overrides().remove("cache budget", "ann").await);
    node.get("/a").await;
    assert_eq!(node.calls(), 2);
}

/// What a fleet over any store does: `node` builds one.
async fn is_shared_and_survives(node: impl Fn() -> Gate) {
    let (a, b) = (node(), node());
    let status = apply(&a, Override::quota("limit api", "50/hour").permanently()).await;
    assert!(!status.is_local && !status.is_pending && status.expires_in.is_none(), "{status:?}");
    apply(&b, Override::mode("cache", Mode::Off).because("stale")).await;
    for node in [&a, &b] {
        node.gate.overrides().sync().await;
        assert_eq!(node.gate.stats().limits[0].quota, "50/hour");
        assert_eq!(node.gate.stats().modes.cache, Mode::Off);
    }
    apply(&b, Override::mode("limits", Mode::Shadow).on_this_node()).await;
    a.gate.overrides().sync().await;
    assert_eq!(a.gate.stats().modes.limits, Mode::On, "b's alone");
    apply(&b, Override::mode("cache", Mode::On).on_this_node()).await;
    assert_eq!(b.gate.stats().modes.cache, Mode::On, "its own prevails");
    assert!(b.gate.overrides().remove("cache mode on this node", "ann").await);
    assert_eq!(b.gate.stats().modes.cache, Mode::Off, "the fleet's is still in force");
    assert!(b.gate.overrides().remove("cache mode", "ann").await);
    a.gate.overrides().sync().await;
    assert_eq!(a.gate.stats().modes.cache, Mode::On);
    drop((a, b));
    let restarted = node();
    restarted.gate.overrides().sync().await;
    let ids: Vec<_> = restarted.gate.overrides().list().into_iter().map(|status| status.id).collect();
    assert_eq!(ids, ["limit api quota"]);
    assert!(restarted.gate.overrides().remove("limit api quota", "ann").await);
}

#[tokio::test]
async fn a_directory_keeps_them_for_the_next_start() {
    let directory = TestDirectory::new();
    let path = directory.path().to_owned();
    is_shared_and_survives(|| Gate::build(builder().file(&path, 64 << 20))).await;
}

#[tokio::test]
async fn a_fleet_over_redis_shares_them_and_an_outage_only_delays_them() {
    if !redis::wanted() {
        return;
    }
    let server = redis::RedisServer::start();
    let node = || Gate::build(builder().redis(server.url().as_str()));
    is_shared_and_survives(node).await;
    let (a, b) = (node(), node());
    a.gate.overrides().sync().await;
    server.stop();
    let status = apply(&a, Override::mode("cache", Mode::Off)).await;
    assert!(status.is_pending && a.gate.stats().modes.cache == Mode::Off, "{status:?}");
    server.cont();
    for _ in 0..200 {
        a.gate.overrides().sync().await;
        b.gate.overrides().sync().await;
        if b.gate.stats().modes.cache == Mode::Off {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(b.gate.stats().modes.cache, Mode::Off);
    assert!(!a.gate.overrides().list()[0].is_pending);
}

#[tokio::test]
async fn other_nodes_take_them_over_by_themselves() {
    if !redis::wanted() {
        return;
    }
    let server = redis::RedisServer::start();
    let node = || Gate::build(builder().redis(server.url().as_str()));
    let (a, b) = (node(), node());
    apply(&a, Override::mode("cache", Mode::Off)).await;
    let taken_over = async {
        while b.gate.stats().modes.cache != Mode::Off {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taken_over).await.expect("within two seconds, on an idle machine");
}

#[tokio::test]
async fn a_fleet_over_postgresql_shares_them() {
    if !postgres::wanted() {
        return;
    }
    let server = postgres::Postgres::start();
    is_shared_and_survives(|| Gate::build(builder().postgres(server.url().as_str()))).await;
}

/// Run by the next test in a process of its own, whose environment it sets.
#[tokio::test]
async fn a_started_node_says_its_modes() {
    let Some(directory) = std::env::var_os("TOLLGATE_TEST_OVERRIDES") else { return };
    match builder().file(directory, 64 << 20).build() {
        Ok(gate) => {
            gate.overrides().sync().await;
            println!("cache is {:?}", gate.stats().modes.cache);
            if std::env::var_os("TOLLGATE_TEST_END").is_some() {
                println!("ended {}", gate.overrides().remove("cache mode", "ann").await);
            }
        }
        Err(error) => println!("{error}"),
    }
}

#[tokio::test]
async fn a_node_starts_without_them_if_its_environment_says_so() {
    let directory = TestDirectory::new();
    let node = Gate::build(builder().file(directory.path(), 64 << 20));
    apply(&node, Override::mode("cache", Mode::Off)).await;
    let start = |value: &str, ends: bool| {
        let end: &[(&str, &str)] = if ends { &[("TOLLGATE_TEST_END", "1")] } else { &[] };
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "a_started_node_says_its_modes", "--nocapture"])
            .env("TOLLGATE_TEST_OVERRIDES", directory.path())
            .env("TOLLGATE__OVERRIDES", value)
            .envs(end.iter().copied())
            .output();
        String::from_utf8_lossy(&output.expect("it runs").stdout).into_owned()
    };
    assert!(start("", false).contains("cache is Off"));
    assert!(start("none", false).contains("unknown value; use ignore"));
    let ended = start("ignore", true);
    assert!(ended.contains("cache is On") && ended.contains("ended true"), "an ignored one can be ended: {ended}");
    assert!(start("", false).contains("cache is On"));
}
