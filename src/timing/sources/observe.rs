//! [`observe`]: runs work as a request of its own and returns its log. For tests.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use crate::base::detached_context::LogSlot;
use crate::timing::engine::request_log::RequestLog;
use crate::timing::engine::route_stats::Route;
use crate::timing::engine::settings::TimingSettings;
use crate::timing::engine::shared::TimingShared;
use crate::timing::engine::span::RequestSpan;
use crate::timing::measure::findings::FindingKind;
use crate::timing::measure::n_plus_one::Repeats;
use crate::timing::measure::stats::QueryShare;

/// Counts the queries of `work`, including those inside timing layers and detached tasks of requests.
pub(crate) fn observe<F: Future>(work: F, repeats: Repeats) -> Observe<F> {
    let settings = TimingSettings { repeats, ..TimingSettings::default() };
    let route = Arc::new(Route::new("test", Arc::new(TimingShared::new(settings))));
    let log = Arc::new(RequestLog::new(route, None));
    let mut slot = LogSlot::new(log.clone());
    let span = RequestSpan::open(&mut slot);
    Observe { slot, span, log, work }
}

pin_project! {
    /// Future whose queries are counted.
    pub(crate) struct Observe<F> {
        slot: LogSlot,
        span: RequestSpan,
        log: Arc<RequestLog>,
        #[pin]
        work: F,
    }
}

impl<F: Future> Future for Observe<F> {
    type Output = (F::Output, Observed);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let span = &*this.span;
        let output = ready!(this.slot.enter(|| span.enter(|| this.work.poll(cx))));
        Poll::Ready((output, Observed(this.log.clone())))
    }
}

/// Recorded counts.
pub(crate) struct Observed(Arc<RequestLog>);

impl Observed {
    /// Returns the queries by name, ordered by total time.
    pub(crate) fn queries(&self) -> Vec<QueryShare> {
        self.0.reading().shares()
    }

    /// Returns the number of queries, without the beginnings and ends of transactions.
    pub(crate) fn count(&self) -> u64 {
        self.0.sums().queries.count
    }

    /// Returns the names of queries with findings of this kind.
    pub(crate) fn found(&self, kind: FindingKind) -> Vec<String> {
        let found = self.0.findings().into_iter().filter(|found| found.kind == kind);
        found.filter_map(|found| found.query.map(|name| name.as_str().to_owned())).collect()
    }
}
