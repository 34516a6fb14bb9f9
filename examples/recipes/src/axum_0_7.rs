//! axum 0.7: its `ConnectInfo` and `MatchedPath` are other types than those of axum 0.8, which the feature `axum` reads.
//! So name the extension that holds the client's address, and declare the routes.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, Path};
use axum::routing::get;
use tollgate::Tollgate;
use tollgate::identity::by;
use tollgate::limit::{Limit, Quota};

/// Serve it with `into_make_service_with_connect_info::<SocketAddr>()`, as with axum 0.8.
pub fn limited() -> Result<Router, tollgate::Error> {
    let gate = Tollgate::builder()
        .identify(by::peer_from(|peer: &ConnectInfo<SocketAddr>| Some(peer.0)))
        // In the syntax of axum 0.8: `/users/:name` is `/users/{name}`.
        .routes(["/users/{name}", "/users/me"])
        .limit(Limit::per_ip(Quota::per_minute(2)).on("/users/{name}"))
        .build()?;
    Ok(Router::new()
        .route("/users/:name", get(|Path(name): Path<String>| async move { name }))
        .route("/users/me", get(|| async { "me" }))
        .layer(gate.layer()))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Request, StatusCode};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn clients_and_routes_are_told_apart() {
        let app = limited().expect("a gate");
        for (ip, path, expected) in [
            ("192.0.2.1", "/users/ada", StatusCode::OK),
            ("192.0.2.1", "/users/grace", StatusCode::OK),
            ("192.0.2.1", "/users/ada", StatusCode::TOO_MANY_REQUESTS),
            ("192.0.2.1", "/users/me", StatusCode::OK),
            ("192.0.2.2", "/users/ada", StatusCode::OK),
        ] {
            let mut request = Request::get(path).header("host", "a").body(Body::empty()).expect("a request");
            request.extensions_mut().insert(ConnectInfo(SocketAddr::new(ip.parse().expect("an address"), 1)));
            let response = app.clone().oneshot(request).await.expect("infallible");
            assert_eq!(response.status(), expected, "{ip} {path}");
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            assert!(
                expected != StatusCode::OK || path.ends_with(std::str::from_utf8(&body).expect("text")),
                "{body:?}"
            );
        }
    }
}
