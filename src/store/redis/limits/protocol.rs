//! Protocol of the script: requests as bytes, replies as integers. No I/O.

use std::time::Duration;

use smallvec::SmallVec;

use crate::base::clock::{Timestamp, nanos};
use crate::limit::{Algorithm, Quota, Verdict};
use crate::store::remote_limits::group::{CheckGroup, GroupResult, LimitCommand, LimitOp, MAX_OPS, SoldUnits};

const ENFORCED: u8 = 1;
const LAST: u8 = 2;
const ASKS: u8 = 4;
const REFUNDS: u8 = 8;
const CHARGES: u8 = 16;
const LEASES: u8 = 32;

/// One call of the script.
#[derive(Debug, Default)]
pub(super) struct ScriptCall {
    pub(super) keys: SmallVec<[u64; MAX_OPS]>,
    pub(super) blob: Vec<u8>,
}

/// Encodes groups for the script.
pub(super) fn encode<'a>(groups: impl Iterator<Item = &'a CheckGroup>) -> ScriptCall {
    let mut keys: SmallVec<[u64; MAX_OPS]> = SmallVec::new();
    let mut quotas: SmallVec<[Quota; 8]> = SmallVec::new();
    let mut ops = Vec::with_capacity(7 * MAX_OPS);
    let mut extras: Vec<u8> = Vec::new();
    let mut count = 0_u16;
    for group in groups {
        for (i, op) in group.iter().enumerate() {
            let last = if i + 1 == group.len() { LAST } else { 0 };
            let key = index(&mut keys, op.key);
            let quota = index(&mut quotas, op.quota);
            let (flags, more) = flags(&op.act);
            ops.extend_from_slice(&[key, quota, flags | last]);
            ops.extend_from_slice(&op.units.to_le_bytes());
            more.into_iter().flatten().for_each(|value| extras.extend_from_slice(&value.to_le_bytes()));
            count += 1;
        }
    }
    let mut blob = Vec::with_capacity(4 + 16 * quotas.len() + ops.len() + extras.len());
    blob.extend_from_slice(&(quotas.len() as u16).to_le_bytes());
    blob.extend_from_slice(&count.to_le_bytes());
    for quota in &quotas {
        let (first, second) = numbers(*quota);
        blob.extend_from_slice(&first.to_le_bytes());
        blob.extend_from_slice(&second.to_le_bytes());
    }
    blob.extend_from_slice(&ops);
    blob.extend_from_slice(&extras);
    ScriptCall { keys, blob }
}

fn flags(act: &LimitCommand) -> (u8, [Option<f64>; 2]) {
    let enforced = |enforced: bool| if enforced { ENFORCED } else { 0 };
    match *act {
        LimitCommand::Take { enforced: e, want: 0, .. } => (enforced(e), [None; 2]),
        LimitCommand::Take { enforced: e, want, ttl } => {
            (enforced(e) | LEASES, [Some(f64::from(want)), Some(ttl.as_micros() as f64)])
        }
        LimitCommand::Ask { enforced: e } => (enforced(e) | ASKS, [None; 2]),
        LimitCommand::Refund { charged } => (REFUNDS, [Some(charged as f64), None]),
        LimitCommand::Charge => (CHARGES, [None; 2]),
    }
}

/// Returns the 1-based index of `item`, adding it if missing. Lists have at most [`MAX_OPS`] items.
fn index<A: smallvec::Array<Item = T>, T: PartialEq>(list: &mut SmallVec<A>, item: T) -> u8 {
    let found = list.iter().position(|known| *known == item);
    let at = found.unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    });
    at as u8 + 1
}

/// Encodes a quota for the script. It is a window's limit and period in microseconds, or a bucket's burst and negated
/// interval in nanoseconds.
fn numbers(quota: Quota) -> (f64, f64) {
    let period = nanos(quota.period());
    match quota.algorithm() {
        Algorithm::Window(_) => (f64::from(quota.limit()), (period / 1_000) as f64),
        Algorithm::Gcra(_) => (f64::from(quota.capacity()), -(period.div_ceil(u64::from(quota.limit().max(1))) as f64)),
    }
}

/// Decodes the script's reply, group by group.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    values: std::slice::Iter<'a, i64>,
    /// The store's time, in microseconds.
    now: u64,
}

impl<'a> Answers<'a> {
    /// Decodes the whole reply; `None` if it does not match the request.
    pub(super) fn decode(values: &'a [i64], groups: &[&CheckGroup]) -> Option<(u64, Vec<GroupResult>)> {
        let mut answers = Self::new(values)?;
        let results = groups.iter().map(|group| answers.group(group)).collect::<Option<_>>()?;
        (answers.values.len() == 0).then_some((answers.now, results))
    }

    /// Creates a decoder; `None` if the checksum does not match.
    fn new(values: &'a [i64]) -> Option<Self> {
        let (sum, values) = values.split_last()?;
        if values.iter().map(|value| value.rem_euclid(1 << 32)).sum::<i64>() != *sum {
            return None;
        }
        let mut values = values.iter();
        let now = u64::try_from(*values.next()?).ok()?;
        Some(Self { values, now })
    }

    /// Decodes one group; `None` if the reply does not match the request.
    fn group(&mut self, group: &CheckGroup) -> Option<GroupResult> {
        let mut results = GroupResult::default();
        for op in group {
            if matches!(op.act, LimitCommand::Take { .. } | LimitCommand::Ask { .. }) {
                results.verdicts.push(self.verdict(op)?);
            }
            if matches!(op.act, LimitCommand::Take { want: 1.., .. }) {
                let units = u32::try_from(self.next()?).ok()?;
                let ttl = if units == 0 { 0 } else { u64::try_from(self.next()?).ok()? };
                results.sold.push(SoldUnits { units, ttl: Duration::from_micros(ttl) });
            }
        }
        Some(results)
    }

    fn verdict(&mut self, op: &LimitOp) -> Option<Verdict> {
        let used = self.next()?;
        let charged = used >= 0;
        let used = u64::try_from(if charged { used } else { -1 - used }).ok()?;
        match op.quota.algorithm() {
            Algorithm::Gcra(gcra) => {
                let now = Timestamp::from_nanos(self.now.saturating_mul(1_000));
                let tat = now + Duration::from_nanos(used);
                let wait = if charged { None } else { gcra.check(tat, now, op.units).err() };
                Some(gcra.verdict(tat, now, wait))
            }
            Algorithm::Window(_) => {
                let left = u64::from(op.quota.limit()).saturating_sub(used) as u32;
                if charged {
                    let reset = if used == 0 { Duration::ZERO } else { op.quota.period() };
                    return Some(Verdict::new(None, left, reset));
                }
                let reset = Duration::from_micros(u64::try_from(self.next()?).ok()?);
                let wait = Duration::from_micros(u64::try_from(self.next()?).ok()?);
                Some(Verdict::new((!wait.is_zero()).then_some(wait), left, reset))
            }
            #[expect(unreachable_patterns, reason = "a third algorithm has to be answered for here")]
            _ => None,
        }
    }

    fn next(&mut self) -> Option<i64> {
        self.values.next().copied()
    }
}
