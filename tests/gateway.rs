//! The gateway example between real clients and real origins, over sockets.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

#[path = "support/gateway.rs"]
mod support;

use support::example::flags::Flags;
use support::{Origin, OutBody, example, full, gateway, get, listener, raw, send};

/// Answers with the request as it arrived: its first line, its fields, its body.
async fn mirror(request: Request<Incoming>) -> Response<OutBody> {
    let (head, body) = request.into_parts();
    let mut seen = format!("{} {} {:?}\n", head.method, head.uri, head.version);
    for (name, value) in &head.headers {
        seen += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let body = body.collect().await.expect("a body").to_bytes();
    Response::new(full([seen.as_bytes(), b"\n", &body[..]].concat()))
}

#[tokio::test]
async fn every_method_passes_with_its_query_and_body_over_both_protocols() {
    let origin = Origin::new(mirror).await;
    let gateway = gateway(origin.address, "").await;
    for http2 in [false, true] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"] {
            let url = format!("http://{gateway}/a%2Fb?x=1&y=%20");
            let body = if method == "TRACE" { "" } else { "over" };
            let request = Request::builder().method(method).uri(url).body(Full::<Bytes>::from(body));
            let (status, _, seen) = send(request.expect("a request"), http2).await;
            let seen = String::from_utf8_lossy(&seen).into_owned();
            assert_eq!(status, StatusCode::OK);
            assert!(seen.starts_with(&format!("{method} /a%2Fb?x=1&y=%20 HTTP/1.1\n")), "{seen}");
            assert!(seen.ends_with(&format!("\n\n{body}")), "{seen}");
        }
    }
    let request = Request::head(format!("http://{gateway}/")).body(Empty::new()).expect("a request");
    assert_eq!(send(request, false).await.2, "");
    let options = raw(gateway, "OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(options.contains("OPTIONS * HTTP/1.1"), "{options}");
    let connect = raw(gateway, "CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\nconnection: close\r\n\r\n").await;
    assert!(connect.starts_with("HTTP/1.1 501"), "{connect}");
}

#[tokio::test]
async fn the_origin_sees_the_client_s_host_and_the_way_the_request_came() {
    let origin = Origin::new(mirror).await;
    let gateway = gateway(origin.address, "").await;
    let seen = raw(
        gateway,
        "GET / HTTP/1.1\r\nhost: shop.example\r\nx-forwarded-for: 192.0.2.1\r\nx-forwarded-for: 192.0.2.2\r\n\
         via: 1.0 fred\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(seen.contains("host: shop.example\n"), "{seen}");
    assert!(seen.contains("x-forwarded-for: 192.0.2.1, 192.0.2.2, 127.0.0.1\n"), "{seen}");
    assert!(seen.contains("via: 1.0 fred, 1.1 tollgate\n"), "{seen}");
    // RFC 9112 §3.2.2: the absolute form's authority wins.
    let seen =
        raw(gateway, "GET http://one.example/x HTTP/1.1\r\nhost: two.example\r\nconnection: close\r\n\r\n").await;
    assert!(seen.contains("host: one.example\n") && !seen.contains("two.example"), "{seen}");
    let request = Request::get(format!("http://{gateway}/")).body(Empty::<Bytes>::new()).expect("a request");
    let seen = String::from_utf8_lossy(&send(request, true).await.2).into_owned();
    assert!(seen.contains(&format!("host: {gateway}\n")) && seen.contains("via: 2 tollgate\n"), "{seen}");
}

#[tokio::test]
async fn fields_of_one_connection_go_no_further_in_either_direction() {
    let origin = Origin::new(|request: Request<Incoming>| async {
        let mut response = mirror(request).await;
        for (name, value) in [("connection", "x-mine"), ("x-mine", "1"), ("keep-alive", "timeout=5"), ("x-end", "1")] {
            response.headers_mut().insert(name, value.parse().expect("a value"));
        }
        response
    })
    .await;
    let gateway = gateway(origin.address, "").await;
    let answer = raw(
        gateway,
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, X-Secret\r\nx-secret: 1\r\nte: trailers\r\n\
         proxy-authorization: Basic eA==\r\nupgrade: websocket\r\nx-end: 2\r\n\r\n",
    )
    .await;
    let (head, seen) = answer.split_once("\r\n\r\n").expect("a head and a body");
    for gone in ["x-secret", "te:", "proxy-authorization", "upgrade"] {
        assert!(!seen.contains(gone), "{gone} in {seen}");
    }
    assert!(!head.contains("x-mine") && !head.contains("keep-alive"), "{head}");
    assert!(seen.contains("x-end: 2") && head.contains("x-end: 1") && head.contains("via: 1.1 tollgate"), "{answer}");
}

#[tokio::test]
async fn a_request_is_never_smuggled_inside_another() {
    let origin = Origin::new(mirror).await;
    let gateway = gateway(origin.address, "").await;
    let answer = raw(
        gateway,
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
         1c\r\nGET /smuggled HTTP/1.1\r\nx: y\r\n0\r\n\r\n",
    )
    .await;
    assert!(!answer.contains("\ncontent-length: 4\n"), "{answer}");
    assert!(origin.calls() <= 1);
}

#[tokio::test]
async fn a_response_streams_its_first_frame_before_the_last_is_there() {
    let go = Arc::new(Notify::new());
    let held = go.clone();
    let origin = Origin::new(move |_| {
        let held = held.clone();
        async move {
            let frames = stream::unfold(0, move |n| {
                let held = held.clone();
                async move {
                    match n {
                        0 => Some((Ok(Frame::data(Bytes::from_static(b"first"))), 1)),
                        1 => {
                            held.notified().await;
                            Some((Ok(Frame::data(Bytes::from_static(b"last"))), 2))
                        }
                        _ => None,
                    }
                }
            });
            Response::new(StreamBody::new(frames).boxed())
        }
    })
    .await;
    let gateway = gateway(origin.address, "").await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut body = client.get(format!("http://{gateway}/").parse().expect("a URL")).await.expect("a head").into_body();
    let first = body.frame().await.expect("a frame").expect("no error").into_data().expect("data");
    assert_eq!(first, "first");
    go.notify_one();
    assert_eq!(body.collect().await.expect("the rest").to_bytes(), "last");
}

#[tokio::test]
async fn a_request_body_reaches_the_origin_while_it_is_still_sent() {
    let (seen, mut arrived) = mpsc::unbounded_channel();
    let origin = Origin::new(move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                let _ = seen.send(frame.into_data().unwrap_or_default());
            }
            Response::new(full("done"))
        }
    })
    .await;
    let gateway = gateway(origin.address, "").await;
    let (chunks, source) = mpsc::unbounded_channel::<Bytes>();
    let frames = stream::unfold(source, |mut source| async {
        let chunk = source.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(chunk)), source))
    });
    let request = Request::post(format!("http://{gateway}/")).body(StreamBody::new(Box::pin(frames)));
    let sending = tokio::spawn(send(request.expect("a request"), false));
    for chunk in ["one", "two"] {
        chunks.send(Bytes::from_static(chunk.as_bytes())).expect("the client listens");
        assert_eq!(arrived.recv().await.expect("a chunk"), chunk);
    }
    drop(chunks);
    assert_eq!(sending.await.expect("the task ended").2, "done");
}

#[tokio::test]
async fn an_origin_that_cannot_be_asked_is_502_and_one_that_does_not_answer_504() {
    let (closed, anonymous) = listener().await;
    drop(closed);
    assert_eq!(get(gateway(anonymous, "").await, "/").await.0, StatusCode::BAD_GATEWAY);

    let (rude, address) = listener().await;
    tokio::spawn(async move { while rude.accept().await.is_ok() {} });
    assert_eq!(get(gateway(address, "").await, "/").await.0, StatusCode::BAD_GATEWAY);

    let hung = Origin::new(|_| std::future::pending()).await;
    let (status, headers, _) = get(gateway(hung.address, "--upstream-timeout 0.05").await, "/").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(headers["cache-control"], "no-store");
}

#[tokio::test]
async fn a_body_that_breaks_off_breaks_off_for_the_client_too() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.read(&mut [0; 1024]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.expect("written");
    });
    let gateway = gateway(address, "").await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let response = client.get(format!("http://{gateway}/").parse().expect("a URL")).await.expect("a head");
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn without_a_limit_there_is_none_and_with_one_it_counts_clients() {
    let origin = Origin::new(|_| async { Response::new(full("ok")) }).await;
    let open = gateway(origin.address, "").await;
    for _ in 0..30 {
        let (status, headers, _) = get(open, "/").await;
        assert_eq!(status, StatusCode::OK);
        assert!(!headers.contains_key("x-ratelimit-limit"));
    }
    let limited = gateway(origin.address, "--limit-per-ip 3/min --trust-proxy 127.0.0.0/8").await;
    let ask = |client: &'static str| {
        let request = Request::get(format!("http://{limited}/")).header("x-forwarded-for", client).body(Empty::new());
        send(request.expect("a request"), false)
    };
    for client in ["192.0.2.1", "192.0.2.2"] {
        for _ in 0..3 {
            assert_eq!(ask(client).await.0, StatusCode::OK);
        }
        let (status, headers, _) = ask(client).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(headers["x-ratelimit-limit"], "3");
    }
    assert_eq!(origin.calls(), 30 + 6);
}

#[tokio::test]
async fn a_client_that_nobody_vouches_for_cannot_choose_its_address() {
    let origin = Origin::new(|_| async { Response::new(full("ok")) }).await;
    let gateway = gateway(origin.address, "--limit-per-ip 2/min").await;
    let mut admitted = 0;
    for n in 0..5 {
        let request = Request::get(format!("http://{gateway}/")).header("x-forwarded-for", format!("192.0.2.{n}"));
        let (status, ..) = send(request.body(Empty::new()).expect("a request"), false).await;
        admitted += usize::from(status == StatusCode::OK);
    }
    assert_eq!(admitted, 2);
}

#[tokio::test]
async fn timing_is_told_when_asked_for() {
    let origin = Origin::new(|_| async { Response::new(full("ok")) }).await;
    let (_, headers, _) = get(gateway(origin.address, "--timing").await, "/").await;
    assert!(headers["server-timing"].to_str().expect("ASCII").starts_with("total;dur="));
    let (_, headers, _) = get(gateway(origin.address, "").await, "/").await;
    assert!(!headers.contains_key("server-timing"));
}

#[tokio::test]
async fn requests_in_flight_are_answered_when_the_gateway_ends() {
    let asked = Arc::new(Notify::new());
    let (seen, go) = (asked.clone(), Arc::new(Notify::new()));
    let held = go.clone();
    let origin = Origin::new(move |_| {
        let (seen, held) = (seen.clone(), held.clone());
        async move {
            seen.notify_one();
            held.notified().await;
            Response::new(full("late"))
        }
    })
    .await;
    let (listener, address) = listener().await;
    let end = Arc::new(Notify::new());
    let signal = end.clone();
    let flags = Flags::new(origin.address.to_string().parse().expect("an authority"));
    let gate = example::gate(&flags).expect("a gate");
    let running = tokio::spawn(async move { example::run(listener, &flags, &gate, signal.notified()).await });
    let client = tokio::spawn(async move { get(address, "/").await });
    asked.notified().await;
    end.notify_one();
    tokio::task::yield_now().await;
    go.notify_one();
    assert_eq!(client.await.expect("the task ended").2, "late");
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("ended").expect("no panic").expect("served");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_old_client_and_an_old_origin_are_understood() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nold").await;
        }
    });
    let gateway = gateway(address, "").await;
    let answer = raw(gateway, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("old"), "{answer}");
    let request = Request::get(format!("http://{gateway}/")).version(Version::HTTP_11).method(Method::GET);
    let (_, headers, body) = send(request.body(Empty::new()).expect("a request"), false).await;
    assert_eq!((&headers["via"], &body[..]), (&"1.0 tollgate".parse().expect("a value"), &b"old"[..]));
}

/// Answers with a number that counts up, and these fields.
async fn counting(fields: &'static [(&'static str, &'static str)]) -> Origin {
    let answers = Arc::new(AtomicUsize::new(0));
    Origin::new(move |_| {
        let n = answers.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut response = Response::new(full(n.to_string()));
            for (name, value) in fields {
                response.headers_mut().append(*name, value.parse().expect("a value"));
            }
            response
        }
    })
    .await
}

#[tokio::test]
async fn a_fresh_answer_is_kept_and_says_so() {
    let origin = counting(&[("cache-control", "max-age=60")]).await;
    let gateway = gateway(origin.address, "--cache-status").await;
    let (_, first, _) = get(gateway, "/a").await;
    let (status, second, body) = get(gateway, "/a").await;
    assert_eq!((status, &body[..], origin.calls()), (StatusCode::OK, &b"0"[..], 1));
    let said = |headers: &HeaderMap| headers["cache-status"].to_str().expect("ASCII").to_owned();
    assert!(said(&first).contains("fwd=uri-miss") && said(&first).contains("stored"), "{}", said(&first));
    assert!(said(&second).contains("hit") && second.contains_key("age"), "{second:?}");
    // Over HTTP/2, too: the same key.
    let request = Request::get(format!("http://{gateway}/a")).body(Empty::new()).expect("a request");
    assert_eq!(send(request, true).await.2, "0");
}

#[tokio::test]
async fn one_host_is_never_answered_with_another_s_page() {
    let origin = counting(&[("cache-control", "max-age=60")]).await;
    let gateway = gateway(origin.address, "").await;
    for (host, n) in [("one.example", "0"), ("two.example", "1"), ("one.example", "0")] {
        let answer = raw(gateway, &format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{n}")), "{answer}");
    }
}

/// How often the origin is asked where a gateway with these flags is asked twice.
async fn calls_of_two(origin: &Origin, arguments: &str) -> usize {
    let before = origin.calls();
    let gateway = gateway(origin.address, arguments).await;
    get(gateway, "/").await;
    get(gateway, "/").await;
    origin.calls() - before
}

#[tokio::test]
async fn a_targeted_field_is_obeyed_where_it_is_named() {
    let origin = counting(&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")]).await;
    for (arguments, calls) in [("", 2), ("--targeted-field CDN-Cache-Control", 1)] {
        assert_eq!(calls_of_two(&origin, arguments).await, calls, "{arguments}");
    }
}

#[tokio::test]
async fn the_profile_decides_what_is_kept() {
    let origin = counting(&[("cache-control", "public, max-age=60"), ("set-cookie", "a=b")]).await;
    for (arguments, calls) in [("--profile app", 2), ("--profile shared", 1)] {
        assert_eq!(calls_of_two(&origin, arguments).await, calls, "{arguments}");
    }
}

#[tokio::test]
async fn an_answer_over_the_bound_is_passed_on_and_not_kept() {
    let origin = Origin::new(|_| async {
        let mut response = Response::new(full(vec![b'x'; 4096]));
        response.headers_mut().insert("cache-control", "max-age=60".parse().expect("a value"));
        response
    })
    .await;
    let gateway = gateway(origin.address, "--memory 64KiB --max-entry 2KiB").await;
    for _ in 0..2 {
        assert_eq!(get(gateway, "/").await.2.len(), 4096);
    }
    assert_eq!(origin.calls(), 2);
}

#[test]
fn a_gateway_that_cannot_work_is_refused_before_it_listens() {
    for (arguments, named) in [
        ("--trust-proxy everybody", "everybody"),
        ("--trust-proxy 10.0.0.0/8 --forwarded-header x:y", "x:y"),
        ("--memory 1KiB --max-entry 2KiB", "2048"),
        ("--targeted-field x:y", "x:y"),
    ] {
        let line = format!("--upstream http://origin {arguments}");
        let flags = Flags::parse(line.split_whitespace().map(str::to_owned)).expect("flags").expect("no help");
        let error = example::gate(&flags).expect_err("refused").to_string();
        assert!(error.contains(named), "{arguments}: {error}");
    }
}
