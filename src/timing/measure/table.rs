//! [`NamedCounters`]: a bounded table of counters by name.
//!
//! A name keeps the place it gets when first seen; a look-up takes no lock and allocates nothing. Once the table is
//! full, further names share one place, [`OTHER`], so that memory is bounded even if names come from clients.

use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Shared name of counters beyond the table's capacity.
pub(crate) const OTHER: &str = "other";

/// Counters of type `T` by name.
pub(crate) struct NamedCounters<T> {
    /// Open addressing, at most half full: an empty slot ends every search.
    slots: Box<[OnceLock<Box<Entry<T>>>]>,
    other: Entry<T>,
    used: AtomicUsize,
    limit: usize,
    hasher: foldhash::fast::RandomState,
    make: Box<dyn Fn(&str) -> T + Send + Sync>,
}

struct Entry<T> {
    name: Box<str>,
    value: T,
}

impl<T> NamedCounters<T> {
    /// Creates a table for `limit` names; `make` creates the counters of a name.
    pub(crate) fn new(limit: usize, make: impl Fn(&str) -> T + Send + Sync + 'static) -> Self {
        let slots = (0..(limit * 2).next_power_of_two()).map(|_| OnceLock::new()).collect();
        let other = Entry { name: OTHER.into(), value: make(OTHER) };
        let hasher = foldhash::fast::RandomState::default();
        Self { slots, other, used: AtomicUsize::new(0), limit, hasher, make: Box::new(make) }
    }

    /// Returns the counters of a name.
    pub(crate) fn of(&self, name: &str) -> &T {
        self.at(self.place(name))
    }

    /// Returns the place of a name, allocating one if necessary.
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

    /// Returns the counters at a place.
    pub(crate) fn at(&self, place: usize) -> &T {
        self.slots.get(place).and_then(OnceLock::get).map_or(&self.other.value, |entry| &entry.value)
    }

    /// Returns all counters ordered by name, [`OTHER`] last.
    pub(crate) fn sorted(&self) -> Vec<&T> {
        let mut all: Vec<_> = self.slots.iter().filter_map(OnceLock::get).collect();
        all.sort_unstable_by_key(|entry| &*entry.name);
        all.into_iter().map(|entry| &entry.value).chain([&self.other.value]).collect()
    }

    /// Stores `name` in an empty slot; returns the stored name, which differs if another thread was faster.
    fn claim(&self, place: usize, name: &str) -> Option<&str> {
        let free =
            self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| (used < self.limit).then_some(used + 1));
        free.ok()?;
        let mut mine = false;
        let entry = self.slots[place].get_or_init(|| {
            mine = true;
            Box::new(Entry { name: name.into(), value: (self.make)(name) })
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

    struct Count(String, AtomicU64);

    impl Count {
        fn of(name: &str) -> Self {
            Self(name.to_owned(), AtomicU64::new(0))
        }

        fn add(&self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }

        fn read(&self) -> (&str, u64) {
            (&self.0, self.1.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn names_keep_their_places_and_the_surplus_shares_one() {
        let table = NamedCounters::new(2, Count::of);
        ["b", "a", "c", "b", "d", OTHER].iter().for_each(|name| table.of(name).add());
        let counted: Vec<(&str, u64)> = table.sorted().into_iter().map(Count::read).collect();
        assert_eq!(counted, [("a", 1), ("b", 2), (OTHER, 3)]);
        assert_eq!(table.at(table.place("a")).read(), ("a", 1));
        assert_eq!(table.place("z"), table.place(OTHER));
    }

    #[test]
    fn threads_that_bring_the_same_names_agree_on_their_places() {
        let table = NamedCounters::new(64, Count::of);
        let names: Vec<String> = (0..64).map(|n| format!("/route/{n}")).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| names.iter().for_each(|name| table.of(name).add()));
            }
        });
        let counted: u64 = table.sorted().into_iter().map(|count| count.read().1).sum();
        assert_eq!(counted, 256);
        assert!(table.used.load(Ordering::Relaxed) <= 64);
    }
}
