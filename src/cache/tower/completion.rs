//! Completion of a stored beginning: requests the rest, and falls back to a plain request.
//!
//! The plain request needs an empty body, since that of the client was sent with the first. Where none can be made, a
//! beginning is not completed: the request goes to the service whole.

use std::sync::Arc;

use http::{Request, Response, StatusCode};

use super::origin::Origin;
use super::partial;
use crate::base::body::Body;
use crate::cache::engine::record::Entry;
use crate::cache::http::range;

/// Response to a request for the rest of an entry.
pub(super) enum RestResponse<T> {
    /// The rest, to be joined to the entry.
    Rest(T),
    /// The response to a plain request, or a whole one in place of the rest.
    Whole(T),
}

/// Requests the rest of the entry. Anything but the matching rest, or a whole representation, is replaced by the response to
/// one plain request.
pub(super) async fn fetch_rest<O: Origin<B>, B: Send + 'static>(
    origin: O,
    mut plain: Request<B>,
    empty_body: fn() -> B,
    entry: Arc<Entry>,
) -> RestResponse<Result<Response<Body<O::Body>>, O::Error>> {
    let (head, body) = plain.into_parts();
    let mut rest = Request::from_parts(head.clone(), body);
    range::request_rest(rest.headers_mut(), &entry.meta.headers, entry.length);
    plain = Request::from_parts(head, empty_body());
    match origin.clone().fetch(rest).await {
        Ok(response) if partial::is_rest_of(&entry, &response) => RestResponse::Rest(Ok(response)),
        Ok(response) if response.status() == StatusCode::OK => RestResponse::Whole(Ok(response)),
        _ => RestResponse::Whole(origin.fetch(plain).await),
    }
}
