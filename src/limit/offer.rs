//! [`Offer`]: a quota with what responses say of it, written once.

use std::sync::Arc;

use bytes::Bytes;

use super::reject::{Reason, problem};
use super::rules::{Cost, Subject};
use super::{Limit, Quota};
use crate::error::Error;
use crate::fields;

/// A limit, or one of its tiers.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) name: Box<str>,
    pub(super) tier: Box<str>,
    pub(super) quota: Quota,
    /// `"name";q=100;w=60`
    pub(super) policy: Box<str>,
    /// The body of a refusal by this limit alone.
    pub(super) problem: Bytes,
}

impl Offer {
    /// # Errors
    /// Names what is wrong with the limit.
    pub(super) fn new(name: &str, tier: &str, quota: Quota, limit: &Limit) -> Result<Arc<Self>, Error> {
        Self::check(name, quota, &limit.cost)?;
        let reason = if matches!(limit.subject, Subject::Node) { Reason::Capacity } else { Reason::Quota };
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
    pub(super) fn check(name: &str, quota: Quota, cost: &Cost) -> Result<(), Error> {
        quota.check().map_err(|e| Error::config(format!("limit {name:?}: {e}")))?;
        let printable = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(printable) {
            return Err(Error::config(format!(
                "limit name {name:?} must be 1 to 64 printable ASCII characters without quotes"
            )));
        }
        match cost {
            Cost::Fixed(0) => return Err(Error::config(format!("limit {name:?}: a cost of 0 counts nothing"))),
            Cost::Fixed(units) if *units > quota.capacity() => {
                return Err(Error::config(format!("limit {name:?}: a cost of {units} never fits into {quota}")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// What the IETF's fields say of a quota.
pub(super) fn policy(name: &str, quota: Quota) -> String {
    // An sf-integer of seconds at least 1: shorter periods are told per second.
    let seconds = fields::ceil_seconds(quota.period()).max(1);
    let per = u128::from(quota.limit()) * u128::from(seconds) * 1_000 / quota.period().as_millis().max(1);
    format!("\"{name}\";q={per};w={seconds}")
}
