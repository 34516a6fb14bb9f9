//! Credentials: whether a request carries one, and which identity it proves.
//!
//! | the rule | the request carries | profile `app` | profile `shared` |
//! |---|---|---|---|
//! | `same_for_everyone()` | anything | shared | shared |
//! | `per_identity()` | credentials that identify exactly one user | stored for that identity | stored for that identity |
//! | `per_identity()` | anything else | bypass | bypass |
//! | neither | no credential | shared | shared |
//! | neither | `Authorization`, a `Cookie` that is not ignorable, or a field read by an extractor | bypass | RFC 9111 §3.5 for `Authorization`; a `Cookie` is an ordinary field |
//!
//! A duplicate, malformed or rejected credential still counts as carried: the service may interpret it differently.

use std::sync::Arc;

use super::reason::Reason;
use super::request_flags::{self, RequestFlags};
use super::rule::Rule;
use super::settings::{CacheSettings, Profile};
use crate::base::request_head::RequestHead;
use crate::identity::{ExtractedKeys, Key, KeyExtractor, SharedExtractor};

/// Extractors of identities: the cache's first, then those of the gate's limits.
#[derive(Default)]
pub(crate) struct Credentials(Vec<SharedExtractor>);

impl Credentials {
    /// Creates a list without duplicates.
    pub(crate) fn new(extractors: impl IntoIterator<Item = SharedExtractor>) -> Self {
        let mut all: Vec<SharedExtractor> = Vec::new();
        for extractor in extractors {
            if !all.iter().any(|known| Arc::ptr_eq(known, &extractor)) {
                all.push(extractor);
            }
        }
        Self(all)
    }

    /// Whether there are no extractors.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the request carries a credential that an extractor reads.
    pub(crate) fn carried(&self, head: &RequestHead<'_>) -> bool {
        self.0.iter().any(|extractor| extractor.carries(head))
    }

    /// Returns the identity under which this request's responses are stored. It is that of the cache's own extractor,
    /// combined with the identity of each other credential carried. `None` if a carried credential yields no identity.
    fn identity<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        let (own, others) = self.0.split_first()?;
        let mut identity = own.credential(head, keys)?;
        for other in others.iter().filter(|other| other.carries(head)) {
            identity = identity.pair(other.credential(head, keys)?);
        }
        Some(identity)
    }
}

/// Scope within which a response may be shared.
#[derive(Debug)]
pub(crate) enum Sharing<'a> {
    /// All requests for the same resource.
    Everyone,
    /// Requests with this identity.
    Identity(Key<'a>),
}

/// Returns the scope within which the response to this request may be shared.
///
/// # Errors
/// [`Reason::Authorization`], [`Reason::Cookie`] or [`Reason::Identity`] if it must not be shared.
pub(crate) fn sharing<'a>(
    credentials: &Credentials,
    head: &RequestHead<'a>,
    keys: &mut ExtractedKeys,
    flags: RequestFlags,
    settings: &CacheSettings,
    rule: &Rule,
) -> Result<Sharing<'a>, Reason> {
    if rule.same_for_everyone {
        return Ok(Sharing::Everyone);
    }
    if !rule.per_identity && settings.profile == Profile::Shared {
        return Ok(Sharing::Everyone);
    }
    if rule.per_identity && flags.has(RequestFlags::IDENTITY) {
        return credentials.identity(head, keys).map(Sharing::Identity).ok_or(Reason::Identity);
    }
    // Also under `per_identity()`: a session that the extractor does not read is not an anonymous request.
    if flags.has(RequestFlags::AUTHORIZATION) {
        return Err(Reason::Authorization);
    }
    if flags.has(RequestFlags::COOKIE)
        && !request_flags::cookies_are_ignorable(head.headers(), &settings.ignore_cookies)
    {
        return Err(Reason::Cookie);
    }
    if flags.has(RequestFlags::IDENTITY) || flags.has(RequestFlags::API_KEY) {
        return Err(Reason::Identity);
    }
    match rule.per_identity {
        true => credentials.identity(head, keys).map(Sharing::Identity).ok_or(Reason::Identity),
        false => Ok(Sharing::Everyone),
    }
}
