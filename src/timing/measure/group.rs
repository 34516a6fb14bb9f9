//! [`QueryGroups`]: the queries of one request, grouped by name; bounded.
//!
//! A request with more than 256 different queries counts the rest under `other`. Within a group, the first 32 queries
//! that are known to be identical (same key, or same text without parameters) are counted separately; that
//! distinguishes a repeated query from queries for different rows.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::table::OTHER;

/// Maximum number of groups per request.
pub(super) const MAX_GROUPS: usize = 256;
/// Maximum number of distinct queries in one group.
const MAX_DISTINCT: usize = 32;

/// Name of a query: given by the program, or a fingerprint.
#[derive(Clone, Debug)]
pub(crate) enum QueryName {
    Word(&'static str),
    Print(Arc<str>),
}

impl QueryName {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Print(print) => print,
        }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Print(mine), Self::Print(theirs)) if Arc::ptr_eq(mine, theirs) => true,
            _ => self.as_str() == other.as_str(),
        }
    }
}

/// One finished query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample<'a> {
    pub(crate) name: &'a QueryName,
    /// Hash of the name.
    pub(crate) hash: u64,
    pub(crate) took: Duration,
    pub(crate) rows: u64,
    /// Whether it was dropped before its end.
    pub(crate) cancelled: bool,
    /// Whether it begins or ends a transaction: its time counts, but it is no query.
    pub(crate) transaction: bool,
    /// Hash of the text and parameters, if known.
    pub(crate) whole: Option<u64>,
    /// Call site in the program, if known.
    pub(crate) at: Option<&'static Location<'static>>,
}

/// Count and total duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    pub(crate) total: Duration,
}

impl Sum {
    pub(crate) fn add(&mut self, took: Duration) {
        self.join(Self { count: 1, total: took });
    }

    pub(super) fn join(&mut self, other: Self) {
        self.count += other.count;
        self.total = self.total.saturating_add(other.total);
    }
}

/// Queries of one name.
#[derive(Clone, Debug)]
pub(crate) struct QueryGroup {
    pub(crate) name: QueryName,
    pub(crate) sum: Sum,
    pub(crate) slowest: Duration,
    pub(crate) rows: u64,
    /// Whether these begin or end transactions.
    pub(crate) transaction: bool,
    pub(crate) at: Option<&'static Location<'static>>,
    /// Counts by hash of text and parameters.
    distinct: SmallVec<[(u64, u64); 2]>,
}

impl QueryGroup {
    fn new(name: QueryName, transaction: bool, at: Option<&'static Location<'static>>) -> Self {
        let (sum, distinct) = (Sum::default(), SmallVec::new());
        Self { name, sum, slowest: Duration::ZERO, rows: 0, transaction, at, distinct }
    }

    fn add(&mut self, sample: &Sample<'_>) {
        self.sum.add(sample.took);
        self.slowest = self.slowest.max(sample.took);
        self.rows = self.rows.saturating_add(sample.rows);
        let Some(whole) = sample.whole else { return };
        match self.distinct.iter().position(|(held, _)| *held == whole) {
            Some(twin) => self.distinct[twin].1 += 1,
            None if self.distinct.len() < MAX_DISTINCT => self.distinct.push((whole, 1)),
            None => {}
        }
    }

    /// Returns the number of queries that repeat an earlier one exactly.
    pub(crate) fn duplicates(&self) -> u64 {
        self.distinct.iter().map(|(_, count)| count - 1).sum()
    }

    /// Returns whether this group collects the queries beyond the maximum.
    pub(super) fn is_other(&self) -> bool {
        matches!(self.name, QueryName::Word(OTHER))
    }
}

/// Queries of one request by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueryGroups {
    list: SmallVec<[QueryGroup; 2]>,
    /// Hashes of the groups' names, in the same order.
    hashes: SmallVec<[u64; 4]>,
}

impl QueryGroups {
    pub(crate) fn add(&mut self, sample: &Sample<'_>) {
        let found = self.hashes.iter().position(|hash| *hash == sample.hash);
        let found = found.filter(|place| self.list[*place].name.is(sample.name));
        let place = found.unwrap_or_else(|| self.place(sample));
        if let Some(group) = self.list.get_mut(place) {
            group.add(sample);
        }
    }

    /// Returns the index of a new name.
    fn place(&mut self, sample: &Sample<'_>) -> usize {
        if self.list.len() < MAX_GROUPS {
            self.list.push(QueryGroup::new(sample.name.clone(), sample.transaction, sample.at));
            self.hashes.push(sample.hash);
        } else if self.list.len() == MAX_GROUPS {
            self.list.push(QueryGroup::new(QueryName::Word(OTHER), false, None));
        }
        self.list.len() - 1
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &QueryGroup> {
        self.list.iter()
    }

    /// Returns the number of queries and their time, with that of the beginnings and ends of transactions.
    pub(crate) fn sum(&self) -> Sum {
        self.list.iter().fold(Sum::default(), |mut all, group| {
            all.join(Sum { count: if group.transaction { 0 } else { group.sum.count }, ..group.sum });
            all
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &QueryName, whole: Option<u64>) -> Sample<'_> {
        let hash = name.as_str().bytes().fold(7, |hash: u64, b| hash.wrapping_mul(31).wrapping_add(u64::from(b)));
        Sample {
            name,
            hash,
            took: Duration::from_millis(2),
            rows: 3,
            cancelled: false,
            transaction: false,
            whole,
            at: None,
        }
    }

    #[test]
    fn queries_of_one_name_are_one_group() {
        let mut groups = QueryGroups::default();
        let (word, print) = (QueryName::Word("SELECT a"), QueryName::Print("SELECT a".into()));
        groups.add(&sample(&word, None));
        groups.add(&sample(&print, None));
        let group = groups.iter().next().expect("a group");
        assert_eq!((groups.iter().count(), group.sum.count, group.rows), (1, 2, 6));
        assert_eq!((group.sum.total, group.slowest), (Duration::from_millis(4), Duration::from_millis(2)));
    }

    #[test]
    fn a_million_names_take_257_groups() {
        let mut groups = QueryGroups::default();
        for n in 0..1_000_000 {
            let name = QueryName::Print(Arc::from(format!("SELECT c{n}")));
            groups.add(&sample(&name, Some(n)));
        }
        assert_eq!((groups.iter().count(), groups.sum().count), (257, 1_000_000));
        let other = groups.iter().find(|group| group.is_other()).expect("the surplus");
        assert_eq!((other.sum.count, other.distinct.len()), (999_744, MAX_DISTINCT));
    }

    #[test]
    fn exact_repetitions_are_duplicates() {
        let mut groups = QueryGroups::default();
        let name = QueryName::Word("user");
        for whole in [Some(1), Some(2), Some(1), None, None, Some(1)] {
            groups.add(&sample(&name, whole));
        }
        assert_eq!(groups.iter().next().map(QueryGroup::duplicates), Some(2));
    }
}
