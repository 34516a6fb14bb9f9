//! Processes over one stack of levels, and the model of what they may answer: see `levels_model.rs`.
#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tollgate::cache::{CacheBuilder, Cached, Loaded, Rule, Rules};
use tollgate::{Clock, ManualClock};

use super::held_fetches::{Gates, Held, Order};
use super::world::{World, reply};

pub(crate) const LIFE: u64 = 60;
/// Responses.
pub(crate) const KEYS: u8 = 4;
/// Their processes share a lease for each miss.
pub(crate) const LEASED: u8 = 2;
/// It may be served stale while it is fetched again.
pub(crate) const WINDOWED: u8 = 3;
pub(crate) const WINDOW: u64 = 30;
/// Typed values have the numbers from `KEYS` on; up to this one, processes share a lease for each load.
const UNLEASED: u8 = 6;
pub(crate) const ALL: u8 = 8;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope {
    Key(u8),
    Tag(u8),
    Prefix,
    Soft(u8),
}

impl Scope {
    pub(crate) fn concerns(self, key: u8) -> bool {
        match self {
            Self::Key(one) => key == one,
            Self::Tag(tag) | Self::Soft(tag) => key % 2 == tag,
            Self::Prefix => key < KEYS,
        }
    }
}

/// Fetches, in the order in which they began: when each was answered.
#[derive(Default)]
pub(crate) struct Origin(pub(crate) Vec<u64>);

pub(crate) fn now(clock: &ManualClock) -> u64 {
    let wall = Clock::Manual(clock.clone()).wall();
    wall.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// A process whose service answers with the key and the number of the fetch, and whose typed values are the same.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) world: World,
    /// Typed values, with and without leases.
    pub(crate) values: [Cached<String>; 2],
    pub(crate) origin: Arc<Mutex<Origin>>,
    pub(crate) clock: ManualClock,
    pub(crate) gates: Arc<Gates>,
}

pub(crate) fn process(
    set: impl FnOnce(CacheBuilder) -> CacheBuilder,
    origin: Arc<Mutex<Origin>>,
    clock: ManualClock,
) -> Process {
    let (of_world, its_clock, gates) = (origin.clone(), clock.clone(), Arc::<Gates>::default());
    let its_gates = gates.clone();
    let lease = Rule::from_headers().lease_ttl(Duration::from_secs(1));
    let rules = Rules::new().route(format!("/k/{LEASED}"), lease).otherwise(Rule::from_headers());
    let world = World::with(
        |builder| set(builder.rules(rules)),
        move |asked| {
            let key: u8 = asked.path.rsplit('/').next().and_then(|key| key.parse().ok()).expect("a key");
            let tag = format!("tag-{}", key % 2);
            let window = if key == WINDOWED { format!(", stale-while-revalidate={WINDOW}") } else { String::new() };
            let life = format!("max-age={LIFE}{window}");
            let answer = answer(&of_world, &its_clock, &its_gates, key);
            async move { Ok(reply(&[("cache-control", &life), ("cache-tag", &tag)], answer.await)) }
        },
    );
    let values = |name| world.layer.data().cached(name).ttl(Duration::from_secs(LIFE));
    let leased = values("leased").build().expect("a namespace");
    let values = [leased, values("unleased").lease_ttl(Duration::ZERO).build().expect("a namespace")];
    Process { world, values, origin, clock, gates }
}

/// Returns the number of the fetch in its body.
pub(crate) fn number(body: &str) -> usize {
    body.split_once(' ').and_then(|(_, number)| number.parse().ok()).expect("a whole body")
}

/// Counts a fetch of this key; returns its body, once its gate is open.
fn answer(
    origin: &Arc<Mutex<Origin>>,
    clock: &ManualClock,
    gates: &Gates,
    key: u8,
) -> impl Future<Output = String> + Send + 'static + use<> {
    let (origin, clock) = (origin.clone(), clock.clone());
    let number = {
        let mut origin = origin.lock().expect("not poisoned");
        origin.0.push(now(&clock));
        origin.0.len() - 1
    };
    let held = gates.reach(key, number);
    async move {
        if let Some(opened) = held {
            // The test may have ended.
            let _ = opened.await;
            origin.lock().expect("not poisoned").0[number] = now(&clock);
        }
        format!("{key} {number}")
    }
}

impl Process {
    pub(crate) async fn ask(&self, key: u8) -> String {
        if key < KEYS {
            let answer = self.world.get(&format!("/k/{key}")).await;
            assert_eq!(answer.status, 200);
            return answer.body;
        }
        let (origin, clock, gates) = (self.origin.clone(), self.clock.clone(), self.gates.clone());
        let load = move || async move {
            let body = answer(&origin, &clock, &gates, key).await;
            Ok::<_, Infallible>(Loaded::from(body).tag(format!("tag-{}", key % 2)))
        };
        let value =
            self.values[usize::from(key >= UNLEASED)].get_or_load(u64::from(key), load).await.expect("no load fails");
        String::clone(&value)
    }
}

/// What may be answered: by key, the first fetch that is new enough.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) acknowledged: HashMap<u8, usize>,
    /// The same, in each process: also what was not acknowledged.
    pub(crate) own: [HashMap<u8, usize>; 2],
}

impl Model {
    pub(crate) fn invalidate(floors: &mut HashMap<u8, usize>, scope: Scope, next: usize) {
        // Within its window it is served while it is fetched again.
        let voided = |key: &u8| scope.concerns(*key) && !(matches!(scope, Scope::Soft(_)) && *key == WINDOWED);
        (0..ALL).filter(voided).for_each(|key| _ = floors.insert(key, next));
    }

    /// Returns the first fetch that is new enough for this process.
    pub(crate) fn floor(&self, process: usize, key: u8) -> usize {
        let floor = |floors: &HashMap<u8, usize>| floors.get(&key).copied().unwrap_or(0);
        floor(&self.acknowledged).max(floor(&self.own[process]))
    }

    pub(crate) fn check(&self, floor: usize, key: u8, body: &str, origin: &Origin, now: u64) {
        let (said, fetch) = (body.split(' ').next(), number(body));
        assert_eq!(said, Some(&*key.to_string()), "the body of another key");
        assert!(fetch >= floor, "{body:?} was fetched before {floor}, from which an invalidation was known");
        let life = if key == WINDOWED { LIFE + WINDOW } else { LIFE };
        assert!(now < origin.0[fetch] + life * 1_000, "{body:?} is {} ms old", now - origin.0[fetch]);
    }
}

pub(crate) async fn invalidate(process: &Process, scope: Scope) -> bool {
    let handle = process.world.layer.invalidate();
    match scope {
        Scope::Key(key) => handle.key(&format!("http://example.com/k/{key}")).await,
        Scope::Tag(tag) => handle.tag(&format!("tag-{tag}")).await,
        Scope::Prefix => handle.prefix("http://example.com/k/").await,
        Scope::Soft(tag) => handle.soft().tag(&format!("tag-{tag}")).await,
    }
    .is_ok()
}

pub(crate) fn received(process: &Process) -> u64 {
    process.world.stats().levels.iter().map(|level| level.invalidations_received).max().unwrap_or(0)
}

/// Waits until the other process has what this one was acknowledged.
pub(crate) async fn deliver(from: &Process, to: &Process) {
    let number = received(from);
    for _ in 0..2_000 {
        if received(to) >= number {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 10 s: {number} is delivered: {:?}", to.world.stats().levels);
}

/// Gives a process that starts the time to read the log.
pub(crate) async fn settle(process: &Process) {
    for _ in 0..20 {
        if process.world.stats().levels.iter().all(|level| level.up) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Processes, what they hold open, and what they may answer.
pub(crate) struct Run {
    pub(crate) processes: Vec<Process>,
    pub(crate) held: Vec<Held>,
    pub(crate) model: Model,
    pub(crate) order: Order,
    pub(crate) origin: Arc<Mutex<Origin>>,
    pub(crate) clock: ManualClock,
    /// Whether an acknowledgement binds the other process, to which it is delivered.
    pub(crate) has_log: bool,
    /// Whether all processes use the same levels.
    pub(crate) is_ordered: bool,
    pub(crate) is_broken: bool,
}

impl Run {
    /// Processes over the same levels, one of which has a log.
    pub(crate) fn new(processes: Vec<Process>, origin: Arc<Mutex<Origin>>, clock: ManualClock) -> Self {
        let (held, model, order) = (Vec::new(), Model::default(), Order::default());
        Self { processes, held, model, order, origin, clock, has_log: true, is_ordered: true, is_broken: false }
    }

    pub(crate) fn origin(&self) -> std::sync::MutexGuard<'_, Origin> {
        self.origin.lock().expect("not poisoned")
    }

    /// Whether a process holds a fetch of the key that its requests would wait for.
    pub(crate) fn is_held(&self, process: usize, key: u8) -> bool {
        let floor = self.model.floor(process, key);
        self.held.iter().any(|held| (held.process, held.key) == (process, key) && held.number >= floor)
    }

    pub(crate) fn check(&self, process: usize, key: u8, body: &str) {
        self.model.check(self.model.floor(process, key), key, body, &self.origin(), now(&self.clock));
        self.order.check(process, key, number(body), now(&self.clock));
    }

    pub(crate) async fn ask(&self, process: usize, key: u8) {
        if !self.is_held(process, key) {
            let body = self.processes[process].ask(key).await;
            self.check(process, key, &body);
        }
    }

    pub(crate) async fn begin(&mut self, process: usize, key: u8) {
        // Another process would wait for the lease.
        if key == LEASED || (KEYS..UNLEASED).contains(&key) || self.is_held(process, key) {
            return;
        }
        let (asked, floor) = (self.processes[process].clone(), self.model.floor(process, key));
        let open = asked.gates.close(key);
        let gates = asked.gates.clone();
        let asked = tokio::spawn(async move { asked.ask(key).await });
        let mut waits = 0;
        while gates.reached(key).is_none() && waits < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            // A refresh in the background begins after the answer.
            waits += i32::from(asked.is_finished());
        }
        let reached = gates.remove(key);
        let asked = match asked.is_finished() {
            true => {
                self.check(process, key, &asked.await.expect("no request fails"));
                None
            }
            false => Some(asked),
        };
        if let Some(number) = reached {
            self.held.push(Held { process, key, number, open, asked, floor });
        }
    }

    /// Whether every level of a process answers, and how many calls have failed.
    pub(crate) fn health(&self, process: usize) -> Option<u64> {
        let levels = self.processes[process].world.stats().levels;
        let is_up = !self.is_broken && levels.iter().all(|level| level.up);
        is_up.then(|| levels.iter().map(|level| level.errors).sum())
    }

    pub(crate) async fn finish(&mut self, held: Held) {
        let Held { process, key, number: begun, open, asked, floor } = held;
        let (health, began) = (self.health(process), self.origin().0[begun]);
        let world = self.processes[process].world.clone();
        let open_fetches = || {
            let stats = world.stats();
            stats.fetches_in_flight + stats.background_fetches
        };
        let before = open_fetches();
        let _ = open.send(());
        if let Some(asked) = asked {
            let body = asked.await.expect("no request fails");
            self.model.check(floor, key, &body, &self.origin(), now(&self.clock));
        }
        // A typed value is in the levels when its load is answered.
        let mut waits = if key < KEYS { 200 } else { 0 };
        while waits > 0 && open_fetches() >= before {
            tokio::time::sleep(Duration::from_millis(1)).await;
            waits -= 1;
        }
        let is_kept = begun >= self.model.floor(process, key) && self.is_ordered;
        if is_kept && health.is_some() && self.health(process) == health {
            let fresh_until = now(&self.clock) + LIFE * 1_000;
            self.order.put(process, key, begun, began, fresh_until);
        }
    }

    /// Lets a fetch end, and asks its process again.
    pub(crate) async fn finish_one(&mut self, which: usize) {
        if !self.held.is_empty() {
            let held = self.held.remove(which % self.held.len());
            let (process, key) = (held.process, held.key);
            self.finish(held).await;
            self.ask(process, key).await;
        }
    }

    /// Lets all fetches end that a process holds.
    pub(crate) async fn finish_all(&mut self, process: usize) {
        while let Some(at) = self.held.iter().position(|held| held.process == process) {
            let held = self.held.remove(at);
            self.finish(held).await;
        }
    }

    pub(crate) async fn invalidate(&mut self, process: usize, scope: Scope) {
        // A refresh in the background may begin while the invalidation is on its way, and after it took effect.
        let next = self.origin().0.len();
        let acknowledged = invalidate(&self.processes[process], scope).await;
        Model::invalidate(&mut self.model.own[process], scope, next);
        (0..ALL).filter(|key| scope.concerns(*key)).for_each(|key| self.order.forget(key));
        if acknowledged && self.has_log {
            Model::invalidate(&mut self.model.acknowledged, scope, next);
            if let Some(other) = self.processes.get(1 - process) {
                deliver(&self.processes[process], other).await;
            }
        }
    }

    /// Notes that a process was replaced by a new one.
    pub(crate) fn restarted(&mut self, process: usize) {
        self.model.own[process].clear();
        self.order.restart(process);
    }
}
