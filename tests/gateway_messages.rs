//! The gateway's duties towards messages that are ambiguous, malformed or cut off (RFC 9110, RFC 9112).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[path = "support/gateway.rs"]
mod support;

use support::{Origin, full, gateway, get, listener, raw};

/// RFC 9112 §3.2, RFC 9113 §8.3.1.
#[tokio::test]
async fn a_request_without_one_clear_host_is_400_and_asks_no_one() {
    let origin = Origin::new(|_| async {
        let mut response = Response::new(full("ok"));
        response.headers_mut().insert("cache-control", "max-age=60".parse().expect("a value"));
        response
    })
    .await;
    let gateway = gateway(origin.address, "--metrics /metrics").await;
    // It would be answered from the cache.
    assert!(raw(gateway, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.contains("200 OK"));
    assert_eq!(origin.calls(), 1);
    for fields in
        ["host: a\r\nhost: b\r\n", "host: a\r\nhost: a\r\n", "", "host: a b\r\n", "host: u@a\r\n", "host: a:x\r\n"]
    {
        for target in ["/", "/metrics", "http://a/"] {
            let answer = raw(gateway, &format!("GET {target} HTTP/1.1\r\n{fields}connection: close\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{target} {fields}: {answer}");
        }
    }
    assert_eq!(origin.calls(), 1);
    for (line, fields) in
        [("GET / HTTP/1.0", ""), ("GET / HTTP/1.1", "host: \r\n"), ("GET / HTTP/1.1", "host: A:80\r\n")]
    {
        let answer = raw(gateway, &format!("{line}\r\n{fields}connection: close\r\n\r\n")).await;
        assert!(answer.contains("200 OK"), "{line} {fields}: {answer}");
    }
}

/// RFC 9112 §6.3: "the Transfer-Encoding overrides the Content-Length".
#[tokio::test]
async fn a_chunked_body_is_not_cut_at_a_content_length() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
                          8\r\nall of i\r\n1\r\nt\r\n0\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let gateway = gateway(address, "").await;
    let (status, headers, body) = get(gateway, "/").await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"all of it"[..]));
    assert!(headers.get("content-length").is_none_or(|length| length == "9"), "{headers:?}");
    let answer = raw(gateway, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(answer.ends_with("all of it") || answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    assert!(!answer.contains("content-length: 3"), "{answer}");
}

/// RFC 9110 §15.5.1: the client's mistake, not the origin's.
#[tokio::test]
async fn a_malformed_chunked_request_is_400() {
    let origin = Origin::new(|request| async {
        use http_body_util::BodyExt;
        let body = http::Request::into_body(request).collect().await;
        Response::new(full(if body.is_ok() { "whole" } else { "broken" }))
    })
    .await;
    let gateway = gateway(origin.address, "").await;
    for body in ["zz\r\nhello\r\n0\r\n\r\n", "5\r\nhelloXX\r\n0\r\n\r\n", "-1\r\n\r\n", "ffffffffffffffffff\r\nx"] {
        let request =
            format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{body}");
        let mut stream = TcpStream::connect(gateway).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400"), "{body:?}: {answer}");
    }
}

/// An origin that answers the first request of a connection, and closes it when it reads the next.
async fn forgetful() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let (listener, address) = listener().await;
    let asked = Arc::<AtomicUsize>::default();
    let counter = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counter = counter.clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                for n in 0..2 {
                    if !matches!(stream.read(&mut head).await, Ok(1..)) {
                        return;
                    }
                    counter.fetch_add(1, Ordering::SeqCst);
                    if n == 0 {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                }
            });
        }
    });
    (address, asked)
}

/// RFC 9112 §9.3.1, RFC 9110 §9.2.2.
#[tokio::test]
async fn a_get_on_a_connection_that_closes_is_repeated_once_and_a_post_is_not() {
    let (address, asked) = forgetful().await;
    let gateway = gateway(address, "").await;
    for _ in 0..5 {
        assert_eq!(get(gateway, "/").await.0, StatusCode::OK);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 9, "four of five came on a connection that was closed");
    let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx";
    let answer = raw(gateway, post).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "it may have been executed: {answer}");

    // One that never answers is asked twice for a request.
    let (rude, address) = listener().await;
    let connections = Arc::<AtomicUsize>::default();
    let counter = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = rude.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    assert_eq!(get(support::gateway(address, "").await, "/").await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

/// RFC 9213 §3: caches behind this one may obey it too. Only the gateway's own field goes no further.
#[tokio::test]
async fn a_targeted_field_that_is_obeyed_is_forwarded() {
    let origin = Origin::new(|_| async {
        let mut response = Response::new(full("ok"));
        for (name, value) in [
            ("cache-control", "no-store"),
            ("cdn-cache-control", "max-age=60"),
            ("tollgate-cache-control", "max-age=120"),
        ] {
            response.headers_mut().insert(name, value.parse().expect("a value"));
        }
        response
    })
    .await;
    let gateway = gateway(origin.address, "--targeted-field CDN-Cache-Control").await;
    for _ in 0..2 {
        let (_, headers, _) = get(gateway, "/").await;
        assert_eq!(headers["cdn-cache-control"], "max-age=60");
        assert!(!headers.contains_key("tollgate-cache-control"), "{headers:?}");
    }
    assert_eq!(origin.calls(), 1, "and it is obeyed");
}

/// RFC 9110 §7.6.2: "If the received value is zero (0), the intermediary MUST NOT forward the request".
#[tokio::test]
async fn max_forwards_is_counted_down_and_ends_at_the_gateway() {
    let origin = Origin::new(|request| async move {
        let left = request.headers().get("max-forwards").map_or("none", |left| left.to_str().expect("text"));
        Response::new(full(format!("left: {left}")))
    })
    .await;
    let gateway = gateway(origin.address, "").await;
    let ask = async |line: &str, fields: &str| {
        raw(gateway, &format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}connection: close\r\n\r\n")).await
    };
    for (line, fields, expected) in
        [("OPTIONS /", "max-forwards: 0\r\n", "HTTP/1.1 204"), ("TRACE /", "max-forwards: 0\r\n", "HTTP/1.1 405")]
    {
        let answer = ask(line, fields).await;
        assert!(answer.starts_with(expected) && answer.contains("allow: GET"), "{line}: {answer}");
    }
    assert_eq!(origin.calls(), 0);
    for (line, fields, left) in [
        ("OPTIONS /", "max-forwards: 7\r\n", "left: 6"),
        ("OPTIONS /", "max-forwards: many\r\n", "left: many"),
        ("OPTIONS /", "", "left: none"),
        ("GET /", "max-forwards: 0\r\n", "left: 0"),
    ] {
        let answer = ask(line, fields).await;
        assert!(answer.contains(left), "{line} {fields}: {answer}");
    }
}

/// RFC 9110 §7.6.3: a proxy adds to `Via` and removes none of it.
#[tokio::test]
async fn via_keeps_what_others_wrote_also_if_it_is_not_text() {
    let origin = Origin::new(|request| async move {
        let lines: Vec<_> = request.headers().get_all("via").iter().map(|line| format!("{line:?}")).collect();
        Response::new(full(lines.join(" | ")))
    })
    .await;
    let gateway = gateway(origin.address, "").await;
    let answer =
        raw(gateway, "GET /a HTTP/1.1\r\nhost: a\r\nvia: 1.0 one\r\nvia: 1.1 two\r\nconnection: close\r\n\r\n").await;
    assert!(answer.contains("\"1.0 one, 1.1 two, 1.1 tollgate\""), "{answer}");
    let mut stream = TcpStream::connect(gateway).await.expect("connected");
    let request = b"GET /b HTTP/1.1\r\nhost: a\r\nvia: 1.0 \xff\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("read");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("1.0 \\xff") && answer.contains("1.1 tollgate"), "{answer}");
}
