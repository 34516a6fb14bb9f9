//! [`LimitOverrides`]: what operators have decided for single subjects, until it expires.
//!
//! An override applies in this process at once. If the store is shared it is published there, and every node reads it within
//! a second of its next request. While the store is away a node keeps what it knows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::lock::RwLock;
use crate::limit::algorithm::check::Check;
use crate::limit::algorithm::quota::{PackedQuota, Quota};

/// Maximum number of overrides.
const MAX_OVERRIDES: usize = 4_096;
/// Interval at which the shared store is asked for overrides of other nodes, while requests come.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of bans: a flood of banned addresses leaves room for grants.
const MAX_BANS: usize = 3_072;
const GRANT: u8 = 1;
/// First byte of the record of a ban.
const BAN: u8 = 2;

/// Overrides by key: the hash under which a limit counts the subject, of this process or of the fleet.
#[derive(Debug, Default)]
pub(crate) struct LimitOverrides {
    entries: RwLock<HashMap<u64, OverrideEntry, foldhash::fast::RandomState>>,
    any: AtomicBool,
    /// Version of the published overrides that were read last.
    version: AtomicU64,
    /// Time of the next look at them, in nanoseconds.
    next_sync: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct OverrideEntry {
    value: LimitOverride,
    until: Timestamp,
    /// Whether the store has it: then it ends where another node removes it.
    is_published: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitOverride {
    /// Another quota.
    Quota(Quota),
    /// No request at all.
    Ban,
}

impl LimitOverride {
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Self::Ban => vec![BAN],
            Self::Quota(quota) => [&[GRANT][..], &quota.packed().to_bytes()].concat(),
        }
    }

    fn decode(record: &[u8]) -> Option<Self> {
        match record.split_first()? {
            (&BAN, _) => Some(Self::Ban),
            (&GRANT, quota) => PackedQuota::from_bytes(quota).map(Self::Quota),
            _ => None,
        }
    }
}

impl LimitOverrides {
    /// Adds an override for these keys.
    ///
    /// # Errors
    /// If there are too many that have not expired.
    pub(super) fn add(
        &self,
        keys: impl IntoIterator<Item = u64>,
        value: LimitOverride,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut entries = self.entries.write();
        let most = if value == LimitOverride::Ban { MAX_BANS } else { MAX_OVERRIDES };
        for key in keys {
            if entries.len() >= most {
                entries.retain(|_, entry| entry.until > now);
            }
            if entries.len() >= most && !entries.contains_key(&key) {
                return Err(Error::config(format!("more than {most} grants and bans; reset some")));
            }
            entries.insert(key, OverrideEntry { value, until, is_published: false });
        }
        self.any.store(!entries.is_empty(), Ordering::Release);
        Ok(())
    }

    /// Notes that the store has the overrides of these keys.
    pub(super) fn confirm(&self, keys: &[u64]) {
        let mut entries = self.entries.write();
        keys.iter().for_each(|key| {
            if let Some(entry) = entries.get_mut(key) {
                entry.is_published = true;
            }
        });
    }

    /// Whether there may be overrides.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Applies the overrides to checks.
    pub(super) fn apply<'a>(&self, checks: impl Iterator<Item = &'a mut Check>, now: Timestamp) {
        if !self.any() {
            return;
        }
        let entries = self.entries.read();
        let of = |key: u64| entries.get(&key).filter(|entry| now < entry.until);
        for check in checks {
            let fleet = check.fleet().and_then(|key| of(key.to_bits()));
            if let Some(OverrideEntry { value: LimitOverride::Quota(quota), .. }) =
                fleet.or_else(|| of(check.key.to_bits()))
            {
                check.quota = *quota;
            }
        }
    }

    /// Returns the first of these keys that is banned, and until when.
    pub(super) fn banned(&self, keys: &[u64], now: Timestamp) -> Option<(u64, Timestamp)> {
        let entries = self.entries.read();
        let of = |key: &u64| {
            let entry = entries.get(key).filter(|entry| entry.value == LimitOverride::Ban && now < entry.until)?;
            Some((*key, entry.until))
        };
        keys.iter().find_map(of)
    }

    /// Removes the bans of these keys; returns whether there were any.
    pub(super) fn unban(&self, keys: &[u64]) -> bool {
        let mut entries = self.entries.write();
        let before = entries.len();
        entries.retain(|key, entry| entry.value != LimitOverride::Ban || !keys.contains(key));
        before != entries.len()
    }

    /// Whether the store should be asked for the overrides of other nodes now; then returns the known version, once.
    pub(super) fn begin_sync(&self, now: Timestamp) -> Option<u64> {
        let (due, now) = (self.next_sync.load(Ordering::Relaxed), now.as_nanos());
        let next = now.saturating_add(SYNC_INTERVAL.as_nanos() as u64);
        let is_due =
            now >= due && self.next_sync.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        is_due.then(|| self.version())
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Replaces what was read from the store before.
    pub(super) fn synced(&self, version: u64, records: Vec<(u64, Vec<u8>, Duration)>, now: Timestamp) {
        // A store without a version has lost its records, or never had any.
        if version == 0 || self.version.swap(version, Ordering::AcqRel) == version {
            return;
        }
        let mut entries = self.entries.write();
        entries.retain(|_, entry| !entry.is_published && entry.until > now);
        for (key, record, left) in records.into_iter().take(MAX_OVERRIDES) {
            if let Some(value) = LimitOverride::decode(&record) {
                entries.insert(key, OverrideEntry { value, until: now + left, is_published: true });
            }
        }
        self.any.store(!entries.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::KeyHash;

    const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);

    fn quota_of(overrides: &LimitOverrides, key: u64, now: Timestamp) -> String {
        let mut check = Check::new(KeyHash::from_bits(key), Quota::per_minute(5));
        overrides.apply(std::iter::once(&mut check), now);
        check.quota.to_string()
    }

    #[test]
    fn overrides_expire_are_bounded_and_are_replaced_by_those_of_the_fleet() {
        let overrides = LimitOverrides::default();
        let grant = |n| LimitOverride::Quota(Quota::per_minute(n));
        overrides.add([7], grant(9), START + Duration::from_secs(60), START).expect("room");
        assert_eq!(quota_of(&overrides, 7, START + Duration::from_secs(59)), "9/min");
        assert_eq!(quota_of(&overrides, 7, START + Duration::from_secs(60)), "5/min");
        assert_eq!(quota_of(&overrides, 8, START), "5/min");
        let of_fleet = vec![(8, grant(3).encode(), Duration::from_secs(9)), (9, vec![99], Duration::from_secs(9))];
        overrides.synced(1, of_fleet, START);
        assert_eq!(quota_of(&overrides, 8, START), "3/min");
        overrides.synced(2, Vec::new(), START);
        assert_eq!((quota_of(&overrides, 8, START), quota_of(&overrides, 7, START)), ("5/min".into(), "9/min".into()));
        let many = (100..100 + MAX_OVERRIDES as u64).collect::<Vec<_>>();
        assert!(overrides.add(many.clone(), grant(1), START + Duration::from_secs(1), START).is_err());
        overrides.add(many, grant(1), START + Duration::from_secs(90), START + Duration::from_secs(61)).expect("room");
    }

    #[test]
    fn the_store_is_asked_once_a_second() {
        let overrides = LimitOverrides::default();
        let asked = (0..30).filter(|i| overrides.begin_sync(START + Duration::from_millis(100 * i)).is_some());
        assert_eq!(asked.count(), 3);
    }
}
