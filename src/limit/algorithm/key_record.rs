//! [`KeyRecord`]: a key's usage as bytes, for stores that keep what this process decided.
//!
//! A record holds the usage under the current quota, and what was used under earlier quotas whose period is longer: a key
//! that changes to a shorter window and back is not as new.
//!
//! | part | bytes |
//! |---|---|
//! | version | `u8` |
//! | for each quota, the current one first | limit `u32`, period in milliseconds `u32`, burst `u32` (0: a window), usage |
//! | usage of a bucket | theoretical arrival time `u64` |
//! | usage of a window | time of the latest charge `u64`, number of sub-buckets `u8`, their units, oldest first, each `u32` |

use std::time::Duration;

use super::key_state::{KeyHistoryMut, KeyState};
use super::quota::Quota;
use crate::base::clock::Timestamp;
use crate::base::codec::{Reader, Writer};

/// Version of the encoding.
const VERSION: u8 = 1;
/// Maximum number of earlier quotas.
const EARLIER: usize = 3;

/// Usage of a key under its current quota and earlier ones.
#[derive(Clone, Debug)]
pub(crate) struct KeyRecord {
    current: KeyState,
    earlier: Vec<KeyState>,
}

impl KeyRecord {
    /// Creates the record of an unused key.
    pub(crate) fn new(quota: Quota) -> Self {
        Self { current: KeyState::new(quota), earlier: Vec::new() }
    }

    /// Decodes a record; `None` if another version or program wrote it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.u8()? != VERSION {
            return None;
        }
        let current = KeyState::decode(&mut reader)?;
        let mut earlier = Vec::new();
        while !reader.0.is_empty() && earlier.len() < EARLIER {
            earlier.push(KeyState::decode(&mut reader)?);
        }
        reader.end()?;
        Some(Self { current, earlier })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(Vec::with_capacity(64));
        writer.u8(VERSION);
        self.current.encode(&mut writer);
        self.earlier.iter().for_each(|state| state.encode(&mut writer));
        writer.0
    }

    /// Borrows the usage under `quota`. Under another one than before it is the larger of the carried share and of what was
    /// used under it earlier.
    pub(crate) fn with<R>(&mut self, quota: Quota, now: Timestamp, f: impl FnOnce(KeyHistoryMut<'_>) -> R) -> R {
        if self.current.quota() != quota {
            self.change(quota, now);
        }
        self.current.with_history(quota, now, f)
    }

    #[cold]
    fn change(&mut self, quota: Quota, now: Timestamp) {
        let mut old = self.current.clone();
        self.current.with_history(quota, now, |_| ());
        self.earlier.retain_mut(|state| state.share(now) > 0);
        if let Some(at) = self.earlier.iter().position(|state| state.quota() == quota) {
            let mut own = self.earlier.remove(at);
            if own.share(now) > self.current.share(now) {
                self.current = own;
            }
        }
        if old.quota().memory_nanos() > quota.memory_nanos() && old.share(now) > 0 {
            self.earlier.push(old);
            // The longest are worth most.
            self.earlier.sort_by_key(|state| std::cmp::Reverse(state.quota().memory_nanos()));
            self.earlier.truncate(EARLIER);
        }
    }

    /// Returns the time after which the record equals none.
    pub(crate) fn idle_in(&mut self, now: Timestamp) -> Duration {
        let states = std::iter::once(&mut self.current).chain(&mut self.earlier);
        let resets = states.map(|state| {
            let quota = state.quota();
            state.peek(quota, 0, now).reset()
        });
        resets.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limit::Verdict;

    const START: Timestamp = Timestamp::from_nanos(1_760_000_000_000_000_000);

    fn quotas() -> [Quota; 6] {
        [
            Quota::per_second(5),
            Quota::per_minute(20),
            Quota::per_hour(70_000),
            Quota::per_minute(60).bucket(3),
            Quota::per_second(3).bucket(5),
            Quota::new(7, Duration::from_millis(500)),
        ]
    }

    fn spend(record: &mut KeyRecord, quota: Quota, units: u32, now: Timestamp) -> Verdict {
        record.with(quota, now, |mut history| history.spend(quota, units, now))
    }

    proptest! {
        /// A record that is encoded and decoded at every step decides like one that is not.
        #[test]
        fn a_record_survives_its_encoding(steps in prop::collection::vec((0_u64..5_000, 0_usize..6, 0_u32..9), 1..60)) {
            let (mut whole, mut coded, mut now) = (KeyRecord::new(quotas()[0]), KeyRecord::new(quotas()[0]), START);
            for (step, quota, units) in steps {
                now = now + Duration::from_millis(step);
                let quota = quotas()[quota];
                coded = KeyRecord::decode(&coded.encode()).expect("its own");
                prop_assert_eq!(spend(&mut whole, quota, units, now), spend(&mut coded, quota, units, now));
                prop_assert_eq!(whole.idle_in(now), coded.idle_in(now));
            }
        }

        /// Bytes of others are refused, and never panic.
        #[test]
        fn foreign_bytes_are_no_record(mut bytes in prop::collection::vec(any::<u8>(), 0..300), own in any::<bool>()) {
            if let (true, Some(version)) = (own, bytes.first_mut()) {
                *version = VERSION;
            }
            if let Some(mut record) = KeyRecord::decode(&bytes) {
                prop_assert!(spend(&mut record, Quota::per_minute(5), 1, START).remaining() <= 5);
                let bytes = record.encode();
                prop_assert_eq!(KeyRecord::decode(&bytes).map(|record| record.encode()), Some(bytes));
            }
        }
    }

    #[test]
    fn a_shorter_window_and_back_forgives_nothing() {
        let (hour, second) = (Quota::per_hour(10), Quota::per_second(10));
        let mut record = KeyRecord::new(hour);
        assert!(spend(&mut record, hour, 10, START).admits());
        let later = START + Duration::from_secs(5);
        assert!(spend(&mut record, second, 1, later).admits(), "the second has passed");
        assert!(!spend(&mut record, hour, 1, later).admits());
        assert_eq!(record.idle_in(START + Duration::from_secs(3_601)), Duration::ZERO);
    }

    #[test]
    fn the_longest_of_many_quotas_are_remembered() {
        let quotas: Vec<Quota> =
            (0..8).map(|minutes| Quota::new(10, Duration::from_secs(60 * (9 - minutes)))).collect();
        let mut record = KeyRecord::new(quotas[0]);
        assert!(spend(&mut record, quotas[0], 10, START).admits());
        for quota in &quotas[1..] {
            spend(&mut record, *quota, 1, START);
        }
        assert!(record.encode().len() < 200);
        assert!(!spend(&mut record, quotas[0], 1, START + Duration::from_secs(180)).admits());
    }

    #[test]
    fn the_last_microsecond_of_a_sub_bucket_leases_nothing() {
        let (quota, width) = (Quota::per_second(100), 20_000_000);
        let lease = |at: u64| {
            let now = Timestamp::from_nanos(START.as_nanos() / width * width + at);
            let mut record = KeyRecord::new(quota);
            record.with(quota, now, |mut history| history.lease(quota, 8, Duration::from_millis(1), now))
        };
        assert_eq!(lease(width - 1_000), (0, Duration::ZERO));
        assert_eq!(lease(width - 2_000), (8, Duration::from_micros(1)));
    }
}
