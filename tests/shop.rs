//! The example of a shop, over sockets: what its gate adds, and that the README's lines are those.
#![expect(clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test may fail; it measures")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sqlx::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tollgate::Tollgate;
use tollgate::identity::Key;

#[path = "../examples/shop/api.rs"]
mod api;
#[path = "../examples/shop/gate.rs"]
mod gate;

/// A shop of one's own, on a free port.
struct Shop {
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    gate: Tollgate,
    db: SqlitePool,
}

impl Shop {
    async fn start() -> Self {
        let db = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.expect("a database");
        for statement in api::SCHEMA {
            sqlx::query(statement).execute(&db).await.expect(statement);
        }
        let gate = gate::gate().expect("a gate");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let app = api::app(db.clone(), &gate).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, client: Client::builder(TokioExecutor::new()).build_http(), gate, db }
    }

    async fn send(&self, method: &str, path: &str, token: &str, body: &str) -> Response<Incoming> {
        let request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        let request =
            if token.is_empty() { request } else { request.header("authorization", format!("Bearer {token}")) };
        let request = request.header("content-type", "application/json").body(Full::from(body.to_owned()));
        self.client.request(request.expect("a request")).await.expect("an answer")
    }

    async fn text(&self, path: &str, token: &str) -> String {
        text(self.send("GET", path, token, "").await).await
    }

    /// Opens a websocket; returns the status if the handshake is refused.
    async fn socket(&self, token: &str) -> Result<Socket, u16> {
        let mut request = format!("ws://{}/ws", self.address).into_client_request().expect("a request");
        let token = format!("Bearer {token}").parse().expect("a field value");
        request.headers_mut().insert("authorization", token);
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("neither a socket nor an answer: {error}"),
        }
    }

    async fn login(&self, name: &str, password: &str) -> Response<Incoming> {
        self.send("POST", "/login", "", &format!(r#"{{"name":"{name}","password":"{password}"}}"#)).await
    }
}

async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn field<'a>(response: &'a Response<Incoming>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().expect("text"))
}

#[tokio::test]
async fn five_failed_logins_a_quarter_of_an_hour_per_address() {
    let shop = Shop::start().await;
    for _ in 0..5 {
        assert_eq!(shop.login("ada", "secret").await.status(), 200, "good logins are not counted");
        assert_eq!(shop.login("ada", "wrong").await.status(), 401);
    }
    let refused = shop.login("ada", "secret").await;
    let wait: u64 = field(&refused, "retry-after").parse().expect("seconds");
    assert_eq!(refused.status(), 429);
    assert!((890..=900).contains(&wait), "{wait}");
    assert_eq!(shop.send("GET", "/articles/1", "", "").await.status(), 200, "other routes are open");
}

#[tokio::test]
async fn two_exports_at_a_time_per_user_and_the_third_waits_two_seconds() {
    let shop = Shop::start().await;
    // More than sockets buffer, so that an export that is not read stays in progress.
    let large =
        "INSERT INTO articles SELECT 10 + value, hex(zeroblob(1 << 20)) FROM json_each('[1,2,3,4,5,6,7,8,9,10,11,12]')";
    sqlx::query(large).execute(&shop.db).await.expect("articles");
    let (ada, bob) = (text(shop.login("ada", "secret").await).await, text(shop.login("bob", "hidden").await).await);
    let export = |token: &str| {
        let token = token.to_owned();
        let shop = &shop;
        async move { shop.send("GET", "/export", &token, "").await }
    };
    let (first, second) = (export(&ada).await, export(&ada).await);
    assert_eq!([first.status(), second.status()], [200, 200]);
    assert_eq!(export(&bob).await.status(), 200, "another user's");
    // The third waits two seconds in vain.
    let since = tokio::time::Instant::now();
    let third = export(&ada).await;
    assert_eq!((third.status().as_u16(), field(&third, "retry-after")), (429, "2"));
    assert!(since.elapsed() >= Duration::from_millis(1_990), "{:?}", since.elapsed());
    // And another one, until the first has ended. Meanwhile the queue is full.
    let ends_first = async {
        while shop.gate.stats().concurrency[0].queued == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(export(&ada).await.status(), 429);
        assert!(text(first).await.starts_with("a lamp\na chair\n"));
    };
    let (fourth, ()) = tokio::join!(export(&ada), ends_first);
    assert_eq!(fourth.status(), 200);
}

#[tokio::test]
async fn an_article_is_cached_and_forgotten_when_it_is_written() {
    let shop = Shop::start().await;
    let token = text(shop.login("ada", "secret").await).await;
    assert_eq!(shop.text("/articles/1", "").await, "a lamp");
    let update = "UPDATE articles SET text = 'a sofa' WHERE id = 1";
    sqlx::query(update).execute(&shop.db).await.expect("an article");
    assert_eq!(shop.text("/articles/1", &token).await, "a lamp", "one copy for all, for a minute");
    assert_eq!(shop.send("PUT", "/articles/1", "", "a bed").await.status(), 401);
    assert_eq!(shop.text("/articles/1", "").await, "a lamp", "nothing was written");
    assert_eq!(shop.send("PUT", "/articles/1", &token, "a bed").await.status(), 200);
    assert_eq!(shop.text("/articles/1", "").await, "a bed");
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Sends a message, and returns the answer to it.
async fn say(socket: &mut Socket, text: &str) -> String {
    socket.send(Message::text(text)).await.expect("an open socket");
    let answer = socket.next().await.expect("an open socket").expect("an answer");
    answer.into_text().expect("text").to_string()
}

/// Sends messages until the answer is a refusal; returns the number before it, and its reference.
async fn say_until_refused(socket: &mut Socket) -> (usize, String) {
    for said in 0.. {
        if let Some(reference) = say(socket, "hello").await.strip_prefix("refused ") {
            return (said, reference.to_owned());
        }
    }
    unreachable!("a limit")
}

#[tokio::test]
async fn messages_of_a_websocket_are_counted_and_refused_ones_are_answered() {
    let shop = Shop::start().await;
    let (ada, bob) = (text(shop.login("ada", "secret").await).await, text(shop.login("bob", "hidden").await).await);
    assert_eq!(shop.socket("invented").await.expect_err("no user"), 401);
    let (mut first, mut second) =
        (shop.socket(&ada).await.expect("a socket"), shop.socket(&ada).await.expect("a socket"));
    // The two handshakes count too.
    let (said, reference) = say_until_refused(&mut first).await;
    assert_eq!(said, 58, "sixty a minute");
    let refusal = shop.gate.limits().refusal(&reference).expect("found by its reference");
    assert_eq!((refusal.route.as_str(), refusal.limits), ("/ws", vec!["messages".to_owned()]));
    let (said, other) = say_until_refused(&mut second).await;
    assert_eq!(said, 0, "both sockets are one user's");
    assert_ne!(reference, other);
    // The plan of the user is charged for messages as it is for requests.
    let response = shop.send("GET", "/me", &ada, "").await;
    assert_eq!(field(&response, "x-ratelimit-remaining"), (1_000 - 60 - 1).to_string());
    // The refused socket is still open.
    let ada = shop.gate.limits().subject(Key::number("user", 1)).route("/ws");
    assert_eq!(ada.refusals().len(), 2);
    ada.reset().await.expect("in this process");
    assert_eq!(say(&mut first, "and again").await, "and again");
    let mut bob = shop.socket(&bob).await.expect("a socket");
    assert_eq!(say_until_refused(&mut bob).await.0, 59, "another user's");
}

#[tokio::test]
async fn a_user_has_two_websockets_at_a_time_until_one_is_closed() {
    let shop = Shop::start().await;
    let ada = text(shop.login("ada", "secret").await).await;
    let in_progress = || shop.gate.stats().concurrency[1].in_progress;
    let (mut first, second) = (shop.socket(&ada).await.expect("a socket"), shop.socket(&ada).await.expect("a socket"));
    assert_eq!(say(&mut first, "open").await, "open");
    assert_eq!((shop.socket(&ada).await.expect_err("the third"), in_progress()), (429, 2));
    assert_eq!(say(&mut first, "still open").await, "still open");
    // One is closed, and the other lost without a word.
    first.close(None).await.expect("a farewell");
    drop(second);
    while in_progress() > 0 {
        tokio::task::yield_now().await;
    }
    let (_third, _fourth) = (shop.socket(&ada).await.expect("a socket"), shop.socket(&ada).await.expect("a socket"));
    assert_eq!(shop.socket(&ada).await.expect_err("the third"), 429);
}

#[tokio::test]
async fn plans_have_quotas_and_the_extractor_rejects_as_before() {
    let shop = Shop::start().await;
    for (name, password, plan, quota) in [("ada", "secret", "pro", "1000"), ("bob", "hidden", "free", "100")] {
        let token = text(shop.login(name, password).await).await;
        let response = shop.send("GET", "/me", &token, "").await;
        assert_eq!((field(&response, "x-ratelimit-limit"), response.status().as_u16()), (quota, 200));
        assert_eq!(text(response).await, plan);
    }
    let response = shop.send("GET", "/me", "invented", "").await;
    assert_eq!((field(&response, "x-ratelimit-limit"), response.status().as_u16()), ("20", 401));
}

#[test]
fn tollgate_adds_at_most_thirty_lines_and_the_readme_shows_them() {
    let code =
        |text: &'static str| text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    let gate: Vec<&str> = code(include_str!("../examples/shop/gate.rs")).collect();
    let of_tollgate = ["tollgate", "gate.", "limits", "Key::", "decision", "place", "extensions: "];
    let api = code(include_str!("../examples/shop/api.rs"));
    let api: Vec<&str> = api.filter(|line| of_tollgate.iter().any(|word| line.contains(word))).collect();
    assert!(gate.len() + api.len() <= 30, "{} and {} lines: {api:#?}", gate.len(), api.len());
    let readme = include_str!("../README.md");
    let situations = readme.split("## Three situations").nth(1).and_then(|rest| rest.split("\n## ").next());
    let lines: Vec<&str> =
        code(situations.expect("a section")).filter(|line| line.contains(".on(") || line.contains("article")).collect();
    for line in ["POST /login", "GET /export", "/articles/{id}", "article:{id}"] {
        let shown = lines.iter().find(|shown| shown.contains(line)).expect(line);
        let shown = shown.split("//").next().expect("code").trim().trim_end_matches(';');
        assert!(gate.iter().any(|line| line.contains(shown)), "{shown}");
    }
}
