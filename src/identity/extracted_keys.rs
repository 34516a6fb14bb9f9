//! [`ExtractedKeys`]: the keys that were extracted from one request.
//!
//! Extractors are code of users: a closure may parse a token or ask a session store. The layers of a gate share what it
//! returned, so that it runs once a request. What is kept, and what is not:
//!
//! | extractor | kept |
//! |---|---|
//! | a closure, or a type of a user, that returned a key | the key |
//! | the same, that returned nothing | nothing: it is asked again |
//! | [`by::resolve`](crate::identity::by::resolve), while its future is pending | the future |
//! | [`by::verify`](crate::identity::by::verify) | as `by::resolve`, with the value it found |
//! | both, once the future has ended, was late or panicked | the key, or that there is none |
//! | extractors of this crate that only read a field or an extension | nothing |
//!
//! The keys of a request live in its own call of a gate, and are passed from layer to layer as an argument: another request
//! cannot find them. Extractors are identified by their place in the gate's own tree of extractors. Those that a user's code
//! makes and drops while it extracts are not part of that tree, and their keys are not kept.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Extensions;

use super::key::Key;
use crate::base::maybe_ready::BoxFuture;

/// Code of the warning that an identity was not resolved.
pub(crate) const UNRESOLVED: &str = "unresolved-identity";
/// Text of that warning.
pub(crate) const UNRESOLVED_TEXT: &str = "an identity was not resolved before its deadline, or its by::resolve(…) or by::verify(…) failed: such \
     requests are counted by the next alternative and bypass the cache. Raise .deadline(…), or make the look-up faster";

/// Keys extracted from one request. Empty ones allocate nothing, and neither does a single short key.
#[derive(Default)]
#[expect(unnameable_types, reason = "an argument of hidden methods, which only this crate calls")]
pub struct ExtractedKeys {
    pub(crate) first: Option<ExtractedKey>,
    pub(crate) is_pending: bool,
    pub(crate) has_failed: bool,
}

/// Key that one extractor returned. Nearly all requests have at most one.
pub(crate) struct ExtractedKey {
    id: ExtractorId,
    extraction: Extraction,
    next: Option<Box<ExtractedKey>>,
}

/// Place of an extractor in a gate's tree of extractors, which neither moves nor ends before its requests. Its type tells it
/// apart from the extractor that contains it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct ExtractorId(usize, TypeId);

impl ExtractorId {
    fn of<E: ?Sized + 'static>(extractor: &E) -> Self {
        Self(std::ptr::from_ref(extractor).cast::<()>().addr(), TypeId::of::<E>())
    }
}

enum Extraction {
    Key(Key<'static>),
    /// A verified identity, which is left in the request's extensions.
    Found(Box<FoundIdentity>),
    Pending(BoxFuture<Resolution>),
    /// The future ended without a key.
    Unresolved,
}

/// Identity that a verification found.
#[derive(Clone)]
pub(super) struct FoundIdentity {
    pub(super) key: Key<'static>,
    /// Inserts the value into the request's extensions.
    pub(super) leave: Arc<dyn Fn(&mut Extensions) + Send + Sync>,
}

/// Result of a pending extraction.
pub(super) enum Resolution {
    Key(Key<'static>),
    Found(FoundIdentity),
    Nothing,
    /// It was late, or panicked.
    Failed,
}

impl From<Key<'static>> for Resolution {
    fn from(key: Key<'static>) -> Self {
        Self::Key(key)
    }
}

impl From<FoundIdentity> for Resolution {
    fn from(found: FoundIdentity) -> Self {
        Self::Found(found)
    }
}

impl ExtractedKeys {
    /// Returns what is known of this extractor's key: `None` if nothing is.
    pub(super) fn known<E: ?Sized + 'static>(&self, extractor: &E) -> Option<Option<Key<'static>>> {
        let id = ExtractorId::of(extractor);
        let mut entry = self.first.as_ref()?;
        while entry.id != id {
            entry = entry.next.as_deref()?;
        }
        Some(match &entry.extraction {
            Extraction::Key(key) => Some(key.clone()),
            Extraction::Found(found) => Some(found.key.clone()),
            Extraction::Pending(_) | Extraction::Unresolved => None,
        })
    }

    /// Keeps the key of this extractor.
    pub(super) fn insert<E: ?Sized + 'static>(&mut self, extractor: &E, key: Key<'static>) {
        self.push(extractor, Extraction::Key(key));
    }

    /// Keeps the verified identity of this extractor.
    pub(super) fn insert_found<E: ?Sized + 'static>(&mut self, extractor: &E, found: FoundIdentity) {
        self.push(extractor, Extraction::Found(Box::new(found)));
    }

    /// Inserts what was verified into the request's extensions.
    pub(crate) fn leave(&self, extensions: &mut Extensions) {
        let mut next = self.first.as_ref();
        while let Some(entry) = next {
            if let Extraction::Found(found) = &entry.extraction {
                (found.leave)(extensions);
            }
            next = entry.next.as_deref();
        }
    }

    fn push<E: ?Sized + 'static>(&mut self, extractor: &E, extraction: Extraction) {
        let next = self.first.take().map(Box::new);
        self.first = Some(ExtractedKey { id: ExtractorId::of(extractor), extraction, next });
    }

    /// Keeps the future of this extractor's key.
    pub(super) fn wait_for<E: ?Sized + 'static>(&mut self, extractor: &E, key: BoxFuture<Resolution>) {
        self.push(extractor, Extraction::Pending(key));
        self.is_pending = true;
    }

    /// Whether a key that was asked for is pending: a decision made without it is void.
    #[inline]
    pub(crate) const fn is_pending(&self) -> bool {
        self.is_pending
    }

    /// Polls the pending keys until all are known.
    pub(crate) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut is_pending = false;
        let mut next = self.first.as_mut();
        while let Some(entry) = next {
            if let Extraction::Pending(key) = &mut entry.extraction {
                match key.as_mut().poll(cx) {
                    Poll::Pending => is_pending = true,
                    Poll::Ready(Resolution::Key(key)) => entry.extraction = Extraction::Key(key.keep()),
                    Poll::Ready(Resolution::Found(found)) => entry.extraction = Extraction::Found(Box::new(found)),
                    Poll::Ready(Resolution::Nothing) => entry.extraction = Extraction::Unresolved,
                    Poll::Ready(Resolution::Failed) => {
                        entry.extraction = Extraction::Unresolved;
                        self.has_failed = true;
                    }
                }
            }
            next = entry.next.as_deref_mut();
        }
        self.is_pending = is_pending;
        if is_pending { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Whether a pending key was late or its extractor panicked.
    pub(crate) const fn has_failed(&self) -> bool {
        self.has_failed
    }
}

impl fmt::Debug for ExtractedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtractedKeys").field("pending", &self.is_pending).finish_non_exhaustive()
    }
}
