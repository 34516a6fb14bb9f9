//! Requests that no rule covers, in profile `app`: looked up, then forwarded in the client's own task.
//!
//! Most routes of a service have no rule, and their responses are not storable. They pay for the look-up and for one look at
//! the head of the response, and not for sharing: no task, no table of fetches. If a response turns out storable, it is
//! stored, and later misses of its route are coalesced ([`StorableRoutes`](crate::cache::engine::storable_routes)).
//!
//! The request is forwarded unchanged, with the client's conditions.

use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::fetch::{OriginRequest, RunningFetch};
use super::shared::{CacheRequest, CacheShared};
use super::stats::record_outcome;
use crate::base::body::Body;
use crate::base::clock::Timestamp;
use crate::base::detached_context::{self, CacheNote};
use crate::base::error::BoxError;
use crate::cache::engine::coalesce::detached_fetch::detach;
use crate::cache::http::cache_status::Forward;
use crate::cache::http::key::CacheKey;
use crate::cache::http::reason::Reason;
use crate::cache::http::request_flags::RequestFlags;
use crate::cache::http::settings::Profile;
use crate::cache::http::storability;
use crate::cache::http::store_hint::StoreHint;

/// Processing of the response to a request that no rule covers.
pub(super) struct UncoveredFetch {
    fetch: RunningFetch,
    /// Whether the request's fields are known. They are not copied where the latest response was not storable.
    has_headers: bool,
}

impl CacheShared {
    /// Whether a request that missed is fetched without sharing, since no rule covers it and its route has sent nothing
    /// storable lately. Outgoing calls cost more than sharing does.
    pub(super) fn is_uncovered(&self, params: &CacheRequest, now: Timestamp) -> bool {
        self.settings.profile == Profile::App
            && !self.routing.outbound
            && !params.head_only
            && !self.rules.is_configured(&params.rule)
            && !self.storable_routes.is_marked(params.route.storable_until(), &params.key, now)
    }

    /// Whether nothing was ever stored under this key.
    pub(super) fn was_never_stored(&self, key: &CacheKey) -> bool {
        self.in_process && !self.stored_keys.may_contain(key)
    }

    /// Remembers that the response to such a request was storable.
    pub(super) fn mark_storable(&self, params: &CacheRequest, now: Timestamp) {
        if !self.rules.is_configured(&params.rule) {
            self.storable_routes.mark(params.route.storable_until(), &params.key, now);
        }
    }
}

impl UncoveredFetch {
    /// Forwards a response that is like the latest one: not storable, and without fields to hide.
    fn forward_unstorable<I>(&self, mut response: Response<Body<I>>, reason: Reason) -> Response<Body<I>> {
        self.fetch.params.route.bypass(reason);
        note_pass();
        if self.fetch.core.settings.status_name.is_some() {
            self.fetch.write_cache_status(&mut response, Some(reason), false);
        }
        response
    }

    #[inline(always)]
    pub(super) fn new(core: &Arc<CacheShared>, params: CacheRequest, headers: &HeaderMap, now: Timestamp) -> Box<Self> {
        core.counters.called();
        let has_headers = params.flags.has(RequestFlags::CONDITION) || !core.hit_for_miss.is_marked(&params.key, now);
        Box::new(Self {
            has_headers,
            fetch: RunningFetch {
                core: core.clone(),
                params,
                headers: if has_headers { headers.clone() } else { HeaderMap::new() },
                stale: None,
                forward: Forward::UriMiss,
                is_shadow: false,
                refresh: None,
                leader: None,
                detail: None,
                requested_at: now,
                began: core.log_position(),
                question: OriginRequest::Unchanged,
                lease: None,
            },
        })
    }

    /// Notes a fetch without a response.
    pub(super) fn on_error(&self) {
        note_pass();
    }

    /// Stores the response if it is storable; returns it for the client.
    pub(super) fn on_response<I>(
        self: Box<Self>,
        response: Response<Body<I>>,
        cx: &mut Context<'_>,
    ) -> Response<Body<I>>
    where
        I: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let (fetch, status) = (&self.fetch, response.status());
        let hint = response.extensions().get::<StoreHint>();
        if !self.has_headers
            && status == StatusCode::OK
            && let Some(reason) = storability::reason_without_freshness(&fetch.core.settings, response.headers(), hint)
        {
            return self.forward_unstorable(response, reason);
        }
        let policy = match storability::evaluate(&fetch.store_context(status), status, response.headers(), hint) {
            Ok(policy) => policy,
            Err(reason) => {
                note_pass();
                return fetch.forward_unstored(response, reason);
            }
        };
        record_outcome(&fetch.params.route.misses, CacheNote::Miss);
        // Stored next time: what it varies on is not known, or whether the client accepts it without a coding.
        if !self.has_headers && (!policy.vary.is_empty() || status.is_client_error()) {
            let response = fetch.forward_unstored(response, Reason::HitForMiss);
            fetch.core.hit_for_miss.clear(&fetch.params.key);
            fetch.core.mark_storable(&fetch.params, policy.exchange.received_at);
            return response;
        }
        let (response, rest) = self.fetch.stream_and_store(response, policy, cx);
        if let Some(rest) = rest {
            detach(rest);
        }
        response
    }
}

/// Notes that a request passed the cache: what is neither covered nor storable is no miss.
fn note_pass() {
    detached_context::note(|notes| notes.cache = Some(CacheNote::Pass));
}
