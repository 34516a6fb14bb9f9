//! [`Findings`]: deduplicated findings, each reported once a minute.
//!
//! A finding is something a developer can act on: a kind, a route, a query, a count and a duration. The same kind of
//! finding about the same query on the same route is reported once a minute; all are counted. Memory is bounded:
//! beyond 1 024 different findings reported within a minute, further ones are counted and not reported.

use std::collections::{HashMap, VecDeque};
use std::panic::Location;
use std::time::Duration;

use serde::Serialize;

use super::group::QueryName;
use super::stats::{Finding, FindingCount};
use crate::base::clock::Timestamp;
use crate::base::event::Event;

const PAUSE: Duration = Duration::from_secs(60);
const MOST: usize = 1_024;
const RECENT: usize = 64;

/// Kinds of findings.
///
/// ```
/// use tollgate::timing::FindingKind;
///
/// assert_eq!(FindingKind::PoolStarvation.as_str(), "pool_starvation");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// One query took at least [`slow_query_after`](crate::timing::TimingBuilder::slow_query_after).
    SlowQuery,
    /// One request took at least [`slow_after`](crate::timing::TimingBuilder::slow_after).
    SlowRequest,
    /// One request made the same query repeatedly, for different rows.
    NPlusOne,
    /// One request wrote rows with the same statement repeatedly.
    UnbatchedWrites,
    /// One request made the same query for the same rows more than once.
    DuplicateQueries,
    /// One request waited at least [`starved_after`](crate::timing::TimingBuilder::starved_after) for a connection.
    PoolStarvation,
}

impl FindingKind {
    /// Returns the identifier used in JSON and in labels.
    ///
    /// ```
    /// assert_eq!(tollgate::timing::FindingKind::NPlusOne.as_str(), "n_plus_one");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlowQuery => "slow_query",
            Self::SlowRequest => "slow_request",
            Self::NPlusOne => "n_plus_one",
            Self::UnbatchedWrites => "unbatched_writes",
            Self::DuplicateQueries => "duplicate_queries",
            Self::PoolStarvation => "pool_starvation",
        }
    }
}

/// Finding about one request.
#[derive(Clone, Debug)]
pub(crate) struct RequestFinding {
    pub(crate) kind: FindingKind,
    pub(crate) query: Option<QueryName>,
    pub(crate) count: u64,
    pub(crate) total: Duration,
    pub(crate) at: Option<&'static Location<'static>>,
}

impl RequestFinding {
    pub(crate) fn event<'a>(&'a self, route: &'a str) -> Event<'a> {
        let (query, count, total) = (self.query.as_ref().map_or("", QueryName::as_str), self.count, self.total);
        match self.kind {
            FindingKind::SlowQuery => Event::SlowQuery { route, query, took: total, at: self.at },
            FindingKind::SlowRequest => Event::SlowRequest { route, took: total },
            FindingKind::NPlusOne => Event::NPlusOne { route, query, count, total, at: self.at },
            FindingKind::UnbatchedWrites => Event::UnbatchedWrites { route, query, count, total, at: self.at },
            FindingKind::DuplicateQueries => Event::DuplicateQueries { route, query, count, total, at: self.at },
            FindingKind::PoolStarvation => Event::PoolStarvation { route, waits: count, waited: total },
        }
    }
}

type About = (FindingKind, Box<str>, Box<str>);

/// Recent findings, and the time of each kind's last report.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    reported: HashMap<About, Timestamp>,
    counts: Vec<FindingCount>,
    recent: VecDeque<Finding>,
}

impl Findings {
    /// Counts a finding; returns whether it is due to be reported.
    pub(crate) fn note(&mut self, route: &str, found: &RequestFinding, now: Timestamp) -> bool {
        self.count(route, found.kind);
        let query = found.query.as_ref().map_or("", QueryName::as_str);
        let about: About = (found.kind, route.into(), query.into());
        if self.reported.get(&about).is_some_and(|last| now.since(*last) < PAUSE) {
            return false;
        }
        if self.reported.len() >= MOST && !self.reported.contains_key(&about) {
            self.reported.retain(|_, last| now.since(*last) < PAUSE);
            if self.reported.len() >= MOST {
                return false;
            }
        }
        self.reported.insert(about, now);
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(Finding {
            kind: found.kind,
            route: route.to_owned(),
            query: found.query.as_ref().map(|name| name.as_str().to_owned()),
            count: found.count,
            total: found.total,
            at: found.at.map(ToString::to_string),
        });
        true
    }

    /// Counts by route and kind, both of which are bounded.
    fn count(&mut self, route: &str, kind: FindingKind) {
        match self.counts.iter_mut().find(|held| held.kind == kind && held.route == route) {
            Some(held) => held.count += 1,
            None => self.counts.push(FindingCount { kind, route: route.to_owned(), count: 1 }),
        }
    }

    /// Returns the most recently reported findings, newest first.
    pub(crate) fn recent(&self) -> Vec<Finding> {
        self.recent.iter().cloned().collect()
    }

    pub(crate) fn counts(&self) -> Vec<FindingCount> {
        let mut counts = self.counts.clone();
        counts.sort_by(|a, b| (&a.route, a.kind).cmp(&(&b.route, b.kind)));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(query: &str) -> RequestFinding {
        let query = Some(QueryName::Print(query.into()));
        RequestFinding { kind: FindingKind::NPlusOne, query, count: 5, total: Duration::from_millis(1), at: None }
    }

    fn second(n: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(n)
    }

    #[test]
    fn findings_are_reported_once_a_minute_and_always_counted() {
        let mut findings = Findings::default();
        for (route, query, at, wanted) in [
            ("/a", "x", 0, true),
            ("/a", "x", 59, false),
            ("/b", "x", 59, true),
            ("/a", "y", 59, true),
            ("/a", "x", 60, true),
            ("/a", "x", 61, false),
        ] {
            assert_eq!(findings.note(route, &found(query), second(at)), wanted, "{route} {query} {at}");
        }
        assert_eq!((findings.recent().len(), findings.counts().len()), (4, 2));
        assert_eq!(findings.counts()[0].count, 5);
    }

    #[test]
    fn a_flood_of_findings_is_bounded() {
        let mut findings = Findings::default();
        let reported = (0..10_000).filter(|n| findings.note("/a", &found(&n.to_string()), second(n / 1_000))).count();
        assert_eq!((reported, findings.reported.len(), findings.recent.len()), (MOST, MOST, RECENT));
        assert!(findings.note("/a", &found("later"), second(90)));
        assert_eq!(findings.counts()[0].count, 10_001);
    }
}
