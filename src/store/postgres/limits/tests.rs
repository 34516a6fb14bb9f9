//! Compares limits in PostgreSQL with the in-process engine, on a real server.

use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use smallvec::smallvec;
use tokio::runtime::Runtime;

use super::*;
use crate::limit::Quota;
use crate::store::memory::MemoryLimits;
use crate::store::remote_limits::group::{LimitCommand, LimitOp};
use crate::store::remote_limits::model::{START_US, group, model, quotas};

#[path = "../../../../tests/support/postgres.rs"]
mod server;

/// The rows over one connection, with the time as an argument.
struct Bare {
    runtime: Runtime,
    link: Arc<Link>,
    rows: PostgresRows,
}

impl Bare {
    fn new(server: &server::Postgres) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let postgres = Postgres::new(&server.url()).expect("a URL");
        let link = runtime.block_on(async {
            postgres.migrate().await.expect("tables");
            Link::open(&postgres.address, None).await.expect("a connection")
        });
        Self { runtime, link, rows: PostgresRows::new(&postgres) }
    }

    fn call(&self, groups: &[CheckGroup], now: u64) -> Vec<GroupResult> {
        let groups: Vec<&CheckGroup> = groups.iter().collect();
        self.runtime.block_on(async {
            let by = runtime_now() + Duration::from_secs(60);
            let (at, results) = self.rows.call(self.link.clone(), &groups, Some(now), by).await.expect("an answer");
            assert_eq!(at, now);
            results
        })
    }
}

#[test]
fn the_rows_agree_with_the_in_process_engine() {
    if !server::wanted() {
        return;
    }
    let server = server::Postgres::start();
    let (bare, case) = (Bare::new(&server), AtomicU64::new(0));
    let rows = prop::collection::vec((0_u64..3, 0_u8..9, 0_u32..5, prop::bool::weighted(0.8)), 1..4);
    let groups = prop::collection::vec((rows, prop::bool::weighted(0.1)), 1..6);
    let steps = prop::collection::vec((0_u64..400_000, groups), 1..30);
    proptest!(ProptestConfig::with_cases(60), |(steps in steps, first in 0_usize..6)| {
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

fn take(key: u64, units: u32, quota: Quota) -> LimitOp {
    let act = LimitCommand::Take { enforced: true, want: 0, ttl: Duration::ZERO };
    LimitOp { key, quota, units, act }
}

#[test]
fn what_another_process_wrote_meanwhile_is_read_again() {
    if !server::wanted() {
        return;
    }
    let server = server::Postgres::start();
    let bare = Bare::new(&server);
    let quota = Quota::per_minute(5);
    let groups: Vec<CheckGroup> = (1..=3).map(|key| smallvec![take(key, 2, quota)]).collect();
    bare.call(&groups, START_US);
    let (link, statements) = (&bare.link, &bare.rows.statements);
    let stale = bare.runtime.block_on(async {
        let sets = Sets::of(&groups.iter().collect::<Vec<_>>());
        let (mut records, at) = bare.rows.read(link, &sets, Some(START_US)).await.expect("rows");
        // Another process charges one key, and removes the row of another.
        let mut other = bare.rows.read(link, &sets, Some(START_US)).await.expect("rows").0;
        other.evaluate(&groups[0], Timestamp::from_nanos(at * 1_000));
        let written = bare.rows.write(link, other.into_changes(&sets, Timestamp::ZERO), true).await.expect("written");
        assert!(written.is_empty());
        server.sql("DELETE FROM tollgate_limits WHERE name = 2");
        for group in &groups {
            records.evaluate(group, Timestamp::from_nanos(at * 1_000));
        }
        let stale = bare.rows.write(link, records.into_changes(&sets, Timestamp::ZERO), true).await.expect("written");
        let of = |group: &CheckGroup| stale.contains(&sets.of_group(group));
        groups.iter().map(of).collect::<Vec<_>>()
    });
    assert_eq!(stale, [true, true, false]);
    let left: Vec<u32> = (1..=3)
        .map(|key| {
            let act = LimitCommand::Ask { enforced: true };
            let asked: CheckGroup = smallvec![LimitOp { act, ..take(key, 1, quota) }];
            bare.call(&[asked], START_US)[0].verdicts[0].remaining()
        })
        .collect();
    assert_eq!(left, [1, 5, 1], "each charge counts once");
    assert!(statements.limits.contains("tollgate_limits"));
}

#[test]
fn values_of_others_count_as_none_and_idle_rows_go() {
    if !server::wanted() {
        return;
    }
    let server = server::Postgres::start();
    let bare = Bare::new(&server);
    server.sql("INSERT INTO tollgate_limits VALUES (1, 'text', 7, now() + interval '1 hour'), (2, '', 8, now() - interval '1 hour')");
    assert_eq!(bare.call(&[smallvec![take(1, 1, Quota::per_minute(5))]], START_US)[0].verdicts[0].remaining(), 4);
    assert_eq!(server.sql("SELECT version = 7 FROM tollgate_limits WHERE name = 1"), "f");
    bare.runtime.block_on(bare.link.query(&bare.rows.statements.sweep_limits, &[])).expect("swept");
    assert_eq!(server.sql("SELECT string_agg(name::text, ' ') FROM tollgate_limits"), "1");
}

#[test]
fn contention_refuses_shortly_before_the_deadline() {
    if !server::wanted() {
        return;
    }
    let server = server::Postgres::start();
    let bare = Bare::new(&server);
    let group: CheckGroup = smallvec![take(1, 1, Quota::per_minute(5))];
    // Every read finds another version than the write.
    server.sql(
        "CREATE OR REPLACE FUNCTION tollgate_write_limits(names bigint[], sets integer[], states bytea[], seen bigint[],
         versions bigint[], ttls bigint[]) RETURNS integer[] LANGUAGE sql AS 'SELECT sets'",
    );
    let (refused, took) = bare.runtime.block_on(async {
        let began = runtime_now();
        let by = began + Duration::from_millis(200);
        let reply = bare.rows.call(bare.link.clone(), &[&group], Some(START_US), by).await.expect("an answer");
        (reply.1[0].verdicts[0], (runtime_now() - began, by - runtime_now()))
    });
    assert!(!refused.admits() && took.1 > Duration::ZERO, "{refused:?} after {took:?}");
}
