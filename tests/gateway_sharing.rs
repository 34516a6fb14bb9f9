//! Over sockets, through the example gateway, in both profiles: nobody gets another's answer, and nobody's is broken by
//! others.
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and bounds what hangs")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[path = "support/gateway.rs"]
mod support;

use support::{Origin, OutBody, full, gateway, get, raw, send};

/// Nothing here takes nearly as long; what hangs does.
const HANGS: Duration = Duration::from_secs(10);

fn profiles() -> impl Iterator<Item = &'static str> {
    ["--profile shared", "--profile app"].into_iter()
}

fn answer(fields: &[(&str, &str)], body: OutBody) -> Response<OutBody> {
    let mut builder = Response::builder();
    for (name, value) in fields {
        builder = if *name == ":status" { builder.status(*value) } else { builder.header(*name, *value) };
    }
    builder.body(body).expect("a response")
}

async fn ask(gateway: SocketAddr, path: &str, fields: &[(&str, &str)]) -> (StatusCode, Bytes) {
    let mut request = Request::get(format!("http://{gateway}{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let (status, _, body) = send(request.body(Empty::new()).expect("a request"), false).await;
    (status, body)
}

fn chunks(pieces: usize, size: usize) -> OutBody {
    let frames = stream::iter(0..pieces).then(move |_| async move {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Frame::data(Bytes::from(vec![7; size])))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

/// Sends a request and reads nothing.
async fn unread(gateway: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {gateway}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_body_holds_up_no_later_client() {
    for profile in profiles() {
        let origin = Origin::new(|request: Request<Incoming>| async move {
            if request.headers().contains_key("x-first") {
                let head = stream::iter([Ok(Frame::data(Bytes::from_static(b"0123456789")))]);
                let body = BodyExt::boxed(StreamBody::new(head.chain(stream::pending())));
                return answer(&[("cache-control", "max-age=3600"), ("content-length", "1000")], body);
            }
            answer(&[("cache-control", "max-age=3600")], full("whole"))
        })
        .await;
        let gateway = gateway(origin.address, profile).await;
        let leader = tokio::spawn(async move { ask(gateway, "/a", &[("x-first", "1")]).await });
        while origin.calls() == 0 {
            tokio::task::yield_now().await;
        }
        let began = Instant::now();
        // Whether they have read the beginning, or come later: an answer, or an end; then whole answers.
        let early = tokio::time::timeout(HANGS, ask(gateway, "/late", &[])).await.expect("no hang");
        assert_eq!(early.1, "whole");
        leader.abort();
        loop {
            let late = tokio::spawn(async move { ask(gateway, "/a", &[]).await });
            if let Ok(Ok((status, body))) = tokio::time::timeout(Duration::from_secs(2), late).await {
                assert_eq!((status, &body[..]), (StatusCode::OK, &b"whole"[..]));
                break;
            }
            assert!(began.elapsed() < HANGS, "{profile}: the URL hangs");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_truncate_no_one() {
    for profile in profiles() {
        let origin = Origin::new(|request: Request<Incoming>| async move {
            match request.uri().path() {
                "/small" => {
                    tokio::task::yield_now().await;
                    answer(&[("cache-control", "max-age=3600")], full(vec![7; 1000]))
                }
                _ => answer(&[("cache-control", "max-age=3600"), ("content-length", "1000000")], chunks(100, 10_000)),
            }
        })
        .await;
        let gateway = gateway(origin.address, &format!("{profile} --memory 2MiB --mirror 0")).await;
        let mut held = Vec::new();
        for n in 0..30 {
            held.push(unread(gateway, &format!("/large/{n}")).await);
        }
        while origin.calls() < 30 {
            tokio::task::yield_now().await;
        }
        for _ in 0..5 {
            let clients: Vec<_> = (0..10).map(|_| tokio::spawn(ask(gateway, "/small", &[]))).collect();
            for client in clients {
                assert_eq!(client.await.expect("an answer").1.len(), 1000);
            }
        }
        let clients: Vec<_> = (0..10).map(|_| tokio::spawn(ask(gateway, "/large/new", &[]))).collect();
        for client in clients {
            assert_eq!(client.await.expect("an answer").1.len(), 1_000_000);
        }
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunked_body_beyond_the_bound_reaches_all_who_ask_at_once() {
    for profile in profiles() {
        let origin = Origin::new(|_| async { answer(&[("cache-control", "max-age=3600")], chunks(190, 10_000)) }).await;
        let gateway = gateway(origin.address, profile).await;
        for round in 0..5 {
            let path: &'static str = format!("/{round}").leak();
            let clients: Vec<_> = (0..3).map(|_| tokio::spawn(ask(gateway, path, &[]))).collect();
            for client in clients {
                assert_eq!(client.await.expect("whole").1.len(), 1_900_000, "{profile}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_ranges_take_the_memory_of_one_object() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        statm.split(' ').nth(1).expect("a field").parse::<u64>().expect("a number") * 4096
    };
    let origin = Origin::new(|request: Request<Incoming>| async move {
        let range =
            request.headers()["range"].to_str().expect("text").strip_prefix("bytes=").expect("bytes").to_owned();
        let (from, to) = range.split_once('-').expect("a range");
        let (from, to): (usize, usize) = (from.parse().expect("a number"), to.parse().expect("a number"));
        let described = format!("bytes {from}-{to}/1000000");
        let fields =
            [(":status", "206"), ("cache-control", "max-age=60"), ("etag", "\"a\""), ("content-range", &*described)];
        answer(&fields, full(vec![1; to - from + 1]))
    })
    .await;
    let gateway = gateway(origin.address, "--profile shared --mirror 0").await;
    let before = resident();
    for n in 0..3_000_usize {
        let range = format!("bytes={}-{}", n * 250, n * 250 + 99_999);
        let (status, body) = ask(gateway, "/object", &[("range", &range)]).await;
        assert_eq!((status, body.len()), (StatusCode::PARTIAL_CONTENT, 100_000));
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes for an object of a million");
}

#[tokio::test]
async fn an_error_that_one_client_provoked_is_no_one_else_s() {
    for profile in profiles() {
        let origin = Origin::new(|request: Request<Incoming>| async move {
            let fields = request.headers();
            let accepted = fields.get("accept-encoding").is_some_and(|accepted| accepted == "identity;q=0");
            let status = match () {
                () if fields.contains_key("range") => "416",
                () if fields.contains_key("if-none-match") || fields.contains_key("if-match") => "412",
                () if fields.contains_key("expect") => "417",
                () if accepted => "406",
                () => return answer(&[("cache-control", "max-age=3600"), ("vary", "accept-encoding")], full("page")),
            };
            let fields = [(":status", status), ("cache-control", "public, max-age=3600"), ("vary", "accept-encoding")];
            answer(&fields, full("refused"))
        })
        .await;
        let gateway = gateway(origin.address, profile).await;
        for (n, (name, value)) in [
            ("range", "bytes=99-"),
            ("if-none-match", "\"x\""),
            ("if-match", "\"x\""),
            ("expect", "nothing"),
            ("accept-encoding", "identity;q=0"),
        ]
        .into_iter()
        .enumerate()
        {
            let path = format!("/{n}");
            ask(gateway, &path, &[(name, value)]).await;
            assert_eq!(get(gateway, &path).await.2, "page", "{profile} {name}");
        }
    }
}

#[tokio::test]
async fn a_private_answer_or_a_refused_login_is_not_shared() {
    for profile in profiles() {
        let origin = Origin::new(|request: Request<Incoming>| async move {
            let user = request.headers().get("x-user").map_or("nobody", |user| user.to_str().expect("text")).to_owned();
            let known = request.headers().contains_key("authorization");
            match request.uri().path() {
                "/account" if !known => answer(&[(":status", "401"), ("cache-control", "max-age=600")], full("who?")),
                "/account" => answer(&[("cache-control", "private")], full("welcome")),
                path => {
                    let list = ["\"\"", "\"a b\"", "\"open"][path[1..].parse::<usize>().expect("a number")];
                    answer(&[("cache-control", &format!("max-age=600, private={list}"))], full(user))
                }
            }
        })
        .await;
        let gateway = gateway(origin.address, profile).await;
        for path in ["/0", "/1", "/2"] {
            for user in ["alice", "bob"] {
                assert_eq!(ask(gateway, path, &[("x-user", user)]).await.1, user, "{profile} {path}");
            }
        }
        assert_eq!(ask(gateway, "/account", &[]).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(ask(gateway, "/account", &[("authorization", "Bearer a")]).await.1, "welcome");
    }
    // The profile of a service knows what an API key is, without being told.
    let origin = Origin::new(|request: Request<Incoming>| async move {
        let key = request.headers()["x-api-key"].to_str().expect("text").to_owned();
        answer(&[("cache-control", "max-age=600")], full(key))
    })
    .await;
    let gateway = gateway(origin.address, "--profile app").await;
    for key in ["alice", "bob"] {
        assert_eq!(ask(gateway, "/me", &[("x-api-key", key)]).await.1, key);
    }
}

/// RFC 9110 §7.6.1: a proxy removes what `Connection` names, after the cache has looked at it.
#[tokio::test]
async fn a_field_that_connection_names_decides_nothing_for_others() {
    for profile in profiles() {
        let origin = Origin::new(|request: Request<Incoming>| async move {
            let seen =
                |name| request.headers().get(name).map_or("none", |value| value.to_str().unwrap_or("odd")).to_owned();
            let body = format!("{} {} {}", seen("host"), seen("x-forwarded-proto"), seen("x-tenant"));
            answer(&[("cache-control", "max-age=600"), ("vary", "x-tenant")], full(body))
        })
        .await;
        let gateway = gateway(origin.address, profile).await;
        for (named, field) in
            [("host", ""), ("x-forwarded-proto", "x-forwarded-proto: https\r\n"), ("x-tenant", "x-tenant: acme\r\n")]
        {
            let ask = async |connection: &str| {
                let head =
                    format!("GET /{named} HTTP/1.1\r\nhost: victim.example\r\n{field}connection: {connection}\r\n\r\n");
                raw(gateway, &head).await
            };
            ask(&format!("close, {named}")).await;
            let answer = ask("close").await;
            assert!(answer.contains("victim.example"), "{profile} {named}: {answer}");
            for value in ["https", "acme"].into_iter().filter(|value| field.contains(value)) {
                assert!(answer.contains(value), "{profile} {named}: {answer}");
            }
        }
    }
}
