//! reqwest: the client as a tower service of `http` requests, behind a gate that keeps its quota.

use http::{Request, Response};
use reqwest::{Body, Client};
use tollgate::UpstreamGate;
use tollgate::upstream::Error;
use tower::{Layer, Service, service_fn};

/// `Request::get("https://api.example.com/…").body(Body::default())`, then `.oneshot(request)`.
pub fn kept(
    client: Client,
    gate: &UpstreamGate,
) -> impl Service<Request<Body>, Response = Response<tollgate::Body<Body>>, Error = Error<reqwest::Error>> + Clone {
    gate.layer().layer(service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move { client.execute(request.try_into()?).await.map(Response::from) }
    }))
}
