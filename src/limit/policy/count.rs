//! [`Count`]: the outcomes that a limit counts.
//!
//! A request is charged when it is admitted, whatever will become of it, and the charge is refunded if its outcome does not
//! count. So no more than the limit of counted outcomes are ever admitted.
//!
//! | outcome | status that is judged |
//! |---|---|
//! | a response | its status |
//! | a gRPC response | `grpc-status` of its head or its trailers, as the status that google.rpc.Code names for it |
//! | an error of the inner service | 500 |
//! | a request or a gRPC body that is dropped, a panic | none: it stays counted |

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};

/// Selects the outcomes that a [`Limit`](crate::limit::Limit::count) counts.
///
/// ```
/// use http::StatusCode;
/// use tollgate::limit::{Count, Limit};
///
/// let logins = Limit::per_ip("5/15min").on("POST /login").count(Count::failures());
/// let guesses = Limit::per_ip("20/h").count(Count::status(|status| status == StatusCode::UNAUTHORIZED));
/// # let _ = (logins, guesses);
/// ```
#[derive(Clone)]
pub struct Count(Arc<dyn Fn(StatusCode) -> bool + Send + Sync>);

impl Count {
    /// Counts responses with a 4xx or 5xx status, gRPC responses with a status other than `OK`, and errors of the inner
    /// service.
    ///
    /// ```
    /// use tollgate::limit::{Count, Limit};
    ///
    /// let limit = Limit::per_ip("5/15min").on("POST /login").count(Count::failures());
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn failures() -> Self {
        Self::status(|status| status.as_u16() >= 400)
    }

    /// Counts everything but [`failures`](Self::failures).
    ///
    /// ```
    /// use tollgate::limit::{Count, Limit};
    ///
    /// let orders = Limit::per_user("10/day").on("POST /orders").count(Count::successes());
    /// # let _ = orders;
    /// ```
    #[must_use]
    pub fn successes() -> Self {
        Self::status(|status| status.as_u16() < 400)
    }

    /// Counts responses whose status `f` selects. A gRPC status is passed as the HTTP status that
    /// [google.rpc.Code](https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto) names for it, such as
    /// 401 for `UNAUTHENTICATED`.
    ///
    /// ```
    /// use http::StatusCode;
    /// use tollgate::limit::Count;
    ///
    /// let count = Count::status(|status| status == StatusCode::UNAUTHORIZED || status == StatusCode::NOT_FOUND);
    /// # let _ = count;
    /// ```
    #[must_use]
    pub fn status(f: impl Fn(StatusCode) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(f))
    }

    /// Whether an outcome counts.
    pub(crate) fn counts(&self, status: StatusCode) -> bool {
        (self.0)(status)
    }
}

impl fmt::Debug for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Count").finish_non_exhaustive()
    }
}

/// Returns the HTTP status for the `grpc-status` among these fields, head or trailers; `None` without one.
pub(crate) fn grpc_status(fields: &HeaderMap) -> Option<StatusCode> {
    let code = fields.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(2_u8);
    Some(match code {
        0 => StatusCode::OK,
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        16 => StatusCode::UNAUTHORIZED,
        7 => StatusCode::FORBIDDEN,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        8 => StatusCode::TOO_MANY_REQUESTS,
        1 => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        4 => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_successes_are_each_others_complement() {
        for (status, fails) in
            [(200, false), (204, false), (302, false), (400, true), (401, true), (499, true), (503, true)]
        {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(Count::failures().counts(status), fails, "{status}");
            assert_eq!(Count::successes().counts(status), !fails, "{status}");
        }
    }

    #[test]
    fn a_grpc_status_has_the_http_status_of_its_code() {
        for (value, status) in [("0", 200), ("16", 401), ("7", 403), ("13", 500), ("1", 499), ("99", 500), ("x", 500)] {
            let fields =
                HeaderMap::from_iter([("grpc-status".parse().expect("a name"), value.parse().expect("a value"))]);
            assert_eq!(grpc_status(&fields).map(|status| status.as_u16()), Some(status), "{value}");
        }
        assert_eq!(grpc_status(&HeaderMap::new()), None);
    }
}
