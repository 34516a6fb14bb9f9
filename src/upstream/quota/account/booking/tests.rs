use proptest::prelude::*;

use super::*;
use crate::upstream::learn::observed_limits::ObservedLimits;
use crate::upstream::quota::account::{CallVerdict, PlannedCall, Terms};
use crate::upstream::quota::balance::Balance;
use crate::upstream::quota::credit::Credits;
use crate::upstream::quota::meter::Moment;

const LIMIT: u64 = 120;
const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);
const CALL: PlannedCall = PlannedCall { endpoint: 0, cost: 1, share: 1.0, owes: false };

/// Nodes that spend from one quota, and the store between them.
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

    fn moment(&self) -> Moment {
        Moment { now: START.after(self.now), unix: 1_767_225_600_000_000_000 + self.now as i64 }
    }

    fn node(&self) -> Account {
        let terms = Terms {
            enforce: true,
            booked: true,
            free_not_modified: false,
            alert_at: SmallVec::new(),
            usual_share: 1.0,
            slow_after: u64::MAX,
        };
        let month = Calendar::new(Credits::per_month(LIMIT), self.moment());
        Account::new(terms, SmallVec::from_iter([month]), None, 1)
    }

    fn call(&mut self, node: usize) {
        for _ in 0..10 {
            let moment = self.moment();
            match self.nodes[node].admit(CALL, moment) {
                CallVerdict::Send(ticket) => {
                    self.spent += 1;
                    let told = ObservedLimits::new();
                    let answered = crate::upstream::quota::account::CallEnding::Answered(http::StatusCode::OK, &told);
                    self.nodes[node].settle(&ticket, answered, moment);
                    if self.nodes[node].runs_low(moment.now) {
                        self.book(node);
                    }
                    return;
                }
                CallVerdict::Book => self.book(node),
                CallVerdict::Refuse(..) => return,
            }
        }
    }

    fn book(&mut self, node: usize) {
        let now = self.moment().now;
        let owing = self.nodes[node].next_block(1, now);
        self.ask(node, &owing);
    }

    fn ask(&mut self, node: usize, owing: &[BookingRequest]) {
        if self.away {
            return self.nodes[node].not_booked(START.after(self.now));
        }
        let balances: Vec<Balance> = owing
            .iter()
            .map(|owing| {
                self.store = self.store.after(owing.credits);
                self.store
            })
            .collect();
        self.nodes[node].booked(owing, &balances);
    }

    fn shut_down(&mut self, node: usize) {
        for owing in [self.nodes[node].to_settle(), self.nodes[node].to_return()] {
            self.ask(node, &owing);
        }
    }

    fn owed(&self) -> u64 {
        self.nodes.iter().map(Account::owed).sum()
    }
}

proptest! {
    /// Whoever dies, comes back, or loses the store: what is booked and what is owed is never less than what was spent;
    /// and where the store was never away, no more is spent than there is.
    #[test]
    fn nothing_is_spent_that_is_not_booked_or_owed(
        steps in prop::collection::vec((0_usize..3, 0_u8..20, 0_u64..3_000_000_000), 1..400),
        reliable in any::<bool>(),
    ) {
        let mut fleet = Fleet::new();
        for (node, kind, step) in steps {
            fleet.now += step / 8;
            match kind {
                0 if !reliable => fleet.away = !fleet.away,
                // It forgets everything that somebody knows; who knows tells it, and books what is owed then.
                1 if !reliable && !fleet.away => {
                    fleet.book(node);
                    fleet.store = Balance::default();
                    fleet.book(node);
                    fleet.book(node);
                }
                2 if fleet.nodes[node].owed() == 0 => fleet.nodes[node] = fleet.node(),
                3 if !fleet.away => {
                    fleet.shut_down(node);
                    fleet.nodes[node] = fleet.node();
                }
                4 => fleet.now += step,
                _ => fleet.call(node),
            }
            let booked = fleet.store.booked - fleet.store.returned;
            prop_assert!(booked + fleet.owed() >= fleet.spent, "{:?} and {} < {}", fleet.store, fleet.owed(), fleet.spent);
            prop_assert!(!reliable || fleet.spent <= LIMIT);
        }
    }
}
