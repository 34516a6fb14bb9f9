//! [`Faulty`]: a store that does not do its job, to see that requests do not mind.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::MaybeReady;
use crate::cache::{CacheKey, CacheStore, LevelStats, Stored};
use crate::limit::{Check, LimitStore, LimitStoreStats, Settlement, Verdicts};

/// Misbehaviour of a [`Faulty`] store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// Works normally.
    #[default]
    None,
    /// It returns an error.
    Err,
    /// It never answers.
    Hang,
    /// It answers something else: too few verdicts, or the entry of another key.
    Lie,
    /// It panics when it is asked.
    Panic,
    /// It panics while its answer is awaited.
    PanicLater,
}

/// Store that wraps another and misbehaves on command.
///
/// ```
/// use std::sync::Arc;
///
/// use http_body_util::Full;
/// use tollgate::limit::{Limit, Quota, RateLimitLayer};
/// use tollgate::store::memory::MemoryLimits;
/// use tollgate::testing::{FakePeer, Faulty, Misbehaviour};
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
/// store.begin(Misbehaviour::Err);
/// let mut statuses = Vec::new();
/// for _ in 0..3 {
///     let request = FakePeer::at("192.0.2.1").mark(http::Request::get("/").body(())?);
///     statuses.push(service.clone().oneshot(request).await?.status().as_u16());
/// }
/// // This process decides instead: anonymous sees an error, and the limit holds.
/// assert_eq!(statuses, [200, 200, 429]);
/// assert!(store.calls() > 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    does: Mutex<Misbehaviour>,
    calls: AtomicU64,
    /// The last entry put, returned for other keys.
    last: Mutex<Option<Stored>>,
}

impl<S> Faulty<S> {
    /// Around `inner`, behaving well.
    #[must_use]
    pub const fn new(inner: S) -> Self {
        Self { inner, does: Mutex::new(Misbehaviour::None), calls: AtomicU64::new(0), last: Mutex::new(None) }
    }

    /// From now on it does this.
    pub fn begin(&self, what: Misbehaviour) {
        *self.does.lock() = what;
    }

    /// How often it was asked for anything.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    #[expect(clippy::panic, reason = "documented: it panics when it is told to")]
    fn answer<T: Send + 'static>(
        &self,
        job: impl FnOnce(&S) -> MaybeReady<Result<T, Error>>,
        lie: impl FnOnce() -> T,
    ) -> MaybeReady<Result<T, Error>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let does = *self.does.lock();
        match does {
            Misbehaviour::None => job(&self.inner),
            Misbehaviour::Err => MaybeReady::Ready(Err(Error::store("this store errs", "it was told to"))),
            Misbehaviour::Hang => MaybeReady::Pending(Box::pin(std::future::pending())),
            Misbehaviour::Lie => MaybeReady::Ready(Ok(lie())),
            Misbehaviour::Panic => panic!("this store panics, as it was told to"),
            Misbehaviour::PanicLater => MaybeReady::Pending(Box::pin(async {
                panic!("this store panics while it is awaited, as it was told to")
            })),
        }
    }
}

impl<S: LimitStore> LimitStore for Faulty<S> {
    fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        self.answer(|inner| inner.decide(checks, now), Verdicts::new)
    }

    fn peek(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        self.answer(|inner| inner.peek(checks, now), Verdicts::new)
    }

    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>> {
        self.answer(|inner| inner.settle(settlements, now), || ())
    }

    fn stats(&self) -> LimitStoreStats {
        self.inner.stats()
    }
}

impl<S: CacheStore> CacheStore for Faulty<S> {
    fn get(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        let last = || self.last.lock().clone();
        self.answer(|inner| inner.get(key, now), last)
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>> {
        *self.last.lock() = Some(stored.clone());
        self.answer(|inner| inner.put(key, stored, now), || ())
    }

    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        self.answer(|inner| inner.remove(key), || ())
    }

    fn stats(&self) -> Vec<LevelStats> {
        self.inner.stats()
    }
}
