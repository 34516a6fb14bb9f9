//! [`Rejection`]: a rejected request, and the response to it.
//!
//! | request | default response |
//! |---|---|
//! | `content-type: application/grpc` | HTTP 200, `grpc-status: 8` (RESOURCE_EXHAUSTED) with `google.rpc.RetryInfo`; 14 at the per-node ceiling |
//! | other, rejected by a limit | 429, `application/problem+json` (RFC 9457) of type `quota-exceeded` with `violated-policies` and `reference` |
//! | on the deny list, or banned | 403, type `about:blank`; gRPC: `grpc-status: 7` (PERMISSION_DENIED) |
//! | other, rejected by the per-node ceiling, or by a concurrency limit that all share | 503, type `temporary-reduced-capacity` |

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

use super::decision::{Decision, LimitDecision};
use super::grpc;
use crate::base::request_head::RequestHead;

/// Builds the response to a rejected request; `None` for the protocol's default.
pub(crate) type OnReject = Arc<dyn Fn(&Rejection<'_>) -> Option<Response<Bytes>> + Send + Sync>;

/// A rejected request, passed to [`on_reject`](crate::limit::RateLimitBuilder::on_reject).
///
/// ```
/// use bytes::Bytes;
/// use http::Response;
/// use tollgate::limit::{Limit, RateLimitLayer, Rejection};
///
/// fn page(rejection: &Rejection<'_>) -> Option<Response<Bytes>> {
///     let accepts = rejection.head().header("accept")?.to_str().ok()?;
///     let text = format!("Too many requests. Your reference is {}.", rejection.reference());
///     accepts.contains("text/html").then(|| Response::builder().status(429).body(text.into()).ok()).flatten()
/// }
/// let layer = RateLimitLayer::builder().limit(Limit::per_ip("20/min")).on_reject(page).build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Debug)]
pub struct Rejection<'a> {
    head: &'a RequestHead<'a>,
    route: &'a str,
    decision: &'a Decision,
}

impl<'a> Rejection<'a> {
    pub(crate) const fn new(head: &'a RequestHead<'a>, route: &'a str, decision: &'a Decision) -> Self {
        Self { head, route, decision }
    }

    /// Returns the head of the request.
    #[must_use]
    pub const fn head(&self) -> &'a RequestHead<'a> {
        self.head
    }

    /// Returns the matched route.
    #[must_use]
    pub const fn route(&self) -> &'a str {
        self.route
    }

    /// Returns the decision.
    #[must_use]
    pub const fn decision(&self) -> &'a Decision {
        self.decision
    }

    /// Returns the reference by which the decision is found again:
    /// see [`RateLimitLayer::refusal`](crate::limit::RateLimitLayer::refusal).
    #[must_use]
    pub fn reference(&self) -> &'a str {
        self.decision.reference().unwrap_or_default()
    }
}

/// Returns the default response to a rejected request.
pub(crate) fn default_response(head: &RequestHead<'_>, decision: &Decision) -> Response<Bytes> {
    if grpc::is_grpc(head.headers()) {
        let code = match RejectReason::of(decision) {
            _ if decision.is_busy() => grpc::Code::ResourceExhausted,
            RejectReason::Quota => grpc::Code::ResourceExhausted,
            RejectReason::Capacity => grpc::Code::Unavailable,
            RejectReason::Denied => grpc::Code::PermissionDenied,
        };
        return grpc::refusal(code, decision.retry_after().unwrap_or_default(), decision.reference());
    }
    let mut response = Response::new(body(decision));
    *response.status_mut() = RejectReason::of(decision).status();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// Reason of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RejectReason {
    Quota,
    Capacity,
    Denied,
}

impl RejectReason {
    const fn of(decision: &Decision) -> Self {
        match decision.overloaded() {
            _ if decision.denied() => Self::Denied,
            true => Self::Capacity,
            false => Self::Quota,
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::Quota => StatusCode::TOO_MANY_REQUESTS,
            Self::Capacity => StatusCode::SERVICE_UNAVAILABLE,
            Self::Denied => StatusCode::FORBIDDEN,
        }
    }

    /// Returns the type from <https://iana.org/assignments/http-problem-types> and its registered title; RFC 9457 §4.2.1 for a
    /// problem that its status describes.
    const fn problem_type(self) -> (&'static str, &'static str) {
        match self {
            Self::Quota => (
                "https://iana.org/assignments/http-problem-types#quota-exceeded",
                "Request cannot be satisfied as assigned quota has been exceeded",
            ),
            Self::Capacity => (
                "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
                "Request cannot be satisfied due to temporary server capacity constraints",
            ),
            Self::Denied => ("about:blank", "Forbidden"),
        }
    }
}

/// Returns the body; for a single limit all but its reference is prepared when the limit is built.
fn body(decision: &Decision) -> Bytes {
    let mut violated = decision.violated();
    let several;
    let start = match (violated.next(), violated.next()) {
        (Some(part), None) => part.problem(),
        _ => {
            several = problem(RejectReason::of(decision), decision.violated().map(LimitDecision::name));
            &several
        }
    };
    let reference = decision.reference().unwrap_or_default();
    Bytes::from([start, ",\"reference\":\"", reference, "\"}"].concat())
}

/// Builds the problem details of draft-ietf-httpapi-ratelimit-headers §6, but for the reference and the closing brace. Limit
/// names need no escaping.
pub(super) fn problem<'a>(reason: RejectReason, violated: impl Iterator<Item = &'a str>) -> String {
    let ((kind, title), status) = (reason.problem_type(), reason.status());
    let names: Vec<String> = violated.map(|name| format!("\"{name}\"")).collect();
    let names = names.join(",");
    format!(
        "{{\"type\":\"{kind}\",\"title\":\"{title}\",\
         \"status\":{},\"violated-policies\":[{names}]",
        status.as_u16()
    )
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
                let text = problem(reason, names.iter().copied()) + "}";
                let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(json["violated-policies"], serde_json::json!(names));
                assert_eq!(json["status"], status);
                assert!(json["type"].as_str().is_some_and(|named| named.ends_with(kind)));
            }
        }
    }
}
