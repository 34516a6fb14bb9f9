//! A simulated fleet, in which calls of the store interleave, fail and come late, processes die, and clocks differ.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::base::clock::{Clock, ManualClock, Timestamp};
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::store::fleet_records::memory::RecordMap;

const NODES: usize = 8;

/// Numbers that look like chance, from a seed.
#[derive(Clone)]
struct Dice(Arc<AtomicU64>);

impl Dice {
    fn below(&self, most: u64) -> u64 {
        let x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % most
    }
}

/// A store whose calls let others go first, and sometimes fail, before or after they were carried out.
struct Unreliable {
    records: RecordMap,
    dice: Dice,
}

impl Unreliable {
    fn call<T: Send + 'static>(&self, call: impl Fn() -> BoxFuture<Result<T, Error>>) -> BoxFuture<Result<T, Error>> {
        let away = || Error::store("away", "a fault");
        let (pause, fault) = (self.dice.below(4), self.dice.below(30));
        let called = if fault == 0 { None } else { Some(call()) };
        Box::pin(async move {
            for _ in 0..pause {
                tokio::task::yield_now().await;
            }
            let answer = called.ok_or_else(away)?.await;
            if fault == 1 { Err(away()) } else { answer }
        })
    }
}

impl FleetRecords for Unreliable {
    fn put(&self, kind: &'static str, record: FleetRecord) -> BoxFuture<Result<(), Error>> {
        self.call(|| self.records.put(kind, record.clone()))
    }

    fn replace(
        &self,
        kind: &'static str,
        record: FleetRecord,
        expected: Option<Vec<u8>>,
    ) -> BoxFuture<Result<bool, Error>> {
        self.call(|| self.records.replace(kind, record.clone(), expected.clone()))
    }

    fn remove(&self, kind: &'static str, name: &str) -> BoxFuture<Result<(), Error>> {
        self.call(|| self.records.remove(kind, name))
    }

    fn list(&self, kind: &'static str) -> BoxFuture<Result<Vec<FleetRecord>, Error>> {
        self.call(|| self.records.list(kind))
    }
}

/// What the fleet has done.
#[derive(Default)]
struct Seen {
    attempts: HashSet<(u64, u32)>,
    tokens: HashSet<u64>,
    /// The process that runs the job, and until when its lease lasts without renewal.
    holder: Option<(usize, Timestamp)>,
    done: HashSet<u64>,
}

/// A process that claims, runs, renews, finishes, or dies.
async fn process(node: usize, store: JobStore, hand: ManualClock, dice: Dice, seen: Arc<Mutex<Seen>>) {
    let clock = Clock::Manual(hand.clone());
    for _ in 0..60 {
        // Now and then everything stands still for longer than a lease.
        let pause = if dice.below(25) == 0 { 45_000 } else { dice.below(1_500) };
        hand.advance(Duration::from_millis(pause));
        // Clocks differ by up to a minute.
        let now = clock.now().as_nanos() / 1_000_000 + 60_000 - (node as u64 * 60_000) / NODES as u64;
        let request = ClaimRequest { job: "coins", slot: now / 10_000 * 10_000, attempts: 3, by_hand: false };
        let asked = clock.now();
        let mut claimed = store.claim(request, now).await;
        if let Ok(JobClaim::Earlier(slot)) = claimed {
            claimed = store.claim(ClaimRequest { slot, ..request }, now).await;
        }
        let Ok(JobClaim::Granted(granted)) = claimed else {
            tokio::task::yield_now().await;
            continue;
        };
        {
            let mut seen = seen.lock();
            assert!(seen.attempts.insert((granted.record.slot, granted.record.attempt)), "{granted:?} twice");
            assert!(seen.tokens.insert(granted.record.token), "{granted:?}: a token twice");
            // A process that was suspended meanwhile begins nothing.
            if !is_in_time(clock.now().since(asked)) {
                continue;
            }
            let held = seen.holder.is_some_and(|(_, until)| clock.now() < until);
            assert!(!held, "node {node} was granted what {:?} holds", seen.holder);
            seen.holder = Some((node, asked + LEASE));
        }
        for _ in 0..dice.below(4) {
            let asked = clock.now();
            match store.renew("coins", &granted).await {
                Ok(true) => seen.lock().holder = Some((node, asked + LEASE)),
                _ => break,
            }
            hand.advance(Duration::from_millis(dice.below(9_000)));
        }
        // One in five dies: its lease ends by itself.
        if dice.below(5) == 0 {
            continue;
        }
        {
            let mut seen = seen.lock();
            if seen.holder.is_some_and(|(holder, _)| holder == node) {
                seen.holder = None;
            }
        }
        let is_failure = dice.below(3) == 0;
        let next = if is_failure { JobState::Retry } else { JobState::Done };
        if !is_failure {
            seen.lock().done.insert(granted.record.slot);
        }
        let run = run_of(&granted, node, now, is_failure);
        store.finish("coins", &granted, run, next, now).await;
    }
}

fn run_of(granted: &GrantedAttempt, node: usize, now: u64, is_failure: bool) -> JobRun {
    JobRun {
        slot: granted.record.slot,
        attempt: granted.record.attempt,
        token: granted.record.token,
        node: node.to_string(),
        started_at: now,
        took_ms: 1,
        outcome: if is_failure { "failed" } else { "done" }.to_owned(),
        text: String::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_never_runs_an_attempt_twice_nor_two_at_once() {
    let (mut attempts, mut done) = (0, 0);
    for seed in 0..200 {
        let (hand, dice) = (ManualClock::new(), Dice(Arc::new(AtomicU64::new(seed * 7_919 + 1))));
        let records: Arc<dyn FleetRecords> =
            Arc::new(Unreliable { records: RecordMap::new(Clock::Manual(hand.clone())), dice: dice.clone() });
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let processes = (0..NODES).map(|node| {
            let store = JobStore { records: records.clone(), node: format!("n{node}").into() };
            process(node, store, hand.clone(), dice.clone(), seen.clone())
        });
        futures_util::future::join_all(processes).await;
        let seen = seen.lock();
        attempts += seen.attempts.len();
        done += seen.done.len();
        assert!(seen.attempts.iter().all(|(_, attempt)| (1..=3).contains(attempt)), "seed {seed}");
    }
    assert!(attempts > 2_000 && done > 500, "{attempts} attempts, {done} times done");
}
