//! Streaming and storing: sends the head at once, the body to all readers as it arrives, then stores it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt;

use super::fetch::{BodyTask, RefreshFailed, RunningFetch};
use super::fetch_progress::{FetchProgress, StreamingResponse};
use super::store_response::{self, StoreTask};
use super::{partial, respond};
use crate::base::body::{Body, BodyError};
use crate::base::error::BoxError;
use crate::cache::engine::body_pump::{BodyBounds, BodyPump, BodyPumpStep};
use crate::cache::engine::coalesce::background_slots::BackgroundSlots;
use crate::cache::engine::coalesce::table::Leader;
use crate::cache::engine::record::{self, Language};
use crate::cache::engine::tee::Tee;
use crate::cache::http::reason::Reason;
use crate::cache::http::settings::Profile;
use crate::cache::http::storability::{self, StorePolicy};
use crate::cache::http::stored_head::StoredHead;
use crate::cache::http::{range, validators, vary};

impl RunningFetch {
    /// Returns the fields the response varies on, and their encoded values in this request.
    pub(super) fn selection(&self, policy: &StorePolicy) -> (Arc<[http::HeaderName]>, Arc<[u8]>) {
        if policy.vary.is_empty() {
            return Default::default();
        }
        let selection = vary::selection(&policy.vary, &self.headers, self.core.settings.profile);
        (policy.vary.as_slice().into(), selection.into())
    }

    /// Sends the head, and reads the body into the store while clients read along. Without memory for the body, only
    /// its client gets it, as it arrives.
    pub(super) fn stream_and_store<I>(
        mut self,
        response: Response<Body<I>>,
        policy: StorePolicy,
        cx: &mut Context<'_>,
    ) -> (Response<Body<I>>, Option<BodyTask>)
    where
        I: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        // Checked in `evaluate`: the declared length is one number or none.
        // A body that knows its length needs no field.
        let promised = storability::promised_length(response.headers()).unwrap_or_default();
        let promised = promised.or_else(|| http_body::Body::size_hint(response.body()).exact());
        let tee = match self.tee(promised) {
            Ok(tee) => tee,
            Err(reason) => return (self.forward_unstored(response, reason), None),
        };
        self.core.mark_storable(&self.params, policy.exchange.received_at);
        let (names, selection) = self.selection(&policy);
        let (mut parts, body) = response.into_parts();
        let (meta, part) = self.meta(parts.status, &parts.headers, policy, promised);
        let mut task = StoreTask::new(&self.core, &self.params, names.clone(), selection.clone(), meta.clone(), part);
        task.language = self.language(&names, &meta);
        task.lease = self.lease.take();
        task.promised = promised;
        let leader = self.leader.take();
        if let Some(leader) = &leader {
            let (meta, tee) = (meta.clone(), tee.clone());
            leader.publish(FetchProgress::Streaming(StreamingResponse { meta, names, selection, tee }));
        }
        let settings = &self.core.settings;
        let bounds = BodyBounds { entry: settings.max_entry, idle: settings.idle };
        let body = Box::pin(body.map_err(BodyError::into_inner));
        // A refresh has taken its slot already.
        let slots = match self.refresh {
            Some(_) => BackgroundSlots::new(1),
            None => self.core.bounds.detached.clone(),
        };
        let pump = BodyPump::new(tee.clone(), body, bounds, slots);
        let mut rest: BodyTask = Box::pin(read_and_store(task, pump, tee.clone(), leader, self.refresh.take()));
        // A body that is available at once is stored before its head is sent, which saves a task.
        let is_pending = rest.as_mut().poll(cx).is_pending();
        if !self.is_shadow {
            copy_date(&mut parts.headers, &meta);
        }
        let client = match tee.whole().filter(|_| !is_pending) {
            Some(bytes) => Body::full(bytes),
            None => Body::stream(Box::pin(tee.leader())),
        };
        let mut response = Response::from_parts(parts, client);
        if !self.is_shadow && respond::is_not_modified(self.view(), response.status(), response.headers()) {
            response = validators::into_not_modified(response);
        }
        self.write_cache_status(&mut response, None, true);
        (response, is_pending.then_some(rest))
    }

    fn tee(&self, promised: Option<u64>) -> Result<Arc<Tee>, Reason> {
        if promised.is_some_and(|length| length > self.core.settings.max_entry) {
            return Err(Reason::TooLarge);
        }
        Tee::new(promised, &self.core.body_memory).ok_or(Reason::NoRoom)
    }

    /// Forwards a storable response that is not stored after all.
    pub(super) fn forward_unstored<I>(&self, mut response: Response<Body<I>>, reason: Reason) -> Response<Body<I>> {
        self.mark_not_shareable(reason, response.status());
        self.write_cache_status(&mut response, Some(reason), false);
        response
    }

    /// Returns the language of a response that varies on it. Profile `shared` only: in `app` a handler may choose
    /// languages by other criteria.
    pub(super) fn language(&self, names: &[http::HeaderName], meta: &StoredHead) -> Option<Language> {
        let profile = self.core.settings.profile;
        if profile == Profile::App || !names.contains(&header::ACCEPT_LANGUAGE) {
            return None;
        }
        let language = meta.headers.get(header::CONTENT_LANGUAGE)?.as_bytes();
        let others = vary::selection_without_language(names, &self.headers, profile);
        (!language.contains(&b','))
            .then(|| Language { tag: language.trim_ascii().into(), other_selection: others.into() })
    }

    /// Creates the head to store, and returns the range of a partial response.
    fn meta(
        &self,
        status: StatusCode,
        sent: &HeaderMap,
        policy: StorePolicy,
        promised: Option<u64>,
    ) -> (Arc<StoredHead>, Option<range::ContentRange>) {
        let omitted = [&policy.omit, respond::not_forwarded(&self.core)];
        let mut headers = record::storable(sent, &omitted, Some(policy.exchange.wall));
        if status != StatusCode::PARTIAL_CONTENT {
            let meta = record::meta(status, headers, policy, self.began);
            return (Arc::new(store_response::with_promised_length(meta, promised)), None);
        }
        let part = range::content_range(sent);
        partial::restore_whole_fields(&mut headers);
        (Arc::new(record::meta(StatusCode::OK, headers, policy, self.began)), part)
    }
}

/// RFC 9110 §6.6.1: the first client sees the same `Date` as later ones.
fn copy_date(headers: &mut HeaderMap, meta: &StoredHead) {
    if let (false, Some(date)) = (headers.contains_key(header::DATE), meta.headers.get(header::DATE)) {
        headers.insert(header::DATE, date.clone());
    }
}

/// Reads the body to its end and stores it. The fetch leaves the coalescing table afterwards.
async fn read_and_store(
    mut task: StoreTask,
    mut pump: BodyPump,
    tee: Arc<Tee>,
    leader: Option<Leader<FetchProgress>>,
    refresh_failed: Option<RefreshFailed>,
) {
    let core = task.core.clone();
    let read = match pump.run().await {
        BodyPumpStep::Complete => Ok(()),
        // RFC 9110 §6.5.1: trailers may be discarded; `app` replays a response completely or not at all.
        BodyPumpStep::Trailers if core.settings.profile == Profile::Shared => Ok(()),
        BodyPumpStep::Trailers => Err(Reason::Trailers),
        BodyPumpStep::BodyError => Err(Reason::BodyError),
        BodyPumpStep::TooLarge => Err(Reason::TooLarge),
        BodyPumpStep::OutOfMemory => Err(Reason::NoRoom),
        BodyPumpStep::Abandoned => Err(Reason::Abandoned),
    };
    let to_store = match read {
        Ok(()) => {
            let took = task.meta.took + core.clock.now().since(task.meta.stored_at);
            task.route.fetch_times.record(took);
            let (body, length) = tee.stored_body(&core.body_memory);
            task.commit(body, length).await
        }
        Err(reason) => Err(reason),
    };
    if let Err(reason) = to_store {
        if let Some(refresh_failed) = refresh_failed.filter(|_| is_failure(reason)) {
            refresh_failed.store(true, Ordering::Relaxed);
        }
        task.route.bypass(reason);
        core.warn_of_unused_rule(&task.rule, reason);
        if reason == Reason::TooLarge {
            core.hit_for_miss.mark(&task.key, core.clock.now(), core.settings.hit_for_miss);
        }
    }
    drop(leader);
}

/// Whether a body that was not stored would hardly be stored if it were fetched again at once.
const fn is_failure(reason: Reason) -> bool {
    !matches!(reason, Reason::Invalidated | Reason::Superseded)
}
