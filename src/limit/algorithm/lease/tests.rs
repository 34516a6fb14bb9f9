//! A simulated fleet: failing nodes, delayed and lost messages, one store. In every run, no more is admitted than the
//! algorithm allows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;
use crate::limit::algorithm::key_state::KeyState;

const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);
const NODES: usize = 100;

const fn us(at: Timestamp) -> u64 {
    at.as_nanos() / 1_000
}

/// The store, which grants leases like the script.
pub(crate) struct Store {
    state: KeyState,
    quota: Quota,
}

impl Store {
    pub(crate) fn new(quota: Quota) -> Self {
        Self { state: KeyState::new(quota), quota }
    }

    /// Returns whether a unit is admitted, and the units and lifetime of the granted lease.
    pub(crate) fn ask(&mut self, want: u32, life: Duration, now: Timestamp) -> (bool, u32, Duration) {
        let quota = self.quota;
        if !self.state.spend(quota, 1, now).admits() {
            return (false, 0, Duration::ZERO);
        }
        let (granted, lives) = self.state.with_history(quota, now, |mut history| history.lease(quota, want, life, now));
        (true, granted, lives)
    }

    pub(crate) fn refund(&mut self, unspent: Unspent, now: Timestamp) {
        self.state.refund(self.quota, unspent.units, Timestamp::from_nanos(unspent.charged * 1_000), now);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client sends a request to a node.
    Request { node: usize },
    /// A check reaches the store.
    Arrive { node: usize, life: u64, sent: Timestamp, want: u32, last_reply: u64 },
    /// A fields reaches its node.
    Receive { node: usize, life: u64, sent: Timestamp, granted: u32, sold_at: u64, sold_life: u64 },
    /// Unspent units reach the store.
    Return { units: u32, charged: u64 },
    /// A node looks for expired leases.
    Expire { node: usize },
    /// A node fails and is replaced.
    Fail { node: usize },
}

/// Seeded xorshift: a run can be repeated.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }

    fn happens(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

struct Fleet {
    quota: Quota,
    store: Store,
    /// Incarnation of each node, and its account.
    nodes: Vec<(u64, LeaseAccount)>,
    events: BinaryHeap<Reverse<(Timestamp, u64, Event)>>,
    order: u64,
    chance: Chance,
    lossy: bool,
    admitted: Vec<Timestamp>,
    questions: u64,
}

impl Fleet {
    fn new(quota: Quota, seed: u64, lossy: bool) -> Self {
        let nodes = (0..NODES).map(|_| (0, LeaseAccount::default())).collect();
        let (events, chance) = (BinaryHeap::new(), Chance(seed | 1));
        let (store, admitted) = (Store::new(quota), Vec::new());
        Self { quota, store, nodes, events, order: 0, chance, lossy, admitted, questions: 0 }
    }

    fn at(&mut self, at: Timestamp, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event)));
    }

    /// Network delay: mostly a fraction of a millisecond, sometimes a quarter of a second; `None` if the message is
    /// lost.
    fn travel(&mut self) -> Option<Duration> {
        if self.lossy && self.chance.happens(5) {
            return None;
        }
        let most = if self.lossy && self.chance.happens(5) { 250_000 } else { 500 };
        Some(Duration::from_micros(self.chance.below(most)))
    }

    fn run(&mut self) {
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            match event {
                Event::Request { node } => self.ask(node, now),
                Event::Arrive { node, life, sent, want, last_reply } => {
                    self.arrive((node, life, sent, want, last_reply), now)
                }
                Event::Receive { node, life, sent, granted, sold_at, sold_life } => {
                    if self.nodes[node].0 == life {
                        let until = sent + Duration::from_micros(sold_life);
                        let before = self.nodes[node].1.bought(granted, until, sold_at, now);
                        self.give_back(before, now);
                        self.at(until, Event::Expire { node });
                    }
                }
                Event::Return { units, charged } => self.store.refund(Unspent { units, charged }, now),
                Event::Expire { node } => {
                    let before = self.nodes[node].1.expire(now);
                    self.give_back(before, now);
                }
                Event::Fail { node } => self.nodes[node] = (self.nodes[node].0 + 1, LeaseAccount::default()),
            }
        }
    }

    fn ask(&mut self, node: usize, now: Timestamp) {
        let (life, account) = &mut self.nodes[node];
        if account.spend(1, now).is_some() {
            self.admitted.push(now);
            return;
        }
        let (of, want) = (*life, super::life(self.quota, us(now)));
        let want = want.map_or(0, |life| {
            account.asked(1, now, life);
            account.order(now, life)
        });
        self.questions += 1;
        let lost = |fleet: &mut Self| {
            // A node without a fields gives up on its order.
            fleet.nodes[node].1.failed();
        };
        let Some(there) = self.travel() else { return lost(self) };
        let back = self.travel().map_or(u64::MAX, nanos);
        if back == u64::MAX {
            lost(self);
        }
        self.at(now + there, Event::Arrive { node, life: of, sent: now, want, last_reply: back });
    }

    fn arrive(&mut self, (node, of, sent, want, back): (usize, u64, Timestamp, u32, u64), now: Timestamp) {
        let life = super::life(self.quota, us(now)).unwrap_or_default();
        let (admits, granted, sold_life) = self.store.ask(want, life, now);
        if admits {
            self.admitted.push(now);
        }
        if back < u64::MAX {
            let sold_life = us(Timestamp::ZERO + sold_life);
            let last_reply = Event::Receive { node, life: of, sent, granted, sold_at: us(now), sold_life };
            self.at(now + Duration::from_nanos(back), last_reply);
        }
    }

    fn give_back(&mut self, unspent: Option<Unspent>, now: Timestamp) {
        if let (Some(unspent), Some(travel)) = (unspent, self.travel()) {
            self.at(now + travel, Event::Return { units: unspent.units, charged: unspent.charged });
        }
    }

    /// Returns the largest number of units admitted in any span beyond the bound of the algorithm; positive is a
    /// violation.
    fn excess(&mut self) -> i64 {
        self.admitted.sort_unstable();
        let log = &self.admitted;
        let mut worst = i64::MIN;
        match self.quota.algorithm() {
            Algorithm::Window(_) => {
                let mut from = 0;
                for (to, at) in log.iter().enumerate() {
                    while log[from] + self.quota.period() <= *at {
                        from += 1;
                    }
                    worst = worst.max((to - from + 1) as i64 - i64::from(self.quota.limit()));
                }
            }
            Algorithm::Gcra(_) => {
                let interval = nanos(self.quota.period()).div_ceil(u64::from(self.quota.limit()));
                // Units that have not drained by then: the largest burst at the end of any span.
                let (mut debt, mut last) = (0_i64, START);
                for at in log {
                    debt = (debt - nanos(at.since(last)) as i64).max(0) + interval as i64;
                    last = *at;
                    worst = worst.max(debt / interval as i64 - i64::from(self.quota.capacity()));
                }
            }
            #[expect(unreachable_patterns, reason = "a third algorithm has a bound of its own")]
            _ => {}
        }
        worst
    }
}

/// Sends requests to random, unevenly loaded nodes for a few periods: evenly, or in bursts with idle time between
/// them, so that units acquired before a pause are spent after it.
fn busy(quota: Quota, seed: u64, lossy: bool, asks: usize, gap_us: u64, bursts: bool) -> Fleet {
    let mut fleet = Fleet::new(quota, seed, lossy);
    let mut now = START;
    for _ in 0..asks {
        let silence = bursts && fleet.chance.below(150) == 0;
        let most = if silence {
            150_000
        } else if bursts {
            gap_us / 10
        } else {
            2 * gap_us
        };
        now = now + Duration::from_micros(fleet.chance.below(most));
        let among = if fleet.chance.happens(70) { 3 } else { NODES as u64 };
        let node = fleet.chance.below(among) as usize;
        fleet.at(now, Event::Request { node });
        if lossy && fleet.chance.happens(1) {
            fleet.at(now, Event::Fail { node });
        }
    }
    fleet.run();
    fleet
}

fn quotas() -> [Quota; 5] {
    [
        Quota::per_second(500),
        Quota::per_second(2_000),
        Quota::new(3_000, Duration::from_secs(2)),
        Quota::per_second(1_000).bucket(300),
        Quota::per_second(500).bucket(1_000),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_fleet_never_admits_more_than_the_algorithm(
        seed in any::<u64>(), which in 0_usize..5, lossy in any::<bool>(), gap_us in 100_u64..2_000,
        bursts in any::<bool>(),
    ) {
        let mut fleet = busy(quotas()[which], seed, lossy, 8_000, gap_us, bursts);
        prop_assert!(fleet.excess() <= 0, "{} too many under {}", fleet.excess(), quotas()[which]);
    }
}

/// Acquires blocks, spends each in the last microsecond of its lifetime, and takes everything the store grants.
fn hoard(quota: Quota, steps: &[(u64, u8, u32)]) -> Fleet {
    let mut fleet = Fleet::new(quota, 1, false);
    let (mut now, mut blocks) = (START, Vec::new());
    for (step, kind, want) in steps {
        now = now + Duration::from_micros(*step);
        blocks.retain(|(until, units): &(Timestamp, u32)| {
            let over = *until <= now;
            if over {
                let spent = std::iter::repeat_n(*until - Duration::from_micros(1), *units as usize);
                fleet.admitted.extend(spent);
            }
            !over
        });
        let life = super::life(quota, us(now)).unwrap_or_default();
        if *kind < 3 {
            let (admits, granted, life) = fleet.store.ask(*want, life, now);
            fleet.admitted.extend(admits.then_some(now));
            blocks.push((now + life, granted));
        } else if *kind == 3 {
            while fleet.store.ask(0, life, now).0 {
                fleet.admitted.push(now);
            }
        }
    }
    fleet
}

proptest! {
    #[test]
    fn hoarding_blocks_until_their_end_admits_no_more(
        which in 0_usize..5,
        steps in prop::collection::vec((0_u64..120_000, 0_u8..5, 1_u32..400), 1..120),
    ) {
        let mut fleet = hoard(quotas()[which], &steps);
        prop_assert!(fleet.excess() <= 0, "{} too many under {}", fleet.excess(), quotas()[which]);
    }
}

#[test]
fn a_block_counts_for_a_whole_period_after_the_end_of_its_life() {
    for quota in quotas() {
        // Acquired, spent at the end of its lifetime, and one period after its acquisition everything that the store
        // grants.
        let mut fleet = hoard(quota, &[(1, 0, 400), (quota.period().as_micros() as u64, 3, 0)]);
        assert!(fleet.excess() <= 0, "{} too many under {quota}", fleet.excess());
    }
}

#[test]
fn a_hot_key_asks_the_store_seldom() {
    // Three busy nodes share most of 10 000 requests a second; the limit is far away.
    for quota in [Quota::per_minute(1_200_000), Quota::per_second(20_000).bucket(20_000)] {
        let fleet = busy(quota, 7, false, 40_000, 100, false);
        assert!(fleet.admitted.len() >= 39_000, "{}", fleet.admitted.len());
        let share = fleet.questions as f64 / fleet.admitted.len() as f64;
        // The other ninety-seven nodes are too quiet to lease: they send about three requests in ten, each with its
        // own check.
        assert!(share < 0.4, "{quota}: {share}");
    }
}

#[test]
fn leasing_wastes_little_of_a_limit_that_is_wanted_whole() {
    for quota in [Quota::per_second(500), Quota::per_second(500).bucket(500)] {
        let fleet = busy(quota, 11, false, 20_000, 500, false);
        let span = fleet.admitted.last().map_or(1.0, |last| last.since(START).as_secs_f64());
        let rate = fleet.admitted.len() as f64 / span / 500.0;
        assert!(rate > 0.9, "{quota}: {rate} of the limit is used");
    }
}

#[test]
fn an_account_spends_no_more_than_it_bought_and_not_after_its_end() {
    let mut account = LeaseAccount::default();
    let life = Duration::from_millis(100);
    for _ in 0..10 {
        account.asked(1, START, life);
    }
    let wanted = account.order(START, life);
    assert_eq!((wanted, account.order(START, life)), (FIRST, 0), "one order at a time");
    assert_eq!(account.bought(10, START + life, 5, START), None);
    assert_eq!((0..20).filter(|_| account.spend(1, START).is_some()).count(), 10);
    assert_eq!(account.bought(10, START + life, 5, START), None);
    assert!(account.spend(1, START + life).is_none());
    assert_eq!(account.expire(START + life), Some(Unspent { units: 10, charged: 5 }));
    assert_eq!(account.expire(START + life), None);
}
