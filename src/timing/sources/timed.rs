//! [`timed`], [`timed_query`] and their kin: work of any driver, measured and joined to the request it was made for.

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
use crate::timing::measure::statement_names::{self, Known};

/// Measures a future, usually one query, and counts it for the request that it runs in.
///
/// The time runs from the first poll to the end, or to the moment the future is dropped. It belongs to the request in
/// which `timed` was called, or, where it was called outside, to the one in which it is first polled; a future moved
/// to another task with `tokio::spawn` stays with its request. What belongs to no request is counted, for the whole
/// process, as [`TimingStats::unattributed`](crate::timing::TimingStats::unattributed).
///
/// The name is one of the program's own words, never a value: it is shown in
/// [`stats()`](crate::timing::TimingLayer::stats). A layer tells 256 names apart, and counts the rest as `other`.
/// Where there is
/// SQL, [`timed_query`] makes the name.
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
/// Its time and its request are found as [`timed`] finds them. Say with [`key`](Timed::key) what the parameters are, so
/// that a query asked twice is told from one asked for two rows, and with [`rows`](Timed::rows) how many rows came.
///
/// Costs about 200 ns for a statement seen before (the first 1 024 of at most 2 KB are remembered), about 15 ns per
/// byte
/// more for another.
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

/// Measures a call of another service, and counts it for the request that it runs in: apart from its queries.
///
/// The name is one of the program's own words, such as the other service's name: never a URL.
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

/// Measures the wait for a connection of a pool, and counts it for the request that it runs in.
///
/// A request that waits [`starved_after`](crate::timing::TimingBuilder::starved_after) or longer is reported. sqlx's
/// pools are
/// heard without this, where their logging is on: see [`Harvest`](https://docs.rs/tollgate/latest/tollgate/timing/).
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
    /// A future that is measured. Made by [`timed`], [`timed_query`], [`timed_upstream`] and [`timed_acquire`].
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct Timed<F>
    where
        F: Future,
    {
        // Dropped before `measure`, so that what it measures inside itself is counted first.
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

    /// Says what the query asks for: the values of its parameters. The same key twice in one request is a duplicate;
    /// different keys are different rows.
    ///
    /// Only a hash of it is kept, and only until the request is over.
    pub fn key(mut self, key: &(impl Hash + ?Sized)) -> Self {
        self.measure.whole = Some(self.measure.label.with_key(key));
        self
    }

    /// Says how many rows an answer has.
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
    Statement(Known),
}

impl Label {
    const fn whole(&self) -> Option<u64> {
        match self {
            Self::Word(_) => None,
            Self::Statement(known) => known.whole,
        }
    }

    fn with_key(&self, key: &(impl Hash + ?Sized)) -> u64 {
        match self {
            Self::Word(word) => statement_names::hash(&(word, key)),
            Self::Statement(known) => known.with_key(&key),
        }
    }

    /// Of the name.
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

/// One measurement: begun at the first poll, ended once.
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
        let sample = Sample { name: &name, hash: self.label.hash(), took, rows, cancelled, whole, at };
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
