//! Typed values against a model: any callers, who leave, fail and panic, while the clock turns and values are taken back.
//!
//! Held at every step:
//! 1. of one key at most one load is under way that nothing was taken back, or put, since it began;
//! 2. nothing is served whose load began before the last invalidation that had returned when its caller came;
//! 3. nothing is served past its stale windows, nor past stale-while-revalidate unless a load has failed meanwhile;
//! 4. everybody who stays gets an answer, of the key it asked for, and gauges return to nothing.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/data_world.rs"]
mod data_world;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_world::{Fault, clocked};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tollgate::cache::{Cached, LoadError};
use tollgate::{Clock, ManualClock};

const TTL: u64 = 60;
const REVALIDATE: u64 = 20;
const ERROR: u64 = 50;

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Value,
    Fails,
    Panics,
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        key: u8,
        millis: u64,
        outcome: Outcome,
    },
    /// One of the callers, counted from the last, leaves.
    Leave(usize),
    Turn(u64),
    Sleep(u64),
    Remove(u8),
    All,
    Put(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![5 => Just(Outcome::Value), 2 => Just(Outcome::Fails), 1 => Just(Outcome::Panics)];
    prop_oneof![
        10 => (0_u8..3, 0_u64..50, outcome).prop_map(|(key, millis, outcome)| Step::Ask { key, millis, outcome }),
        2 => (0_usize..6).prop_map(Step::Leave),
        3 => (1_u64..80).prop_map(Step::Turn),
        3 => (1_u64..60).prop_map(Step::Sleep),
        1 => (0_u8..3).prop_map(Step::Remove),
        1 => Just(Step::All),
        1 => (0_u8..3).prop_map(Step::Put),
    ]
}

/// A value that says where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    key: u8,
    /// When its load was done, in seconds of the clock.
    made: u64,
    /// How many invalidations of its key had returned when its load began.
    generation: u64,
}

#[derive(Default)]
struct Books {
    /// Per key: invalidations that have returned.
    generations: HashMap<u8, u64>,
    /// Per key: invalidations and puts that have begun.
    epochs: HashMap<u8, u64>,
    /// Loads under way, by key and epoch.
    under_way: HashMap<(u8, u64), u32>,
    failures: HashMap<u8, u64>,
    /// Keys whose loads have panicked.
    panicked: HashSet<u8>,
    /// How many loads of one key were under way at a time, where that was more than one.
    too_many: Option<(u8, u32)>,
}

#[derive(Clone)]
struct Model {
    clock: ManualClock,
    books: Arc<Mutex<Books>>,
}

/// A load that is under way until it is dropped.
struct UnderWay {
    model: Model,
    at: (u8, u64),
    failed: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut books = self.model.books.lock().expect("not poisoned");
        *books.under_way.entry(self.at).or_default() -= 1;
        *books.failures.entry(self.at.0).or_default() += u64::from(self.failed);
    }
}

impl Model {
    fn now(&self) -> u64 {
        Clock::Manual(self.clock.clone()).now().as_nanos() / 1_000_000_000
    }

    fn generation(&self, key: u8) -> u64 {
        self.books.lock().expect("not poisoned").generations.get(&key).copied().unwrap_or_default()
    }

    fn failures(&self, key: u8) -> u64 {
        self.books.lock().expect("not poisoned").failures.get(&key).copied().unwrap_or_default()
    }

    fn next_epoch(&self, keys: &[u8]) {
        let mut books = self.books.lock().expect("not poisoned");
        keys.iter().for_each(|key| *books.epochs.entry(*key).or_default() += 1);
    }

    fn next_generation(&self, keys: &[u8]) {
        let mut books = self.books.lock().expect("not poisoned");
        keys.iter().for_each(|key| *books.generations.entry(*key).or_default() += 1);
    }

    fn begin(&self, key: u8) -> UnderWay {
        let mut books = self.books.lock().expect("not poisoned");
        let at = (key, books.epochs.get(&key).copied().unwrap_or_default());
        let loads = books.under_way.entry(at).or_default();
        *loads += 1;
        let loads = *loads;
        // Not a panic: this runs in tasks that nobody may wait for. Those who waited for a load that panicked load at once.
        if loads > 1 && !books.panicked.contains(&key) {
            books.too_many = Some((key, loads));
        }
        drop(books);
        UnderWay { model: self.clone(), at, failed: true }
    }

    async fn load(self, key: u8, millis: u64, outcome: Outcome) -> Result<Seen, Fault> {
        let generation = self.generation(key);
        let mut under_way = self.begin(key);
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
        match outcome {
            Outcome::Value => under_way.failed = false,
            Outcome::Fails => return Err(Fault),
            Outcome::Panics => {
                self.books.lock().expect("not poisoned").panicked.insert(key);
                panic!("a load that panics, as it was told to");
            }
        }
        Ok(Seen { key, made: self.now(), generation })
    }

    async fn ask(self, cached: Cached<Seen>, key: u8, millis: u64, outcome: Outcome) {
        let (came, generation, failures) = (self.now(), self.generation(key), self.failures(key));
        let model = self.clone();
        let answer = cached.get_or_load(key, move || model.load(key, millis, outcome)).await;
        match answer {
            Ok(seen) => {
                assert_eq!(seen.key, key, "somebody else's value");
                assert!(seen.generation >= generation, "taken back before its caller came: {seen:?}, {generation}");
                let age = self.now() - seen.made;
                assert!(seen.made >= came || age < TTL + ERROR.max(REVALIDATE), "past all windows: {age} s");
                let failed = self.failures(key) > failures;
                assert!(seen.made >= came || age < TTL + REVALIDATE || failed, "{age} s old, and nothing had failed");
            }
            Err(LoadError::Failed(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Lets everything run that can without time passing.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

async fn play(steps: Vec<Step>) {
    let (data, clock) = clocked();
    let second = Duration::from_secs;
    let cached: Cached<Seen> = data
        .cached("model")
        .ttl(second(TTL))
        .stale_while_revalidate(second(REVALIDATE))
        .stale_if_error(second(ERROR))
        .refresh_ahead(0.8)
        .wait(second(3_600))
        .build()
        .expect("a namespace");
    let model = Model { clock: clock.clone(), books: Arc::default() };
    let mut callers = Vec::new();
    for step in steps {
        match step {
            Step::Ask { key, millis, outcome } => {
                callers.push((outcome, tokio::spawn(model.clone().ask(cached.clone(), key, millis, outcome))));
            }
            Step::Leave(back) => {
                if let Some((_, task)) = callers.iter().rev().nth(back) {
                    task.abort();
                }
            }
            Step::Turn(seconds) => clock.advance(second(seconds)),
            Step::Sleep(millis) => sleep(Duration::from_millis(millis)).await,
            Step::Remove(key) => {
                model.next_epoch(&[key]);
                cached.remove(key).await.expect("here");
                model.next_generation(&[key]);
            }
            Step::All => {
                model.next_epoch(&[0, 1, 2]);
                cached.invalidate().all().await.expect("here");
                model.next_generation(&[0, 1, 2]);
            }
            Step::Put(key) => {
                model.next_epoch(&[key]);
                let seen = Seen { key, made: model.now(), generation: model.generation(key) };
                cached.put(key, seen).await.expect("kept");
            }
        }
        settle().await;
    }
    end(callers).await;
    assert_eq!(cached.stats().fetches_in_flight, 0);
    let books = model.books.lock().expect("not poisoned");
    assert_eq!(books.too_many, None, "loads of one key at a time");
    assert!(books.under_way.values().all(|loads| *loads == 0));
}

/// Everybody who stayed has an answer, and nobody a panic but who was told to.
async fn end(callers: Vec<(Outcome, tokio::task::JoinHandle<()>)>) {
    for (outcome, task) in callers {
        match tokio::time::timeout(Duration::from_secs(60), task)
            .await
            .expect("an answer")
            .map_err(|error| error.try_into_panic())
        {
            Ok(()) => {}
            // It left.
            Err(Err(_)) => {}
            Err(Ok(panic)) => {
                let said = panic.downcast_ref::<&str>().copied().unwrap_or("a check failed");
                let told = matches!(outcome, Outcome::Panics) && said.contains("as it was told to");
                assert!(told, "{said}: {:?}", panic.downcast_ref::<String>());
            }
        }
    }
    sleep(Duration::from_secs(1)).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_a_key_is_loaded_once_and_nothing_dead_is_served(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(play(steps));
    }
}
