//! [`Table`]: counters by name, for so many names and no more.
//!
//! A name gets its place when it is first seen and keeps it; a look-up takes no lock and allocates nothing. Names that
//! come when the table is full share one place, called [`OTHER`], so that memory has a bound whoever makes the names.

use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The name under which everything is counted that found the table full.
pub(super) const OTHER: &str = "other";

/// Counters of type `T` by name.
pub(super) struct Table<T> {
    /// Open addressing, at most half full: an empty slot ends every search.
    slots: Box<[OnceLock<Box<Entry<T>>>]>,
    other: Entry<T>,
    used: AtomicUsize,
    limit: usize,
    hasher: foldhash::fast::RandomState,
    make: fn() -> T,
}

struct Entry<T> {
    name: Box<str>,
    value: T,
}

impl<T> Table<T> {
    pub(super) fn new(limit: usize, make: fn() -> T) -> Self {
        let slots = (0..(limit * 2).next_power_of_two()).map(|_| OnceLock::new()).collect();
        let other = Entry { name: OTHER.into(), value: make() };
        Self { slots, other, used: AtomicUsize::new(0), limit, hasher: foldhash::fast::RandomState::default(), make }
    }

    /// The place of that name, given to it now if it has none.
    pub(super) fn place(&self, name: &str) -> usize {
        let mask = self.slots.len() - 1;
        let mut place = self.hasher.hash_one(name) as usize & mask;
        loop {
            let held = match self.slots[place].get() {
                Some(entry) => &*entry.name,
                None if name == OTHER => return self.slots.len(),
                None => match self.claim(place, name) {
                    Some(holder) => holder,
                    None => return self.slots.len(),
                },
            };
            if held == name {
                return place;
            }
            place = (place + 1) & mask;
        }
    }

    /// The counters at a place.
    pub(super) fn at(&self, place: usize) -> &T {
        &self.entry(place).value
    }

    /// The name at a place.
    pub(super) fn name(&self, place: usize) -> &str {
        &self.entry(place).name
    }

    /// All names and their counters, in the order of their names, [`OTHER`] last.
    pub(super) fn sorted(&self) -> Vec<(&str, &T)> {
        let mut all: Vec<(&str, &T)> =
            self.slots.iter().filter_map(OnceLock::get).map(|entry| (&*entry.name, &entry.value)).collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        all.push((OTHER, &self.other.value));
        all
    }

    fn entry(&self, place: usize) -> &Entry<T> {
        self.slots.get(place).and_then(OnceLock::get).map_or(&self.other, |entry| entry)
    }

    /// Puts `name` into that empty slot and returns the name that is there now: another, where a thread was faster.
    fn claim(&self, place: usize, name: &str) -> Option<&str> {
        let free =
            self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| (used < self.limit).then_some(used + 1));
        free.ok()?;
        let mut mine = false;
        let entry = self.slots[place].get_or_init(|| {
            mine = true;
            Box::new(Entry { name: name.into(), value: (self.make)() })
        });
        if !mine {
            self.used.fetch_sub(1, Ordering::AcqRel);
        }
        Some(&entry.name)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn names_keep_their_places_and_the_surplus_shares_one() {
        let table = Table::new(2, AtomicU64::default);
        for name in ["b", "a", "c", "b", "d", OTHER] {
            table.at(table.place(name)).fetch_add(1, Ordering::Relaxed);
        }
        let counted: Vec<(&str, u64)> =
            table.sorted().iter().map(|(name, n)| (*name, n.load(Ordering::Relaxed))).collect();
        assert_eq!(counted, [("a", 1), ("b", 2), (OTHER, 3)]);
        assert_eq!(table.name(table.place("a")), "a");
        assert_eq!(table.name(table.place("z")), OTHER);
    }

    #[test]
    fn threads_that_bring_the_same_names_agree_on_their_places() {
        let table = Table::new(64, AtomicU64::default);
        let names: Vec<String> = (0..64).map(|n| format!("/route/{n}")).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for name in &names {
                        table.at(table.place(name)).fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let counted: u64 = table.sorted().iter().map(|(_, n)| n.load(Ordering::Relaxed)).sum();
        assert_eq!(counted, 256);
        assert!(table.used.load(Ordering::Relaxed) <= 64);
    }
}
