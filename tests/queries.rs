//! Queries of any driver: what is counted for a request, what is found in it, and what is said about it.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/exposition.rs"]
mod exposition;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use exposition::Exposition;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tollgate::timing::{
    FindingKind, Repeats, TimingBuilder, TimingLayer, timed, timed_acquire, timed_query, timed_upstream,
};
use tollgate::{Clock, Event, ManualClock};
use tower::{Layer, ServiceExt, service_fn};

type Answer = Result<Response<Full<Bytes>>, Infallible>;

const USER: &str = "SELECT name FROM users WHERE id = $1";

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A layer under a clock; what it reports, in words.
struct World {
    hand: ManualClock,
    timing: TimingLayer,
    said: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new(set_up: impl FnOnce(TimingBuilder) -> TimingBuilder) -> Self {
        let (hand, said) = (ManualClock::new(), Arc::new(Mutex::new(Vec::new())));
        let sink = said.clone();
        let builder = TimingLayer::builder().clock(Clock::Manual(hand.clone())).routes(["/users", "/feed"]);
        let builder = builder.hook(move |event: &Event<'_>| sink.lock().expect("not poisoned").push(words(event)));
        Self { timing: set_up(builder).build().expect("a layer"), hand, said }
    }

    /// A request whose handler is `work`, on the route `/users`.
    async fn asks<F: Future<Output = ()>>(&self, work: impl Fn(ManualClock) -> F + Clone) {
        self.asks_on("/users", work).await;
    }

    async fn asks_on<F: Future<Output = ()>>(&self, path: &str, work: impl Fn(ManualClock) -> F + Clone) {
        let hand = self.hand.clone();
        let inner = service_fn(move |_: Request<()>| {
            let work = work(hand.clone());
            async move {
                work.await;
                Answer::Ok(Response::new(Full::from("ok")))
            }
        });
        let request = Request::get(path).body(()).expect("a request");
        self.timing.layer(inner).oneshot(request).await.expect("an answer");
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut self.said.lock().expect("not poisoned"))
    }
}

fn words(event: &Event<'_>) -> String {
    match event {
        Event::SlowQuery { route, query, took, at } => format!("slow {route} {query} {took:?} {}", at.is_some()),
        Event::NPlusOne { route, query, count, total, .. } => format!("n+1 {route} {query} {count} {total:?}"),
        Event::UnbatchedWrites { route, query, count, .. } => format!("writes {route} {query} {count}"),
        Event::DuplicateQueries { route, query, count, .. } => format!("duplicate {route} {query} {count}"),
        Event::PoolStarvation { route, waits, waited } => format!("starved {route} {waits} {waited:?}"),
        Event::SlowRequest { route, took } => format!("slow request {route} {took:?}"),
        other => format!("{other:?}"),
    }
}

/// The same query for so many users, a millisecond each.
async fn n_users(n: u32, hand: ManualClock) {
    for id in 0..n {
        timed_query(USER, async { hand.advance(ms(1)) }).key(&id).rows(|()| 1).await;
    }
}

#[tokio::test]
async fn an_n_plus_one_is_reported_once_a_minute_and_route() {
    let world = World::new(|b| b);
    for _ in 0..3 {
        world.asks(|hand| n_users(5, hand)).await;
    }
    world.asks_on("/feed", |hand| n_users(7, hand)).await;
    world.asks(|hand| n_users(4, hand)).await;
    let query = "SELECT name FROM users WHERE id = ?";
    assert_eq!(world.said(), [format!("n+1 /users {query} 5 5ms"), format!("n+1 /feed {query} 7 7ms")]);
    world.hand.advance(Duration::from_secs(60));
    world.asks(|hand| n_users(6, hand)).await;
    assert_eq!(world.said(), [format!("n+1 /users {query} 6 6ms")]);

    let stats = world.timing.stats();
    let counts: Vec<_> = stats.finding_counts.iter().map(|c| (&*c.route, c.kind, c.count)).collect();
    assert_eq!(counts, [("/feed", FindingKind::NPlusOne, 1), ("/users", FindingKind::NPlusOne, 4)]);
    let finding = &stats.findings[0];
    assert_eq!((finding.query.as_deref(), finding.count), (Some(query), 6));
    // The line of `timed_query` in this file: where a developer has to look.
    assert!(finding.at.as_deref().is_some_and(|at| at.contains("queries.rs:")), "{finding:?}");
    let users = stats.query(query).expect("the query");
    assert_eq!((users.latency.count, users.rows), (32, 32));
}

#[tokio::test]
async fn what_is_allowed_is_not_reported() {
    let world = World::new(|b| {
        b.repeats(Repeats::new().taking(ms(6)).allow("select x from y where z = 1")).repeats_on("/feed", Repeats::off())
    });
    world.asks(|hand| n_users(5, hand)).await;
    world.asks_on("/feed", |hand| n_users(50, hand)).await;
    world
        .asks(|hand| async move {
            for id in 0..9 {
                timed_query("SELECT x FROM y WHERE z = $1", async { hand.advance(ms(1)) }).key(&id).await;
            }
        })
        .await;
    assert_eq!(world.said(), Vec::<String>::new());
    world.asks(|hand| n_users(6, hand)).await;
    assert_eq!(world.said().len(), 1);
}

#[tokio::test]
async fn a_question_asked_twice_is_a_duplicate() {
    let world = World::new(|b| b);
    world
        .asks(|_| async {
            for _ in 0..6 {
                timed_query(USER, async {}).key("one user").await;
            }
            // Without parameters the text says everything.
            timed_query("SELECT * FROM settings", async {}).await;
            timed_query("SELECT * FROM settings", async {}).await;
            timed_query("SELECT b FROM t WHERE a = 1", async {}).await;
            timed_query("SELECT b FROM t WHERE a = 2", async {}).await;
            // Without a key nobody knows.
            timed_query("SELECT c FROM t WHERE a = $1", async {}).await;
            timed_query("SELECT c FROM t WHERE a = $1", async {}).await;
        })
        .await;
    assert_eq!(
        world.said(),
        ["duplicate /users SELECT name FROM users WHERE id = ? 6", "duplicate /users SELECT * FROM settings 2"]
    );
}

#[tokio::test]
async fn slow_queries_and_waits_for_connections() {
    let world = World::new(|b| b.slow_query_after(ms(50)).starved_after(ms(20)).slow_after(ms(1_000)));
    world
        .asks(|hand| async move {
            timed_acquire(async { hand.advance(ms(15)) }).await;
            timed_acquire(async { hand.advance(ms(10)) }).await;
            timed_query("SELECT pg_sleep(0.05), 'secret'", async { hand.advance(ms(50)) }).await;
            timed("quick", async { hand.advance(ms(49)) }).await;
        })
        .await;
    assert_eq!(world.said(), ["slow /users SELECT pg_sleep(?), ? 50ms true", "starved /users 2 25ms"]);
    assert_eq!(world.timing.stats().pool.wait.total, ms(25));
}

#[tokio::test]
async fn a_slow_request_says_what_it_did() {
    let world = World::new(|b| b.slow_after(ms(10)));
    world
        .asks(|hand| async move {
            n_users(3, hand.clone()).await;
            timed_acquire(async { hand.advance(ms(2)) }).await;
            timed_upstream("price service", async { hand.advance(ms(20)) }).await;
        })
        .await;
    let stats = world.timing.stats();
    let slow = &stats.slow_recent[0];
    let query = &slow.queries[0];
    assert_eq!((query.count, query.total, query.slowest, query.rows, query.duplicates), (3, ms(3), ms(1), 3, 0));
    assert_eq!((slow.pool_waits, slow.pool_wait), (1, ms(2)));
    assert_eq!((slow.upstream_calls, slow.upstream_time), (1, ms(20)));
    assert_eq!(stats.upstreams[0].name, "price service");
    let route = stats.route("/users").expect("the route");
    assert!((route.query_share - 3.0 / 25.0).abs() < 1e-9, "{}", route.query_share);
}

#[tokio::test]
async fn numbers_of_late_forget_what_is_older() {
    let world = World::new(|b| b);
    world.asks(|hand| n_users(2, hand)).await;
    world.hand.advance(Duration::from_secs(120));
    world.asks(|hand| n_users(1, hand)).await;
    let stats = world.timing.stats();
    let counts = |w: tollgate::timing::Windows| (w.minute.count, w.five_minutes.count, w.hour.count);
    assert_eq!(counts(stats.route("/users").expect("the route").windows), (1, 2, 2));
    assert_eq!(counts(stats.queries[0].windows), (1, 3, 3));
    assert_eq!(stats.queries[0].windows.hour.max, ms(1));
    world.hand.advance(Duration::from_secs(4_300));
    assert_eq!(world.timing.stats().queries[0].windows.hour.count, 0);
}

#[tokio::test]
async fn the_top_queries_are_those_that_take_longest_together() {
    let world = World::new(|b| b);
    world
        .asks(|hand| async move {
            timed_query("SELECT often", async { hand.advance(ms(3)) }).await;
            timed_query("SELECT often", async { hand.advance(ms(3)) }).await;
            timed_query("SELECT long", async { hand.advance(ms(5)) }).await;
        })
        .await;
    let stats = world.timing.stats();
    let top: Vec<&str> = stats.top_queries(9).iter().map(|query| &*query.name).collect();
    assert_eq!(top, ["SELECT often", "SELECT long"]);
}

#[tokio::test]
async fn a_million_distinct_statements_take_bounded_memory() {
    let world = World::new(|b| b.repeats(Repeats::off()));
    world
        .asks(|_| async {
            for n in 0..1_000_000_u32 {
                timed_query(&format!("SELECT c{n} FROM t"), async {}).await;
            }
        })
        .await;
    let stats = world.timing.stats();
    assert_eq!(stats.queries.len(), 257);
    assert_eq!(stats.queries.iter().map(|query| query.latency.count).sum::<u64>(), 1_000_000);
    assert_eq!(stats.query("other").map(|other| other.latency.count), Some(1_000_000 - 256));
}

#[tokio::test]
async fn an_outer_layer_counts_what_an_inner_one_counts() {
    let (outer, inner) = (TimingLayer::new(), TimingLayer::new());
    let service = service_fn(|_: Request<()>| async {
        timed("row", async {}).await;
        Answer::Ok(Response::new(Full::from("ok")))
    });
    outer.layer(inner.layer(service)).oneshot(Request::new(())).await.expect("an answer");
    assert_eq!((outer.stats().routes[0].queries, inner.stats().routes[0].queries), (1, 1));
}

/// A body that goes on after its head.
fn streaming(hand: ManualClock) -> UnsyncBoxBody<Bytes, Infallible> {
    let frames = futures_util::stream::unfold(0, move |n| {
        let hand = hand.clone();
        async move {
            hand.advance(ms(10));
            (n < 2).then(|| (Ok(Frame::data(Bytes::from("row\n"))), n + 1))
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

async fn streamed(te: Option<&str>, on: TimingBuilder) -> (Response<()>, Option<http::HeaderMap>) {
    let hand = ManualClock::new();
    let timing = on.clock(Clock::Manual(hand.clone())).build().expect("a layer");
    let service = timing.layer(service_fn(move |_: Request<()>| {
        let hand = hand.clone();
        async move {
            timed("row", async { hand.advance(ms(1)) }).await;
            Ok::<_, Infallible>(Response::new(streaming(hand)))
        }
    }));
    let mut request = Request::new(());
    if let Some(te) = te {
        request.headers_mut().insert("te", te.parse().expect("a value"));
    }
    let (head, body) = service.oneshot(request).await.expect("an answer").into_parts();
    let body = body.collect().await.expect("a body");
    let trailers = body.trailers().cloned();
    assert_eq!(body.to_bytes(), "row\nrow\n");
    (Response::from_parts(head, ()), trailers)
}

#[tokio::test]
async fn server_timing_is_a_trailer_where_the_body_streams_and_the_client_takes_it() {
    let on = || TimingLayer::builder().server_timing(true);
    let (head, trailers) = streamed(Some("gzip, Trailers"), on()).await;
    assert_eq!(head.headers()["trailer"], "server-timing");
    assert!(!head.headers().contains_key("server-timing"));
    assert_eq!(trailers.expect("trailers")["server-timing"], "total;dur=31, db;dur=1;desc=\"1 query\"");

    let (head, trailers) = streamed(None, on()).await;
    assert_eq!(head.headers()["server-timing"], "total;dur=1, db;dur=1;desc=\"1 query\"");
    assert!(trailers.is_none());
}

#[tokio::test]
async fn the_bodys_own_trailers_and_ours_are_one_frame() {
    let timing = TimingLayer::builder().server_timing(true).build().expect("a layer");
    let service = timing.layer(service_fn(|_: Request<()>| async {
        let own =
            http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "0".parse().expect("a value"))]);
        let frames = [Frame::data(Bytes::from("row")), Frame::trailers(own)].map(Ok::<_, Infallible>);
        Ok::<_, Infallible>(Response::new(StreamBody::new(futures_util::stream::iter(frames))))
    }));
    let request = Request::builder().header("te", "trailers").body(()).expect("a request");
    let mut body = service.oneshot(request).await.expect("an answer").into_body();
    let mut trailers = Vec::new();
    while let Some(frame) = body.frame().await {
        trailers.extend(frame.expect("a frame").into_trailers().ok());
    }
    assert_eq!(trailers.len(), 1);
    assert!(trailers[0].contains_key("grpc-status") && trailers[0].contains_key("server-timing"), "{trailers:?}");
    assert!(http_body::Body::is_end_stream(&body));
}

#[tokio::test]
async fn server_timing_may_be_for_some_alone() {
    let on = || TimingLayer::builder().server_timing_if(|head| head.headers().contains_key("te"));
    assert!(!streamed(None, on()).await.0.headers().contains_key("server-timing"));
    assert!(streamed(Some("gzip"), on()).await.0.headers().contains_key("server-timing"));
}

#[tokio::test]
async fn prometheus_reads_the_page() {
    let world = World::new(|b| b.slow_query_after(ms(4)));
    world.asks(|hand| n_users(5, hand)).await;
    world
        .asks(|hand| async move {
            timed("a \"name\" with \\ and \n", async { hand.advance(ms(4)) }).await;
            timed_acquire(async { hand.advance(ms(7)) }).await;
        })
        .await;
    let page = Exposition::read(&world.timing.prometheus());
    let (bucket, route) = ("http_server_request_duration_seconds_bucket", ("http_route", "/users"));
    let below = |bound| page.sum(bucket, &[route, ("le", bound)]);
    assert_eq!(
        (below("0.0025"), below("0.005"), below("0.01"), below("0.025")),
        (Some(0.0), Some(1.0), Some(1.0), Some(2.0))
    );
    let queries = |summary| page.sum("db_client_operation_duration_seconds_count", &[("db_query_summary", summary)]);
    assert_eq!(queries("SELECT users"), Some(5.0), "the text of a statement is no label");
    assert_eq!(queries("a \"name\" with \\ and \n"), Some(1.0));
    assert_eq!(page.sum("db_client_connection_wait_time_seconds_sum", &[]), Some(0.007));
    assert_eq!(page.sum("tollgate_findings_total", &[("kind", "n_plus_one")]), Some(1.0));
}

#[tokio::test]
async fn advice_fits_the_statement() {
    for (sql, wanted) in [
        ("SELECT a FROM t WHERE b = 1", Some("duplicate /users SELECT a FROM t WHERE b = ? 6")),
        ("INSERT INTO t VALUES (1)", Some("writes /users INSERT INTO t VALUES (?) 6")),
        ("UPDATE t SET a = $1 WHERE b = $2", Some("writes /users UPDATE t SET a = ? WHERE b = ? 6")),
        ("TRUNCATE t", None),
        ("COPY t FROM STDIN", None),
        ("SELECT nextval('ids')", None),
        ("SELECT a FROM jobs LIMIT 1 FOR UPDATE SKIP LOCKED", None),
        ("SELECT a FROM t FOR UPDATE", None),
        ("SET search_path = a", None),
        ("CALL p(1)", None),
    ] {
        let world = World::new(|b| b);
        world
            .asks(move |hand| async move {
                for _ in 0..6 {
                    timed_query(sql, async { hand.advance(ms(1)) }).await;
                }
            })
            .await;
        assert_eq!(world.said(), wanted.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{sql}");
    }
}

/// sqlx tells of a `COMMIT` and not of a `BEGIN`.
#[tokio::test]
async fn the_ends_of_transactions_take_time_and_are_no_queries() {
    let world = World::new(|b| b);
    world
        .asks(|hand| async move {
            for sql in ["BEGIN", "SAVEPOINT a1", USER, "RELEASE SAVEPOINT a1", "SAVEPOINT a2", "COMMIT"] {
                timed_query(sql, async { hand.advance(ms(1)) }).await;
            }
        })
        .await;
    let stats = world.timing.stats();
    assert_eq!((stats.routes[0].queries, stats.routes[0].query_time), (1, ms(6)));
    assert_eq!(stats.query("COMMIT").map(|commit| commit.latency.count), Some(1));
    assert_eq!(stats.query("SAVEPOINT ?").map(|savepoint| savepoint.latency.count), Some(2));
    assert_eq!(world.said(), [""; 0]);
}

#[tokio::test]
async fn a_query_that_comes_late_has_statistics_of_its_own() {
    let world = World::new(|b| b);
    for name in 0..1_000 {
        world
            .asks(move |hand| async move {
                timed_query(&format!("SELECT a FROM t WHERE c{name}x = 1"), async { hand.advance(ms(1)) }).await;
            })
            .await;
    }
    for _ in 0..5 {
        world.asks(|hand| n_users(2, hand)).await;
    }
    let stats = world.timing.stats();
    let users = stats.query("SELECT name FROM users WHERE id = ?").expect("a place");
    assert!(users.latency.count >= 9, "{users:?}");
    assert_eq!(stats.queries.iter().map(|query| query.latency.count).sum::<u64>(), 1_010);
    assert!(stats.queries.len() <= 257);
}
