//! Updates of stored responses from a 304 or a response to HEAD.

use std::sync::Arc;

use http::response::Parts;
use http::{HeaderMap, Response, StatusCode, header};

use super::fetch::RunningFetch;
use super::fetch_progress::FetchProgress;
use super::respond;
use super::stats::record_outcome;
use super::store_response::StoreTask;
use crate::base::body::Body;
use crate::base::detached_context::CacheNote;
use crate::cache::engine::record::{self, Entry};
use crate::cache::http::cache_status::Report;
use crate::cache::http::reason::Reason;
use crate::cache::http::settings::Profile;
use crate::cache::http::store_hint::StoreHint;
use crate::cache::http::{storability, validators};

impl RunningFetch {
    /// RFC 9111 §4.3.4: updates the stored response from a 304.
    pub(super) async fn update_entry<I>(&self, old: &Arc<Entry>, head: &Parts) -> Response<Body<I>> {
        let core = &self.core;
        record_outcome(&self.params.route.revalidated, CacheNote::Revalidated);
        let report = Report { forward_status: Some(head.status), ..Report::forward(self.forward) };
        let respond = |entry: &Entry| respond::from_entry(core, entry, self.view(), core.clock.now(), report);
        let new = record::storable(&head.headers, &[respond::not_forwarded(core)], None);
        if !validators::selects_for_update(&old.meta.headers, &new) {
            // It confirms the tag that was sent, but names another: serve the entry once and remove it.
            core.remove_key(&self.params.key);
            return respond(old);
        }
        match self.updated(old, head).await {
            Ok(entry) => {
                if let Some(leader) = &self.leader {
                    leader.publish(FetchProgress::Stored(entry.clone()));
                }
                respond(&entry)
            }
            Err((Reason::Invalidated | Reason::StoreFailed | Reason::Superseded, headers)) => {
                respond(&with_headers(old, headers))
            }
            Err((reason, headers)) => {
                self.mark_not_shareable(reason, head.status);
                core.remove_key(&self.params.key);
                respond(&with_headers(old, headers))
            }
        }
    }

    /// Stores `old` again with the fields of `head`; an error holds the reason and the updated fields.
    async fn updated(&self, old: &Arc<Entry>, head: &Parts) -> Result<Arc<Entry>, (Reason, HeaderMap)> {
        let core = &self.core;
        let new = record::storable(&head.headers, &[], Some(core.clock.wall()));
        let mut headers = old.meta.headers.clone();
        // Set by this cache, not by the origin.
        headers.remove(header::AGE);
        validators::update_stored(&mut headers, &new);
        // Targeted fields affect the decision but are not stored.
        let mut for_decision = headers.clone();
        validators::update_stored(&mut for_decision, &head.headers);
        let handler = head.extensions.get::<StoreHint>();
        let policy = match storability::evaluate(
            &self.store_context(old.meta.status),
            old.meta.status,
            &for_decision,
            handler,
        ) {
            Ok(policy) => policy,
            Err(reason) => return Err((reason, headers)),
        };
        let (names, selection) = self.selection(&policy);
        let headers =
            record::storable(&headers, &[&policy.omit, respond::not_forwarded(core)], Some(policy.exchange.wall));
        let mut meta = record::meta(old.meta.status, headers, policy, self.began);
        // A hit still saves the duration of the full fetch.
        meta.took = meta.took.max(old.meta.took);
        let meta = Arc::new(meta);
        let language = self.language(&names, &meta);
        let mut task = StoreTask::new(core, &self.params, names, selection, meta.clone(), None);
        task.language = language;
        task.put(old.body.clone(), old.length).await.map_err(|reason| (reason, meta.headers.clone()))
    }

    /// RFC 9111 §4.3.5: updates the stored response to GET from a response to HEAD, or invalidates it.
    pub(super) async fn update_from_head(&self, head: &Parts) {
        let Some(old) = self.stale.as_ref().filter(|_| self.core.settings.profile == Profile::Shared) else { return };
        if head.status != StatusCode::OK || old.meta.status != StatusCode::OK || old.partial.is_some() {
            return;
        }
        let same = |name| head.headers.get(&name).is_none_or(|value| old.meta.headers.get(&name) == Some(value));
        // Without a validator the responses cannot be compared: neither update nor remove it.
        if !validators::has_validator(&old.meta.headers) && same(header::CONTENT_LENGTH) {
            return;
        }
        if same(header::ETAG) && same(header::LAST_MODIFIED) && same(header::CONTENT_LENGTH) {
            // No longer storable otherwise: removed below.
            if let Err((Reason::Invalidated | Reason::StoreFailed | Reason::Superseded, _)) | Ok(_) =
                self.updated(old, head).await
            {
                return;
            }
        }
        self.core.remove_key(&self.params.key);
    }
}

fn with_headers(entry: &Entry, headers: HeaderMap) -> Entry {
    let mut headers = headers;
    headers.insert(header::AGE, http::HeaderValue::from_static("0"));
    Entry { meta: Arc::new(entry.meta.with_headers(headers)), ..Entry::clone(entry) }
}
