//! Compares the script with the in-process engine, on a real server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use smallvec::smallvec;
use tokio::runtime::Runtime;

use super::*;
use crate::base::clock::Timestamp;
use crate::limit::Quota;
use crate::limit::algorithm::lease::Unspent;
use crate::limit::algorithm::lease::tests::Store;
use crate::store::memory::MemoryLimits;
use crate::store::remote_limits::group::{GroupResult, LimitCommand, LimitOp};
use crate::store::remote_limits::model::{START_US, group, model, quotas};

#[path = "../../../../tests/support/redis.rs"]
mod server;

use server::RedisServer;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The script on one connection, with the time as an argument.
struct Bare {
    runtime: Runtime,
    connection: Conn,
    script: Script,
    names: ScriptKeys,
}

impl Bare {
    fn new(server: &RedisServer) -> Self {
        let (runtime, redis) = (runtime(), Redis::new(&server.url()).expect("a URL"));
        let connection = runtime.block_on(redis.address.connect(&None)).expect("a connection");
        Self { runtime, connection, script: Script::new(), names: ScriptKeys::new("t", 1) }
    }

    fn call(&self, groups: &[CheckGroup], now: u64) -> Vec<GroupResult> {
        let call = encode(groups.iter());
        let values = self.script.call(self.connection.clone(), &self.names, &call, Some(now));
        let values = self.runtime.block_on(values).expect("an answer");
        let groups: Vec<&CheckGroup> = groups.iter().collect();
        let (at, results) = Answers::decode(&values, &groups).expect("an answer that fits");
        assert_eq!(at, now);
        results
    }
}

#[test]
fn the_script_agrees_with_the_in_process_engine() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let (bare, case) = (Bare::new(&server), AtomicU64::new(0));
    let rows = prop::collection::vec((0_u64..3, 0_u8..9, 0_u32..5, prop::bool::weighted(0.8)), 1..4);
    let groups = prop::collection::vec((rows, prop::bool::weighted(0.1)), 1..6);
    let steps = prop::collection::vec((0_u64..400_000, groups), 1..40);
    proptest!(ProptestConfig::with_cases(200), |(steps in steps, first in 0_usize..6)| {
        let (engine, base) = (MemoryLimits::new(1_000), case.fetch_add(16, Ordering::Relaxed));
        let quota = |key: u64| quotas()[(first + key as usize) % 6];
        let mut now = START_US;
        for (step, groups) in steps {
            now += step;
            let groups: Vec<CheckGroup> = groups.into_iter().map(|(rows, evaluates)| {
                let rows = rows.into_iter().map(|row| (row.0 + base, row.1, row.2, row.3)).collect();
                group(rows, evaluates, now, |key| quota(key - base))
            }).collect();
            let results = bare.call(&groups, now);
            for (group, results) in groups.iter().zip(results) {
                prop_assert_eq!(&results.verdicts[..], &model(&engine, group, now)[..], "{:?} at {}", group, now);
            }
        }
    });
}

#[test]
fn changed_quotas_keep_the_used_share() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let (bare, case) = (Bare::new(&server), AtomicU64::new(0));
    let steps = prop::collection::vec((0_u64..400_000, 0_usize..6, 1_u32..4), 1..60);
    proptest!(ProptestConfig::with_cases(200), |(steps in steps)| {
        let (engine, key) = (MemoryLimits::new(1_000), case.fetch_add(1, Ordering::Relaxed));
        let mut now = START_US;
        for (step, quota, units) in steps {
            now += step;
            let act = LimitCommand::Take { enforced: true, want: 0, ttl: Duration::ZERO };
            let group: CheckGroup = smallvec![LimitOp { key, quota: quotas()[quota], units, act }];
            let results = bare.call(std::slice::from_ref(&group), now)[0].verdicts[0];
            let expected = model(&engine, &group, now)[0];
            // A share of 2⁻³² is rounded in doubles there and in integers here.
            let local_cache = |a: Duration, b: Duration| a.abs_diff(b) < Duration::from_micros(1);
            prop_assert!(results.admits() == expected.admits() && results.remaining().abs_diff(expected.remaining()) <= 1
                && local_cache(results.reset(), expected.reset())
                && local_cache(results.wait().unwrap_or_default(), expected.wait().unwrap_or_default()),
                "{:?}: {:?} instead of {:?}", group, results, expected);
        }
    });
}

#[test]
fn the_script_leases_like_the_simulated_store() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let (bare, case) = (Bare::new(&server), AtomicU64::new(0));
    let at = |us: u64| Timestamp::from_nanos(us * 1_000);
    let steps = prop::collection::vec((0_u64..40_000, 0_u32..60, 1_u64..80_000, prop::bool::weighted(0.2)), 1..60);
    proptest!(ProptestConfig::with_cases(150), |(steps in steps, which in 0_usize..4)| {
        let quota = [
            Quota::per_second(100),
            Quota::new(3_000, Duration::from_secs(2)),
            Quota::per_second(1_000).bucket(300),
            Quota::per_second(50).bucket(1_000),
        ][which];
        let (mut store, key, mut now) = (Store::new(quota), case.fetch_add(1, Ordering::Relaxed), START_US);
        let mut last = None;
        for (step, want, ttl, refunds) in steps {
            now += step;
            let ttl = Duration::from_micros(ttl);
            if let (true, Some(unspent)) = (refunds, last.take()) {
                let Unspent { units, charged } = unspent;
                let group: CheckGroup = smallvec![LimitOp { key, quota, units, act: LimitCommand::Refund { charged } }];
                bare.call(std::slice::from_ref(&group), now);
                store.refund(unspent, at(now));
                continue;
            }
            let act = LimitCommand::Take { enforced: true, want, ttl };
            let group: CheckGroup = smallvec![LimitOp { key, quota, units: 1, act }];
            let results = bare.call(std::slice::from_ref(&group), now).remove(0);
            let (admits, granted, lives) = store.ask(want, ttl, at(now));
            prop_assert_eq!(results.verdicts[0].admits(), admits, "{} at {}", quota, now);
            let sold = results.sold.first().map_or(0, |sold| sold.units);
            prop_assert_eq!(sold, if want > 0 { granted } else { 0 }, "{} at {}", quota, now);
            if sold > 0 {
                prop_assert_eq!(results.sold[0].ttl, lives);
                last = Some(Unspent { units: sold / 2, charged: now });
            }
        }
    });
}

#[test]
fn foreign_values_count_as_missing() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let bare = Bare::new(&server);
    let long = "x".repeat(200);
    for (key, value) in [(1, "short"), (2, &*long), (3, &long[..56])] {
        server.cli(&["SET", &format!("t:l:{key:016x}"), value]);
        for left in [4, 3] {
            let act = LimitCommand::Take { enforced: true, want: 0, ttl: Duration::ZERO };
            let group: CheckGroup = smallvec![LimitOp { key, quota: Quota::per_minute(5), units: 1, act }];
            let results = bare.call(std::slice::from_ref(&group), START_US);
            assert_eq!(results[0].verdicts[0].remaining(), left, "{key}");
        }
    }
    server.cli(&["DEL", "t:l:0000000000000004"]);
    server.cli(&["LPUSH", "t:l:0000000000000004", "a list"]);
    let act = LimitCommand::Take { enforced: true, want: 0, ttl: Duration::ZERO };
    let group: CheckGroup = smallvec![LimitOp { key: 4, quota: Quota::per_minute(5).bucket(5), units: 1, act }];
    assert_eq!(bare.call(std::slice::from_ref(&group), START_US)[0].verdicts[0].remaining(), 4);
}
