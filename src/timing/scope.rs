//! [`timed`]: a query, measured and joined to the request it was made for.
//!
//! A request's log is found through the carrier, so that detached work finds it too: a fetch that a cache goes on with
//! after its client has left, a background revalidation. The log is opened by the first query; a request without one
//! has none.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use smallvec::SmallVec;

use super::route::Route;
use super::stats::{QueryShare, Unattributed};
use crate::carrier::{self, Home, Scope};
use crate::clock::{Clock, Timestamp, nanos};

/// Measures a future, usually one query, and counts it for the request that it runs in.
///
/// The time runs from the first poll to the end, or to the moment the future is dropped. It belongs to the request in
/// which `timed` was called, or, where it was called outside, to the one in which it is first polled; a future moved
/// to another task with `tokio::spawn` stays with its request. What belongs to no request is counted, for the whole
/// process, as [`TimingStats::unattributed`](super::TimingStats::unattributed).
///
/// The name is one of the program's own words, never a value: it is shown in
/// [`stats()`](super::TimingLayer::stats). A layer tells 256 names apart, and counts the rest as `other`.
///
/// ```
/// use std::convert::Infallible;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tollgate::timing::{TimingLayer, timed};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let timing = TimingLayer::new();
/// let service = timing.layer(service_fn(|_: Request<()>| async {
///     let price = timed("load price", async { 42 }).await;
///     assert_eq!(price, 42);
///     Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
/// }));
/// service.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(timing.stats().query("load price").unwrap().latency.count, 1);
/// # }
/// ```
pub fn timed<F: Future>(name: &'static str, future: F) -> Timed<F> {
    let measure = Measure { name, log: RequestLog::current(), started: None, ended: false };
    Timed { future, measure }
}

pin_project! {
    /// A future that is measured. Made by [`timed`].
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct Timed<F> {
        // Dropped before `measure`, so that what it measures inside itself is counted first.
        #[pin]
        future: F,
        measure: Measure,
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.measure.start();
        let polled = this.future.poll(cx);
        if polled.is_ready() {
            this.measure.end(false);
        }
        polled
    }
}

impl<F> fmt::Debug for Timed<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timed").field("name", &self.measure.name).finish_non_exhaustive()
    }
}

/// One measurement: begun at the first poll, ended once.
struct Measure {
    name: &'static str,
    log: Option<Arc<RequestLog>>,
    started: Option<Timestamp>,
    ended: bool,
}

impl Measure {
    fn start(&mut self) {
        if self.started.is_none() {
            self.log = self.log.take().or_else(RequestLog::current);
            self.started = Some(self.now());
        }
    }

    fn end(&mut self, cancelled: bool) {
        let Some(started) = self.started else { return };
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = self.now().since(started);
        match &self.log {
            Some(log) => log.add(self.name, took, cancelled),
            None => UNATTRIBUTED.add(took),
        }
    }

    fn now(&self) -> Timestamp {
        self.log.as_ref().map_or_else(|| Clock::System.now(), |log| log.route.core().now())
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.end(true);
    }
}

/// The queries of one request.
pub(super) struct RequestLog {
    route: Arc<Route>,
    queries: Mutex<Groups>,
}

/// Count and time by the query's place in the layer's table, which bounds their number.
type Groups = SmallVec<[(usize, Sum); 4]>;

/// How many, and how long together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) count: u64,
    pub(super) total: Duration,
}

impl Sum {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.total = self.total.saturating_add(took);
    }
}

impl RequestLog {
    pub(super) fn new(route: Arc<Route>) -> Self {
        Self { route, queries: Mutex::default() }
    }

    fn current() -> Option<Arc<Self>> {
        let scope: Arc<dyn Any + Send + Sync> = carrier::current()?;
        scope.downcast().ok()
    }

    pub(super) fn route(&self) -> &Route {
        &self.route
    }

    fn add(&self, name: &str, took: Duration, cancelled: bool) {
        let query = self.route.core().query(name, took, cancelled);
        self.route.query(took);
        let mut groups = self.groups();
        if !groups.iter().any(|(held, _)| *held == query) {
            groups.push((query, Sum::default()));
        }
        groups.iter_mut().filter(|(held, _)| *held == query).for_each(|(_, sum)| sum.add(took));
    }

    /// All queries of this request until now.
    pub(super) fn total(&self) -> Sum {
        self.groups().iter().fold(Sum::default(), |all, (_, sum)| Sum {
            count: all.count + sum.count,
            total: all.total.saturating_add(sum.total),
        })
    }

    /// The same by name, the longest first.
    pub(super) fn shares(&self) -> Vec<QueryShare> {
        let groups = self.groups().clone();
        let share = |&(query, sum): &(usize, Sum)| QueryShare {
            name: self.route.core().query_name(query).to_owned(),
            count: sum.count,
            total: sum.total,
        };
        let mut shares: Vec<QueryShare> = groups.iter().map(share).collect();
        shares.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.name.cmp(&b.name)));
        shares
    }

    fn groups(&self) -> std::sync::MutexGuard<'_, Groups> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Home for RequestLog {
    fn open(self: Arc<Self>) -> Scope {
        self
    }
}

/// What was measured outside every request, in this process.
pub(super) static UNATTRIBUTED: Strays = Strays { count: AtomicU64::new(0), nanos: AtomicU64::new(0) };

pub(super) struct Strays {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Strays {
    fn add(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos(took), Ordering::Relaxed);
    }

    pub(super) fn reading(&self) -> Unattributed {
        Unattributed {
            count: self.count.load(Ordering::Relaxed),
            total: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Empty;
    use tower::{Layer, ServiceExt, service_fn};

    use super::super::TimingLayer;
    use super::*;

    type Answer = Result<Response<Empty<Bytes>>, Infallible>;

    fn answer() -> Answer {
        Ok(Response::new(Empty::new()))
    }

    #[tokio::test]
    async fn detached_work_counts_for_the_request_that_caused_it() {
        let timing = TimingLayer::new();
        let service = timing.layer(service_fn(|_: Request<()>| async {
            let background = carrier::carry(async { timed("revalidate", async {}).await });
            tokio::spawn(background).await.expect("the task ended");
            answer()
        }));
        service.oneshot(Request::new(())).await.expect("an answer");
        let stats = timing.stats();
        assert_eq!(stats.routes[0].queries, 1);
        assert_eq!(stats.query("revalidate").map(|query| query.latency.count), Some(1));
    }

    #[tokio::test]
    async fn a_service_that_begins_its_work_when_called_is_inside_the_request() {
        let timing = TimingLayer::new();
        let service = timing.layer(service_fn(|_: Request<()>| {
            let early = tokio::spawn(carrier::carry(async { timed("early", async {}).await }));
            async {
                early.await.expect("the task ended");
                answer()
            }
        }));
        service.oneshot(Request::new(())).await.expect("an answer");
        assert_eq!(timing.stats().query("early").map(|query| query.latency.count), Some(1));
    }
}
