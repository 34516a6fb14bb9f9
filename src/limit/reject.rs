//! [`OnReject`]: what a refused client is told.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

use super::{Decision, grpc};
use crate::head::RequestHead;

/// Builds the response to a refused request. The layer then adds `Retry-After` and the rate-limit fields itself,
/// overwriting fields of the same name.
///
/// Any closure `Fn(&RequestHead, &Decision) -> Response<Bytes>` is one.
///
/// ```
/// use bytes::Bytes;
/// use http::{Response, StatusCode};
/// use tollgate::limit::{Quota, RateLimitLayer};
///
/// let layer = RateLimitLayer::builder()
///     .limit(tollgate::limit::Limit::per_ip(Quota::per_minute(20)))
///     .on_reject(|_head: &tollgate::RequestHead<'_>, _decision: &tollgate::limit::Decision| {
///         let mut response = Response::new(Bytes::from_static(b"slow down"));
///         *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
///         response
///     })
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
pub trait OnReject: Send + Sync + 'static {
    /// The response for a request that `decision` refuses.
    fn reject(&self, head: &RequestHead<'_>, decision: &Decision) -> Response<Bytes>;
}

impl<F> OnReject for F
where
    F: Fn(&RequestHead<'_>, &Decision) -> Response<Bytes> + Send + Sync + 'static,
{
    fn reject(&self, head: &RequestHead<'_>, decision: &Decision) -> Response<Bytes> {
        self(head, decision)
    }
}

/// The refusal used unless another is given.
///
/// | the request | the response |
/// |---|---|
/// | `content-type: application/grpc` | HTTP 200, `grpc-status: 8` (RESOURCE_EXHAUSTED) with `google.rpc.RetryInfo`; 14 at the per-node ceiling |
/// | any other, a limit refused | 429, `application/problem+json` (RFC 9457) of type `quota-exceeded` with `violated-policies` |
/// | any other, the per-node ceiling refused | 503, type `temporary-reduced-capacity` |
#[derive(Clone, Copy, Debug, Default)]
pub struct Problem;

impl OnReject for Problem {
    fn reject(&self, head: &RequestHead<'_>, decision: &Decision) -> Response<Bytes> {
        if grpc::is_grpc(head.headers()) {
            let code = if decision.overloaded() { grpc::Code::Unavailable } else { grpc::Code::ResourceExhausted };
            return grpc::refusal(code, decision.retry_after().unwrap_or_default());
        }
        let mut response = Response::new(body(decision));
        *response.status_mut() = status(decision);
        response.headers_mut().reserve(8);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

const fn status(decision: &Decision) -> StatusCode {
    if decision.overloaded() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::TOO_MANY_REQUESTS }
}

/// Where the problem types are registered.
const REGISTRY: &str = "https://iana.org/assignments/http-problem-types#";

/// draft-ietf-httpapi-ratelimit-headers §6. Limit names were checked to need no escaping.
fn body(decision: &Decision) -> Bytes {
    let (kind, title) = if decision.overloaded() {
        ("temporary-reduced-capacity", "Request cannot be satisfied due to temporary server capacity constraints")
    } else {
        ("quota-exceeded", "Request cannot be satisfied as assigned quota has been exceeded")
    };
    let status = status(decision);
    let names: usize = decision.violated().map(|part| part.name().len() + 3).sum();
    // Exactly as long as it will be: the bytes are then taken over without another allocation.
    let fixed = "{'type':'','title':'','status':429,'violated-policies':[]}".len() + REGISTRY.len();
    let mut json = String::with_capacity(fixed + kind.len() + title.len() + names.saturating_sub(1));
    json.push_str("{\"type\":\"");
    json.push_str(REGISTRY);
    json.push_str(kind);
    json.push_str("\",\"title\":\"");
    json.push_str(title);
    json.push_str("\",\"status\":");
    json.push_str(status.as_str());
    json.push_str(",\"violated-policies\":[");
    for (i, part) in decision.violated().enumerate() {
        json.push_str(if i == 0 { "\"" } else { ",\"" });
        json.push_str(part.name());
        json.push('"');
    }
    json.push_str("]}");
    Bytes::from(json)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limit::decision::{Label, Term};
    use crate::limit::{Part, Quota, Verdict};

    #[test]
    fn the_body_is_exactly_as_long_as_was_reckoned() {
        let label = Label { rule: 0, tier: 0 };
        let verdict = Verdict::new(Some(Duration::from_secs(1)), 0, Duration::ZERO);
        let part =
            |name: &str| Part::new(name.into(), Term { label, quota: Quota::per_minute(1), verdict, enforced: true });
        for names in [&["a"][..], &["minute", "day"]] {
            for overloaded in [false, true] {
                let parts = names.iter().map(|name| part(name)).collect();
                let bytes = body(&Decision { parts, overloaded, degraded: false });
                let json: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
                assert_eq!(json["violated-policies"], serde_json::json!(names));
                let string = String::from_utf8(Vec::from(bytes)).expect("text");
                assert_eq!(string.capacity(), string.len());
            }
        }
    }
}
