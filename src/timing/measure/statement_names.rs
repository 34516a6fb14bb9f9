//! Names of statements: fingerprints, cached.
//!
//! Programs repeat a small set of statements: up to 1 024 of at most 2 KB keep their fingerprint while they are in use,
//! and a look-up takes one hash and one comparison. Other statements are parsed each time. Memory is therefore bounded even if
//! every statement is new because values are written into it.

use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, LazyLock};

use super::fingerprint;
use super::group::QueryName;
use super::recent_names::RecentNames;
use super::statement_kind::StatementKind;
use super::table::OTHER;

const MOST: usize = 1_024;
const LONGEST: usize = 2_048;

static SEEN: LazyLock<RecentNames<Option<KnownStatement>>> =
    LazyLock::new(|| RecentNames::new(MOST, |sql| (sql != OTHER).then(|| KnownStatement::read(sql)), |_, _| {}));
static HASHER: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);

/// Cached properties of a statement.
#[derive(Clone)]
pub(crate) struct KnownStatement {
    pub(crate) name: QueryName,
    /// Hash of the name.
    pub(crate) hash: u64,
    /// Whether it begins or ends a transaction or a part of one.
    pub(crate) transaction: bool,
    /// Hash of text and parameters; known if the statement has none.
    pub(crate) whole: Option<u64>,
    /// Hash of the text, combined with a key for the parameters.
    text: u64,
}

impl KnownStatement {
    fn read(sql: &str) -> Self {
        let (print, parameters) = fingerprint::read(sql);
        let text = hash(sql);
        let of_name = hash(&*print);
        let transaction = StatementKind::of(&print) == StatementKind::Transaction;
        let whole = (!parameters).then_some(text);
        Self { name: QueryName::Print(Arc::from(print)), hash: of_name, transaction, whole, text }
    }

    /// Returns the hash of the text and the given parameters.
    pub(crate) fn with_key(&self, key: &impl Hash) -> u64 {
        hash(&(self.text, key))
    }
}

/// Returns the properties of a statement.
pub(crate) fn named(sql: &str) -> KnownStatement {
    let remembered = if sql.len() <= LONGEST { SEEN.with(sql, Clone::clone) } else { None };
    remembered.unwrap_or_else(|| KnownStatement::read(sql))
}

/// Hashes with a per-process seed; not stable across processes.
pub(crate) fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    HASHER.hash_one(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_with_parameters_need_a_key() {
        let (one, two) = (named("SELECT a FROM t WHERE b = 1"), named("SELECT a FROM t WHERE b = 2"));
        assert_eq!(one.name.as_str(), two.name.as_str());
        assert!(one.whole.is_some() && one.whole != two.whole);
        let open = named("SELECT a FROM t WHERE b = $1");
        assert_eq!(open.whole, None);
        assert!(open.with_key(&7) == open.with_key(&7) && open.with_key(&7) != open.with_key(&8));
    }

    #[test]
    fn the_statement_cache_is_bounded() {
        for n in 0..1_000_000 {
            assert_eq!(named(&format!("SELECT a FROM t WHERE b = {n}")).name.as_str(), "SELECT a FROM t WHERE b = ?");
        }
        assert!(SEEN.len() <= MOST);
        assert_eq!(named(&"x".repeat(LONGEST + 1)).name.as_str().len(), LONGEST);
    }
}
