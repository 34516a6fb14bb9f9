//! Whose request this is, as far as a cache must know: does it carry a credential, and which identity does that show.
//!
//! | the rule | the request carries | profile `app` | profile `shared` |
//! |---|---|---|---|
//! | `same_for_everyone()` | anything | shared | shared |
//! | `per_identity()` | credentials that show one identity | kept for that identity | kept for that identity |
//! | `per_identity()` | anything else | bypass | bypass |
//! | neither | no credential | shared | shared |
//! | neither | `Authorization`, a `Cookie` that is not ignorable, or what the layer identifies users by | bypass | as RFC 9111 §3.5 says of `Authorization`; a `Cookie` is a field like any other |
//!
//! A credential that is doubled, malformed or rejected is carried all the same: it may mean something to the service.

use std::sync::Arc;

use super::reason::Reason;
use super::request_flags::{self, RequestFlags};
use super::rules::Rule;
use super::settings::{CacheSettings, Profile};
use crate::base::request_head::RequestHead;
use crate::identity::{Key, KeyExtractor, SharedExtractor};

/// Every extractor that tells who sent a request: the cache's own first, then those of the gate's limits.
#[derive(Default)]
pub(crate) struct Credentials(Vec<SharedExtractor>);

impl Credentials {
    /// One list of these; an extractor that is named twice is asked once.
    pub(crate) fn new(extractors: impl IntoIterator<Item = SharedExtractor>) -> Self {
        let mut all: Vec<SharedExtractor> = Vec::new();
        for extractor in extractors {
            if !all.iter().any(|known| Arc::ptr_eq(known, &extractor)) {
                all.push(extractor);
            }
        }
        Self(all)
    }

    /// Whether there are any extractors.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the request carries a credential that any of them reads.
    pub(crate) fn carried(&self, head: &RequestHead<'_>) -> bool {
        self.0.iter().any(|extractor| extractor.carries(head))
    }

    /// The identity that keeps this request's answers apart: of the cache's own extractor, together with what every
    /// other
    /// one reads from a credential that is carried. Nothing where a credential is carried that shows no identity.
    fn identity<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        let (own, others) = self.0.split_first()?;
        let mut identity = own.credential(head)?;
        for other in others.iter().filter(|other| other.carries(head)) {
            identity = identity.pair(other.credential(head)?);
        }
        Some(identity)
    }
}

/// How far a request's answer may be shared.
#[derive(Debug)]
pub(crate) enum Sharing<'a> {
    /// With everyone who asks for the same.
    Everyone,
    /// With requests of this identity.
    Identity(Key<'a>),
}

/// With whom the answer to this request may be shared.
///
/// # Errors
/// [`Reason::Authorization`], [`Reason::Cookie`] or [`Reason::Identity`] where it may not.
pub(crate) fn sharing<'a>(
    credentials: &Credentials,
    head: &RequestHead<'a>,
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
        return credentials.identity(head).map(Sharing::Identity).ok_or(Reason::Identity);
    }
    // Under `per_identity()` too: a session that the extractor does not read is not an anonymous request.
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
        true => credentials.identity(head).map(Sharing::Identity).ok_or(Reason::Identity),
        false => Ok(Sharing::Everyone),
    }
}
