//! Compares limits in PostgreSQL with the in-process engine, on a real server.

use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use smallvec::smallvec;
use tokio::runtime::Runtime;

use super::*;
use crate::limit::{Quota, Verdict};
use crate::store::memory::MemoryLimits;
use crate::store::remote_limits::group::{GroupResult, LimitCommand, LimitOp};
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
fn processes_that_ask_at_the_same_time_wait_for_one_another() {
    if !server::wanted() {
        return;
    }
    let server = server::Postgres::start();
    let bare = Bare::new(&server);
    let postgres = Postgres::new(&server.url()).expect("a URL");
    let admitted: usize = bare.runtime.block_on(async {
        let mut processes = Vec::new();
        for number in 0..6 {
            let link = Link::open(&postgres.address, None).await.expect("a connection");
            let rows = PostgresRows::new(&postgres);
            processes.push(tokio::spawn(async move {
                let mut admitted = 0;
                for round in 0..20 {
                    // Each takes two keys of three, in an order of its own.
                    let keys = [number, number + 1 + round % 2].map(|key| key % 3);
                    let group: CheckGroup = keys.into_iter().map(|key| take(key, 1, Quota::per_minute(60))).collect();
                    let by = runtime_now() + Duration::from_secs(60);
                    let (_, results) = rows.call(link.clone(), &[&group], Some(START_US), by).await.expect("an answer");
                    admitted += 2 * usize::from(results[0].verdicts.iter().all(Verdict::admits));
                }
                admitted
            }));
        }
        let mut admitted = 0;
        for process in processes {
            admitted += process.await.expect("no panic");
        }
        admitted
    });
    let left: u32 = (0..3)
        .map(|key| {
            let act = LimitCommand::Ask { enforced: true };
            let asked: CheckGroup = smallvec![LimitOp { act, ..take(key, 1, Quota::per_minute(60)) }];
            bare.call(&[asked], START_US)[0].verdicts[0].remaining()
        })
        .sum();
    assert_eq!(admitted + left as usize, 180, "each charge counts once");
    assert!(admitted >= 170, "those who wait are not refused: {admitted}");
}

#[test]
fn values_of_others_count_as_none_and_idle_rows_go() {
    if !server::wanted() {
        return;
    }
    let server = server::Postgres::start();
    let bare = Bare::new(&server);
    server.sql(
        "INSERT INTO tollgate_limits VALUES (1, 'text', now() + interval '1 hour'), (2, '', now() - interval '1 hour')",
    );
    assert_eq!(bare.call(&[smallvec![take(1, 1, Quota::per_minute(5))]], START_US)[0].verdicts[0].remaining(), 4);
    bare.runtime.block_on(bare.link.query(&bare.rows.statements.sweep_limits, &[])).expect("swept");
    assert_eq!(server.sql("SELECT string_agg(name::text, ' ') FROM tollgate_limits"), "1");
}

#[test]
fn a_row_that_another_process_holds_refuses_at_the_deadline_and_is_free_after_a_second() {
    if !server::wanted() {
        return;
    }
    let server = server::Postgres::start();
    let bare = Bare::new(&server);
    let group: CheckGroup = smallvec![take(1, 1, Quota::per_minute(5))];
    let postgres = Postgres::new(&server.url()).expect("a URL");
    bare.runtime.block_on(async {
        // It hangs within its transaction.
        let hung = Link::open(&postgres.address, None).await.expect("a connection");
        hung.batch(&begin(Duration::from_secs(1))).await.expect("begun");
        let names: [Parameter<'_>; 1] = [(&vec![1_i64], Type::INT8_ARRAY)];
        hung.query(&bare.rows.statements.lock_limits, &names).await.expect("locked");
        let ask = async |span| {
            let by = runtime_now() + Duration::from_millis(span);
            let reply = bare.rows.call(bare.link.clone(), &[&group], Some(START_US), by).await;
            reply.expect("an answer").1[0].verdicts[0].admits()
        };
        assert!(!ask(50).await, "contention never admits");
        assert!(ask(10_000).await, "the hung process has lost its session");
    });
}
