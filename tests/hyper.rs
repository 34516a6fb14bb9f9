//! The hyper example, over a real socket.
#![expect(clippy::expect_used, reason = "a test may fail")]

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

#[path = "../examples/hyper.rs"]
#[allow(dead_code, unreachable_pub, reason = "an example is a program of its own")]
mod example;

async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(example::serve(listener));
    format!("http://{address}/")
}

async fn get(url: &str, http2: bool) -> (StatusCode, HeaderMap, Bytes) {
    // A client of its own: a connection of its own.
    let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http::<Empty<Bytes>>();
    let request = Request::get(url).body(Empty::new()).expect("a request");
    let (head, body) = client.request(request).await.expect("an answer").into_parts();
    (head.status, head.headers, body.collect().await.expect("a body").to_bytes())
}

#[tokio::test]
async fn twenty_pass_over_any_connection_and_protocol_and_the_next_is_refused() {
    let url = start().await;
    for n in 1..=20 {
        let (status, headers, body) = get(&url, n % 2 == 0).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"hello from hyper\n"[..]));
        assert_eq!(headers["x-ratelimit-limit"], "20");
        assert_eq!(headers["x-ratelimit-remaining"], (20 - n).to_string());
        let timing = headers["server-timing"].to_str().expect("ASCII");
        assert!(timing.contains("total;dur=") && timing.contains("desc=\"1 query\""), "{timing}");
    }
    for http2 in [false, true] {
        let (status, headers, body) = get(&url, http2).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(
            (&headers["x-ratelimit-remaining"], &headers["content-type"]),
            (&"0".parse().expect("a value"), &"application/problem+json".parse().expect("a value"))
        );
        assert!(headers.contains_key("retry-after") && headers.contains_key("x-ratelimit-reset"));
        assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
    }
}
