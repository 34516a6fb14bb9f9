use proptest::prelude::*;

use super::*;
use crate::upstream::learn::observed_limits::ObservedLimits;
use crate::upstream::quota::account::{AccountConfig, CallVerdict, PlannedCall};
use crate::upstream::quota::balance::Balance;
use crate::upstream::quota::credit::Credits;
use crate::upstream::quota::meter::PointInTime;

const LIMIT: u64 = 120;
const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);
const CALL: PlannedCall = PlannedCall { endpoint: 0, cost: 1, share: 1.0, unbooked: false };

/// Nodes that share one quota and a store.
struct Fleet {
    nodes: Vec<Account>,
    store: Balance,
    away: bool,
    spent: u64,
    now: u64,
}

impl Fleet {
    fn new() -> Self {
        let mut fleet = Self { nodes: Vec::new(), store: Balance::default(), away: false, spent: 0, now: 0 };
        fleet.nodes = (0..3).map(|_| fleet.node()).collect();
        fleet
    }

    fn point_in_time(&self) -> PointInTime {
        PointInTime { now: START.after(self.now), unix: 1_767_225_600_000_000_000 + self.now as i64 }
    }

    fn node(&self) -> Account {
        let config = AccountConfig {
            enforce: true,
            booked: true,
            free_not_modified: false,
            alert_at: SmallVec::new(),
            usual_share: 1.0,
            slow_after: u64::MAX,
            probe_interval: std::time::Duration::from_secs(3_600),
        };
        let month = Calendar::new(Credits::per_month(LIMIT), self.point_in_time());
        Account::new(config, SmallVec::from_iter([month]), None, 1)
    }

    fn call(&mut self, node: usize) {
        for _ in 0..10 {
            let point = self.point_in_time();
            match self.nodes[node].admit(CALL, point) {
                CallVerdict::Send(ticket) => {
                    self.spent += 1;
                    let observed = ObservedLimits::new();
                    let answered =
                        crate::upstream::quota::account::CallEnding::Answered(http::StatusCode::OK, &observed);
                    self.nodes[node].settle(&ticket, answered, point);
                    if self.nodes[node].runs_low(point.now) {
                        self.book(node);
                    }
                    return;
                }
                CallVerdict::Book => self.book(node),
                CallVerdict::Reject(..) => return,
            }
        }
    }

    fn book(&mut self, node: usize) {
        let now = self.point_in_time().now;
        let bookings = self.nodes[node].next_block(1, now);
        self.ask(node, &bookings);
    }

    fn ask(&mut self, node: usize, bookings: &[BookingRequest]) {
        if self.away {
            return self.nodes[node].not_booked(START.after(self.now));
        }
        let balances: Vec<Balance> = bookings
            .iter()
            .map(|bookings| {
                self.store = self.store.after(bookings.credits);
                self.store
            })
            .collect();
        self.nodes[node].booked(bookings, &balances);
    }

    fn shut_down(&mut self, node: usize) {
        for bookings in [self.nodes[node].to_settle(), self.nodes[node].to_return()] {
            self.ask(node, &bookings);
        }
    }

    fn unbooked(&self) -> u64 {
        self.nodes.iter().map(Account::unbooked).sum()
    }
}

proptest! {
    /// Through crashes, restarts and outages: booked and unbooked credits are never less than the spent ones; without
    /// an outage, no more is spent than the quota.
    #[test]
    fn spent_credits_are_booked_or_unbooked(
        steps in prop::collection::vec((0_usize..3, 0_u8..20, 0_u64..3_000_000_000), 1..400),
        reliable in any::<bool>(),
    ) {
        let mut fleet = Fleet::new();
        for (node, kind, step) in steps {
            fleet.now += step / 8;
            match kind {
                0 if !reliable => fleet.away = !fleet.away,
                // Loses all data of live nodes; they correct the store and book the difference.
                1 if !reliable && !fleet.away => {
                    fleet.book(node);
                    fleet.store = Balance::default();
                    fleet.book(node);
                    fleet.book(node);
                }
                2 if fleet.nodes[node].unbooked() == 0 => fleet.nodes[node] = fleet.node(),
                3 if !fleet.away => {
                    fleet.shut_down(node);
                    fleet.nodes[node] = fleet.node();
                }
                4 => fleet.now += step,
                _ => fleet.call(node),
            }
            let booked = fleet.store.booked - fleet.store.returned;
            prop_assert!(booked + fleet.unbooked() >= fleet.spent, "{:?} and {} < {}", fleet.store, fleet.unbooked(), fleet.spent);
            prop_assert!(!reliable || fleet.spent <= LIMIT);
        }
    }
}
