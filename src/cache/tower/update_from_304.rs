//! What a 304, or the answer to a HEAD, says about what is stored.

use std::sync::Arc;

use http::response::Parts;
use http::{HeaderMap, Response, StatusCode, header};

use super::fetch::RunningFetch;
use super::respond;
use super::stats::answered;
use super::store_response::StoreTask;
use crate::base::body::Body;
use crate::base::detached_context::CacheNote;
use crate::cache::engine::coalesce::FetchProgress;
use crate::cache::engine::record::{self, Entry};
use crate::cache::http::cache_status::Report;
use crate::cache::http::reason::Reason;
use crate::cache::http::settings::Profile;
use crate::cache::http::store_hint::StoreHint;
use crate::cache::http::{storability, validators};

impl RunningFetch {
    /// RFC 9111 §4.3.4: refreshes what is stored from a 304.
    pub(crate) async fn update_entry<I>(&self, old: &Arc<Entry>, answer: &Parts) -> Response<Body<I>> {
        let core = &self.core;
        answered(&self.ask.route.revalidated, CacheNote::Revalidated);
        let report = Report { forward_status: Some(answer.status), ..Report::forward(self.forward) };
        let respond = |entry: &Entry| respond::stored(core, entry, self.asker(), core.clock.now(), report);
        let new = record::storable(&answer.headers, respond::not_passed_on(core));
        if !validators::selects_for_update(&old.meta.headers, &new) {
            // It confirms the one tag we asked about, but names another: serve it this once, trust it no more.
            core.forget(&self.ask.key);
            return respond(old);
        }
        match self.updated(old, answer).await {
            Ok(entry) => {
                if let Some(lead) = &self.lead {
                    lead.publish(FetchProgress::Stored(entry.clone()));
                }
                respond(&entry)
            }
            Err((Reason::Invalidated | Reason::StoreFailed | Reason::Superseded, headers)) => {
                respond(&with_headers(old, headers))
            }
            Err((reason, headers)) => {
                self.pass(reason, answer.status);
                core.forget(&self.ask.key);
                respond(&with_headers(old, headers))
            }
        }
    }

    /// Stores `old` again with the fields of `answer`; as an error, why not, and the fields it would have had.
    async fn updated(&self, old: &Arc<Entry>, answer: &Parts) -> Result<Arc<Entry>, (Reason, HeaderMap)> {
        let core = &self.core;
        let mut new = record::storable(&answer.headers, &[]);
        let mut headers = old.meta.headers.clone();
        // Ours, not the origin's.
        headers.remove(header::AGE);
        if !new.contains_key(header::DATE)
            && let Some(date) = record::http_date(core.clock.wall())
        {
            new.insert(header::DATE, date);
        }
        validators::update_stored(&mut headers, &new);
        // Targeted fields decide, but are not stored.
        let mut judged = headers.clone();
        validators::update_stored(&mut judged, &answer.headers);
        let handler = answer.extensions.get::<StoreHint>();
        let plan = match storability::evaluate(&self.case(), old.meta.status, &judged, handler) {
            Ok(plan) => plan,
            Err(reason) => return Err((reason, headers)),
        };
        let (names, selection) = self.selection(&plan);
        let mut headers = record::storable(&headers, &plan.omit);
        for name in respond::not_passed_on(core) {
            headers.remove(name);
        }
        let mut meta = record::meta(old.meta.status, headers, plan, self.began);
        // A hit goes on saving what the full fetch took.
        meta.took = meta.took.max(old.meta.took);
        let meta = Arc::new(meta);
        let language = self.language(&names, &meta);
        let mut keeping = StoreTask::new(core, &self.ask, names, selection, meta.clone(), None);
        keeping.language = language;
        keeping.put(old.body.clone(), old.length).await.map_err(|reason| (reason, meta.headers.clone()))
    }

    /// RFC 9111 §4.3.5: the answer to a HEAD refreshes the stored answer to GET, or shows that it has changed.
    pub(crate) async fn update_from_head(&self, answer: &Parts) {
        let Some(old) = self.stale.as_ref().filter(|_| self.core.settings.profile == Profile::Shared) else { return };
        if answer.status != StatusCode::OK || old.meta.status != StatusCode::OK || old.partial.is_some() {
            return;
        }
        let same = |name| answer.headers.get(&name).is_none_or(|value| old.meta.headers.get(&name) == Some(value));
        if same(header::ETAG) && same(header::LAST_MODIFIED) && same(header::CONTENT_LENGTH) {
            // What may not be stored any longer is not.
            if let Err((Reason::Invalidated | Reason::StoreFailed | Reason::Superseded, _)) | Ok(_) =
                self.updated(old, answer).await
            {
                return;
            }
        }
        self.core.forget(&self.ask.key);
    }
}

fn with_headers(entry: &Entry, headers: HeaderMap) -> Entry {
    let mut headers = headers;
    headers.insert(header::AGE, http::HeaderValue::from_static("0"));
    Entry { meta: Arc::new(entry.meta.with_headers(headers)), ..Entry::clone(entry) }
}
