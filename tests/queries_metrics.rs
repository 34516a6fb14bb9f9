//! `/metrics` of the examples, read by a parser of Prometheus's text format; and the `metrics` facade.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use exposition::Exposition;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tollgate::timing::{TimingLayer, timed, timed_acquire};
use tower::{Layer, ServiceExt, service_fn};

#[path = "../examples/server/api.rs"]
mod api;
#[path = "support/exposition.rs"]
mod exposition;
#[path = "../examples/gateway.rs"]
#[allow(dead_code, reason = "an example is a program of its own")]
mod gateway;

/// The number of durations, or the value, of the series with that label.
fn count(page: &Exposition, name: &str, label: (&str, &str)) -> Option<f64> {
    page.sum(&format!("{name}_count"), &[label]).or_else(|| page.sum(name, &[label]))
}

/// Every metric is documented with its type, and no label says who or where.
fn is_in_order(page: &Exposition) {
    let documented = include_str!("../src/docs/metrics.md");
    assert!(page.families.len() >= 9);
    for (name, family) in &page.families {
        let row = documented.lines().find(|line| line.contains(&format!("| `{name}` | {} |", family.kind)));
        let row = row.unwrap_or_else(|| panic!("{name}, a {}, is not documented", family.kind));
        assert!(
            family.labels().iter().all(|label| row.contains(&format!("`{label}`"))),
            "{name}: {:?}",
            family.labels()
        );
    }
}

async fn served(app: axum::Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

async fn text(url: String) -> String {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
    let response = client.get(url.parse().expect("a URL")).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

#[tokio::test]
async fn the_example_server() {
    let (app, _gate, _upstream) = api::app(Duration::from_millis(1), true, &[]).expect("the example's configuration");
    let address = served(app).await;
    for path in ["/report", "/report", "/prices/ACME", "/prices/SECRET"] {
        text(format!("http://{address}{path}")).await;
    }
    let page = text(format!("http://{address}/metrics")).await;
    assert!(!page.contains("SECRET") && !page.contains("127.0.0.1"), "{page}");
    let page = Exposition::read(&page);
    is_in_order(&page);
    assert_eq!(count(&page, "http_server_request_duration_seconds", ("http_route", "/prices/{symbol}")), Some(2.0));
    assert_eq!(count(&page, "db_client_operation_duration_seconds", ("db_query_summary", "select price")), Some(6.0));
    assert_eq!(count(&page, "tollgate_request_queries_total", ("http_route", "/report")), Some(8.0));
}

#[tokio::test]
async fn the_example_gateway() {
    let origin = served(axum::Router::new().route("/page", axum::routing::get(|| async { "hello" }))).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let line = format!("--upstream http://{origin} --metrics /metrics");
    let flags = gateway::flags::Flags::parse(line.split(' ').map(str::to_owned)).expect("flags").expect("no help");
    let gate = gateway::gate(&flags).expect("a gate");
    tokio::spawn(async move { gateway::run(listener, &flags, &gate, std::future::pending()).await });

    for _ in 0..3 {
        assert_eq!(text(format!("http://{address}/page")).await, "hello");
    }
    let page = Exposition::read(&text(format!("http://{address}/metrics")).await);
    is_in_order(&page);
    let asked = count(&page, "http_server_request_duration_seconds", ("http_route", ""));
    assert_eq!(asked, Some(3.0), "the scrape itself is not counted");
}

/// Keeps what is handed to the facade.
#[derive(Clone, Default)]
struct Facade(Arc<Mutex<Vec<String>>>);

impl metrics::Recorder for Facade {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn register_counter(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        metrics::Counter::noop()
    }
    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::noop()
    }
    fn register_histogram(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        self.0.lock().expect("not poisoned").push(format!("{} {}", key.name(), labels.join(",")));
        metrics::Histogram::noop()
    }
}

#[test]
fn the_facade_is_handed_every_measurement() {
    let facade = Facade::default();
    metrics::with_local_recorder(&facade, || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let timing = TimingLayer::builder().routes(["/users/{id}"]).build().expect("a layer");
            let service = timing.layer(service_fn(|_: Request<Body>| async {
                timed("load user", async {}).await;
                timed_acquire(async {}).await;
                Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
            }));
            let request = Request::get("/users/7").body(Body::empty()).expect("a request");
            service.oneshot(request).await.expect("an answer");
        });
    });
    assert_eq!(
        *facade.0.lock().expect("not poisoned"),
        [
            "db_client_operation_duration_seconds db_query_summary=load user",
            "db_client_connection_wait_time_seconds ",
            "http_server_request_duration_seconds \
             http_request_method=GET,http_response_status_code=200,url_scheme=http,http_route=/users/{id}",
        ]
    );
}
