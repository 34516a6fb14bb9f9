//! Every feature of limits with every other: in one process against a model, and over Redis and PostgreSQL in four processes.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "a test may fail, and then shows what led to it")]

#[path = "support/limit_fleet.rs"]
mod fleet;
#[path = "support/limit_model.rs"]
mod model;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/redis.rs"]
mod redis;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use fleet::{BURST, Fleet, GOOD, Outcomes, PROCESSES, Pair, Shared, has, pairs};
use http::Response;
use http_body_util::Full;
use model::{Asked, CLIENTS, Expected, FEATURES, Feature, Model, OFF, PREFERRED, SPAN, TICK};
use support::{Req, field, from, text};
use tollgate::identity::Key;
use tollgate::limit::LimitSubject;
use tollgate::{Body, Clock, ManualClock, Mode, Override, Tollgate};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt};

/// Runs of each pair, with requests in another order.
const SEEDS: u64 = 4;
/// Steps of each of the three phases of a run: before the operator's grants and overrides, under them, and after their end.
const STEPS: u32 = 60;

/// A linear congruential generator (Knuth's MMIX): a failure is repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// Whether an event of that chance in percent occurs.
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

type InProgress = Response<Body<Full<Bytes>>>;

/// A gate, and the model of it.
struct Run {
    model: Model,
    gate: Tollgate,
    hand: ManualClock,
    service: BoxCloneService<Req, InProgress, Infallible>,
    /// Responses whose bodies have not ended, by client.
    held: Vec<(usize, InProgress)>,
    random: Random,
}

impl Run {
    fn new(features: &[Feature], seed: u64) -> Self {
        let hand = ManualClock::new();
        let gate = model::gate(features).clock(Clock::Manual(hand.clone())).build().expect("a gate");
        let service = BoxCloneService::new(gate.layer().layer(support::answering(|request: &Req| {
            let status = if request.headers().contains_key("x-fails") { 500 } else { 200 };
            Response::builder().status(status).body(Full::from("ok")).expect("a response")
        })));
        let model = Model::new(features);
        Self { model, gate, hand, service, held: Vec::new(), random: Random(seed) }
    }

    async fn phases(&mut self) {
        for phase in 0..3 {
            if phase == 1 {
                self.operate().await;
            }
            for _ in 0..STEPS {
                self.step().await;
            }
            self.advance(SPAN + 10 * TICK).await;
        }
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0..12 => self.advance(TICK).await,
            12..22 if !self.held.is_empty() => {
                let at = self.random.below(self.held.len() as u64) as usize;
                let (client, response) = self.held.swap_remove(at);
                drop(response);
                self.model.release(client);
            }
            22..28 if self.model.has(Feature::Reset) => {
                let (client, route) = (self.random.below(2) as usize, self.route());
                self.subject(client).route(route).reset().await.expect("in this process");
                self.model.reset(client, route);
            }
            _ => self.request().await,
        }
    }

    async fn advance(&mut self, seconds: u64) {
        self.model.now += seconds;
        self.hand.advance(Duration::from_secs(seconds));
        self.gate.overrides().sync().await;
    }

    /// Makes the operator's grant and overrides.
    async fn operate(&mut self) {
        let (span, off) = (Duration::from_secs(SPAN), Duration::from_secs(OFF));
        let overrides = [
            (Feature::Shadow, Override::mode("limit base", Mode::Shadow).expires_in(span)),
            (Feature::Off, Override::mode("limits", Mode::Off).expires_in(off)),
            (Feature::Quota, Override::quota("limit base", "3/min").expires_in(span)),
        ];
        for (_, asked) in overrides.into_iter().filter(|(feature, _)| self.model.has(*feature)) {
            self.gate.overrides().apply(asked).await.expect("an override");
        }
        if self.model.has(Feature::Grant) {
            let until = Clock::Manual(self.hand.clone()).wall() + span;
            self.subject(PREFERRED).grant("base", "8/min", until).await.expect("a grant");
        }
        self.model.operate();
    }

    fn subject(&self, client: usize) -> LimitSubject {
        self.gate.limits().subject(Key::ip(CLIENTS[client].parse().expect("an address")))
    }

    fn route(&mut self) -> &'static str {
        if self.random.chance(50) { "/a" } else { "/b" }
    }

    async fn request(&mut self) {
        let client = if self.random.chance(10) { 2 } else { self.random.below(2) as usize };
        let method = if self.random.chance(50) { "GET" } else { "POST" };
        let (fails, exempt, held) = (self.random.chance(50), self.random.chance(15), self.random.chance(25));
        let asked = Asked { client, method, route: self.route(), fails, exempt, held };
        let mut request = from(CLIENTS[client], asked.route);
        *request.method_mut() = method.parse().expect("a method");
        let fields = [("x-fails", fails), ("x-exempt", exempt), ("x-tier", client == PREFERRED)];
        for (name, _) in fields.iter().filter(|(_, is_sent)| *is_sent) {
            request.headers_mut().insert(*name, "pro".parse().expect("a value"));
        }
        let expected = self.model.decide(&asked);
        let response = self.service.clone().oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        match &expected {
            Expected::Passed | Expected::Admitted { .. } => {
                assert_eq!(status, if fails { 500 } else { 200 }, "{asked:?}: {expected:?}");
                let remaining = match &expected {
                    Expected::Admitted { remaining: Some(remaining) } => remaining.to_string(),
                    _ => String::new(),
                };
                assert_eq!(field(&response, "x-ratelimit-remaining"), remaining, "{asked:?}");
                if held && self.model.has(Feature::Concurrency) && expected != Expected::Passed {
                    self.held.push((client, response));
                }
            }
            Expected::Refused { limits } => self.refused((429, limits), &asked, response).await,
            Expected::Denied => self.refused((403, &Vec::new()), &asked, response).await,
        }
    }

    /// A refusal is found again by the reference in its body.
    async fn refused(&self, expected: (u16, &Vec<&str>), asked: &Asked, response: InProgress) {
        assert_eq!(response.status().as_u16(), expected.0, "{asked:?}: {expected:?}");
        let problem: serde_json::Value = serde_json::from_str(&text(response).await).expect("JSON");
        let reference = problem["reference"].as_str().expect("a reference");
        let refusal = self.gate.limits().refusal(reference).expect("found by its reference");
        assert_eq!(
            (refusal.limits.iter().map(String::as_str).collect(), &*refusal.route),
            (expected.1.clone(), asked.route)
        );
    }

    /// The gate's counters are the model's.
    fn check_counters(&self) {
        let (stats, model) = (self.gate.stats(), &self.model);
        let limits =
            stats.limits.iter().map(|limit| (&*limit.name, [limit.admitted, limit.refused, limit.would_refuse]));
        let places = stats.concurrency.iter().map(|places| (&*places.name, [0, places.refused, places.would_refuse]));
        let counted: BTreeMap<&str, model::Counts> =
            limits.chain(places).filter(|(_, counts)| *counts != [0; 3]).collect();
        assert_eq!(counted, model.counts);
        let all = self.gate.limits().stats();
        assert_eq!((all.admitted, all.refused, all.denied), (model.admitted, model.refused, model.denied));
        let in_progress: u64 = stats.concurrency.iter().map(|places| places.in_progress).sum();
        assert_eq!(in_progress, self.held.len() as u64);
    }
}

#[tokio::test]
async fn every_pair_of_features_decides_as_the_model_does() {
    let mut effective = BTreeSet::new();
    for (at, one) in FEATURES.iter().enumerate() {
        for other in &FEATURES[at..] {
            let features = if one == other { vec![*one] } else { vec![*one, *other] };
            let mut seen = BTreeSet::new();
            for seed in 0..SEEDS {
                println!("{features:?}, seed {seed}"); // shown if it fails
                let mut run = Run::new(&features, seed);
                run.phases().await;
                run.check_counters();
                seen.extend(run.model.effective);
            }
            effective.extend(seen.into_iter().filter(|_| one == other));
        }
    }
    assert_eq!(effective, FEATURES.into_iter().collect(), "features that decided something when they were alone");
}

/// Run by itself it does nothing; run by [`Fleet`] it is one of the processes.
#[tokio::test]
async fn one_process_of_the_fleet() {
    fleet::serve().await;
}

/// Number of requests of a burst that are admitted where nothing was charged before.
fn quota(pair: Pair) -> usize {
    match pair {
        _ if has(pair, Shared::Grant) => 30,
        _ if has(pair, Shared::Quota) => 10,
        _ => 20,
    }
}

/// Checks the outcomes of a burst, of which `most` requests of each pair may be admitted, and `least` percent of that are. Returns
/// how many were.
fn check(what: &str, outcomes: &[Outcomes], most: impl Fn(usize) -> usize, least: usize) -> Vec<usize> {
    for (at, (pair, [admitted, refused, denied])) in pairs().into_iter().zip(outcomes).enumerate() {
        let most = most(at);
        let seen = format!("{what}, {pair:?}: {admitted} of {most} admitted, {refused} refused, {denied} denied");
        println!("{seen}"); // shown if it fails
        assert!(*admitted <= most && admitted * 100 >= most * least, "{seen}");
        assert_eq!(admitted + refused + denied, PROCESSES * BURST, "{seen}");
        assert!(has(pair, Shared::Ban) || *denied == 0, "{seen}");
    }
    outcomes.iter().map(|outcome| outcome[0]).collect()
}

/// Runs every pair in four processes that share the store of this URL. In each burst of requests the quota is never exceeded,
/// and `least` percent of it are admitted.
fn four_processes(url: &str, least: usize) {
    let mut fleet = Fleet::start(url);
    let pairs = pairs();
    ["grant", "override 3600", "sync"].into_iter().for_each(|command| fleet.tell(command));
    for (pair, outcomes) in pairs.iter().zip(fleet.outcomes("good")) {
        let sent = if has(*pair, Shared::Count) { PROCESSES * GOOD } else { 0 };
        assert_eq!(outcomes, [sent, 0, 0], "{pair:?}: good requests are not counted");
    }
    let first = check("granted and overridden", &fleet.outcomes("burst"), |at| quota(pairs[at]), least);
    fleet.tell("wait-for-bans");
    std::thread::sleep(Duration::from_millis(500)); // until every process has published its ban
    ["advance 2", "reset", "sync"].into_iter().for_each(|command| fleet.tell(command));
    let outcomes = fleet.outcomes("burst");
    let (reset, same): (Vec<_>, Vec<_>) = (0..pairs.len()).partition(|at| has(pairs[*at], Shared::Reset));
    let left = |at: usize| if reset.contains(&at) { quota(pairs[at]) } else { quota(pairs[at]) - first[at] };
    let second = check("two seconds later", &outcomes, left, 0);
    assert!(reset.iter().all(|at| second[*at] * 100 >= quota(pairs[*at]) * least), "reset: {second:?}");
    for at in same.into_iter().filter(|at| has(pairs[*at], Shared::Ban)) {
        assert_eq!(outcomes[at], [0, 0, PROCESSES * BURST], "{:?}: banned", pairs[at]);
    }
    // Grants and bans end by the clock that is turned; overrides by that of the store.
    fleet.tell("override 1");
    std::thread::sleep(Duration::from_millis(1_200));
    ["advance 601", "sync"].into_iter().for_each(|command| fleet.tell(command));
    check("expired", &fleet.outcomes("burst"), |_| 20, least);
}

#[test]
fn every_shared_pair_is_exact_over_redis_in_four_processes() {
    if redis::wanted() {
        four_processes(&redis::RedisServer::start().url(), 100);
    }
}

#[test]
fn every_shared_pair_is_never_over_its_limit_over_postgresql_in_four_processes() {
    if postgres::wanted() {
        four_processes(&postgres::Postgres::start().url(), 40);
    }
}

#[test]
fn every_shared_pair_is_never_over_its_limit_in_four_processes_that_lease_from_redis() {
    if redis::wanted() {
        let server = redis::RedisServer::start();
        four_processes(&format!("leased {}", server.url()), 40);
    }
}
