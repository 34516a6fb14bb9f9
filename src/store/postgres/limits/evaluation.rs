//! Evaluates groups of checks on the records of their keys, as the script of Redis does. No I/O.
//!
//! Groups see what earlier groups of the call charged.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use smallvec::SmallVec;

use crate::base::clock::Timestamp;
use crate::limit::algorithm::key_record::KeyRecord;
use crate::limit::{Verdict, Verdicts};
use crate::store::remote_limits::group::{CheckGroup, GroupResult, LimitCommand, LimitOp, SoldUnits};

/// Wait of a check that could not be decided in time since other processes held its key: it is decided again at once.
const CONTENTION_WAIT: Duration = Duration::from_millis(1);

/// Records of a call's keys, as read and as changed.
#[derive(Debug, Default)]
pub(super) struct Records {
    keys: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    record: Option<KeyRecord>,
    is_changed: bool,
}

/// A record to write.
#[derive(Debug)]
pub(super) struct ChangedRecord {
    pub(super) key: u64,
    pub(super) bytes: Vec<u8>,
    /// Time after which it equals none.
    pub(super) ttl: Duration,
}

impl Records {
    /// Adds a row that was read. A value of another program counts as none.
    pub(super) fn read(&mut self, key: u64, bytes: &[u8]) {
        self.keys.insert(key, Entry { record: KeyRecord::decode(bytes), is_changed: false });
    }

    /// Evaluates a group, and charges it if all of it fits.
    pub(super) fn evaluate(&mut self, group: &CheckGroup, now: Timestamp) -> GroupResult {
        let waits: SmallVec<[Option<Verdict>; 2]> = group.iter().map(|op| self.evaluate_op(op, now)).collect();
        let admits =
            group.iter().zip(&waits).all(|(op, verdict)| !is_enforced(op) || verdict.is_none_or(|v| v.admits()));
        let mut result = GroupResult::default();
        for (op, verdict) in group.iter().zip(waits) {
            let Some(verdict) = verdict else { continue };
            let LimitCommand::Take { want, ttl, .. } = op.act else {
                result.verdicts.push(verdict);
                continue;
            };
            let charged = admits && verdict.admits();
            result.verdicts.push(if charged { self.charge(op, now) } else { verdict });
            if want > 0 {
                let sold = if charged { self.lease(op, want, ttl, now) } else { (0, Duration::ZERO) };
                result.sold.push(SoldUnits { units: sold.0, ttl: sold.1 });
            }
        }
        result
    }

    /// Returns the verdict of a check; makes a correction.
    fn evaluate_op(&mut self, op: &LimitOp, now: Timestamp) -> Option<Verdict> {
        let LimitOp { quota, units, .. } = *op;
        match op.act {
            LimitCommand::Take { .. } | LimitCommand::Ask { .. } => {
                Some(self.entry(op).record_of(op).with(quota, now, |mut history| history.peek(quota, units, now)))
            }
            LimitCommand::Refund { charged } => {
                let charged = Timestamp::from_nanos(charged.saturating_mul(1_000));
                self.changed(op).with(quota, now, |mut history| history.refund(quota, units, charged, now));
                None
            }
            LimitCommand::Charge => {
                self.charge(op, now);
                None
            }
            LimitCommand::Reset => {
                *self.changed(op) = KeyRecord::new(quota);
                None
            }
        }
    }

    fn charge(&mut self, op: &LimitOp, now: Timestamp) -> Verdict {
        self.changed(op).with(op.quota, now, |mut history| {
            history.peek(op.quota, 0, now);
            history.charge(op.quota, op.units, now)
        })
    }

    fn lease(&mut self, op: &LimitOp, want: u32, ttl: Duration, now: Timestamp) -> (u32, Duration) {
        self.changed(op).with(op.quota, now, |mut history| history.lease(op.quota, want, ttl, now))
    }

    fn entry(&mut self, op: &LimitOp) -> &mut Entry {
        self.keys.entry(op.key).or_insert_with(|| Entry { record: None, is_changed: false })
    }

    fn changed(&mut self, op: &LimitOp) -> &mut KeyRecord {
        let entry = self.entry(op);
        entry.is_changed = true;
        entry.record_of(op)
    }

    /// Returns the changed records.
    pub(super) fn into_changes(self, now: Timestamp) -> Vec<ChangedRecord> {
        let changed = self.keys.into_iter().filter(|(_, entry)| entry.is_changed);
        let record = |(key, entry): (u64, Entry)| {
            let mut record = entry.record?;
            let (bytes, ttl) = (record.encode(), record.idle_in(now));
            Some(ChangedRecord { key, bytes, ttl })
        };
        changed.filter_map(record).collect()
    }
}

impl Entry {
    fn record_of(&mut self, op: &LimitOp) -> &mut KeyRecord {
        self.record.get_or_insert_with(|| KeyRecord::new(op.quota))
    }
}

/// Returns the keys of groups, in their order.
pub(super) fn keys(groups: &[CheckGroup]) -> BTreeSet<u64> {
    groups.iter().flatten().map(|op| op.key).collect()
}

/// Returns the result of a group whose keys other processes held until the deadline: a refusal, never an admission.
pub(super) fn contended(group: &CheckGroup) -> GroupResult {
    let refused = Verdict::new(Some(CONTENTION_WAIT), 0, CONTENTION_WAIT);
    let mut result = GroupResult::default();
    for op in group {
        if let LimitCommand::Take { want, .. } = op.act
            && want > 0
        {
            result.sold.push(SoldUnits { units: 0, ttl: Duration::ZERO });
        }
        if matches!(op.act, LimitCommand::Take { .. } | LimitCommand::Ask { .. }) {
            result.verdicts.extend(Verdicts::from(refused).iter().copied());
        }
    }
    result
}

const fn is_enforced(op: &LimitOp) -> bool {
    matches!(op.act, LimitCommand::Take { enforced: true, .. } | LimitCommand::Ask { enforced: true })
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::limit::Quota;

    const NOW: Timestamp = Timestamp::from_nanos(1_760_000_000_000_000_000);

    fn take(key: u64, units: u32) -> LimitOp {
        let act = LimitCommand::Take { enforced: true, want: 0, ttl: Duration::ZERO };
        LimitOp { key, quota: Quota::per_minute(5), units, act }
    }

    #[test]
    fn a_group_is_charged_whole_or_not_at_all() {
        let mut records = Records::default();
        assert!(records.evaluate(&smallvec![take(1, 4)], NOW).verdicts[0].admits());
        let refused = records.evaluate(&smallvec![take(1, 2), take(2, 1)], NOW);
        assert!(!refused.verdicts[0].admits() && refused.verdicts[1].remaining() == 5);
        let changes = records.into_changes(NOW);
        assert_eq!(changes.len(), 1, "the other key is as it was");
        assert_eq!((changes[0].key, changes[0].ttl), (1, Duration::from_secs(60)));
    }

    #[test]
    fn contention_refuses_every_check() {
        let act = LimitCommand::Take { enforced: true, want: 8, ttl: Duration::from_secs(1) };
        let group: CheckGroup = smallvec![take(1, 1), LimitOp { act, ..take(2, 1) }];
        let result = contended(&group);
        assert!(result.verdicts.iter().all(|verdict| !verdict.admits()));
        assert_eq!((result.verdicts.len(), result.sold[0].units), (2, 0));
        assert!(contended(&smallvec![LimitOp { act: LimitCommand::Charge, ..take(1, 1) }]).verdicts.is_empty());
    }
}
