//! Empty request bodies, for requests that the cache sends in place of a client's.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{Empty, Full};

/// Makes an empty body of some type.
pub(super) type EmptyBody = Arc<dyn Any + Send + Sync>;

/// Returns the function that makes an empty body of this type: the configured one, or that of a known type.
pub(super) fn empty_body<B: 'static>(configured: Option<&EmptyBody>) -> Option<fn() -> B> {
    let of = |make: &dyn Any| make.downcast_ref::<fn() -> B>().copied();
    let known = configured.and_then(|make| of(&**make));
    let known = known.or_else(|| of(&(Full::<Bytes>::default as fn() -> Full<Bytes>)));
    let known = known.or_else(|| of(&(Empty::<Bytes>::new as fn() -> Empty<Bytes>)));
    #[cfg(feature = "axum")]
    let known = known.or_else(|| of(&(axum::body::Body::empty as fn() -> axum::body::Body)));
    known
}
