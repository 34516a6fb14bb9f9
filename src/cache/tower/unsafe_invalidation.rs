//! Invalidation by unsafe requests: RFC 9111 §4.4.
//!
//! A successful response invalidates. Without a response (the client left, the inner service failed or panicked) the
//! effect is unknown, and the target is invalidated to be safe.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::live_rules::MatchedRule;
use super::shared::CacheShared;
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::base::request_head::RequestHead;
use crate::cache::engine::barrier::InvalidationScope;
use crate::cache::engine::cache_engine;
use crate::cache::engine::invalidation::Invalidation;
use crate::cache::http::key::{CacheKey, Target};
use crate::cache::http::key_builder::KeyBuilder;
use crate::cache::http::{content_location, policy, tag};

/// An unsafe request under way.
pub(super) struct UnsafeRequest {
    core: Arc<CacheShared>,
    method: Method,
    /// Key of the target; `None` after the response.
    key: Option<CacheKey>,
    /// Tags that the rule of the route names.
    tags: Vec<Box<str>>,
}

impl UnsafeRequest {
    pub(super) fn new(core: Arc<CacheShared>, method: Method, key: CacheKey, matched: &MatchedRule) -> Self {
        let tags = core.rules.rule(matched).invalidates_for(core.rules.pattern(matched), &key);
        Self { core, method, key: Some(key), tags }
    }

    /// Invalidates according to the response.
    pub(super) fn on_response(mut self, status: StatusCode, response: &HeaderMap) {
        if let Some(key) = self.key.take() {
            self.core.invalidate_after_unsafe(&self.method, &key, status, response);
            if policy::invalidates(&self.method, status) {
                self.core.invalidate_tags(&self.tags);
            }
        }
    }
}

impl Drop for UnsafeRequest {
    fn drop(&mut self) {
        if let Some(key) = self.key.take().filter(|_| policy::invalidates(&self.method, StatusCode::OK)) {
            self.core.invalidate_resource(&key);
            self.core.invalidate_tags(&self.tags);
        }
    }
}

impl CacheShared {
    fn invalidate_tags(&self, tags: &[Box<str>]) {
        for tag in tags.iter().filter(|tag| tag::is_valid(tag)) {
            let result = self.invalidate(&Invalidation::new(InvalidationScope::Tag(tag.clone()), false));
            self.finish(result);
        }
    }

    /// RFC 9111 §4.4: invalidates the resources affected by a successful unsafe request.
    fn invalidate_after_unsafe(&self, method: &Method, key: &CacheKey, status: StatusCode, response: &HeaderMap) {
        if !policy::invalidates(method, status) {
            return;
        }
        self.invalidate_resource(key);
        // "A cache MAY invalidate other URIs … in particular, the URI(s) in the Location and Content-Location".
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let Some(uri) = response.get(name).and_then(|value| self.same_origin_uri(key, value)) else { continue };
            if let Some(other) = self.key_at(key, &uri) {
                self.invalidate_resource(&other);
            }
        }
    }

    /// Whether a response is the current representation of the request's target.
    pub(super) fn is_own_representation(&self, key: &CacheKey, response: &HeaderMap) -> bool {
        let named = response.get(header::CONTENT_LOCATION).and_then(|value| self.same_origin_uri(key, value));
        named.and_then(|uri| self.key_at(key, &uri)).is_some_and(|home| home.resource() == key.resource())
    }

    fn same_origin_uri(&self, key: &CacheKey, value: &HeaderValue) -> Option<http::Uri> {
        content_location::same_origin(&Target::of(key.resource())?, value.to_str().ok()?)
    }

    /// Returns the key of another resource of the same origin.
    fn key_at(&self, key: &CacheKey, uri: &http::Uri) -> Option<CacheKey> {
        let target = Target::of(key.resource())?;
        let scheme = std::str::from_utf8(target.scheme).ok()?;
        let mut request = http::Request::new(());
        *request.uri_mut() = uri.clone();
        let matched = self.rules.find(&RequestHead::of(&request));
        let rule = self.rules.rule(&matched);
        let mut other = KeyBuilder::new();
        other.target(scheme, target.authority, uri, self.key_parts(rule)).ok()?;
        other.finish().ok()
    }

    /// Invalidates a resource and removes the value under its key.
    pub(super) fn invalidate_resource(&self, key: &CacheKey) {
        self.finish(self.invalidate_and_remove(key));
    }

    /// Invalidates a resource and removes the value under its key; the result tells whether other processes will not serve
    /// it either.
    pub(super) fn invalidate_and_remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        let is_sole = self.settings.key_fields.is_empty() && !self.has_divided.load(Ordering::Relaxed);
        cache_engine::invalidate_and_remove(&*self.store, &self.barriers, key, is_sole && !self.is_per_identity(key))
    }

    /// Whether the rule of a resource stores a response per identity.
    fn is_per_identity(&self, key: &CacheKey) -> bool {
        let uri = Target::of(key.resource())
            .and_then(|target| http::Uri::try_from([target.path, target.query].concat()).ok());
        uri.is_none_or(|uri| {
            let mut request = http::Request::new(());
            *request.uri_mut() = uri;
            self.rules.rule(&self.rules.find(&RequestHead::of(&request))).per_identity
        })
    }

    /// Invalidates entries in this process; the result tells whether other processes will receive it.
    pub(super) fn invalidate(&self, invalidation: &Invalidation) -> MaybeReady<Result<(), Error>> {
        cache_engine::invalidate(&*self.store, &self.barriers, invalidation)
    }

    /// Removes the value under a key, which an invalidation has voided, to free its memory.
    pub(super) fn remove_key(&self, key: &CacheKey) {
        self.finish(self.store.remove(key));
    }

    /// Completes a store operation in the background.
    fn finish(&self, response: MaybeReady<Result<(), Error>>) {
        match response {
            MaybeReady::Ready(Ok(())) => {}
            MaybeReady::Ready(Err(error)) => self.store_failed(&error),
            MaybeReady::Pending(rest) => {
                let events = self.events.clone();
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        if let Err(error) = rest.await {
                            crate::cache::engine::cache_engine::emit_store_error(&events, &error);
                        }
                    });
                }
            }
        }
    }
}
