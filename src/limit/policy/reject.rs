//! [`OnReject`]: the response to a refused request.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

use super::decision::{Decision, Part};
use super::grpc;
use crate::base::request_head::RequestHead;

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
        *response.status_mut() = RefusalReason::of(decision).status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// Reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalReason {
    Quota,
    Capacity,
}

impl RefusalReason {
    const fn of(decision: &Decision) -> Self {
        if decision.overloaded() { Self::Capacity } else { Self::Quota }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::Quota => StatusCode::TOO_MANY_REQUESTS,
            Self::Capacity => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// <https://iana.org/assignments/http-problem-types>, and the title registered there.
    const fn problem_type(self) -> (&'static str, &'static str) {
        match self {
            Self::Quota => ("quota-exceeded", "Request cannot be satisfied as assigned quota has been exceeded"),
            Self::Capacity => (
                "temporary-reduced-capacity",
                "Request cannot be satisfied due to temporary server capacity constraints",
            ),
        }
    }
}

/// The body of almost every refusal is prepared when the limit is built.
fn body(decision: &Decision) -> Bytes {
    let mut violated = decision.violated();
    match (violated.next(), violated.next()) {
        (Some(part), None) => part.problem().clone(),
        _ => problem(RefusalReason::of(decision), decision.violated().map(Part::name)),
    }
}

/// draft-ietf-httpapi-ratelimit-headers §6. Limit names were checked to need no escaping.
pub(crate) fn problem<'a>(reason: RefusalReason, violated: impl Iterator<Item = &'a str>) -> Bytes {
    let ((kind, title), status) = (reason.problem_type(), reason.status());
    let names: Vec<String> = violated.map(|name| format!("\"{name}\"")).collect();
    let names = names.join(",");
    Bytes::from(format!(
        "{{\"type\":\"https://iana.org/assignments/http-problem-types#{kind}\",\"title\":\"{title}\",\
         \"status\":{},\"violated-policies\":[{names}]}}",
        status.as_u16()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_type_and_every_violated_policy() {
        for names in [&["a"][..], &["minute", "day"]] {
            for (reason, kind, status) in [
                (RefusalReason::Quota, "quota-exceeded", 429),
                (RefusalReason::Capacity, "temporary-reduced-capacity", 503),
            ] {
                let bytes = problem(reason, names.iter().copied());
                let json: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
                assert_eq!(json["violated-policies"], serde_json::json!(names));
                assert_eq!(json["status"], status);
                assert!(json["type"].as_str().is_some_and(|named| named.ends_with(kind)));
            }
        }
    }
}
