//! [`Refusals`]: the last refusals, to be found again by their reference.
//!
//! Each bucket of keys holds its last twenty, so that a noisy subject displaces few others. The bucket is part of the
//! reference: finding one takes a look at twenty.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use smallvec::SmallVec;

use crate::base::clock::Timestamp;
use crate::base::lock::Mutex;
use crate::base::random::random;
use crate::identity::KeyHash;
use crate::limit::policy::decision::LimitLabel;
use crate::limit::policy::reference::Reference;

/// Number of buckets.
const BUCKETS: usize = 256;
/// Number of refusals in a bucket.
const PER_BUCKET: usize = 20;

/// A refused request, as it is found by its reference.
///
/// ```
/// use tollgate::identity::Key;
/// use tollgate::limit::RateLimitLayer;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let layer = RateLimitLayer::per_ip("1/min");
/// let client = layer.subject(Key::ip("192.0.2.1".parse().expect("an address")));
/// client.check(1).await;
/// let refused = client.check(1).await;
/// let refusal = layer.refusal(refused.reference().expect("a refusal")).expect("one of the last");
/// assert_eq!(refusal.limits, ["ip-per-min"]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Refusal {
    /// Reference, as in the response and the log.
    pub reference: String,
    /// Time of the refusal.
    pub at: SystemTime,
    /// Matched route.
    pub route: String,
    /// Names of the limits that refused.
    pub limits: Vec<String>,
    /// Tier of the first of them; empty if it has no tiers.
    pub tier: String,
    /// Keyed hash of the subject, in hexadecimal, as in the log.
    pub key: String,
    /// Time until the same request would have been admitted.
    pub retry_after: Duration,
}

/// The last refusals of a layer.
#[derive(Debug)]
pub(crate) struct Refusals {
    buckets: Box<[Mutex<VecDeque<RefusalRecord>>]>,
    number: AtomicU64,
}

/// A refusal, with its limits by their labels.
#[derive(Clone, Debug)]
pub(super) struct RefusalRecord {
    pub(super) reference: Reference,
    pub(super) keys: SmallVec<[u64; 2]>,
    /// Key in logs and events.
    pub(super) shown: Option<KeyHash>,
    pub(super) at: Timestamp,
    pub(super) route: String,
    pub(super) labels: SmallVec<[LimitLabel; 2]>,
    pub(super) retry_after: Duration,
}

impl Default for Refusals {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| Mutex::default()).collect();
        Self { buckets, number: AtomicU64::new(random()) }
    }
}

impl Refusals {
    /// Returns a new reference for a refusal of this key.
    pub(super) fn reference(&self, key: u64) -> Reference {
        let number = self.number.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        Reference::new(mixed(number), bucket(key))
    }

    /// Keeps a refusal; `route` is copied into the memory of the one that it displaces.
    pub(super) fn keep(&self, mut record: RefusalRecord, route: &str) {
        let Some(bucket) = self.buckets.get(usize::from(record.reference.bucket())) else { return };
        let mut bucket = bucket.lock();
        if bucket.len() >= PER_BUCKET
            && let Some(oldest) = bucket.pop_front()
        {
            record.route = oldest.route;
        }
        record.route.clear();
        record.route.push_str(route);
        bucket.push_back(record);
    }

    /// Returns the refusal with this reference.
    pub(super) fn find(&self, reference: &str) -> Option<RefusalRecord> {
        let reference = Reference::parse(reference)?;
        let bucket = self.buckets.get(usize::from(reference.bucket()))?.lock();
        bucket.iter().find(|record| record.reference == reference).cloned()
    }

    /// Returns the last refusals of all keys, newest first, at most `n`.
    #[cfg(feature = "admin")]
    pub(super) fn latest(&self, n: usize) -> Vec<RefusalRecord> {
        let mut all: Vec<_> =
            self.buckets.iter().flat_map(|bucket| bucket.lock().iter().cloned().collect::<Vec<_>>()).collect();
        all.sort_by_key(|record| std::cmp::Reverse(record.at));
        all.truncate(n);
        all
    }

    /// Returns the last refusals of any of these keys, oldest first.
    pub(super) fn of(&self, keys: &[u64]) -> Vec<RefusalRecord> {
        let is_of = |record: &&RefusalRecord| record.keys.iter().any(|key| keys.contains(key));
        let mut buckets: Vec<u8> = keys.iter().map(|key| bucket(*key)).collect();
        buckets.sort_unstable();
        buckets.dedup();
        let all = buckets.into_iter().filter_map(|at| self.buckets.get(usize::from(at)));
        let mut found: Vec<_> =
            all.flat_map(|bucket| bucket.lock().iter().filter(is_of).cloned().collect::<Vec<_>>()).collect();
        found.sort_by_key(|record| record.at);
        found.split_off(found.len().saturating_sub(PER_BUCKET))
    }
}

const fn bucket(key: u64) -> u8 {
    (key >> 24) as u8
}

/// splitmix64.
const fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(refusals: &Refusals, key: u64) -> RefusalRecord {
        RefusalRecord {
            reference: refusals.reference(key),
            keys: smallvec::smallvec![key],
            shown: None,
            at: Timestamp::ZERO,
            route: String::new(),
            labels: SmallVec::new(),
            retry_after: Duration::ZERO,
        }
    }

    #[test]
    fn the_last_twenty_of_a_key_are_found_and_a_noisy_key_displaces_none_of_another() {
        let refusals = Refusals::default();
        let quiet = record(&refusals, 7 << 24);
        let name = quiet.reference;
        refusals.keep(quiet, "/quiet");
        let mut names = Vec::new();
        for _ in 0..1_000 {
            let noisy = record(&refusals, 9 << 24);
            names.push(noisy.reference);
            refusals.keep(noisy, "/noisy");
        }
        assert_eq!(refusals.find(name.as_str()).expect("kept").route, "/quiet");
        assert!(refusals.find(names[979].as_str()).is_none());
        assert!(names[980..].iter().all(|name| refusals.find(name.as_str()).is_some()));
        assert_eq!(refusals.of(&[9 << 24]).len(), 20);
        assert_eq!(refusals.of(&[8 << 24]).len(), 0);
        for wrong in ["", "x", "0000000000000", "zzzzzzzzzzzz", "ü"] {
            assert!(refusals.find(wrong).is_none(), "{wrong}");
        }
    }
}
