//! Names of statements: fingerprints, cached.
//!
//! A program makes the same few statements again and again: the first 1 024 of at most 2 KB keep their fingerprint, and
//! finding it takes one hash and one comparison. Other statements are read anew each time. So memory is bounded, also
//! where every statement is new because values are written into it.

use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, LazyLock};

use super::fingerprint;
use super::group::QueryName;
use super::table::NamedCounters;

const MOST: usize = 1_024;
const LONGEST: usize = 2_048;

static SEEN: LazyLock<NamedCounters<Known>> = LazyLock::new(|| NamedCounters::new(MOST, Known::read));
static HASHER: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);

/// Cached facts of a statement.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) name: QueryName,
    /// Of its name.
    pub(crate) hash: u64,
    /// A hash of everything it asks for: where it has no parameters, its text is all.
    pub(crate) whole: Option<u64>,
    /// The same where a key says what the parameters are.
    text: u64,
}

impl Known {
    fn read(sql: &str) -> Self {
        let (print, parameters) = fingerprint::read(sql);
        let text = hash(sql);
        let of_name = hash(&*print);
        Self { name: QueryName::Print(Arc::from(print)), hash: of_name, whole: (!parameters).then_some(text), text }
    }

    /// The hash of everything it asks for, where this is said to be its parameters.
    pub(crate) fn with_key(&self, key: &impl Hash) -> u64 {
        hash(&(self.text, key))
    }
}

/// Cached facts of that statement.
pub(crate) fn named(sql: &str) -> Known {
    let remembered = if sql.len() <= LONGEST { SEEN.find(sql) } else { None };
    remembered.cloned().unwrap_or_else(|| Known::read(sql))
}

/// Of this process, and of no use outside it.
pub(crate) fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    HASHER.hash_one(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_parameters_is_whole_only_with_its_key() {
        let (one, two) = (named("SELECT a FROM t WHERE b = 1"), named("SELECT a FROM t WHERE b = 2"));
        assert_eq!(one.name.as_str(), two.name.as_str());
        assert!(one.whole.is_some() && one.whole != two.whole);
        let open = named("SELECT a FROM t WHERE b = $1");
        assert_eq!(open.whole, None);
        assert!(open.with_key(&7) == open.with_key(&7) && open.with_key(&7) != open.with_key(&8));
    }

    #[test]
    fn a_million_statements_are_not_remembered() {
        for n in 0..1_000_000 {
            assert_eq!(named(&format!("SELECT a FROM t WHERE b = {n}")).name.as_str(), "SELECT a FROM t WHERE b = ?");
        }
        assert!(SEEN.len() <= MOST);
        assert_eq!(named(&"x".repeat(LONGEST + 1)).name.as_str().len(), LONGEST);
    }
}
