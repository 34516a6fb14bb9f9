//! Time as an argument: the only file that reads a clock.
//!
//! Every decision in this crate takes `now` as a [`Timestamp`]; only the tower services read a [`Clock`], once per
//! request. Limits and lifetimes use the monotonic clock, so that changes of the wall clock do not affect them; the
//! wall clock is used only for the `Date`-based rules of RFC 9111.
//!
//! | reading | used for | cost |
//! |---|---|---|
//! | [`Clock::now`] | limits, lifetimes, latencies | a processor's counter and a multiplication (about 10 ns) |
//! | [`Clock::wall`] | `Date`, `Expires`, `If-Modified-Since` | one `clock_gettime` (about 20 ns) |
//!
//! `ticks.rs` describes how `now` avoids most calls of the operating system.

mod ticks;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use ticks::Ticks;

/// Reading of a monotonic clock, in nanoseconds since an unspecified origin.
///
/// Arithmetic saturates: a `Timestamp` never wraps and never panics.
///
/// ```
/// use std::time::Duration;
/// use tollgate::Timestamp;
///
/// let start = Timestamp::from_nanos(5);
/// let later = start + Duration::from_secs(1);
/// assert_eq!(later.since(start), Duration::from_secs(1));
/// assert_eq!(start.since(later), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Origin of the clock.
    pub const ZERO: Self = Self(0);

    /// Latest representable time, some 584 years after the origin.
    pub const MAX: Self = Self(u64::MAX);

    /// Creates a time that is `nanos` nanoseconds after the clock's origin.
    ///
    /// ```
    /// use tollgate::Timestamp;
    ///
    /// assert_eq!(Timestamp::from_nanos(5).as_nanos(), 5);
    /// ```
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the clock's origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time since `earlier`; zero if `earlier` is in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// Returns [`since`](Self::since) in nanoseconds, for hot paths without [`Duration`]'s two parts.
    pub(crate) const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the time `nanos` nanoseconds later.
    pub(crate) const fn after(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Returns the time `nanos` nanoseconds earlier.
    pub(crate) const fn before(self, nanos: u64) -> Self {
        Self(self.0.saturating_sub(nanos))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }
}

/// Converts a duration to whole nanoseconds, saturating at 584 years.
pub(crate) const fn nanos(span: Duration) -> u64 {
    // Avoids the 128-bit arithmetic of `as_nanos`, because this runs at every clock reading.
    span.as_secs().saturating_mul(1_000_000_000).saturating_add(span.subsec_nanos() as u64)
}

/// Source of time for the layers.
///
/// ```
/// use tollgate::Clock;
///
/// let clock = Clock::default();
/// assert!(clock.now() <= clock.now());
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Clock {
    /// The operating system's clocks.
    #[default]
    System,
    /// Clock that advances only when a test advances it.
    Manual(ManualClock),
}

impl Clock {
    /// Whether both are one clock, whose readings may be compared.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::System, Self::System) => true,
            (Self::Manual(one), Self::Manual(other)) => Arc::ptr_eq(&one.0, &other.0),
            (Self::System, Self::Manual(_)) | (Self::Manual(_), Self::System) => false,
        }
    }

    /// Returns the monotonic time, which never goes back; up to a quarter of a microsecond behind the operating
    /// system's.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp(system_now()),
            Self::Manual(clock) => Timestamp(clock.0.mono.load(Ordering::Acquire)),
        }
    }

    /// Reads the clock once, so that the first request does not pay for its initialisation.
    pub(crate) fn warm_up(&self) {
        let _ = self.now();
    }

    /// Returns the wall-clock time, which may jump.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        match self {
            Self::System => system_wall(),
            Self::Manual(clock) => SystemTime::UNIX_EPOCH + Duration::from_nanos(clock.0.wall.load(Ordering::Acquire)),
        }
    }
}

#[inline]
fn system_now() -> u64 {
    static TICKS: LazyLock<Ticks> = LazyLock::new(|| Ticks::new(|| nanos(now_since_origin())));
    TICKS.now()
}

/// Reads the clock. The origin is a day before the first reading, so that "a window ago" is always representable.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
fn now_since_origin() -> Duration {
    const HEAD_START: Duration = Duration::from_secs(86_400);
    static FIRST: OnceLock<Instant> = OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed() + HEAD_START
}

/// Returns the milliseconds of a time since 1970.
pub(crate) fn unix_millis(wall: SystemTime) -> u64 {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the runtime's clock, which tests can pause; used for deadlines of remote stores and waits.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the runtime's clock")]
pub(crate) fn runtime_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the calendar clock")]
fn system_wall() -> SystemTime {
    SystemTime::now()
}

/// Manually advanced clock, shared by all clones.
///
/// ```
/// use std::time::Duration;
/// use tollgate::{Clock, ManualClock};
///
/// let manual = ManualClock::new();
/// let clock = Clock::Manual(manual.clone());
/// let before = clock.now();
/// manual.advance(Duration::from_secs(60));
/// assert_eq!(clock.now().since(before), Duration::from_secs(60));
/// ```
#[derive(Clone)]
pub struct ManualClock(Arc<ManualTime>);

struct ManualTime {
    mono: AtomicU64,
    wall: AtomicU64,
}

impl ManualClock {
    /// Creates a clock at 2026-01-01T00:00:00Z, with a monotonic reading a day after its origin.
    ///
    /// ```
    /// use tollgate::{Clock, ManualClock};
    ///
    /// let clock = Clock::Manual(ManualClock::new());
    /// # let _ = clock;
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::starting(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600))
    }

    /// Creates a clock at `wall`; times before 1970 count as 1970.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use tollgate::{Clock, ManualClock};
    ///
    /// let clock = Clock::Manual(ManualClock::starting(SystemTime::UNIX_EPOCH));
    /// assert_eq!(clock.wall(), SystemTime::UNIX_EPOCH);
    /// ```
    #[must_use]
    pub fn starting(wall: SystemTime) -> Self {
        let mono = AtomicU64::new(86_400_000_000_000);
        let clock = Self(Arc::new(ManualTime { mono, wall: AtomicU64::new(0) }));
        clock.set_wall(wall);
        clock
    }

    /// Moves both readings forward by `by`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::{Clock, ManualClock};
    ///
    /// let hand = ManualClock::new();
    /// let clock = Clock::Manual(hand.clone());
    /// let before = clock.now();
    /// hand.advance(Duration::from_secs(60));
    /// assert_eq!(clock.now().since(before), Duration::from_secs(60));
    /// ```
    pub fn advance(&self, by: Duration) {
        self.0.mono.fetch_add(nanos(by), Ordering::AcqRel);
        self.0.wall.fetch_add(nanos(by), Ordering::AcqRel);
    }

    /// Sets the wall-clock reading only, as an operator or NTP may; monotonic time is unchanged.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use tollgate::{Clock, ManualClock};
    ///
    /// let manual = ManualClock::new();
    /// let clock = Clock::Manual(manual.clone());
    /// let before = clock.now();
    /// manual.set_wall(SystemTime::UNIX_EPOCH);
    /// assert_eq!((clock.now(), clock.wall()), (before, SystemTime::UNIX_EPOCH));
    /// ```
    pub fn set_wall(&self, wall: SystemTime) {
        let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.wall.store(nanos(since), Ordering::Release);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = Clock::Manual(self.clone());
        f.debug_struct("ManualClock").field("now", &clock.now()).field("wall", &clock.wall()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_jumps_leaves_monotonic_time_alone() {
        let manual = ManualClock::new();
        let clock = Clock::Manual(manual.clone());
        let before = clock.now();
        manual.set_wall(SystemTime::UNIX_EPOCH);
        assert_eq!(clock.now(), before);
        assert_eq!(clock.wall(), SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::MAX + Duration::MAX, Timestamp::MAX);
        assert_eq!(Timestamp::ZERO - Duration::from_secs(1), Timestamp::ZERO);
    }

    #[test]
    fn the_system_clock_keeps_time_and_never_goes_back() {
        let (start, began) = (Clock::System.now(), now_since_origin());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut latest = Timestamp::ZERO;
                    while now_since_origin() - began < Duration::from_millis(20) {
                        let now = Clock::System.now();
                        assert!(now >= latest);
                        latest = now;
                    }
                });
            }
        });
        let (before, now, after) = (now_since_origin(), Clock::System.now(), now_since_origin());
        let slack = Duration::from_micros(2);
        assert!(now.since(Timestamp::ZERO) + slack >= before && now.since(Timestamp::ZERO) <= after + slack);
        assert!(now.since(start) >= Duration::from_millis(19));
    }

    #[test]
    fn the_system_clock_starts_a_day_after_its_origin() {
        assert!(Clock::System.now() >= Timestamp::ZERO + Duration::from_secs(86_400));
    }
}
