//! [`UnsettledCharges`]: charges whose outcome is not known yet, and the requests that wait for them.
//!
//! A limit that counts outcomes charges each request when it is admitted. While charges are unsettled, a request beyond the
//! limit may be one that would be admitted in a moment: it waits, up to [`LONGEST_WAIT`], and is decided anew whenever a
//! charge of its key is settled. Charges of other processes are not known here: if the store is shared and the newest charge
//! is less than that old, the store is asked again every [`RETRY`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::base::lock::Mutex;

/// Longest time for which a request waits.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Interval at which a waiting request is decided anew, whether or not a charge was settled.
pub(super) const RETRY: Duration = Duration::from_millis(100);
/// Number of requests that may wait for one key; further ones are refused at once.
const WAITING_PER_KEY: u32 = 32;
/// Number of keys for which requests may wait.
const WAITING_KEYS: usize = 4_096;

type Keys = HashMap<u64, UnsettledKey, foldhash::fast::RandomState>;

/// Unsettled charges of a layer, by key.
#[derive(Debug, Default)]
pub(crate) struct UnsettledCharges {
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct UnsettledKey {
    charges: u32,
    waiting: u32,
    settled: Arc<Notify>,
}

impl UnsettledCharges {
    /// Notes a charge.
    pub(super) fn begin(&self, key: u64) {
        self.keys.lock().entry(key).or_default().charges += 1;
    }

    /// Notes that a charge is settled, and wakes those who wait.
    pub(super) fn end(&self, key: u64) {
        self.leave(key, |known| known.charges -= 1);
    }

    /// Whether a charge of this key is unsettled in this process.
    pub(super) fn contains(&self, key: u64) -> bool {
        self.keys.lock().get(&key).is_some_and(|known| known.charges > 0)
    }

    /// Admits a request to those who wait for this key, unless there are too many.
    pub(super) fn wait(self: &Arc<Self>, key: u64) -> Option<SettlementWait> {
        let mut keys = self.keys.lock();
        if keys.len() >= WAITING_KEYS && !keys.contains_key(&key) {
            return None;
        }
        let known = keys.entry(key).or_default();
        if known.waiting >= WAITING_PER_KEY {
            return None;
        }
        known.waiting += 1;
        Some(SettlementWait { charges: self.clone(), key, settled: known.settled.clone() })
    }

    fn leave(&self, key: u64, change: impl FnOnce(&mut UnsettledKey)) {
        let mut keys = self.keys.lock();
        let Some(known) = keys.get_mut(&key) else { return };
        change(known);
        known.settled.notify_waiters();
        if known.charges == 0 && known.waiting == 0 {
            keys.remove(&key);
        }
    }
}

/// A request that waits for the charges of a key.
#[derive(Debug)]
pub(super) struct SettlementWait {
    charges: Arc<UnsettledCharges>,
    key: u64,
    settled: Arc<Notify>,
}

impl SettlementWait {
    /// Resolves when a charge is settled.
    pub(super) async fn settled(&self) {
        self.settled.notified().await;
    }
}

impl Drop for SettlementWait {
    fn drop(&mut self) {
        let mut keys = self.charges.keys.lock();
        let Some(known) = keys.get_mut(&self.key) else { return };
        known.waiting -= 1;
        if known.charges == 0 && known.waiting == 0 {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_forgotten_and_waits_are_bounded() {
        let charges = Arc::new(UnsettledCharges::default());
        charges.begin(7);
        charges.begin(7);
        let waits: Vec<_> = (0..2 * WAITING_PER_KEY).filter_map(|_| charges.wait(7)).collect();
        assert_eq!(waits.len(), WAITING_PER_KEY as usize);
        charges.end(7);
        assert!(charges.contains(7));
        charges.end(7);
        assert!(!charges.contains(7));
        drop(waits);
        assert!(charges.keys.lock().is_empty());
        let many: Vec<_> = (0..2 * WAITING_KEYS as u64).filter_map(|key| charges.wait(key)).collect();
        assert_eq!(many.len(), WAITING_KEYS);
    }
}
