//! [`CompiledQuota`]: a quota with its prepared response fields and rejection body.

use std::sync::Arc;

use super::limit::{Limit, LimitCost, Subject};
use super::reject::{RejectReason, problem};
use crate::base::error::Error;
use crate::base::headers;
use crate::limit::algorithm::quota::Quota;

/// Quota of a limit, or of one of its tiers, with its prepared names and rejection.
#[derive(Debug)]
pub(crate) struct CompiledQuota {
    pub(crate) name: Box<str>,
    pub(crate) tier: Box<str>,
    pub(crate) quota: Quota,
    /// Number of places, if requests in progress are counted.
    pub(super) places: Option<u32>,
    /// `RateLimit-Policy` member, such as `"name";q=100;w=60`.
    pub(crate) policy: Box<str>,
    /// Beginning of the body of a rejection by this limit alone.
    pub(super) problem: Box<str>,
}

impl CompiledQuota {
    /// Validates and compiles a quota.
    ///
    /// # Errors
    /// Returns an error that names the invalid part of the limit.
    pub(crate) fn new(name: &str, tier: &str, quota: Quota, limit: &Limit) -> Result<Arc<Self>, Error> {
        Self::check(name, quota, &limit.cost)?;
        let is_shared = matches!(limit.subject, Subject::Everybody) && limit.concurrency.is_some();
        let is_capacity = is_shared || matches!(limit.subject, Subject::Node);
        let reason = if is_capacity { RejectReason::Capacity } else { RejectReason::Quota };
        Ok(Arc::new(Self {
            problem: problem(reason, [name].into_iter()).into(),
            name: name.into(),
            tier: tier.into(),
            quota,
            places: limit.concurrency.map(|policy| policy.places),
            policy: policy(name, quota).into(),
        }))
    }

    /// Validates a name, a quota and a cost.
    ///
    /// # Errors
    /// Returns an error if the name, the quota, or the cost under that quota is invalid.
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
    // The window is an sf-integer of at least 1 second: shorter periods are converted to a rate per second.
    let seconds = headers::ceil_seconds(quota.period()).max(1);
    let per = u128::from(quota.limit()) * u128::from(seconds) * 1_000 / quota.period().as_millis().max(1);
    format!("\"{name}\";q={per};w={seconds}")
}
