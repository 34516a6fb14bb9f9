//! [`RecentNames`]: a bounded table of counters by name, which the names seen lately keep.
//!
//! Once the table is full, a new name takes the place of one that was not looked up for a while (second chance: a hand
//! goes round, and passes over each name that was used since its last round). What the old name counted is added to
//! [`OTHER`], so that sums stay true; so is what a name counts that is looked up once and no more. A look-up takes a
//! read lock and allocates nothing.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::table::OTHER;
use crate::base::lock::RwLock;

/// Names that are remembered after their first look-up in a full table.
const CANDIDATES: usize = 1_024;

/// Counters of type `T` by name.
pub(crate) struct RecentNames<T> {
    table: RwLock<Table<T>>,
    other: T,
    limit: usize,
    /// Hashes of names that were looked up once, while the table was full.
    candidates: Box<[AtomicU32]>,
    make: Box<dyn Fn(&str) -> T + Send + Sync>,
    retire: fn(&T, &T),
}

struct Table<T> {
    places: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    entries: Vec<Entry<T>>,
    hand: usize,
}

struct Entry<T> {
    name: Box<str>,
    value: T,
    used: AtomicBool,
}

impl<T> RecentNames<T> {
    /// Creates a table for `limit` names. `make` creates the counters of a name, `retire` adds the second ones to the
    /// first.
    pub(crate) fn new(limit: usize, make: impl Fn(&str) -> T + Send + Sync + 'static, retire: fn(&T, &T)) -> Self {
        let table = Table { places: HashMap::default(), entries: Vec::new(), hand: 0 };
        let candidates = (0..CANDIDATES).map(|_| AtomicU32::new(0)).collect();
        Self { table: RwLock::new(table), other: make(OTHER), limit, candidates, make: Box::new(make), retire }
    }

    /// Calls `read` with the counters of a name, which keep their place meanwhile.
    pub(crate) fn with<R>(&self, name: &str, mut read: impl FnMut(&T) -> R) -> R {
        if name == OTHER {
            return read(&self.other);
        }
        let table = self.table.read();
        if let Some(found) = table.find(name).map(&mut read) {
            return found;
        }
        let candidate = table.entries.len() >= self.limit && self.first_time(table.places.hasher().hash_one(name));
        drop(table);
        if candidate {
            return read(&self.other);
        }
        let value = (self.make)(name);
        let mut table = self.table.write();
        if let Some(found) = table.find(name).map(&mut read) {
            return found;
        }
        let place = table.put(name, value, self.limit, |old| (self.retire)(&self.other, old));
        read(&table.entries[place].value)
    }

    /// Remembers a name; returns whether it was not remembered before.
    fn first_time(&self, hash: u64) -> bool {
        let (place, mark) = (hash as usize % CANDIDATES, (hash >> 32) as u32 | 1);
        self.candidates[place].swap(mark, Ordering::Relaxed) != mark
    }

    /// Calls `each` with all counters ordered by name, [`OTHER`] last.
    pub(crate) fn sorted<R>(&self, mut each: impl FnMut(&T) -> R) -> Vec<R> {
        let table = self.table.read();
        let mut all: Vec<&Entry<T>> = table.entries.iter().collect();
        all.sort_unstable_by_key(|entry| &*entry.name);
        all.into_iter().map(|entry| &entry.value).chain([&self.other]).map(&mut each).collect()
    }

    /// Returns the number of names.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.table.read().entries.len()
    }
}

impl<T> Table<T> {
    fn find(&self, name: &str) -> Option<&T> {
        let entry = &self.entries[*self.places.get(name)?];
        // Written only when it changes: names in use share their cache line among processors.
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(&entry.value)
    }

    fn put(&mut self, name: &str, value: T, limit: usize, retire: impl FnOnce(&T)) -> usize {
        let entry = Entry { name: name.into(), value, used: AtomicBool::new(false) };
        let place = if self.entries.len() < limit {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let place = self.unused();
            let old = std::mem::replace(&mut self.entries[place], entry);
            self.places.remove(&old.name);
            retire(&old.value);
            place
        };
        self.places.insert(name.into(), place);
        place
    }

    /// Returns the next place whose name was not used since the hand's last round.
    fn unused(&mut self) -> usize {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            if !std::mem::take(self.entries[place].used.get_mut()) {
                return place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    struct Count(String, AtomicU64);

    fn table(limit: usize) -> RecentNames<Count> {
        let make = |name: &str| Count(name.to_owned(), AtomicU64::new(0));
        RecentNames::new(limit, make, |other, old| {
            other.1.fetch_add(old.1.load(Ordering::Relaxed), Ordering::Relaxed);
        })
    }

    fn add(table: &RecentNames<Count>, name: &str) {
        table.with(name, |count| count.1.fetch_add(1, Ordering::Relaxed));
    }

    fn read(table: &RecentNames<Count>) -> Vec<(String, u64)> {
        table.sorted(|count| (count.0.clone(), count.1.load(Ordering::Relaxed)))
    }

    #[test]
    fn names_in_use_stay_and_the_count_of_others_is_kept() {
        let table = table(2);
        for name in ["a", "b", "a", "c", "c", "a", "d", "d", OTHER] {
            add(&table, name);
        }
        let wanted = [("a", 3), ("d", 1), (OTHER, 5)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(read(&table), wanted);
    }

    #[test]
    fn a_million_names_leave_room_for_the_next() {
        let table = table(8);
        for n in 0..1_000_000 {
            add(&table, &n.to_string());
        }
        for _ in 0..2 {
            add(&table, "later");
        }
        let counted = read(&table);
        assert_eq!(counted.len(), 9);
        assert!(counted.contains(&("later".to_owned(), 1)), "{counted:?}");
        assert_eq!(counted.iter().map(|(_, count)| count).sum::<u64>(), 1_000_002);
    }

    #[test]
    fn threads_that_bring_the_same_names_agree() {
        let table = table(64);
        let names: Vec<String> = (0..64).map(|n| format!("SELECT c{n}")).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| names.iter().for_each(|name| add(&table, name)));
            }
        });
        assert_eq!(read(&table).iter().map(|(_, count)| count).sum::<u64>(), 256);
        assert_eq!(table.len(), 64);
    }
}
