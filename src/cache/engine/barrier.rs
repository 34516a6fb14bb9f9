//! Barriers: invalidation in constant time that also covers fetches under way.
//!
//! Invalidating does not search the store. It sets a *barrier* on a tag, a resource, a prefix or everything: every
//! entry whose fetch **began** before it is void, wherever it is stored and whenever it arrives. A fetch that overlaps
//! a write to the database cannot bring the old state back.
//!
//! Time is counted in invalidations (the *generation*), not in seconds: no two events are simultaneous, and clocks are
//! not involved. An entry compared with the current generation is not compared again until the next invalidation, so a
//! hit usually costs one comparison of numbers.
//!
//! Memory is bounded: beyond 32 768 barriers on names the older half goes into [filters](super::barrier_filters), which
//! void one unrelated entry in thousands, so that no number of unsafe requests empties the cache. Beyond 256 barriers on
//! prefixes the older half becomes one on everything older than them. More may be voided than necessary, never less.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

use super::barrier_filters::BarrierFilters;
use crate::base::lock::RwLock;
use crate::cache::http::key::{CacheKey, Target};
use crate::cache::http::record_meta::RecordMeta;

/// Exact barriers on names before the older half goes into filters.
const MAX_NAMES: usize = 32_768;
/// Maximum number of prefix barriers, which are searched linearly.
const MAX_PREFIXES: usize = 256;
/// Soft barriers that can be revoked, which are searched linearly too: operators set them, by hand.
const MAX_REVOCABLE: usize = 16;

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

/// What an invalidation does to the entries in its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvalidationEffect {
    Void,
    /// They are revalidated before they are served.
    Stale,
    /// The same, until a revocation of this scope.
    StaleUntilRevoked,
    /// Ends what is revocable of this scope: its entries are as valid as before.
    Revoked,
}

/// Generations of the latest invalidations: entries older than `hard` are void, older than `soft` stale.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    hard: u64,
    soft: u64,
}

impl Mark {
    fn insert(&mut self, generation: u64, soft: bool) {
        let mark = if soft { &mut self.soft } else { &mut self.hard };
        *mark = (*mark).max(generation);
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

impl InvalidationScope {
    /// Whether it applies to an entry with this key and these tags.
    pub(crate) fn applies_to(&self, key: &CacheKey, tags: &[Box<str>]) -> bool {
        let resource = key.resource();
        let target = Target::of(resource);
        match self {
            Self::Tag(tag) => tags.iter().any(|known| **known == **tag),
            Self::Resource(wanted) => *resource == **wanted,
            Self::Path(path) => target.is_some_and(|target| path.strip_prefix(target.path) == Some(target.query)),
            Self::Prefix(prefix) => target.is_some_and(|target| prefix.covers(&target)),
            Self::All => true,
        }
    }
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
    hasher: foldhash::quality::RandomState,
    /// Barriers on tags, resources and paths, by their hash under a secret: a name of any length takes a few bytes, and two
    /// that share a hash invalidate each other's entries.
    names: HashMap<u64, Mark, foldhash::fast::RandomState>,
    /// Older barriers on names.
    older_names: BarrierFilters,
    /// Kinds that occur among the names.
    kinds: [bool; 3],
    prefixes: HashMap<Prefix, Mark, foldhash::fast::RandomState>,
    /// Soft barriers that can be revoked, oldest first.
    revocable: Vec<(InvalidationScope, u64)>,
}

/// Kind of a name.
#[derive(Clone, Copy, Hash)]
enum NameKind {
    Tag,
    Resource,
    Path,
}

impl Barriers {
    /// Returns the number of invalidations so far, which fetches record when they begin.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Sets a barrier at the next generation.
    pub(super) fn insert(&self, scope: InvalidationScope, effect: InvalidationEffect) {
        let mut marks = self.marks.write();
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        self.mark(&mut marks, scope, effect, generation);
    }

    /// Sets a barrier at a given generation, greater than all before.
    pub(super) fn insert_at(&self, scope: InvalidationScope, effect: InvalidationEffect, generation: u64) {
        let mut marks = self.marks.write();
        self.mark(&mut marks, scope, effect, generation);
    }

    /// Revokes the soft barriers of this scope that can be.
    pub(super) fn revoke(&self, scope: &InvalidationScope) {
        self.marks.write().revoke(scope);
    }

    /// Voids everything older than `generation` and drops all other barriers.
    pub(super) fn start_at(&self, generation: u64) {
        let mut marks = self.marks.write();
        *marks = Marks { floor: Mark { hard: generation, soft: 0 }, hasher: marks.hasher.clone(), ..Marks::default() };
        self.generation.store(generation, Ordering::Release);
    }

    fn mark(&self, marks: &mut Marks, scope: InvalidationScope, effect: InvalidationEffect, generation: u64) {
        match effect {
            InvalidationEffect::Void => marks.insert(scope, generation, false),
            InvalidationEffect::Stale => marks.insert(scope, generation, true),
            InvalidationEffect::StaleUntilRevoked => marks.insert_revocable(scope, generation),
            InvalidationEffect::Revoked => marks.revoke(&scope),
        }
        // Stored after the mark: a reader that sees this generation also sees its mark.
        self.generation.store(generation, Ordering::Release);
    }

    /// Checks an entry with this head, stored under this key.
    pub(crate) fn check(&self, key: &CacheKey, meta: &RecordMeta) -> Validity {
        let generation = self.generation();
        // Valid up to here: only later barriers can apply.
        let valid_at = meta.began.local.max(meta.checked.load(Ordering::Relaxed));
        if valid_at == generation {
            return Validity::Valid;
        }
        let validity = self.compare(key, &meta.tags, valid_at);
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
        if marks.has(NameKind::Resource) {
            marks.find_name(NameKind::Resource, key.resource(), generation, &mut found);
        }
        if marks.has(NameKind::Tag) {
            tags.iter().for_each(|tag| marks.find_name(NameKind::Tag, tag.as_bytes(), generation, &mut found));
        }
        let by_target = marks.has(NameKind::Path) || !marks.prefixes.is_empty();
        if let Some(target) = Target::of(key.resource()).filter(|_| by_target) {
            marks.find_name(NameKind::Path, &[target.path, target.query].concat(), generation, &mut found);
            let covering = marks.prefixes.iter().filter(|(prefix, _)| prefix.covers(&target));
            covering.for_each(|(_, mark)| found.merge(*mark));
        }
        let mut revocable = marks.revocable.iter().filter(|(_, at)| generation < *at);
        if generation >= found.newest() && revocable.any(|(scope, _)| scope.applies_to(key, tags)) {
            return Validity::Stale;
        }
        match found {
            Mark { hard, .. } if generation < hard => Validity::Void,
            Mark { soft, .. } if generation < soft => Validity::Stale,
            _ => Validity::Valid,
        }
    }
}

impl Marks {
    fn insert(&mut self, scope: InvalidationScope, generation: u64, soft: bool) {
        match scope {
            InvalidationScope::Tag(tag) => self.insert_name(NameKind::Tag, tag.as_bytes(), generation, soft),
            InvalidationScope::Resource(key) => self.insert_name(NameKind::Resource, &key, generation, soft),
            InvalidationScope::Path(path) => self.insert_name(NameKind::Path, &path, generation, soft),
            InvalidationScope::Prefix(prefix) => self.insert_prefix(prefix, generation, soft),
            InvalidationScope::All => self.floor.insert(generation, soft),
        }
    }

    /// Beyond the bound the oldest becomes one that cannot be revoked.
    fn insert_revocable(&mut self, scope: InvalidationScope, generation: u64) {
        if self.revocable.len() == MAX_REVOCABLE {
            let (scope, generation) = self.revocable.remove(0);
            self.insert(scope, generation, true);
        }
        self.revocable.push((scope, generation));
    }

    fn revoke(&mut self, scope: &InvalidationScope) {
        self.revocable.retain(|(revocable, _)| revocable != scope);
    }

    fn insert_name(&mut self, kind: NameKind, name: &[u8], generation: u64, soft: bool) {
        self.kinds[kind as usize] = true;
        for (hash, mark) in take_older_half(&mut self.names, MAX_NAMES) {
            self.older_names.insert(hash, mark.newest());
        }
        let hash = self.hash(kind, name);
        self.names.entry(hash).or_default().insert(generation, soft);
    }

    fn insert_prefix(&mut self, prefix: Prefix, generation: u64, soft: bool) {
        for (_, mark) in take_older_half(&mut self.prefixes, MAX_PREFIXES) {
            self.floor.merge(mark);
        }
        self.prefixes.entry(prefix).or_default().insert(generation, soft);
    }

    /// Merges the barriers on a name that are newer than the generation.
    fn find_name(&self, kind: NameKind, name: &[u8], generation: u64, found: &mut Mark) {
        let hash = self.hash(kind, name);
        if let Some(mark) = self.names.get(&hash) {
            found.merge(*mark);
        }
        if !self.older_names.is_empty() && self.older_names.may_contain(hash, generation) {
            found.hard = found.hard.max(generation + 1);
        }
    }

    const fn has(&self, kind: NameKind) -> bool {
        self.kinds[kind as usize]
    }

    fn hash(&self, kind: NameKind, name: &[u8]) -> u64 {
        self.hasher.hash_one((kind, name))
    }
}

/// Removes the older half of the marks if there are `max`.
fn take_older_half<K: Eq + Hash + Clone>(
    marks: &mut HashMap<K, Mark, foldhash::fast::RandomState>,
    max: usize,
) -> Vec<(K, Mark)> {
    if marks.len() < max {
        return Vec::new();
    }
    let mut ages: Vec<u64> = marks.values().map(|mark| mark.newest()).collect();
    let (_, middle, _) = ages.select_nth_unstable(max / 2);
    let middle = *middle;
    marks.extract_if(|_, mark| mark.newest() <= middle).collect()
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
            barriers.insert(scope.clone(), InvalidationEffect::Void);
            assert_eq!(barriers.check_fetch(&a, before) == Validity::Void, hits_a, "{scope:?}");
            assert_eq!(barriers.check_fetch(&b, before) == Validity::Void, hits_b, "{scope:?}");
            assert_eq!(barriers.check_fetch(&a, barriers.generation()), Validity::Valid);
        }
    }

    #[test]
    fn what_cannot_be_revoked_stays_and_the_list_is_bounded() {
        use InvalidationEffect::{Revoked, Stale, StaleUntilRevoked};
        let barriers = Barriers::default();
        let (a, tags) = (key("http://h/a"), ["t".into()]);
        let tag = || InvalidationScope::Tag("t".into());
        barriers.insert(tag(), StaleUntilRevoked);
        assert_eq!(barriers.compare(&a, &tags, 0), Validity::Stale);
        barriers.insert(InvalidationScope::Path(b"/a"[..].into()), Revoked);
        assert_eq!(barriers.compare(&a, &tags, 0), Validity::Stale, "another scope");
        barriers.insert(tag(), Revoked);
        assert_eq!(barriers.compare(&a, &tags, 0), Validity::Valid);
        barriers.insert(tag(), Stale);
        barriers.insert(tag(), Revoked);
        assert_eq!(barriers.compare(&a, &tags, 0), Validity::Stale);
        let began = barriers.generation();
        barriers.insert(InvalidationScope::All, StaleUntilRevoked);
        for _ in 0..MAX_REVOCABLE {
            barriers.insert(tag(), StaleUntilRevoked);
        }
        barriers.insert(InvalidationScope::All, Revoked);
        assert_eq!(barriers.compare(&a, &[], began), Validity::Stale, "it was the oldest of too many");
        assert_eq!(barriers.marks.read().revocable.len(), MAX_REVOCABLE);
    }

    #[test]
    fn soft_barriers_mark_stale_and_tags_match_exactly() {
        let barriers = Barriers::default();
        let a = key("http://h/a");
        barriers.insert(InvalidationScope::Tag("*".into()), InvalidationEffect::Stale);
        assert_eq!(barriers.compare(&a, &["*".into()], 0), Validity::Stale);
        assert_eq!(barriers.compare(&a, &["x".into()], 0), Validity::Valid);
        barriers.insert(InvalidationScope::Tag("*".into()), InvalidationEffect::Void);
        assert_eq!(barriers.compare(&a, &["*".into()], 0), Validity::Void);
    }

    #[test]
    fn a_million_barriers_void_what_they_name_and_little_else() {
        let barriers = Barriers::default();
        let resource = |n: u64| InvalidationScope::Resource(key(&format!("http://h/{n}")).resource().into());
        for n in 0..1_000_000 {
            barriers.insert(resource(n), InvalidationEffect::Void);
        }
        assert!(barriers.marks.read().names.len() <= MAX_NAMES);
        for n in [0, 1, 100_000, 900_000, 999_999] {
            assert_eq!(barriers.check_fetch(&key(&format!("http://h/{n}")), n), Validity::Void, "{n}");
        }
        let voided = (0..10_000).filter(|n| {
            let unrelated = key(&format!("http://other/{n}"));
            barriers.check_fetch(&unrelated, 0) != Validity::Valid
        });
        assert!(voided.count() < 100, "over 1 %");
    }

    #[test]
    fn excess_prefixes_void_the_oldest_entries() {
        let barriers = Barriers::default();
        for n in 0..3 * MAX_PREFIXES {
            barriers.insert(prefix(None, &format!("/{n}/")), InvalidationEffect::Void);
        }
        assert!(barriers.marks.read().prefixes.len() <= MAX_PREFIXES);
        assert_eq!(barriers.check_fetch(&key("http://h/other"), 0), Validity::Void);
        let recent = barriers.generation() - 10;
        assert_eq!(barriers.check_fetch(&key("http://h/other"), recent), Validity::Valid);
    }
}
