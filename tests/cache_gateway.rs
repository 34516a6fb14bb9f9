//! The gateway's cache between real clients and a scripted origin, over sockets: HTTP/1.1 kept alive and HTTP/2.
//!
//! The origin does what the request's `x-script` line tells it, so that each test writes both sides of a conversation.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

#[path = "../examples/gateway.rs"]
#[allow(dead_code, reason = "an example is a program of its own")]
mod example;

type OutBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// An origin that counts its calls; the body of a plain answer is the number of the call.
async fn origin() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, calls) = (listener.local_addr().expect("an address"), Arc::new(AtomicUsize::new(0)));
    let counter = calls.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counter = counter.clone();
            let service = hyper::service::service_fn(move |request| {
                let call = counter.fetch_add(1, Ordering::SeqCst);
                async move { answer(request, call).await }
            });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    (address, calls)
}

fn chunks(frames: Vec<Result<Frame<Bytes>, std::io::Error>>, pause: Duration) -> OutBody {
    let frames = futures_util::stream::unfold(frames.into_iter(), move |mut frames| async move {
        let frame = frames.next()?;
        tokio::time::sleep(pause).await;
        Some((frame, frames))
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

fn data(text: impl Into<Bytes>) -> Result<Frame<Bytes>, std::io::Error> {
    Ok(Frame::data(text.into()))
}

/// 400 000 bytes, of which no part is like another.
fn count(from: u32) -> Bytes {
    (from..from + 100_000).flat_map(u32::to_le_bytes).collect()
}

/// `x-script: <kind> [; field: value]…`
async fn answer(request: Request<Incoming>, call: usize) -> Result<Response<OutBody>, std::io::Error> {
    let script = request.headers().get("x-script").map_or("plain", |line| line.to_str().expect("text")).to_owned();
    let mut parts = script.split(';').map(str::trim);
    let kind = parts.next().unwrap_or("plain");
    let mut response = Response::builder();
    for field in parts {
        let (name, value) = field.split_once(": ").expect("a field");
        response = if name == "status" { response.status(value) } else { response.header(name, value) };
    }
    let tag = request.headers().get("if-none-match").cloned();
    if let Some(tag) = tag.filter(|_| kind == "validate") {
        let response = response.status(304).header("etag", tag);
        return Ok(response.body(chunks(Vec::new(), Duration::ZERO)).expect("a response"));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", http::HeaderValue::from_static("7"));
    let body = match kind {
        "hang" => std::future::pending().await,
        "close" => return Err(std::io::Error::other("closed")),
        "chunked" => chunks(vec![data("a"), data("b"), data(call.to_string())], Duration::from_millis(5)),
        "trailers" => chunks(vec![data(call.to_string()), Ok(Frame::trailers(trailers))], Duration::ZERO),
        "abort" => chunks(vec![data("half"), Err(std::io::Error::other("aborted"))], Duration::from_millis(20)),
        "count" => Full::new(count(call as u32)).map_err(|never: Infallible| match never {}).boxed_unsync(),
        "large" => chunks((0..64).map(|_| data(vec![b'x'; 64 << 10])).collect(), Duration::ZERO),
        _ => Full::new(Bytes::from(call.to_string())).map_err(|never: Infallible| match never {}).boxed_unsync(),
    };
    Ok(response.body(body).expect("a response"))
}

struct World {
    gate: tollgate::Tollgate,
    gateway: SocketAddr,
    calls: Arc<AtomicUsize>,
    client: Client<HttpConnector, Full<Bytes>>,
}

struct Got {
    status: u16,
    headers: HeaderMap,
    body: Result<Bytes, String>,
}

impl Got {
    fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().expect("a whole body")).expect("text")
    }

    fn line(&self) -> &str {
        self.headers["cache-status"].to_str().expect("text")
    }

    fn is_hit(&self) -> bool {
        self.line().contains("; hit")
    }
}

impl World {
    async fn new(http2: bool, arguments: &str) -> Self {
        let (upstream, calls) = origin().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let gateway = listener.local_addr().expect("an address");
        let line = format!("--upstream http://{upstream} --cache-status {arguments}");
        let flags = example::flags::Flags::parse(line.split_whitespace().map(str::to_owned));
        let flags = flags.expect("correct flags").expect("no help");
        let gate = example::gate(&flags).expect("a gate");
        let served = gate.clone();
        tokio::spawn(async move { example::run(listener, &flags, &served, std::future::pending()).await });
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
        Self { gateway, calls, client, gate }
    }

    async fn send(&self, method: &str, path: &str, script: &str, fields: &[(&str, &str)]) -> Got {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.gateway));
        request = request.header("x-script", script);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("a request");
        let (head, body) = self.client.request(request).await.expect("an answer").into_parts();
        let body = body.collect().await.map(|all| all.to_bytes()).map_err(|error| error.to_string());
        Got { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&self, path: &str, script: &str) -> Got {
        self.send("GET", path, script, &[]).await
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn the_gateway_caches_over_both_protocols() {
    for http2 in [false, true] {
        let world = World::new(http2, "--targeted-field CDN-Cache-Control").await;
        for script in [
            "plain; cache-control: max-age=60",
            "chunked; cache-control: s-maxage=60",
            "trailers; cache-control: max-age=60",
        ] {
            let path = format!("/{}", &script[..5]);
            let first = world.get(&path, script).await;
            let second = world.get(&path, script).await;
            assert!(!first.is_hit() && second.is_hit(), "{script}: {}", second.line());
            assert_eq!(first.text(), second.text());
            assert!(second.headers.contains_key("age") && second.headers.contains_key("date"));
        }
        let targeted = "plain; cdn-cache-control: max-age=60; cache-control: no-store";
        assert_eq!(world.get("/t", targeted).await.headers["cdn-cache-control"], "max-age=60");
        assert!(world.get("/t", targeted).await.is_hit());
        for refused in ["plain; cache-control: no-store", "plain; cache-control: private", "plain"] {
            world.get("/no", refused).await;
            assert!(!world.get("/no", refused).await.is_hit(), "{refused}");
        }
        let posted = world.send("POST", "/plain", "plain", &[]).await;
        assert_eq!(posted.status, 200);
        assert!(!world.get("/plain", "plain").await.is_hit(), "invalidated");
    }
}

#[tokio::test]
async fn validation_ranges_and_head_work_over_the_wire() {
    for http2 in [false, true] {
        let world = World::new(http2, "").await;
        let script = "validate; cache-control: max-age=0, stale-if-error=60; etag: \"v\"";
        let first = world.get("/v", script).await;
        let second = world.get("/v", script).await;
        assert_eq!(first.text(), second.text());
        assert!(second.line().contains("fwd=stale; fwd-status=304"), "{}", second.line());
        let not_modified = world.send("GET", "/v", script, &[("if-none-match", "\"v\"")]).await;
        assert_eq!((not_modified.status, not_modified.text()), (304, ""));
        let large = "large; cache-control: max-age=60; etag: \"l\"";
        assert_eq!(world.get("/r", "chunked; cache-control: max-age=60").await.text().len(), 3);
        let part = world.send("GET", "/r", "chunked", &[("range", "bytes=1-1")]).await;
        assert_eq!((part.status, part.text(), part.is_hit()), (206, "b", true));
        let head = world.send("HEAD", "/r", "chunked", &[]).await;
        assert_eq!((head.text(), head.headers["content-length"].to_str().expect("text")), ("", "3"));
        assert_eq!(world.get("/l", large).await.text().len(), 4 << 20, "beyond the bound it flows through");
        assert!(!world.get("/l", large).await.is_hit());
    }
}

/// The files without a name that this process holds open, and how many bytes each takes.
#[cfg(target_os = "linux")]
fn nameless() -> std::collections::HashMap<(u64, u64), u64> {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir("/proc/self/fd").expect("a folder").flatten();
    let files = files.filter_map(|file| std::fs::metadata(file.path()).ok()).filter(|file| file.nlink() == 0);
    files.map(|file| ((file.dev(), file.ino()), file.blocks() * 512)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_arrive_whole_whether_copied_or_sent_from_a_file() {
    let folder = format!("--mirror-in {}", std::env::temp_dir().display());
    for (http2, arguments) in
        [(false, ""), (false, "--mirror 300KiB"), (false, "--mirror 0"), (false, &*folder), (true, "")]
    {
        #[cfg(target_os = "linux")]
        let before = nameless();
        let world = World::new(http2, arguments).await;
        for version in 0..3 {
            let path = format!("/count/{version}");
            let (script, part) = ("count; cache-control: max-age=60", ("range", "bytes=4-399999"));
            let first = world.get(&path, script).await.body.expect("a whole body");
            assert_eq!(first, count(version));
            let hits = (0..12).map(|_| world.get(&path, script));
            for hit in futures_util::future::join_all(hits).await {
                assert!(hit.is_hit() && hit.body == Ok(first.clone()), "{}", hit.line());
            }
            let part = world.send("GET", &path, script, &[part]).await;
            assert_eq!((part.status, part.body), (206, Ok(first.slice(4..))));
        }
        #[cfg(target_os = "linux")]
        {
            let new: u64 =
                nameless().iter().filter(|(file, _)| !before.contains_key(file)).map(|(_, bytes)| bytes).sum();
            let expected = if http2 || arguments == "--mirror 0" { 0..256 << 10 } else { 100 << 10..u64::MAX };
            assert!(expected.contains(&new), "{arguments}: {new} bytes in files");
        }
    }
}

#[tokio::test]
async fn an_origin_that_fails_is_stood_in_for_or_told_of() {
    for http2 in [false, true] {
        let world = World::new(http2, "--upstream-timeout 1").await;
        for failure in ["close", "hang", "plain; status: 503"] {
            let path = format!("/{}", &failure[..5.min(failure.len())]);
            world.get(&path, "plain; cache-control: max-age=0, stale-if-error=60").await;
            let stale = world.get(&path, failure).await;
            assert_eq!(stale.status, 200, "{failure}: {}", stale.line());
            let strict = format!("{path}/strict");
            world.get(&strict, "plain; cache-control: max-age=0, must-revalidate; etag: \"a\"").await;
            assert!(world.get(&strict, failure).await.status >= 500, "{failure}");
        }
        let aborted = world.get("/abort", "abort; cache-control: max-age=60").await;
        assert!(aborted.body.is_err(), "never a clean end");
        assert!(!world.get("/abort", "plain").await.is_hit());
    }
}

#[tokio::test]
async fn thousands_of_requests_collapse_and_leave_nothing_stuck() {
    for http2 in [false, true] {
        let world = Arc::new(World::new(http2, "").await);
        let mut clients = Vec::new();
        for n in 0..2000 {
            let world = world.clone();
            clients.push(async move {
                let path = format!("/many/{}", n % 20);
                world.get(&path, "chunked; cache-control: max-age=60").await.text().len()
            });
        }
        let mut left = futures_util::stream::iter(clients);
        let mut running = futures_util::stream::FuturesUnordered::new();
        loop {
            use futures_util::StreamExt;
            while running.len() < 50
                && let Some(client) = left.next().await
            {
                running.push(client);
            }
            let Some(length) = running.next().await else { break };
            assert!(length >= 3);
        }
        assert_eq!(world.calls(), 20, "one fetch per key");
        let cache = serde_json::to_value(world.gate.stats()).expect("json").to_string();
        assert!(!cache.contains("\"fetches_in_flight\":1"), "{cache}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_folder_that_is_none_is_named() {
    let arguments = "--upstream http://origin --mirror-in /nowhere".split(' ').map(str::to_owned);
    let flags = example::flags::Flags::parse(arguments).expect("correct flags").expect("no help");
    let gate = example::gate(&flags).expect("a gate");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let error = example::run(listener, &flags, &gate, std::future::pending()).await.expect_err("no such folder");
    assert!(error.to_string().contains("--mirror-in") && error.to_string().contains("/nowhere"), "{error}");
}
