//! [`Repeats`]: thresholds for queries repeated within one request.
//!
//! | | queries of one name in a request | finding |
//! |---|---|---|
//! | 1 | are on the allow-list | none |
//! | 2 | neither read nor write rows (`COMMIT`, `TRUNCATE`, `nextval`), or take rows from a queue (`SKIP LOCKED`) | none |
//! | 3 | read, at least 5 times and for at least the minimum total, for at least two different rows | N+1: a query in a loop |
//! | 4 | write, at least 5 times and for at least the minimum total | unbatched writes: one statement can write many rows |
//! | 5 | repeated an earlier query exactly, and only read, without locks | duplicate queries: keep the first result |
//!
//! A name given to [`timed`](crate::timing::timed) is read as SQL if it begins with a verb of SQL in upper case; otherwise
//! it counts as a query that only reads.
//!
//! Rows are distinguished by the key given to [`Timed::key`](crate::timing::Timed::key), or by the text if it has no
//! parameters. If neither is known, every repetition counts as N+1 and none as a duplicate.

use std::time::Duration;

use super::fingerprint::fingerprint;
use super::group::{QueryGroup, QueryName};
use super::statement_kind::StatementKind;

/// Kind of repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeated {
    /// The same query for many rows.
    NPlusOne,
    /// The same statement writes many rows.
    UnbatchedWrites,
    /// The same query for the same rows.
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
    /// At least 2; `u64::MAX` disables findings.
    times: u64,
    floor: Duration,
    duplicates: bool,
    /// Allowed fingerprints, and names given to `timed`.
    allowed: Vec<Box<str>>,
}

impl Repeats {
    /// Creates the defaults: N+1 from 5 repetitions, without a minimum total time, and duplicates.
    ///
    /// ```
    /// use tollgate::timing::{Repeats, TimingLayer};
    ///
    /// let timing = TimingLayer::builder().repeats_on("/export", Repeats::new()).build()?;
    /// # let _ = timing;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub const fn new() -> Self {
        Self { times: 5, floor: Duration::ZERO, duplicates: true, allowed: Vec::new() }
    }

    /// Creates a configuration that reports no repeated queries.
    pub const fn off() -> Self {
        Self { times: u64::MAX, floor: Duration::ZERO, duplicates: false, allowed: Vec::new() }
    }

    /// Sets the number of repetitions that count as N+1; at least 2. Defaults to 5.
    ///
    /// ```
    /// use tollgate::timing::Repeats;
    ///
    /// let repeats = Repeats::new().at_least(10);
    /// # let _ = repeats;
    /// ```
    pub fn at_least(mut self, times: u32) -> Self {
        self.times = u64::from(times.max(2));
        self
    }

    /// Sets the minimum total time of reported repetitions. Defaults to zero.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::timing::Repeats;
    ///
    /// let repeats = Repeats::new().taking(Duration::from_millis(5));
    /// # let _ = repeats;
    /// ```
    pub fn taking(mut self, floor: Duration) -> Self {
        self.floor = floor;
        self
    }

    /// Sets whether exact duplicates are reported. Defaults to `true`.
    ///
    /// ```
    /// use tollgate::timing::Repeats;
    ///
    /// let repeats = Repeats::new().duplicates(false);
    /// # let _ = repeats;
    /// ```
    pub fn duplicates(mut self, report: bool) -> Self {
        self.duplicates = report;
        self
    }

    /// Excludes a query: a statement as written or as reported, or a name given to [`timed`](crate::timing::timed).
    ///
    /// ```
    /// use tollgate::timing::Repeats;
    ///
    /// let repeats = Repeats::new().allow("SELECT name FROM tags WHERE id = $1").allow("load price");
    /// # let _ = repeats;
    /// ```
    pub fn allow(mut self, query: &str) -> Self {
        self.allowed.push(query.into());
        self.allowed.push(fingerprint(query).into());
        self
    }

    /// Returns the finding about this group, if any.
    pub(crate) fn classify(&self, group: &QueryGroup) -> Option<Repeated> {
        let name = group.name.as_str();
        let duplicates = group.duplicates();
        // Of n queries with d exact repetitions, n − d are different.
        let different = group.sum.count - duplicates;
        let (often, twice) = (group.sum.count >= self.times, self.duplicates && duplicates > 0);
        if !(often || twice) || group.is_other() || group.sum.total < self.floor {
            return None;
        }
        let repeated = match kind(&group.name) {
            StatementKind::Write if often => Repeated::UnbatchedWrites,
            StatementKind::Read | StatementKind::LockingRead if often && different > 1 => Repeated::NPlusOne,
            StatementKind::Read if twice => Repeated::Duplicate,
            _ => return None,
        };
        (!self.allowed.iter().any(|allowed| **allowed == *name)).then_some(repeated)
    }
}

impl Default for Repeats {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the effect of a query.
fn kind(name: &QueryName) -> StatementKind {
    match (name, StatementKind::of(name.as_str())) {
        // A name in the program's own words.
        (QueryName::Word(word), StatementKind::Other) if !begins_in_upper_case(word) => StatementKind::Read,
        (_, kind) => kind,
    }
}

fn begins_in_upper_case(name: &str) -> bool {
    let first = name.split(' ').next().unwrap_or_default();
    first.len() > 1 && first.bytes().all(|b| b.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::super::group::{QueryGroups, QueryName, Sample};
    use super::*;

    fn classified(repeats: &Repeats, name: &'static str, wholes: &[Option<u64>]) -> Option<Repeated> {
        let (name, mut groups) = (QueryName::Word(name), QueryGroups::default());
        for whole in wholes {
            let took = Duration::from_millis(2);
            groups.add(&Sample {
                name: &name,
                hash: 7,
                took,
                rows: 0,
                cancelled: false,
                transaction: false,
                whole: *whole,
                at: None,
            });
        }
        groups.iter().next().and_then(|group| repeats.classify(group))
    }

    #[test]
    fn repetitions_are_classified() {
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
            (&usual, "INSERT INTO t VALUES (?)", vec![None; 5], Some(Repeated::UnbatchedWrites)),
            (&usual, "INSERT INTO t VALUES (?)", vec![Some(1); 5], Some(Repeated::UnbatchedWrites)),
            (&usual, "UPDATE t SET a = ? WHERE b = ?", keys(5), Some(Repeated::UnbatchedWrites)),
            (&usual, "TRUNCATE t", vec![Some(1); 7], None),
            (&usual, "COPY t FROM STDIN", vec![Some(1); 7], None),
            (&usual, "SELECT nextval(?)", vec![Some(1); 7], None),
            (&usual, "SELECT nextval(?)", vec![None; 7], None),
            (&usual, "SELECT a FROM t FOR UPDATE SKIP LOCKED", vec![None; 7], None),
            (&usual, "SELECT a FROM t FOR UPDATE", vec![Some(1); 7], None),
            (&usual, "SELECT a FROM t WHERE b = ? FOR UPDATE", keys(7), Some(Repeated::NPlusOne)),
            (&usual, "BEGIN", vec![Some(1); 50], None),
            (&usual, "Load the users", keys(5), Some(Repeated::NPlusOne)),
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
            assert_eq!(classified(repeats, name, &wholes), wanted, "{name}: {wholes:?}");
        }
    }
}
