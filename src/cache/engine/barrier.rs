//! Barriers: invalidation in constant time that also covers fetches under way.
//!
//! Invalidating does not search the store. It raises a *barrier* on a tag, a resource, a prefix or everything: every
//! entry whose fetch **began** before it is void, wherever it is stored and whenever it arrives. A fetch that overlaps
//! a write to the database cannot bring the old state back.
//!
//! Time is counted in invalidations (the *generation*), not in seconds: no two events are simultaneous, and clocks are
//! not involved. An entry compared with the current generation is not compared again until the next invalidation, so a
//! hit usually costs one comparison of numbers.
//!
//! Memory is bounded: beyond 16 384 barriers of a kind the older half becomes one barrier on everything older than
//! them, which voids more than necessary but never less.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::lock::RwLock;
use crate::cache::http::key::{CacheKey, Target};
use crate::cache::http::stored_head::StoredHead;

/// Barriers of one kind before the older half is merged.
const MAX_BARRIERS: usize = 16_384;
/// Maximum number of prefix barriers, which are searched linearly.
const MAX_PREFIXES: usize = 256;

/// Validity of an entry with respect to invalidations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    /// No applicable invalidation since its fetch began.
    Valid,
    /// Marked stale: it must be revalidated before it is served.
    Stale,
    /// Invalidated.
    Void,
}

/// Generations of the latest invalidations: entries older than `hard` are void, older than `soft` stale.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    hard: u64,
    soft: u64,
}

impl Mark {
    fn insert(&mut self, generation: u64, soft: bool) {
        if soft { self.soft = generation } else { self.hard = generation }
    }

    fn newest(self) -> u64 {
        self.hard.max(self.soft)
    }

    fn merge(&mut self, other: Self) {
        self.hard = self.hard.max(other.hard);
        self.soft = self.soft.max(other.soft);
    }
}

/// Scope of an invalidation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InvalidationScope {
    /// Entries with this tag.
    Tag(Box<str>),
    /// This resource, as encoded in keys.
    Resource(Box<[u8]>),
    /// This path and query under any authority.
    Path(Box<[u8]>),
    /// Everything whose target starts with this prefix.
    Prefix(Prefix),
    /// Everything.
    All,
}

/// Prefix of a target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Prefix {
    /// Any scheme if `None`.
    pub(crate) scheme: Option<Box<[u8]>>,
    /// Any authority if `None`.
    pub(crate) authority: Option<Box<[u8]>>,
    /// Prefix of path and query.
    pub(crate) path: Box<[u8]>,
}

impl Prefix {
    fn covers(&self, target: &Target<'_>) -> bool {
        let same =
            |expected: &Option<Box<[u8]>>, found: &[u8]| expected.as_deref().is_none_or(|expected| expected == found);
        if !same(&self.scheme, target.scheme) || !same(&self.authority, target.authority) {
            return false;
        }
        match self.path.strip_prefix(target.path) {
            Some(rest) => target.query.starts_with(rest),
            None => target.path.starts_with(&self.path),
        }
    }
}

/// Barriers in force.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    generation: AtomicU64,
    marks: RwLock<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    floor: Mark,
    /// Tags, resources and paths by their hash under a secret: a name of any length takes a few bytes, and two that share
    /// a hash invalidate each other's entries.
    hasher: foldhash::quality::RandomState,
    tags: HashMap<u64, Mark, foldhash::fast::RandomState>,
    resources: HashMap<u64, Mark, foldhash::fast::RandomState>,
    paths: HashMap<u64, Mark, foldhash::fast::RandomState>,
    prefixes: HashMap<Prefix, Mark, foldhash::fast::RandomState>,
}

impl Barriers {
    /// Returns the number of invalidations so far, which fetches record when they begin.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Raises a barrier at the next generation.
    pub(super) fn insert(&self, scope: InvalidationScope, soft: bool) {
        let mut marks = self.marks.write();
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        self.mark(&mut marks, scope, soft, generation);
    }

    /// Raises a barrier at a given generation, greater than all before.
    #[cfg(feature = "redis")]
    pub(super) fn insert_at(&self, scope: InvalidationScope, soft: bool, generation: u64) {
        let mut marks = self.marks.write();
        self.mark(&mut marks, scope, soft, generation);
    }

    /// Voids everything older than `generation` and drops all other barriers.
    #[cfg(feature = "redis")]
    pub(super) fn start_at(&self, generation: u64) {
        let mut marks = self.marks.write();
        *marks = Marks { floor: Mark { hard: generation, soft: 0 }, hasher: marks.hasher.clone(), ..Marks::default() };
        self.generation.store(generation, Ordering::Release);
    }

    fn mark(&self, marks: &mut Marks, scope: InvalidationScope, soft: bool, generation: u64) {
        match scope {
            InvalidationScope::Tag(tag) => {
                let tag = marks.hasher.hash_one(tag.as_bytes());
                insert(&mut marks.tags, tag, generation, soft, MAX_BARRIERS, &mut marks.floor);
            }
            InvalidationScope::Resource(key) => {
                let key = marks.hasher.hash_one(&*key);
                insert(&mut marks.resources, key, generation, soft, MAX_BARRIERS, &mut marks.floor);
            }
            InvalidationScope::Path(path) => {
                let path = marks.hasher.hash_one(&*path);
                insert(&mut marks.paths, path, generation, soft, MAX_BARRIERS, &mut marks.floor);
            }
            InvalidationScope::Prefix(prefix) => {
                insert(&mut marks.prefixes, prefix, generation, soft, MAX_PREFIXES, &mut marks.floor);
            }
            InvalidationScope::All => marks.floor.insert(generation, soft),
        }
        // Stored after the mark: a reader that sees this generation also sees its mark.
        self.generation.store(generation, Ordering::Release);
    }

    /// Checks an entry with this head, stored under this key.
    pub(crate) fn check(&self, key: &CacheKey, meta: &StoredHead) -> Validity {
        let generation = self.generation();
        if meta.began.local == generation || meta.checked.load(Ordering::Relaxed) == generation {
            return Validity::Valid;
        }
        let validity = self.compare(key, &meta.tags, meta.began.local);
        if validity == Validity::Valid {
            meta.checked.store(generation, Ordering::Relaxed);
        }
        validity
    }

    /// Checks a fetch for this key that began at that generation.
    pub(crate) fn check_fetch(&self, key: &CacheKey, began: u64) -> Validity {
        if began == self.generation() { Validity::Valid } else { self.compare(key, &[], began) }
    }

    /// Checks an entry with this key and these tags whose fetch began at that generation.
    pub(crate) fn compare(&self, key: &CacheKey, tags: &[Box<str>], generation: u64) -> Validity {
        let marks = self.marks.read();
        let mut found = marks.floor;
        let mut merge = |mark: Option<&Mark>| {
            if let Some(mark) = mark {
                found.merge(*mark);
            }
        };
        if !marks.resources.is_empty() {
            merge(marks.resources.get(&marks.hasher.hash_one(key.resource())));
        }
        if !marks.tags.is_empty() {
            tags.iter().for_each(|tag| merge(marks.tags.get(&marks.hasher.hash_one(tag.as_bytes()))));
        }
        let by_target = !marks.paths.is_empty() || !marks.prefixes.is_empty();
        if let Some(target) = Target::of(key.resource()).filter(|_| by_target) {
            merge(marks.paths.get(&marks.hasher.hash_one(&[target.path, target.query].concat()[..])));
            marks.prefixes.iter().filter(|(prefix, _)| prefix.covers(&target)).for_each(|(_, mark)| merge(Some(mark)));
        }
        match found {
            Mark { hard, .. } if generation < hard => Validity::Void,
            Mark { soft, .. } if generation < soft => Validity::Stale,
            _ => Validity::Valid,
        }
    }
}

fn insert<K: Eq + Hash>(
    marks: &mut HashMap<K, Mark, foldhash::fast::RandomState>,
    key: K,
    generation: u64,
    soft: bool,
    max: usize,
    floor: &mut Mark,
) {
    if marks.len() >= max {
        let mut ages: Vec<u64> = marks.values().map(|mark| mark.newest()).collect();
        let (_, middle, _) = ages.select_nth_unstable(max / 2);
        let middle = *middle;
        marks.retain(|_, mark| {
            let stays = mark.newest() > middle;
            if !stays {
                floor.merge(*mark);
            }
            stays
        });
    }
    marks.entry(key).or_default().insert(generation, soft);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::http::key_builder::{KeyBuilder, KeyParts};

    fn key(url: &str) -> CacheKey {
        let uri: http::Uri = url.parse().expect("a uri");
        let parts = KeyParts { default_scheme: "http", ignore_query: &[], without_query: false };
        let authority = uri.authority().expect("an authority").as_str().to_owned();
        let mut key = KeyBuilder::new();
        key.target("http", authority.as_bytes(), &uri, parts).expect("a key");
        key.finish().expect("short")
    }

    fn prefix(authority: Option<&str>, path: &str) -> InvalidationScope {
        let authority = authority.map(|authority| authority.as_bytes().into());
        InvalidationScope::Prefix(Prefix { scheme: None, authority, path: path.as_bytes().into() })
    }

    #[test]
    fn barriers_void_earlier_fetches_only() {
        let barriers = Barriers::default();
        let (a, b) = (key("http://h/a?x"), key("http://h/ab"));
        for (scope, hits_a, hits_b) in [
            (InvalidationScope::Resource(a.resource().into()), true, false),
            (InvalidationScope::Path(b"/a?x"[..].into()), true, false),
            (prefix(None, "/a?"), true, false),
            (prefix(Some("h"), "/a"), true, true),
            (prefix(Some("other"), "/a"), false, false),
            (InvalidationScope::All, true, true),
        ] {
            let before = barriers.generation();
            barriers.insert(scope.clone(), false);
            assert_eq!(barriers.check_fetch(&a, before) == Validity::Void, hits_a, "{scope:?}");
            assert_eq!(barriers.check_fetch(&b, before) == Validity::Void, hits_b, "{scope:?}");
            assert_eq!(barriers.check_fetch(&a, barriers.generation()), Validity::Valid);
        }
    }

    #[test]
    fn soft_barriers_mark_stale_and_tags_match_exactly() {
        let barriers = Barriers::default();
        let a = key("http://h/a");
        barriers.insert(InvalidationScope::Tag("*".into()), true);
        assert_eq!(barriers.compare(&a, &["*".into()], 0), Validity::Stale);
        assert_eq!(barriers.compare(&a, &["x".into()], 0), Validity::Valid);
        barriers.insert(InvalidationScope::Tag("*".into()), false);
        assert_eq!(barriers.compare(&a, &["*".into()], 0), Validity::Void);
    }

    #[test]
    fn excess_barriers_void_the_oldest_entries() {
        let barriers = Barriers::default();
        let first = key("http://h/0");
        for n in 0..3 * MAX_BARRIERS {
            barriers.insert(InvalidationScope::Resource(key(&format!("http://h/{n}")).resource().into()), false);
        }
        assert!(barriers.marks.read().resources.len() <= MAX_BARRIERS);
        assert_eq!(barriers.check_fetch(&first, 0), Validity::Void);
        let recent = barriers.generation() - 10;
        assert_eq!(barriers.check_fetch(&key("http://h/other"), recent), Validity::Valid);
    }
}
