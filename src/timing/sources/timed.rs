//! [`timed`], [`timed_query`], [`timed_upstream`], [`timed_acquire`]: measure futures of any driver.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::base::clock::{Clock, Timestamp};
use crate::timing::engine::request_log::{RequestLog, UNATTRIBUTED};
use crate::timing::engine::route_stats::QuerySource;
use crate::timing::measure::group::{QueryName, Sample};
use crate::timing::measure::statement_names::{self, KnownStatement};

/// Measures a future, usually one query, and counts it for the current request.
///
/// Time runs from the first poll to the end, or until the future is dropped. The work belongs to the request in which
/// `timed` was called, or else to the one in which it is first polled; a future moved to another task with
/// `tokio::spawn` stays with its request. Other work is counted, for the whole process, in
/// [`TimingStats::unattributed`](crate::timing::TimingStats::unattributed).
///
/// The name is a constant of the program, never a value, and appears in
/// [`stats()`](crate::timing::TimingLayer::stats). A layer distinguishes 256 names and counts the rest as `other`.
/// For SQL, use [`timed_query`].
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
#[track_caller]
pub fn timed<F: Future>(name: &'static str, future: F) -> Timed<F> {
    Timed::new(future, Kind::Query, Label::Word(name))
}

/// Measures one query of any driver, named by the [`fingerprint`](crate::timing::fingerprint()) of its SQL.
///
/// Time and request are determined as by [`timed`]. Set the parameters with [`key`](Timed::key), so that exact
/// repetitions are distinguished from queries for different rows, and the row count with [`rows`](Timed::rows).
///
/// Costs about 200 ns for a cached statement (up to 1 024 of at most 2 KB), about 20 ns per byte more for
/// another.
///
/// ```
/// use tollgate::timing::timed_query;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # async fn query(_: &str, id: i64) -> Vec<i64> { vec![id] }
/// let (sql, id) = ("SELECT name FROM users WHERE id = $1", 7);
/// let names = timed_query(sql, query(sql, id)).key(&id).rows(|names| names.len() as u64).await;
/// # assert_eq!(names.len(), 1);
/// # }
/// ```
#[track_caller]
pub fn timed_query<F: Future>(sql: &str, future: F) -> Timed<F> {
    Timed::new(future, Kind::Query, Label::Statement(statement_names::named(sql)))
}

/// Measures a call of another service, and counts it for the current request, separately from its queries.
///
/// The name is a constant of the program, such as the name of the other service: never a URL.
///
/// ```
/// use tollgate::timing::timed_upstream;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let price = timed_upstream("price service", async { 42 }).await;
/// # assert_eq!(price, 42);
/// # }
/// ```
#[track_caller]
pub fn timed_upstream<F: Future>(name: &'static str, future: F) -> Timed<F> {
    Timed::new(future, Kind::Upstream, Label::Word(name))
}

/// Measures the wait for a pooled connection, and counts it for the current request.
///
/// A request that waits [`starved_after`](crate::timing::TimingBuilder::starved_after) or longer is reported. sqlx's
/// pools need no wrapper if their logging is on: see [`Harvest`](https://docs.rs/tollgate/latest/tollgate/timing/).
///
/// ```
/// use tollgate::timing::timed_acquire;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # struct Pool; impl Pool { async fn get(&self) -> u8 { 1 } }
/// # let pool = Pool;
/// let connection = timed_acquire(pool.get()).await;
/// # assert_eq!(connection, 1);
/// # }
/// ```
#[track_caller]
pub fn timed_acquire<F: Future>(future: F) -> Timed<F> {
    Timed::new(future, Kind::Acquire, Label::Word("pool"))
}

pin_project! {
    /// Measured future, made by [`timed`], [`timed_query`], [`timed_upstream`] and [`timed_acquire`].
    ///
    /// ```
    /// use tollgate::timing::{Timed, timed_acquire};
    ///
    /// let connection: Timed<_> = timed_acquire(async { "a connection" });
    /// # let _ = connection;
    /// ```
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct Timed<F>
    where
        F: Future,
    {
        // Dropped before `measure`, so that nested measurements are counted first.
        #[pin]
        future: F,
        measure: Measure,
        rows: Option<fn(&F::Output) -> u64>,
    }
}

impl<F: Future> Timed<F> {
    #[track_caller]
    fn new(future: F, kind: Kind, label: Label) -> Self {
        let (log, at) = (RequestLog::current(), Location::caller());
        let whole = label.whole();
        let measure = Measure { kind, label, whole, at, rows: 0, log, started: None, ended: false };
        Self { future, measure, rows: None }
    }

    /// Sets the parameters of the query. The same key twice in one request is a duplicate; different keys are
    /// different rows.
    ///
    /// Only a hash is kept, until the request ends.
    ///
    /// ```
    /// use tollgate::timing::timed_query;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let id = 7;
    /// let name = timed_query("SELECT name FROM users WHERE id = $1", async { "Ada" }).key(&id).await;
    /// # assert_eq!(name, "Ada");
    /// # }
    /// ```
    pub fn key(mut self, key: &(impl Hash + ?Sized)) -> Self {
        self.measure.whole = Some(self.measure.label.with_key(key));
        self
    }

    /// Sets how the rows of a result are counted.
    ///
    /// ```
    /// use tollgate::timing::timed_query;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let names = timed_query("SELECT name FROM users", async { vec!["Ada", "Grace"] }).rows(|names| names.len() as u64).await;
    /// # assert_eq!(names.len(), 2);
    /// # }
    /// ```
    pub fn rows(mut self, count: fn(&F::Output) -> u64) -> Self {
        self.rows = Some(count);
        self
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.measure.start();
        let polled = this.future.poll(cx);
        if let Poll::Ready(output) = &polled {
            this.measure.rows = this.rows.map_or(0, |count| count(output));
            this.measure.end(false);
        }
        polled
    }
}

impl<F: Future> fmt::Debug for Timed<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timed").field("name", &self.measure.label.name().as_str()).finish_non_exhaustive()
    }
}

/// Kind of the measured work.
#[derive(Clone, Copy)]
enum Kind {
    Query,
    Upstream,
    Acquire,
}

/// Name of the measured work.
enum Label {
    Word(&'static str),
    Statement(KnownStatement),
}

impl Label {
    const fn whole(&self) -> Option<u64> {
        match self {
            Self::Word(_) => None,
            Self::Statement(known) => known.whole,
        }
    }

    /// Returns whether it begins or ends a transaction.
    const fn transaction(&self) -> bool {
        match self {
            Self::Word(_) => false,
            Self::Statement(known) => known.transaction,
        }
    }

    fn with_key(&self, key: &(impl Hash + ?Sized)) -> u64 {
        match self {
            Self::Word(word) => statement_names::hash(&(word, key)),
            Self::Statement(known) => known.with_key(&key),
        }
    }

    /// Returns the hash of the name.
    fn hash(&self) -> u64 {
        match self {
            Self::Word(word) => statement_names::hash(*word),
            Self::Statement(known) => known.hash,
        }
    }

    fn name(&self) -> QueryName {
        match self {
            Self::Word(word) => QueryName::Word(word),
            Self::Statement(known) => known.name.clone(),
        }
    }
}

/// Measurement from the first poll to the end.
struct Measure {
    kind: Kind,
    label: Label,
    whole: Option<u64>,
    at: &'static Location<'static>,
    rows: u64,
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
            Some(log) => self.count(log, took, cancelled),
            None if matches!(self.kind, Kind::Query) => UNATTRIBUTED.add(took),
            None => {}
        }
    }

    fn count(&self, log: &RequestLog, took: Duration, cancelled: bool) {
        let name = self.label.name();
        let (rows, whole, at) = (self.rows, self.whole, Some(self.at));
        let transaction = self.label.transaction();
        let sample = Sample { name: &name, hash: self.label.hash(), took, rows, cancelled, transaction, whole, at };
        match self.kind {
            Kind::Query => log.query(&sample, QuerySource::Program),
            Kind::Upstream => log.called(&sample),
            Kind::Acquire => log.waited(took),
        }
    }

    fn now(&self) -> Timestamp {
        self.log.as_ref().map_or_else(|| Clock::System.now(), |log| log.now())
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.end(true);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Empty;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::base::detached_context;
    use crate::timing::tower::layer::TimingLayer;

    type Answer = Result<Response<Empty<Bytes>>, Infallible>;

    fn answer() -> Answer {
        Ok(Response::new(Empty::new()))
    }

    #[tokio::test]
    async fn detached_work_counts_for_the_request_that_caused_it() {
        let timing = TimingLayer::new();
        let service = timing.layer(service_fn(|_: Request<()>| async {
            let background = detached_context::carry(async { timed("revalidate", async {}).await });
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
            let early = tokio::spawn(detached_context::carry(async { timed("early", async {}).await }));
            async {
                early.await.expect("the task ended");
                answer()
            }
        }));
        service.oneshot(Request::new(())).await.expect("an answer");
        assert_eq!(timing.stats().query("early").map(|query| query.latency.count), Some(1));
    }
}
