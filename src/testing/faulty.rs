//! [`Faulty`]: store wrapper that injects faults.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::MaybeReady;
use crate::cache::{CacheKey, CacheStore, LevelStats, Stored};
use crate::limit::{Check, LimitStore, LimitStoreStats, Settlement, Verdicts};

/// Fault injected by a [`Faulty`] store.
///
/// ```
/// use tollgate::store::memory::MemoryLimits;
/// use tollgate::testing::{Faulty, InjectedFault};
///
/// let store = Faulty::new(MemoryLimits::new(100));
/// store.inject(InjectedFault::Hang);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InjectedFault {
    /// Works normally.
    #[default]
    None,
    /// Returns an error.
    Err,
    /// Never completes.
    Hang,
    /// Returns a wrong result: too few verdicts, or the entry of another key.
    WrongAnswer,
    /// Panics when called.
    Panic,
    /// Panics when its result is polled.
    PanicOnPoll,
}

/// Store that wraps another and injects faults.
///
/// ```
/// use std::sync::Arc;
///
/// use http_body_util::Full;
/// use tollgate::limit::{Limit, Quota, RateLimitLayer};
/// use tollgate::store::memory::MemoryLimits;
/// use tollgate::testing::{FakePeer, Faulty, InjectedFault};
/// use tower::{Layer, ServiceExt};
/// # use bytes::Bytes;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(Faulty::new(MemoryLimits::new(100)));
/// let limit = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(2))).store(store.clone()).build()?;
/// let service = limit.layer(tower::service_fn(async |_: http::Request<()>| {
///     Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::from("hello")))
/// }));
///
/// store.inject(InjectedFault::Err);
/// let mut statuses = Vec::new();
/// for _ in 0..3 {
///     let request = FakePeer::at("192.0.2.1").mark(http::Request::get("/").body(())?);
///     statuses.push(service.clone().oneshot(request).await?.status().as_u16());
/// }
/// // Local decisions replace the failing store: clients see no error, and the limit holds.
/// assert_eq!(statuses, [200, 200, 429]);
/// assert!(store.calls() > 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    fault: Mutex<InjectedFault>,
    calls: AtomicU64,
    /// The last entry put, returned for other keys.
    last: Mutex<Option<Stored>>,
}

impl<S> Faulty<S> {
    /// Wraps `inner`, without faults.
    ///
    /// ```
    /// use tollgate::store::memory::MemoryLimits;
    /// use tollgate::testing::Faulty;
    ///
    /// let store = Faulty::new(MemoryLimits::new(100));
    /// assert_eq!(store.calls(), 0);
    /// ```
    #[must_use]
    pub const fn new(inner: S) -> Self {
        Self { inner, fault: Mutex::new(InjectedFault::None), calls: AtomicU64::new(0), last: Mutex::new(None) }
    }

    /// Injects this fault from now on.
    ///
    /// ```
    /// use tollgate::store::memory::MemoryLimits;
    /// use tollgate::testing::{Faulty, InjectedFault};
    ///
    /// let store = Faulty::new(MemoryLimits::new(100));
    /// store.inject(InjectedFault::Err);
    /// ```
    pub fn inject(&self, fault: InjectedFault) {
        *self.fault.lock() = fault;
    }

    /// Returns the number of calls.
    ///
    /// ```
    /// use tollgate::store::memory::MemoryLimits;
    /// use tollgate::testing::Faulty;
    ///
    /// assert_eq!(Faulty::new(MemoryLimits::new(100)).calls(), 0);
    /// ```
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    #[expect(clippy::panic, reason = "documented: panics on demand")]
    fn respond<T: Send + 'static>(
        &self,
        job: impl FnOnce(&S) -> MaybeReady<Result<T, Error>>,
        wrong_answer: impl FnOnce() -> T,
    ) -> MaybeReady<Result<T, Error>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let fault = *self.fault.lock();
        match fault {
            InjectedFault::None => job(&self.inner),
            InjectedFault::Err => MaybeReady::Ready(Err(Error::store("injected error", "Faulty store"))),
            InjectedFault::Hang => MaybeReady::Pending(Box::pin(std::future::pending())),
            InjectedFault::WrongAnswer => MaybeReady::Ready(Ok(wrong_answer())),
            InjectedFault::Panic => panic!("injected panic"),
            InjectedFault::PanicOnPoll => {
                MaybeReady::Pending(Box::pin(async { panic!("injected panic while polled") }))
            }
        }
    }
}

impl<S: LimitStore> LimitStore for Faulty<S> {
    fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        self.respond(|inner| inner.decide(checks, now), Verdicts::new)
    }

    fn peek(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        self.respond(|inner| inner.peek(checks, now), Verdicts::new)
    }

    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>> {
        self.respond(|inner| inner.settle(settlements, now), || ())
    }

    fn stats(&self) -> LimitStoreStats {
        self.inner.stats()
    }
}

impl<S: CacheStore> CacheStore for Faulty<S> {
    fn get(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        let last = || self.last.lock().clone();
        self.respond(|inner| inner.get(key, now), last)
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>> {
        *self.last.lock() = Some(stored.clone());
        self.respond(|inner| inner.put(key, stored, now), || ())
    }

    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        self.respond(|inner| inner.remove(key), || ())
    }

    fn stats(&self) -> Vec<LevelStats> {
        self.inner.stats()
    }
}
