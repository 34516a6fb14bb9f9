//! [`Repeats`]: when the same query, again and again in one request, is worth a word.
//!
//! | | the request's group | found |
//! |---|---|---|
//! | 1 | is on the allow-list, or controls a transaction (`BEGIN`, `COMMIT`, `SAVEPOINT` …) | nothing |
//! | 2 | ran at least 5 times and took at least the floor together, for at least two different things | N+1: one query too few, in a loop |
//! | 3 | asked at least once for what it had asked for already, and only reads | duplicate queries: remember the first answer |
//!
//! Different things are told apart by the key given to [`Timed::key`](crate::timing::Timed::key), or by the text where
//! it has no
//! parameters. Where neither is known, every repetition counts as N+1 and none as a duplicate.

use std::time::Duration;

use super::fingerprint::fingerprint;
use super::group::QueryGroup;

/// Finding about a group of queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeated {
    /// The same query for many things.
    NPlusOne,
    /// The same query for the same thing.
    Duplicate,
}

/// Thresholds for repeated queries, for a layer or one of its routes.
///
/// ```
/// use std::time::Duration;
/// use tollgate::timing::{Repeats, TimingLayer};
///
/// let timing = TimingLayer::builder()
///     .repeats(Repeats::new().at_least(10).taking(Duration::from_millis(5)).allow("SELECT name FROM tags WHERE id = $1"))
///     .repeats_on("/export", Repeats::off()) // made of many small queries on purpose
///     .build()?;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing until it is given to a builder"]
pub struct Repeats {
    /// At least 2; nothing is found where it is `u64::MAX`.
    times: u64,
    floor: Duration,
    duplicates: bool,
    /// Fingerprints, and names given to `timed`.
    allowed: Vec<Box<str>>,
}

impl Repeats {
    /// The defaults: N+1 from 5 times on, however little time they took, and duplicates.
    pub const fn new() -> Self {
        Self { times: 5, floor: Duration::ZERO, duplicates: true, allowed: Vec::new() }
    }

    /// Reports no repeated queries.
    pub const fn off() -> Self {
        Self { times: u64::MAX, floor: Duration::ZERO, duplicates: false, allowed: Vec::new() }
    }

    /// So many of the same query in one request are N+1; at least 2.
    pub fn at_least(mut self, times: u32) -> Self {
        self.times = u64::from(times.max(2));
        self
    }

    /// What took less than this together is left alone. By default nothing is.
    pub fn taking(mut self, floor: Duration) -> Self {
        self.floor = floor;
        self
    }

    /// Whether to report a query asked twice for the same thing. By default it is.
    pub fn duplicates(mut self, report: bool) -> Self {
        self.duplicates = report;
        self
    }

    /// Leaves this query alone: a statement as it stands in the program or in a report, or a name given to
    /// [`timed`](crate::timing::timed).
    pub fn allow(mut self, query: &str) -> Self {
        self.allowed.push(query.into());
        self.allowed.push(fingerprint(query).into());
        self
    }

    /// Returns the finding about this group, if any.
    pub(crate) fn judge(&self, group: &QueryGroup) -> Option<Repeated> {
        let name = group.name.as_str();
        let duplicates = group.duplicates();
        // Of n queries of which d are repetitions, n − d ask for different things.
        let different = group.sum.count - duplicates;
        let many = group.sum.count >= self.times && different > 1;
        let twice = self.duplicates && duplicates > 0 && reads(name);
        if !(many || twice) || group.is_other() || group.sum.total < self.floor {
            return None;
        }
        if controls(name) || self.allowed.iter().any(|allowed| **allowed == *name) {
            return None;
        }
        Some(if many { Repeated::NPlusOne } else { Repeated::Duplicate })
    }
}

impl Default for Repeats {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a statement controls a transaction or a session, and asks for nothing.
fn controls(name: &str) -> bool {
    let first = name.split([' ', ';']).next().unwrap_or_default();
    ["BEGIN", "START", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "SET", "PRAGMA"].contains(&first)
}

/// Whether asking twice gives the same answer: a statement that writes is not a duplicate of itself.
fn reads(name: &str) -> bool {
    let first = name.split(' ').next().unwrap_or_default();
    !["INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "CALL", "DO", "NOTIFY"].contains(&first)
}

#[cfg(test)]
mod tests {
    use super::super::group::{QueryGroups, QueryName, Sample};
    use super::*;

    fn judged(repeats: &Repeats, name: &'static str, wholes: &[Option<u64>]) -> Option<Repeated> {
        let (name, mut groups) = (QueryName::Word(name), QueryGroups::default());
        for whole in wholes {
            let took = Duration::from_millis(2);
            groups.add(&Sample { name: &name, hash: 7, took, rows: 0, cancelled: false, whole: *whole, at: None });
        }
        groups.iter().next().and_then(|group| repeats.judge(group))
    }

    #[test]
    fn what_is_found() {
        let keys = |n: u64| (0..n).map(Some).collect::<Vec<_>>();
        let (usual, query) = (Repeats::new(), "SELECT a FROM t WHERE b = ?");
        let slow = Repeats::new().taking(Duration::from_millis(11));
        let allowed = Repeats::new().allow("select a from t where b = 7").allow("row");
        for (repeats, name, wholes, wanted) in [
            (&usual, query, vec![None; 5], Some(Repeated::NPlusOne)),
            (&usual, query, keys(5), Some(Repeated::NPlusOne)),
            (&usual, query, vec![None; 4], None),
            (&usual, query, vec![Some(1); 7], Some(Repeated::Duplicate)),
            (&usual, query, vec![Some(1); 2], Some(Repeated::Duplicate)),
            (&usual, query, vec![Some(1), Some(2)], None),
            (&usual, "INSERT INTO t VALUES (?)", vec![Some(1); 2], None),
            (&usual, "INSERT INTO t VALUES (?)", vec![None; 5], Some(Repeated::NPlusOne)),
            (&usual, "SAVEPOINT a", vec![None; 50], None),
            (&usual, "COMMIT", vec![Some(1); 50], None),
            (&usual, "other", vec![None; 50], None),
            (&Repeats::new().duplicates(false), query, vec![Some(1); 7], None),
            (&Repeats::new().at_least(2), query, vec![None; 2], Some(Repeated::NPlusOne)),
            (&Repeats::off(), query, vec![None; 1_000], None),
            (&slow, query, vec![None; 5], None),
            (&slow, query, vec![None; 6], Some(Repeated::NPlusOne)),
            (&allowed, query, vec![None; 9], None),
            (&allowed, "row", vec![None; 9], None),
            (&allowed, "rows", vec![None; 9], Some(Repeated::NPlusOne)),
        ] {
            assert_eq!(judged(repeats, name, &wholes), wanted, "{name}: {wholes:?}");
        }
    }
}
