//! [`Table`]: hash table from keys to slots, in one allocation.
//!
//! Open addressing, kept **sorted**: a key's home is its hash scaled to the table's length, so homes ascend with keys,
//! and a displaced key is right of all smaller ones. A look-up, successful or not, ends at the first key that is not
//! smaller: about three adjacent slots of 32 bytes if the table is four fifths full. Insertion shifts the few slots
//! that follow by one, removal shifts them back: no tombstones, no sweep.

use crate::limit::PackedQuota;

/// Slot of a key in the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Hash of the key; [`FREE`] if the slot is empty.
    key: u64,
    /// Theoretical arrival time of a bucket, or index of a window's log.
    pub(super) state: u64,
    pub(super) quota: PackedQuota,
    /// Units that the key's last request cost.
    pub(super) cost: u32,
}

const FREE: u64 = u64::MAX;

const EMPTY: Slot = Slot { key: FREE, state: 0, quota: PackedQuota::ZERO, cost: 0 };

#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    homes: usize,
    len: usize,
}

impl Slot {
    pub(super) const fn key(&self) -> u64 {
        self.key
    }

    pub(super) fn new(key: u64, state: u64, quota: PackedQuota) -> Self {
        Self { key: key.min(FREE - 1), state, quota, cost: 1 }
    }
}

impl Table {
    /// Returns the number of keys.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Returns the index of this key, or the index at which to insert it.
    #[inline]
    pub(super) fn find(&self, key: u64) -> Result<usize, usize> {
        let key = key.min(FREE - 1);
        let mut at = self.home(key);
        loop {
            match self.slots.get(at) {
                Some(slot) if slot.key < key => at += 1,
                Some(slot) if slot.key == key => return Ok(at),
                _ => return Err(at),
            }
        }
    }

    #[inline]
    pub(super) fn slot(&mut self, at: usize) -> &mut Slot {
        &mut self.slots[at]
    }

    /// Inserts a slot at the index that [`find`](Self::find) returned. Call [`widen`](Self::widen) before.
    pub(super) fn insert(&mut self, at: usize, slot: Slot) {
        let free = self.slots[at..].iter().position(|slot| slot.key == FREE).map_or(self.slots.len(), |n| at + n);
        if free == self.slots.len() {
            self.slots.push(EMPTY);
        }
        self.slots.copy_within(at..free, at + 1);
        self.slots[at] = slot;
        self.len += 1;
    }

    /// Removes this slot.
    pub(super) fn remove(&mut self, at: usize) -> Slot {
        let removed = self.slots[at];
        let after = self.slots[at + 1..].iter().zip(at + 1..);
        let moved = after.take_while(|(slot, index)| slot.key != FREE && self.home(slot.key) < *index).count();
        self.slots.copy_within(at + 1..=at + moved, at);
        self.slots[at + moved] = EMPTY;
        self.len -= 1;
        removed
    }

    /// Reserves space for one more of at most `capacity` keys. The table doubles when four fifths full, so that a key
    /// is copied a constant number of times. Returns whether keys have moved.
    pub(super) fn widen(&mut self, capacity: usize) -> bool {
        let capacity = capacity.saturating_add(capacity / 4).max(8);
        if self.homes >= capacity || self.len * 5 < self.homes * 4 {
            return false;
        }
        let old = std::mem::take(&mut self.slots);
        self.homes = (self.homes * 2).clamp(8, capacity);
        self.slots.reserve_exact(self.homes + self.homes / 64 + 8);
        for slot in old.into_iter().filter(|slot| slot.key != FREE) {
            let home = self.home(slot.key);
            if home > self.slots.len() {
                self.slots.resize(home, EMPTY);
            }
            self.slots.push(slot);
        }
        if self.slots.len() < self.homes {
            self.slots.resize(self.homes, EMPTY);
        }
        true
    }

    /// Returns the first key at or after a random index.
    pub(super) fn any(&self, random: u64) -> Option<usize> {
        let start = scale(random, self.slots.len());
        let (before, after) = self.slots.split_at(start);
        let taken = |slot: &Slot| slot.key != FREE;
        after.iter().position(taken).map(|n| start + n).or_else(|| before.iter().position(taken))
    }

    fn home(&self, key: u64) -> usize {
        scale(key, self.homes)
    }
}

/// Scales `x` of 2⁶⁴ to a share of `n`.
const fn scale(x: u64, n: usize) -> usize {
    ((x as u128 * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_slots_share_a_cache_line() {
        assert_eq!(size_of::<Slot>(), 32);
    }

    proptest! {
        /// Compared with a map: the same keys are found after any sequence of insertions and removals.
        #[test]
        fn finds_what_a_map_finds(
            steps in prop::collection::vec((any::<bool>(), prop_oneof![0_u64..40, any::<u64>(), Just(FREE), Just(FREE - 2)]), 1..400),
            spread in prop_oneof![Just(1_u64), Just(0x9E37_79B9_7F4A_7C15)],
        ) {
            let (mut table, mut map) = (Table::default(), BTreeMap::new());
            for (n, (insert, key)) in (0_u64..).zip(steps) {
                let key = key.wrapping_mul(spread).min(FREE - 1);
                match (insert, table.find(key)) {
                    (true, Err(at)) => {
                        let at = if table.widen(1_000) { table.find(key).expect_err("new") } else { at };
                        table.insert(at, Slot::new(key, n, PackedQuota::ZERO));
                        prop_assert!(map.insert(key, n).is_none());
                    }
                    (false, Ok(at)) => prop_assert_eq!(Some(table.remove(at).state), map.remove(&key)),
                    (_, found) => prop_assert_eq!(found.is_ok(), map.contains_key(&key)),
                }
                prop_assert_eq!(table.len(), map.len());
                for (key, state) in &map {
                    let at = table.find(*key).expect("is there");
                    prop_assert_eq!(table.slot(at).state, *state);
                }
                prop_assert_eq!(table.any(key).is_some(), !map.is_empty());
            }
        }
    }
}
