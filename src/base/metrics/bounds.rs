//! [`Bounds`]: the buckets of an exported histogram.

use std::time::Duration;

use crate::base::clock::nanos;

/// Default bounds for requests in microseconds: those of OpenTelemetry, and three below 5 ms.
/// <https://opentelemetry.io/docs/specs/semconv/http/http-metrics/>
const HTTP: [u64; 17] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000,
    5_000_000, 7_500_000, 10_000_000,
];
/// Default bounds for queries in microseconds: those of OpenTelemetry, and three below 5 ms.
/// <https://opentelemetry.io/docs/specs/semconv/db/database-metrics/>
const DB: [u64; 11] = [500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000];
/// Maximum number of bounds.
pub(crate) const MAX_BOUNDS: usize = 64;

/// Upper bounds of buckets in increasing order; a last bucket without a bound follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bounds(Box<[Bound]>);

/// Upper bound of a bucket, which includes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) nanos: u64,
    /// The label `le` in seconds.
    pub(crate) le: Box<str>,
}

impl Bounds {
    /// Returns the default bounds for requests.
    pub(crate) fn http() -> Self {
        Self(Box::default()).with(HTTP.map(Duration::from_micros))
    }

    /// Returns the default bounds for queries.
    pub(crate) fn db() -> Self {
        Self(Box::default()).with(DB.map(Duration::from_micros))
    }

    /// Adds bounds; duplicates are ignored.
    pub(crate) fn with(&self, more: impl IntoIterator<Item = Duration>) -> Self {
        let known = self.0.iter().map(|bound| bound.nanos);
        let mut all: Vec<u64> = known.chain(more.into_iter().map(nanos)).collect();
        all.sort_unstable();
        all.dedup();
        let bound = |nanos| Bound { nanos, le: Duration::from_nanos(nanos).as_secs_f64().to_string().into() };
        Self(all.into_iter().map(bound).collect())
    }

    /// Returns the bounds, without the last bucket's.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Bound> {
        self.0.iter()
    }

    /// Returns the number of buckets, with the last one.
    pub(crate) fn buckets(&self) -> usize {
        self.0.len() + 1
    }

    /// Returns the bucket of a duration.
    pub(crate) fn place(&self, nanos: u64) -> usize {
        self.0.partition_point(|bound| bound.nanos < nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_includes_its_bound() {
        let bounds = Bounds::http();
        assert_eq!((bounds.place(0), bounds.place(500_000), bounds.place(500_001)), (0, 0, 1));
        assert_eq!(bounds.place(u64::MAX), bounds.buckets() - 1);
    }

    #[test]
    fn three_default_bounds_are_below_five_milliseconds_and_more_can_be_added() {
        for bounds in [Bounds::http(), Bounds::db()] {
            assert_eq!(bounds.iter().filter(|bound| bound.nanos < 5_000_000).count(), 3);
            let more = bounds.with([Duration::from_millis(5), Duration::from_millis(300)]);
            assert_eq!(more.buckets(), bounds.buckets() + 1);
            assert!(more.iter().any(|bound| &*bound.le == "0.3"));
            assert!(bounds.iter().all(|bound| more.iter().any(|other| other == bound)), "a superset");
        }
    }
}
