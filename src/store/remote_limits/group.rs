//! Groups of checks and corrections that a remote store of limits is asked for, and its replies.

use std::time::Duration;

use smallvec::SmallVec;

use crate::limit::{Quota, Verdicts};

/// Maximum number of checks per call, which takes well under a millisecond of the server's time.
pub(crate) const MAX_OPS: usize = 64;

/// One check or correction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LimitOp {
    /// The key's name in the fleet.
    pub(crate) key: u64,
    pub(crate) quota: Quota,
    pub(crate) units: u32,
    pub(crate) act: LimitCommand,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LimitCommand {
    /// Charges the units if all of the group fit, and then leases up to `want` more.
    Take { enforced: bool, want: u32, ttl: Duration },
    /// Evaluates without charging.
    Ask { enforced: bool },
    /// Refunds units charged at that store time, in microseconds.
    Refund { charged: u64 },
    /// Charges the units unconditionally.
    Charge,
    /// Removes the key, and its use of this quota that was set aside.
    Reset,
}

/// Checks that are charged together or not at all.
pub(crate) type CheckGroup = SmallVec<[LimitOp; 2]>;

/// A leased block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SoldUnits {
    pub(crate) units: u32,
    pub(crate) ttl: Duration,
}

/// The store's reply for one group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupResult {
    pub(crate) verdicts: Verdicts,
    /// One for each operation that requested a lease, in order.
    pub(crate) sold: SmallVec<[SoldUnits; 1]>,
}
