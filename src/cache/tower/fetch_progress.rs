//! [`FetchProgress`]: what the leader of a fetch publishes to its followers.

use std::sync::Arc;

use crate::cache::engine::record::{Entry, Stored};
use crate::cache::engine::tee::Tee;
use crate::cache::http::stored_head::StoredHead;

/// A response with a known head whose body is arriving.
#[derive(Clone)]
pub(super) struct StreamingResponse {
    pub(super) meta: Arc<StoredHead>,
    /// Fields it varies on, and their encoded values in the leader's request.
    pub(super) names: Arc<[http::HeaderName]>,
    pub(super) selection: Arc<[u8]>,
    pub(super) tee: Arc<Tee>,
}

/// Progress of a fetch.
#[derive(Clone)]
pub(super) enum FetchProgress {
    /// The head is known and the response is being stored.
    Streaming(StreamingResponse),
    /// The stored response was revalidated.
    Stored(Arc<Entry>),
    /// The response belongs to the leader's client only.
    NotShareable,
}

impl FetchProgress {
    /// Returns the progress of a fetch whose response another process has stored.
    pub(super) fn of(stored: Stored) -> Option<Self> {
        match stored {
            Stored::Entry(entry) => Some(Self::Stored(entry)),
            _ => None,
        }
    }
}
