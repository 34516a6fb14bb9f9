//! Keeping a response: its head goes out at once, its body to everybody as it arrives, and then into the store.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt;

use super::fetch::{BodyTask, RunningFetch};
use super::store_response::StoreTask;
use super::{partial, respond};
use crate::base::body::{Body, BodyError};
use crate::base::error::BoxError;
use crate::cache::engine::body_pump::{Bounds, Pump, PumpStep};
use crate::cache::engine::coalesce::{FetchProgress, Leader, StreamingResponse};
use crate::cache::engine::record::{self, Language};
use crate::cache::engine::tee::Tee;
use crate::cache::http::reason::Reason;
use crate::cache::http::settings::Profile;
use crate::cache::http::storability::{self, StorePolicy};
use crate::cache::http::stored_head::StoredHead;
use crate::cache::http::{range, validators, vary};

impl RunningFetch {
    /// The fields the response varies on, and what this request says in them.
    pub(crate) fn selection(&self, plan: &StorePolicy) -> (Arc<[http::HeaderName]>, Box<[u8]>) {
        let selection = match plan.vary.is_empty() {
            true => Vec::new(),
            false => vary::selection(&plan.vary, &self.headers, self.core.settings.profile),
        };
        (plan.vary.as_slice().into(), selection.into())
    }

    /// Sends the head out, and reads the body into the store while clients read along. Where there is no memory for the
    /// body, its client gets it as it comes, and no one else does.
    pub(crate) async fn keep<I>(
        mut self,
        response: Response<Body<I>>,
        plan: StorePolicy,
    ) -> (Response<Body<I>>, Option<BodyTask>)
    where
        I: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        // Decided a moment ago: the length is one number or none.
        // A body that knows its own length needs no field to keep it.
        let promised = storability::promised_length(response.headers()).unwrap_or_default();
        let promised = promised.or_else(|| http_body::Body::size_hint(response.body()).exact());
        let tee = match self.tee(promised) {
            Ok(tee) => tee,
            Err(reason) => return (self.decline(response, reason), None),
        };
        let (names, selection) = self.selection(&plan);
        let (mut parts, body) = response.into_parts();
        let (meta, part) = self.meta(parts.status, &parts.headers, plan);
        let mut keeping = StoreTask::new(&self.core, &self.ask, names.clone(), selection.clone(), meta.clone(), part);
        keeping.language = self.language(&names, &meta);
        let lead = self.lead.take();
        if let Some(lead) = &lead {
            lead.publish(FetchProgress::Streaming(Arc::new(StreamingResponse {
                meta: meta.clone(),
                names,
                selection,
                tee: tee.clone(),
            })));
        }
        if !self.is_shadow {
            copy_date(&mut parts.headers, &meta);
        }
        let client = Body::stream(Box::pin(tee.leader()));
        let mut response = Response::from_parts(parts, client);
        if !self.is_shadow && respond::has_it(self.asker(), response.status(), response.headers()) {
            response = validators::into_not_modified(response);
        }
        self.write_cache_status(&mut response, None, true);
        let settings = &self.core.settings;
        let bounds = Bounds { entry: settings.max_entry, idle: settings.idle };
        let body = Box::pin(body.map_err(BodyError::into_inner));
        let pump = Pump::new(tee.clone(), body, bounds, self.core.orphans.clone());
        let mut rest: BodyTask = Box::pin(store(keeping, pump, tee, lead));
        // A body that is already there is stored before its head goes out: one task less.
        match futures_util::future::poll_immediate(&mut rest).await {
            Some(()) => (response, None),
            None => (response, Some(rest)),
        }
    }

    fn tee(&self, promised: Option<u64>) -> Result<Arc<Tee>, Reason> {
        if promised.is_some_and(|length| length > self.core.settings.max_entry) {
            return Err(Reason::TooLarge);
        }
        Tee::new(promised, &self.core.body_memory).ok_or(Reason::NoRoom)
    }

    /// Passes on a response that was to be kept.
    fn decline<I>(&self, mut response: Response<Body<I>>, reason: Reason) -> Response<Body<I>> {
        self.pass(reason, response.status());
        self.write_cache_status(&mut response, Some(reason), false);
        response
    }

    /// The language of a response that varies on it, and what else it varies on. Profile `shared` only: in `app` a
    /// handler may choose languages as it likes.
    pub(crate) fn language(&self, names: &[http::HeaderName], meta: &StoredHead) -> Option<Language> {
        let profile = self.core.settings.profile;
        if profile == Profile::App || !names.contains(&header::ACCEPT_LANGUAGE) {
            return None;
        }
        let language = meta.headers.get(header::CONTENT_LANGUAGE)?.as_bytes();
        let others = vary::selection_without_language(names, &self.headers, profile);
        (!language.contains(&b','))
            .then(|| Language { tag: language.trim_ascii().into(), other_selection: others.into() })
    }

    /// The head as it is stored, and which part of the whole it heads.
    fn meta(
        &self,
        status: StatusCode,
        sent: &HeaderMap,
        plan: StorePolicy,
    ) -> (Arc<StoredHead>, Option<range::ContentRange>) {
        let mut headers = record::storable(sent, &plan.omit);
        for name in respond::not_passed_on(&self.core) {
            headers.remove(name);
        }
        if status != StatusCode::PARTIAL_CONTENT {
            return (Arc::new(record::meta(status, headers, plan, self.began)), None);
        }
        let part = range::content_range(sent);
        partial::of_the_whole(&mut headers);
        (Arc::new(record::meta(StatusCode::OK, headers, plan, self.began)), part)
    }
}

/// RFC 9110 §6.6.1: the first client sees the `Date` that later ones will.
fn copy_date(headers: &mut HeaderMap, meta: &StoredHead) {
    if let (false, Some(date)) = (headers.contains_key(header::DATE), meta.headers.get(header::DATE)) {
        headers.insert(header::DATE, date.clone());
    }
}

/// Reads the body to its end and commits it. The flight is over when this is.
async fn store(keeping: StoreTask, mut pump: Pump, tee: Arc<Tee>, lead: Option<Leader>) {
    let core = keeping.core.clone();
    let read = match pump.run().await {
        PumpStep::Complete => Ok(()),
        // RFC 9110 §6.5.1: trailers may be discarded; `app` replays a response whole or not at all.
        PumpStep::Trailers if core.settings.profile == Profile::Shared => Ok(()),
        PumpStep::Trailers => Err(Reason::Trailers),
        PumpStep::BodyError => Err(Reason::BodyError),
        PumpStep::TooLarge => Err(Reason::TooLarge),
        PumpStep::OutOfMemory => Err(Reason::NoRoom),
        PumpStep::Abandoned => Err(Reason::Abandoned),
    };
    let kept = match read {
        Ok(()) => {
            let took = keeping.meta.took + core.clock.now().since(keeping.meta.stored_at);
            keeping.route.took.record(took);
            let (body, length) = tee.stored_body(&core.body_memory);
            keeping.commit(body, length).await
        }
        Err(reason) => Err(reason),
    };
    if let Err(reason) = kept {
        keeping.route.bypass(reason);
        core.warn_if_useless(&keeping.rule, reason);
        if reason == Reason::TooLarge {
            core.hit_for_miss.mark(&keeping.key, core.clock.now(), core.settings.hit_for_miss);
        }
    }
    drop(lead);
}
