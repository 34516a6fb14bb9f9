//! `Server-Timing` as a trailer on the wire: HTTP/1.1 over a real socket, as a client reads it.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate::timing::{TimingLayer, timed};

async fn asked(method: &str, fields: &str) -> String {
    let timing = TimingLayer::builder().server_timing(true).build().expect("a layer");
    let streaming = get(|| async {
        timed("rows", async {}).await;
        Body::from_stream(stream::iter(["one\n", "two\n"].map(Ok::<_, Infallible>)))
    });
    let app: Router = Router::new().route("/", streaming).layer(timing);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let request = format!("{method} / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n");
    client.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.to_lowercase()
}

#[tokio::test]
async fn a_client_that_takes_trailers_gets_one() {
    let answer = asked("GET", "te: trailers\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("\r\ntrailer: server-timing") && !head.contains("\r\nserver-timing:"), "{answer}");
    let (_, trailers) = body.split_once("\r\n0\r\n").expect("the last chunk");
    assert!(trailers.starts_with("server-timing: total;dur="), "{answer}");
    assert!(trailers.contains("db;dur=") && trailers.contains("\"1 query\""), "{answer}");
}

#[tokio::test]
async fn any_other_gets_the_field_in_the_head() {
    for (method, fields) in [("GET", ""), ("GET", "te: gzip\r\n"), ("HEAD", "te: trailers\r\n")] {
        let answer = asked(method, fields).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("\r\nserver-timing: total;dur=") && !head.contains("\r\ntrailer:"), "{answer}");
        assert!(!body.contains("server-timing"), "{answer}");
    }
}
