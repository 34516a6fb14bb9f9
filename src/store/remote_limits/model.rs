//! A model for the stores that share limits: the in-process engine, and generated groups of checks.

use std::time::Duration;

use super::group::{CheckGroup, LimitCommand, LimitOp};
use crate::base::clock::Timestamp;
use crate::base::maybe_ready::MaybeReady;
use crate::identity::KeyHash;
use crate::limit::{Check, LimitStore, Quota, Settlement, Verdicts};
use crate::store::memory::MemoryLimits;

pub(crate) const START_US: u64 = 1_760_000_000_000_000;

/// Applies the same operations to the in-process engine.
pub(crate) fn model(engine: &MemoryLimits, group: &CheckGroup, now: u64) -> Verdicts {
    let at = |us: u64| Timestamp::from_nanos(us * 1_000);
    let check = |op: &LimitOp, enforced| {
        let mut check = Check::new(KeyHash::from_bits(op.key), op.quota).cost(op.units);
        check.enforced = enforced;
        check
    };
    let (mut takes, mut evaluates) = (Vec::new(), Vec::new());
    for op in group {
        match op.act {
            LimitCommand::Take { enforced, .. } => takes.push(check(op, enforced)),
            LimitCommand::Ask { enforced } => evaluates.push(check(op, enforced)),
            LimitCommand::Refund { charged } => {
                drop(engine.settle(&[Settlement::new(check(op, true), at(charged), 0)], at(now)))
            }
            LimitCommand::Charge => {
                let settlement = Settlement::new(check(op, true).cost(0), at(now), op.units);
                drop(engine.settle(&[settlement], at(now)));
            }
        }
    }
    let reply = if takes.is_empty() { engine.peek(&evaluates, at(now)) } else { engine.decide(&takes, at(now)) };
    let MaybeReady::Ready(Ok(verdicts)) = reply else { unreachable!("in process") };
    verdicts
}

pub(crate) fn quotas() -> [Quota; 6] {
    [
        Quota::per_second(5),
        Quota::per_minute(20),
        Quota::new(7, Duration::from_millis(500)),
        Quota::per_minute(60).bucket(3),
        Quota::per_second(3).bucket(5),
        Quota::per_minute(10_000).bucket(100),
    ]
}

/// A generated operation: key, kind, units and whether it is enforced; its quota follows its key.
pub(crate) type Row = (u64, u8, u32, bool);

fn op((key, kind, units, enforced): Row, quota: Quota, now: u64) -> LimitOp {
    let act = match kind {
        0..=6 => LimitCommand::Take { enforced, want: 0, ttl: Duration::ZERO },
        7 => LimitCommand::Refund { charged: now - u64::from(units) * 37_000 },
        _ => LimitCommand::Charge,
    };
    // A correction by zero is omitted.
    LimitOp { key, quota, units: units.max(u32::from(kind > 6)), act }
}

/// Takes and asks share groups; corrections have groups of their own.
pub(crate) fn group(mut rows: Vec<Row>, evaluates: bool, now: u64, quota: impl Fn(u64) -> Quota) -> CheckGroup {
    // The limits of a request use distinct keys.
    rows.sort_by_key(|row| row.0);
    rows.dedup_by_key(|row| row.0);
    if evaluates {
        return rows
            .iter()
            .map(|row| LimitOp { act: LimitCommand::Ask { enforced: row.3 }, ..op(*row, quota(row.0), now) })
            .collect();
    }
    match rows[0].1 {
        0..=6 => rows.iter().map(|row| op((row.0, 0, row.2, row.3), quota(row.0), now)).collect(),
        _ => rows[..1].iter().map(|row| op(*row, quota(row.0), now)).collect(),
    }
}
