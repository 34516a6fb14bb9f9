//! What unsafe requests change: RFC 9111 §4.4.
//!
//! A successful answer invalidates. Where there is no answer at all — the client left, the inner service failed or
//! panicked — nobody knows what was changed, and the target is invalidated to be safe.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::shared::CacheShared;
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::base::request_head::RequestHead;
use crate::cache::engine::barrier::InvalidationScope;
use crate::cache::engine::engine_parts;
use crate::cache::engine::invalidation::Invalidation;
use crate::cache::http::key::{CacheKey, Target};
use crate::cache::http::key_builder::KeyBuilder;
use crate::cache::http::{content_location, policy};

/// An unsafe request under way.
pub(crate) struct UnsafeRequest {
    core: Arc<CacheShared>,
    method: Method,
    /// The target; none once the answer has been seen.
    key: Option<CacheKey>,
}

impl UnsafeRequest {
    pub(crate) const fn new(core: Arc<CacheShared>, method: Method, key: CacheKey) -> Self {
        Self { core, method, key: Some(key) }
    }

    /// The answer is there.
    pub(crate) fn settle(mut self, status: StatusCode, answer: &HeaderMap) {
        if let Some(key) = self.key.take() {
            self.core.settle(&self.method, &key, status, answer);
        }
    }
}

impl Drop for UnsafeRequest {
    fn drop(&mut self) {
        if let Some(key) = self.key.take().filter(|_| policy::invalidates(&self.method, StatusCode::OK)) {
            self.core.invalidate_resource(&key);
        }
    }
}

impl CacheShared {
    /// RFC 9111 §4.4: what a successful answer to an unsafe request invalidates.
    fn settle(&self, method: &Method, key: &CacheKey, status: StatusCode, answer: &HeaderMap) {
        if !policy::invalidates(method, status) {
            return;
        }
        self.invalidate_resource(key);
        // "A cache MAY invalidate other URIs … in particular, the URI(s) in the Location and Content-Location".
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let Some(uri) = answer.get(name).and_then(|value| self.located(key, value)) else { continue };
            if let Some(other) = self.key_at(key, &uri) {
                self.invalidate_resource(&other);
            }
        }
    }

    /// Whether an answer says that it is the current representation of the request's own target.
    pub(crate) fn is_at_home(&self, key: &CacheKey, answer: &HeaderMap) -> bool {
        let named = answer.get(header::CONTENT_LOCATION).and_then(|value| self.located(key, value));
        named.and_then(|uri| self.key_at(key, &uri)).is_some_and(|home| home.resource() == key.resource())
    }

    fn located(&self, key: &CacheKey, value: &HeaderValue) -> Option<http::Uri> {
        content_location::same_origin(&Target::of(key.resource())?, value.to_str().ok()?)
    }

    /// The key of another resource of the same origin.
    fn key_at(&self, key: &CacheKey, uri: &http::Uri) -> Option<CacheKey> {
        let target = Target::of(key.resource())?;
        let scheme = std::str::from_utf8(target.scheme).ok()?;
        let mut request = http::Request::new(());
        *request.uri_mut() = uri.clone();
        let ruling = self.rules.find(&RequestHead::of(&request));
        let rule = self.rules.rule(&ruling);
        let mut other = KeyBuilder::new();
        other.target(scheme, target.authority, uri, self.key_parts(rule)).ok()?;
        other.finish().ok()
    }

    /// Voids a resource and forgets what lies under its key.
    pub(crate) fn invalidate_resource(&self, key: &CacheKey) {
        let told = self.take_back(&Invalidation::new(InvalidationScope::Resource(key.resource().into()), false));
        self.finish(told);
        self.forget(key);
    }

    /// Voids entries here and now; the answer says whether other processes will hear of it.
    pub(crate) fn take_back(&self, what: &Invalidation) -> MaybeReady<Result<(), Error>> {
        engine_parts::invalidate(&*self.store, &self.barriers, what)
    }

    /// Removes a key. The barrier has voided what lies there: this only frees its place.
    pub(crate) fn forget(&self, key: &CacheKey) {
        self.finish(self.store.remove(key));
    }

    /// Does what is left to do in the background.
    fn finish(&self, answer: MaybeReady<Result<(), Error>>) {
        match answer {
            MaybeReady::Ready(Ok(())) => {}
            MaybeReady::Ready(Err(error)) => self.store_failed(&error),
            MaybeReady::Pending(rest) => {
                let events = self.events.clone();
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        if let Err(error) = rest.await {
                            crate::cache::engine::engine_parts::emit_store_error(&events, &error);
                        }
                    });
                }
            }
        }
    }
}
