//! Soft time-out: serves a stale response if the inner service is slow, while the fetch continues.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::fetch::{CacheResult, FetchJob};
use super::next_step::NextStep;
use super::respond::{self, RequestView};
use super::shared::CacheShared;
use super::stats::{RouteCounters, record_outcome};
use crate::base::detached_context::CacheNote;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::coalesce::deadlines::FetchDeadlines;
use crate::cache::engine::record::Entry;
use crate::cache::http::cache_status::{Forward, Report};
use crate::cache::http::reason::Reason;
use crate::cache::http::request_flags::RequestFlags;

/// A stale entry that may be served in place of a response that is late.
pub(super) struct StaleFallback {
    core: Arc<CacheShared>,
    route: Arc<RouteCounters>,
    entry: Arc<Entry>,
    headers: HeaderMap,
    flags: RequestFlags,
    head_only: bool,
    after: Duration,
}

impl StaleFallback {
    /// Returns the fallback of a request, if its rule has a soft time-out and its stale entry may replace a failure.
    pub(super) fn of<O, B>(job: &FetchJob<O, B>) -> Option<Self> {
        let after = job.core.rules.rule(&job.params.rule).soft_timeout?;
        let entry = job.stale.as_ref().filter(|entry| entry.partial.is_none())?;
        let late = job.core.clock.now() + after;
        if !job.params.may_serve_stale_for(None, &entry.meta, late) {
            return None;
        }
        Some(Self {
            core: job.core.clone(),
            route: job.params.route.clone(),
            entry: entry.clone(),
            headers: job.request.headers().clone(),
            flags: job.params.flags,
            head_only: job.params.head_only,
            after,
        })
    }

    /// Completes the request by its next step, or with the stale entry once that takes too long.
    pub(super) fn unless<I: Send + 'static, E: Send + 'static>(
        self,
        next: NextStep<CacheResult<I, E>>,
    ) -> NextStep<CacheResult<I, E>> {
        // An unshared fetch would end with the response.
        if matches!(next, NextStep::Respond(_) | NextStep::Unshared(_)) {
            return next;
        }
        NextStep::Wait(Box::pin(async move {
            let deadlines = FetchDeadlines::new(Some(self.after), self.core.settings.wait, None);
            // A fetch that is led continues in its own task, and a followed one in its leader's.
            deadlines.leading(next.finish(), |_| (!self.is_invalidated()).then(|| Ok(self.respond()))).await
        }))
    }

    fn is_invalidated(&self) -> bool {
        self.core.barriers.check(&self.entry.key, &self.entry.meta) == Validity::Void
    }

    fn respond<I>(&self) -> http::Response<crate::base::body::Body<I>> {
        record_outcome(&self.route.stale, CacheNote::Stale);
        let view = RequestView { headers: &self.headers, flags: self.flags, head_only: self.head_only };
        let report = Report { detail: Some(Reason::SoftTimeout), ..Report::forward(Forward::Stale) };
        respond::from_entry(&self.core, &self.entry, view, self.core.clock.now(), report)
    }
}
