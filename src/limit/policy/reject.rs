//! [`OnReject`]: the response to a rejected request.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

use super::decision::{Decision, LimitDecision};
use super::grpc;
use crate::base::request_head::RequestHead;

/// Builds the response to a rejected request.
///
/// The layer then adds `Retry-After` and the rate-limit fields, overwriting fields of the same name. It is
/// every closure `Fn(&RequestHead, &Decision) -> Response<Bytes>`, and [`Problem`]; sealed, so that a closure is the one way.
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
pub trait OnReject: sealed::Sealed + Send + Sync + 'static {
    /// Returns the response to a request that `decision` rejects.
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

/// The default rejection: problem details (RFC 9457), or a gRPC status.
///
/// | request | response |
/// |---|---|
/// | `content-type: application/grpc` | HTTP 200, `grpc-status: 8` (RESOURCE_EXHAUSTED) with `google.rpc.RetryInfo`; 14 at the per-node ceiling |
/// | other, rejected by a limit | 429, `application/problem+json` (RFC 9457) of type `quota-exceeded` with `violated-policies` |
/// | other, rejected by the per-node ceiling | 503, type `temporary-reduced-capacity` |
///
/// ```
/// use tollgate::limit::{Limit, Problem, Quota, RateLimitLayer};
///
/// let layer = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(20))).on_reject(Problem).build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Problem;

impl OnReject for Problem {
    fn reject(&self, head: &RequestHead<'_>, decision: &Decision) -> Response<Bytes> {
        if grpc::is_grpc(head.headers()) {
            let code = if decision.overloaded() { grpc::Code::Unavailable } else { grpc::Code::ResourceExhausted };
            return grpc::refusal(code, decision.retry_after().unwrap_or_default());
        }
        let mut response = Response::new(body(decision));
        *response.status_mut() = RejectReason::of(decision).status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

mod sealed {
    use super::{Bytes, Decision, Problem, RequestHead, Response};

    #[expect(unnameable_types, reason = "sealed: a response is made by a closure, or as problem details")]
    pub trait Sealed {}
    impl<F: Fn(&RequestHead<'_>, &Decision) -> Response<Bytes>> Sealed for F {}
    impl Sealed for Problem {}
}

/// Reason of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RejectReason {
    Quota,
    Capacity,
}

impl RejectReason {
    const fn of(decision: &Decision) -> Self {
        if decision.overloaded() { Self::Capacity } else { Self::Quota }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::Quota => StatusCode::TOO_MANY_REQUESTS,
            Self::Capacity => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the type from <https://iana.org/assignments/http-problem-types> and its registered title.
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

/// Returns the body; for a single limit it is prepared when the limit is built.
fn body(decision: &Decision) -> Bytes {
    let mut violated = decision.violated();
    match (violated.next(), violated.next()) {
        (Some(part), None) => part.problem().clone(),
        _ => problem(RejectReason::of(decision), decision.violated().map(LimitDecision::name)),
    }
}

/// Builds the problem details of draft-ietf-httpapi-ratelimit-headers §6. Limit names need no escaping.
pub(super) fn problem<'a>(reason: RejectReason, violated: impl Iterator<Item = &'a str>) -> Bytes {
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
                (RejectReason::Quota, "quota-exceeded", 429),
                (RejectReason::Capacity, "temporary-reduced-capacity", 503),
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
