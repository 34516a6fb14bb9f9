//! Answers 400 to requests whose host is unclear (RFC 9112 §3.2, RFC 9113 §8.3.1).
//!
//! It is outside the gate: such a request is neither counted nor answered from the cache, where one of its hosts would
//! decide and the origin might read the other.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::TryFutureExt;
use futures_util::future::{self, MapOk, Ready, ready};
use http::header::{CONNECTION, HOST};
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{Either, Full};
use hyper::body::Body;
use tower::{Layer, Service};

use super::BoxError;

/// Checks the host of every request.
#[derive(Clone, Copy)]
pub(crate) struct HostCheck;

/// Service behind the check.
#[derive(Clone)]
pub(crate) struct WithHost<S>(S);

impl<S> Layer<S> for HostCheck {
    type Service = WithHost<S>;

    fn layer(&self, inner: S) -> WithHost<S> {
        WithHost(inner)
    }
}

/// Response of the check, or the service's own.
type Checked<B> = Response<Either<Full<Bytes>, B>>;

impl<S, Q, B> Service<Request<Q>> for WithHost<S>
where
    S: Service<Request<Q>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Checked<B>;
    type Error = Infallible;
    type Future =
        future::Either<Ready<Result<Checked<B>, Infallible>>, MapOk<S::Future, fn(Response<B>) -> Checked<B>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        if is_clear(&request) {
            return future::Either::Right(self.0.call(request).map_ok(|response| response.map(Either::Right)));
        }
        let mut response = Response::new(Either::Left(Full::from("exactly one valid Host is required\n")));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        if request.version() <= Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        future::Either::Left(ready(Ok(response)))
    }
}

/// Returns whether a request names one host.
fn is_clear<Q>(request: &Request<Q>) -> bool {
    let mut lines = request.headers().get_all(HOST).iter();
    match (lines.next(), lines.next(), request.version()) {
        (_, Some(_), _) => false,
        (Some(host), None, Version::HTTP_2) => {
            // RFC 9113 §8.3.1: `Host` must not differ from `:authority`.
            let named = request.uri().authority();
            is_valid(host) && named.is_none_or(|named| host.as_bytes().eq_ignore_ascii_case(named.as_str().as_bytes()))
        }
        (Some(host), None, _) => is_valid(host),
        // RFC 9112 §3.2: required in HTTP/1.1. HTTP/1.0 has none, HTTP/2 has `:authority`.
        (None, None, version) => version != Version::HTTP_11,
    }
}

/// RFC 9112 §3.2: `Host = uri-host [ ":" port ]`, which may be empty; no user information.
fn is_valid(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    host.is_empty() || !host.contains('@') && host.parse::<Authority>().is_ok_and(|authority| has_a_port(&authority))
}

fn has_a_port(authority: &Authority) -> bool {
    let after = authority.as_str().get(authority.host().len()..).unwrap_or_default();
    matches!(after, "" | ":") || authority.port_u16().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for (host, valid) in [
            ("example.com", true),
            ("example.com:8080", true),
            ("example.com:", true),
            ("127.0.0.1", true),
            ("[2001:db8::1]:80", true),
            ("", true),
            ("a b", false),
            ("a/b", false),
            ("user@example.com", false),
            ("example.com:99999", false),
            ("example.com:x", false),
            ("[2001:db8::1", false),
            ("http://example.com", false),
        ] {
            assert_eq!(is_valid(&HeaderValue::from_str(host).expect("a value")), valid, "{host}");
        }
    }
}
