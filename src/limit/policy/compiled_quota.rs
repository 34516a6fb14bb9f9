//! [`CompiledQuota`]: a quota with what responses say of it, written once.

use std::sync::Arc;

use bytes::Bytes;

use super::limit::{Limit, LimitCost, Subject};
use super::reject::{RefusalReason, problem};
use crate::base::error::Error;
use crate::base::headers;
use crate::limit::algorithm::quota::Quota;

/// Quota of a limit, or of one of its tiers, with its prepared names and refusal.
#[derive(Debug)]
pub(crate) struct CompiledQuota {
    pub(crate) name: Box<str>,
    pub(crate) tier: Box<str>,
    pub(crate) quota: Quota,
    /// `"name";q=100;w=60`
    pub(crate) policy: Box<str>,
    /// The body of a refusal by this limit alone.
    pub(crate) problem: Bytes,
}

impl CompiledQuota {
    /// # Errors
    /// Names what is wrong with the limit.
    pub(crate) fn new(name: &str, tier: &str, quota: Quota, limit: &Limit) -> Result<Arc<Self>, Error> {
        Self::check(name, quota, &limit.cost)?;
        let reason =
            if matches!(limit.subject, Subject::Node) { RefusalReason::Capacity } else { RefusalReason::Quota };
        Ok(Arc::new(Self {
            problem: problem(reason, [name].into_iter()),
            name: name.into(),
            tier: tier.into(),
            quota,
            policy: policy(name, quota).into(),
        }))
    }

    /// # Errors
    /// Where the name, the quota, or the cost under that quota is impossible.
    pub(crate) fn check(name: &str, quota: Quota, cost: &LimitCost) -> Result<(), Error> {
        quota.check().map_err(|e| Error::config(format!("limit {name:?}: {e}")))?;
        let printable = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(printable) {
            return Err(Error::config(format!(
                "limit name {name:?} must be 1 to 64 printable ASCII characters without quotes"
            )));
        }
        match cost {
            LimitCost::Fixed(0) => {
                return Err(Error::config(format!(
                    "limit {name:?}: a cost of 0 counts nothing; it must be at least 1"
                )));
            }
            LimitCost::Fixed(units) if *units > quota.capacity() => {
                return Err(Error::config(format!("limit {name:?}: a cost of {units} exceeds the quota {quota}")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Returns the quota as a value of the IETF's `RateLimit-Policy` field.
pub(crate) fn policy(name: &str, quota: Quota) -> String {
    // An sf-integer of seconds at least 1: shorter periods are told per second.
    let seconds = headers::ceil_seconds(quota.period()).max(1);
    let per = u128::from(quota.limit()) * u128::from(seconds) * 1_000 / quota.period().as_millis().max(1);
    format!("\"{name}\";q={per};w={seconds}")
}
