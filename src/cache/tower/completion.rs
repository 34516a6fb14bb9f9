//! Completion of a stored beginning: requests the rest, and falls back to a plain request.
//!
//! The plain request needs an empty body, since that of the client was sent with the first. Where none can be made, a
//! beginning is not completed: the request goes to the service whole.

use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::Either;
use http::{Request, Response, StatusCode};

use super::origin::Origin;
use super::partial;
use crate::base::body::Body;
use crate::cache::engine::record::Entry;
use crate::cache::http::range;

/// Stored beginning of a representation, and what makes the body of a plain request for the whole.
pub(super) struct Beginning<B> {
    pub(super) entry: Arc<Entry>,
    pub(super) empty_body: fn() -> B,
}

/// Result of a call of the inner service, whose responses have bodies around an `I`.
pub(super) enum Called<I, E> {
    /// The response to the request.
    AsAsked(Result<Response<Body<I>>, E>),
    /// The response to a plain request, or a whole one in place of the rest.
    Whole(Result<Response<Body<I>>, E>),
}

/// Calls the inner service; with a beginning, for the rest of it.
pub(super) fn call<O: Origin<B>, B: Send + 'static>(
    origin: O,
    request: Request<B>,
    beginning: Option<Beginning<B>>,
) -> impl Future<Output = Called<O::Body, O::Error>> + Send {
    match beginning {
        None => Either::Left(origin.fetch(request).map(Called::AsAsked)),
        Some(beginning) => Either::Right(Box::pin(fetch_rest(origin, request, beginning))),
    }
}

/// Requests the rest of the entry. Anything but the matching rest, or a whole representation, is replaced by the response to
/// one plain request.
async fn fetch_rest<O: Origin<B>, B: Send + 'static>(
    origin: O,
    request: Request<B>,
    Beginning { entry, empty_body }: Beginning<B>,
) -> Called<O::Body, O::Error> {
    let (head, body) = request.into_parts();
    let mut rest = Request::from_parts(head.clone(), body);
    range::request_rest(rest.headers_mut(), &entry.meta.headers, entry.length);
    match origin.clone().fetch(rest).await {
        Ok(response) if partial::is_rest_of(&entry, &response) => Called::AsAsked(Ok(response)),
        Ok(response) if response.status() == StatusCode::OK => Called::Whole(Ok(response)),
        _ => Called::Whole(origin.fetch(Request::from_parts(head, empty_body())).await),
    }
}
