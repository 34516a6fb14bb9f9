//! [`Quota`]: units per period, and the algorithm that enforces them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::gcra::Gcra;
use super::window::Window;
#[cfg(feature = "postgres")]
use crate::base::codec::{Reader, Writer};
use crate::base::error::Error;

/// Number of units per period, with the algorithm that enforces it.
///
/// | constructor | algorithm | admits at most |
/// |---|---|---|
/// | `Quota::per_minute(100)` | exact window | 100 in **any** 60 s |
/// | `Quota::per_minute(100).bucket(10)` | GCRA, a token bucket | 10 at once, then one each 0.6 s |
///
/// The number applies to the named period: `per_second(20)` is twenty per second. A quota of zero fails when a layer
/// is built.
///
/// ```
/// use tollgate::limit::Quota;
///
/// assert_eq!("100/min".parse::<Quota>().unwrap(), Quota::per_minute(100));
/// assert_eq!("100/min burst 10".parse::<Quota>().unwrap(), Quota::per_minute(100).bucket(10));
/// assert_eq!(Quota::per_day(86_400).to_string(), "86400/day");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    limit: u32,
    /// Period in whole milliseconds: 1 ms to 49 days.
    period_ms: u32,
    /// Burst of a token bucket; zero for the exact window.
    burst: u32,
    error: QuotaError,
    /// Step of the algorithm in nanoseconds, divided once: emission interval of a bucket, sub-bucket of a window.
    step: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum QuotaError {
    None,
    Period,
    Burst,
}

/// Longest time in which a bucket may refill: beyond 584 years, nanoseconds do not fit 64 bits.
const LONGEST_REFILL: u128 = 100 * 366 * 86_400 * 1_000_000_000;

const UNITS: [(&str, u32); 4] = [("second", 1_000), ("minute", 60_000), ("hour", 3_600_000), ("day", 86_400_000)];

impl Quota {
    /// Creates a quota of `limit` units in any second.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::limit::Quota;
    ///
    /// assert_eq!(Quota::per_second(20), Quota::new(20, Duration::from_secs(1)));
    /// ```
    #[must_use]
    pub const fn per_second(limit: u32) -> Self {
        Self::of(limit, 1_000)
    }

    /// Creates a quota of `limit` units in any 60 seconds.
    ///
    /// ```
    /// use tollgate::limit::Quota;
    ///
    /// assert_eq!(Quota::per_minute(100).to_string(), "100/min");
    /// ```
    #[must_use]
    pub const fn per_minute(limit: u32) -> Self {
        Self::of(limit, 60_000)
    }

    /// Creates a quota of `limit` units in any 60 minutes.
    ///
    /// ```
    /// use tollgate::limit::Quota;
    ///
    /// assert_eq!(Quota::per_hour(5_000).to_string(), "5000/hour");
    /// ```
    #[must_use]
    pub const fn per_hour(limit: u32) -> Self {
        Self::of(limit, 3_600_000)
    }

    /// Creates a quota of `limit` units in any 24 hours.
    ///
    /// ```
    /// use tollgate::limit::Quota;
    ///
    /// assert_eq!(Quota::per_day(50_000).to_string(), "50000/day");
    /// ```
    #[must_use]
    pub const fn per_day(limit: u32) -> Self {
        Self::of(limit, 86_400_000)
    }

    /// Creates a quota of `limit` units in any `period`, counted in whole milliseconds. A period under 1 ms or over
    /// 49 days fails when a layer is built.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::limit::Quota;
    ///
    /// assert_eq!(Quota::new(1_000, Duration::from_secs(900)).to_string(), "1000/900s");
    /// ```
    #[must_use]
    pub const fn new(limit: u32, period: Duration) -> Self {
        let ms = period.as_millis();
        if ms == 0 || ms > u32::MAX as u128 {
            return Self { error: QuotaError::Period, ..Self::of(limit, 1) };
        }
        Self::of(limit, ms as u32)
    }

    /// Selects a token bucket instead of the exact window: `burst` units at once, then one per period ⁄ limit. A
    /// burst of zero fails when a layer is built.
    ///
    /// ```
    /// use tollgate::limit::{Algorithm, Quota};
    ///
    /// let quota = Quota::per_minute(100).bucket(10);
    /// assert!(matches!(quota.algorithm(), Algorithm::Gcra(_)));
    /// assert_eq!(quota.capacity(), 10);
    /// ```
    #[must_use]
    pub const fn bucket(mut self, burst: u32) -> Self {
        if burst == 0 {
            self.error = QuotaError::Burst;
        }
        self.burst = burst;
        self.step = Gcra::interval(self.limit, self.period_nanos());
        self
    }

    /// Returns the units per period.
    ///
    /// ```
    /// use tollgate::limit::Quota;
    ///
    /// let quota: Quota = "1000/15min".parse()?;
    /// assert_eq!((quota.limit(), quota.period().as_secs()), (1_000, 900));
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Returns the period.
    #[must_use]
    pub const fn period(&self) -> Duration {
        Duration::from_millis(self.period_ms as u64)
    }

    /// Returns the units admitted at once from a full start: the burst of a bucket, else the limit.
    ///
    /// ```
    /// use tollgate::limit::Quota;
    ///
    /// assert_eq!(Quota::per_minute(100).capacity(), 100);
    /// assert_eq!(Quota::per_minute(100).bucket(10).capacity(), 10);
    /// ```
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        if self.burst == 0 { self.limit } else { self.burst }
    }

    /// Returns the algorithm with its parameters.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        if self.burst == 0 {
            Algorithm::Window(Window::stepping(self.limit, self.period_nanos(), self.step))
        } else {
            Algorithm::Gcra(Gcra::stepping(self.step, self.burst))
        }
    }

    /// Returns one node's share of this quota: divided by the number of nodes, at least 1.
    pub(crate) fn share(&self, nodes: u32) -> Self {
        let of = |whole: u32| (whole / nodes.max(1)).max(1);
        let part = Self { error: self.error, ..Self::of(of(self.limit), self.period_ms) };
        if self.burst == 0 { part } else { part.bucket(of(self.burst)) }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let what = match self.error {
            QuotaError::Period => "its period must be between 1 ms and 49 days",
            QuotaError::Burst => "its burst must be at least 1",
            QuotaError::None if self.limit == 0 => "its limit must be at least 1",
            QuotaError::None if self.period_nanos() < u64::from(self.limit) => "it allows more than one per nanosecond",
            QuotaError::None if self.refill_nanos() > LONGEST_REFILL => "its burst takes more than 100 years to refill",
            QuotaError::None => return Ok(()),
        };
        Err(Error::config(format!("impossible quota {:?}: {what}", self.to_string())))
    }

    const fn of(limit: u32, period_ms: u32) -> Self {
        let step = Window::width(period_ms as u64 * 1_000_000);
        Self { limit, period_ms, burst: 0, error: QuotaError::None, step }
    }

    /// Returns the nanoseconds after which nothing that was used counts any more.
    pub(crate) const fn memory_nanos(&self) -> u64 {
        if self.burst == 0 { self.period_nanos() } else { self.refill_nanos() as u64 }
    }

    /// Returns the time in which an empty bucket is refilled.
    const fn refill_nanos(&self) -> u128 {
        Gcra::interval(self.limit, self.period_nanos()) as u128 * self.burst as u128
    }

    const fn period_nanos(&self) -> u64 {
        self.period_ms as u64 * 1_000_000
    }
}

#[cfg(feature = "postgres")]
impl Quota {
    pub(super) fn encode(self, writer: &mut Writer) {
        [self.limit, self.period_ms, self.burst].into_iter().for_each(|number| writer.u32(number));
    }

    /// Decodes a quota; `None` if it is impossible.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let [limit, period_ms, burst] = [reader.u32()?, reader.u32()?, reader.u32()?];
        let quota = Self::new(limit, Duration::from_millis(u64::from(period_ms)));
        let quota = if burst == 0 { quota } else { quota.bucket(burst) };
        quota.check().is_ok().then_some(quota)
    }
}

/// Quota packed into twelve bytes, for engines that store one per key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedQuota {
    limit: u32,
    period_ms: u32,
    burst: u32,
}

impl Quota {
    pub(crate) const fn packed(self) -> PackedQuota {
        PackedQuota { limit: self.limit, period_ms: self.period_ms, burst: self.burst }
    }
}

impl PackedQuota {
    /// Empty slot.
    pub(crate) const ZERO: Self = Self { limit: 0, period_ms: 0, burst: 0 };

    /// Unpacks the quota; costs a division.
    pub(crate) const fn quota(self) -> Quota {
        let quota = Quota::of(self.limit, self.period_ms);
        if self.burst == 0 { quota } else { quota.bucket(self.burst) }
    }
}

/// Algorithm with its parameters.
///
/// ```
/// use tollgate::limit::{Algorithm, Quota};
///
/// assert!(matches!(Quota::per_minute(100).algorithm(), Algorithm::Window(_)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// Exact window: at most the limit in any period.
    Window(Window),
    /// Token bucket.
    Gcra(Gcra),
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, ms)| *ms == self.period_ms).map(|(name, _)| *name);
        match unit {
            Some("minute") => write!(f, "{}/min", self.limit)?,
            Some(name) => write!(f, "{}/{name}", self.limit)?,
            None if self.period_ms.is_multiple_of(1_000) => write!(f, "{}/{}s", self.limit, self.period_ms / 1_000)?,
            None => write!(f, "{}/{}ms", self.limit, self.period_ms)?,
        }
        if self.burst > 0 { write!(f, " burst {}", self.burst) } else { Ok(()) }
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quota({self})")
    }
}

impl FromStr for Quota {
    type Err = Error;

    /// Reads `"100/min"`, `"20/s"`, `"1000/15min"`, `"5/500ms"`, each optionally followed by `burst N`. Units: `ms`,
    /// `s`, `sec`, `second`, `m`, `min`, `minute`, `h`, `hour`, `d`, `day`, and their plurals.
    ///
    /// # Errors
    /// Returns an error if the text has another form or the quota is impossible.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |what: &str| Error::config(format!("invalid quota {text:?}: {what}; write it like \"100/min\""));
        let (rate, burst) = text.split_once("burst").map_or((text, None), |(rate, burst)| (rate, Some(burst)));
        let (limit, period) = rate.split_once('/').ok_or_else(|| wrong("no '/'"))?;
        let limit = limit.trim().parse().map_err(|_| wrong("the limit is not a number"))?;
        let mut quota = Self::of(limit, parse_period(period.trim()).ok_or_else(|| wrong("unknown period"))?);
        if let Some(burst) = burst {
            quota = quota.bucket(burst.trim().parse().map_err(|_| wrong("the burst is not a number"))?);
        }
        quota.check().map(|()| quota).map_err(|e| Error::config(format!("{e} (in {text:?})")))
    }
}

fn parse_period(text: &str) -> Option<u32> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (count, unit) = text.split_at(digits);
    let count: u32 = if count.is_empty() { 1 } else { count.parse().ok()? };
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "ms" => 1,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        _ => return None,
    };
    count.checked_mul(unit).filter(|ms| *ms > 0)
}

impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_read_from_text_and_written_back() {
        for (text, quota) in [
            ("100/min", Quota::per_minute(100)),
            ("20/s", Quota::per_second(20)),
            ("20 / second", Quota::per_second(20)),
            ("1000/hours", Quota::per_hour(1000)),
            ("1/d", Quota::per_day(1)),
            ("9/15min", Quota::new(9, Duration::from_secs(900))),
            ("5/500ms", Quota::new(5, Duration::from_millis(500))),
            ("100/min burst 10", Quota::per_minute(100).bucket(10)),
        ] {
            assert_eq!(text.parse::<Quota>().expect(text), quota, "{text}");
            assert_eq!(quota.to_string().parse::<Quota>().expect(text), quota, "{quota}");
        }
    }

    #[test]
    fn impossible_quotas_are_refused_by_value() {
        for text in [
            "",
            "100",
            "100/",
            "/min",
            "x/min",
            "-1/min",
            "100/fortnight",
            "0/min",
            "100/0s",
            "99999999999/min",
            "10/min burst 0",
            "10/min burst x",
            "1/99999999999d",
        ] {
            let error = text.parse::<Quota>().expect_err(text).to_string();
            assert!(error.contains(text), "{text}: {error}");
        }
        for quota in [
            Quota::per_minute(0),
            Quota::new(1, Duration::ZERO),
            Quota::new(1, Duration::MAX),
            Quota::per_minute(5).bucket(0),
            Quota::new(u32::MAX, Duration::from_millis(1)),
            Quota::per_day(1).bucket(u32::MAX),
            Quota::new(1, Duration::from_secs(49 * 86_400)).bucket(5_000),
        ] {
            assert!(quota.check().is_err(), "{quota}");
        }
    }

    #[test]
    fn per_second_means_per_second() {
        assert_eq!((Quota::per_second(20).limit(), Quota::per_second(20).period()), (20, Duration::from_secs(1)));
    }
}
