//! A real Prometheus scrapes a service and answers queries; the board and the alert rules of `examples/grafana` work in it.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/metered.rs"]
mod metered;
#[path = "support/prometheus.rs"]
mod prometheus;
#[path = "support/redis.rs"]
mod redis_server;

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use metered::Metered;
use prometheus::{Prometheus, promtool};
use redis_server::RedisServer;
use serde_json::Value;
use tollgate::store::redis::Redis;

const BOARD: &str = include_str!("../examples/grafana/dashboard.json");
const ALERTS: &str = include_str!("../examples/grafana/alerts.yml");
const CASES: &str = include_str!("../examples/grafana/alerts_test.yml");

async fn served(metered: &Metered) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, app) = (listener.local_addr().expect("an address"), metered::scraped(metered));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn it_scrapes_and_answers_queries() {
    if !prometheus::wanted() {
        return;
    }
    let metered = Metered::new(|gate| gate);
    metered.traffic().await;
    let server = Prometheus::scraping(served(&metered).await).await;
    for (query, value) in [
        ("sum(http_server_request_duration_seconds_count)", 20.0),
        ("http_server_request_duration_seconds_count{http_route=\"/fail\",error_type=\"500\"}", 1.0),
        ("http_server_request_duration_seconds_count{http_route=\"\"}", 1.0),
        ("http_server_request_duration_seconds_bucket{http_route=\"/fail\",le=\"10.0\"}", 1.0),
        ("sum(tollgate_limit_requests_total{limit=\"scarce\",outcome=\"refused\"})", 2.0),
        ("tollgate_cache_requests_total{http_route=\"/prices/{symbol}\",outcome=\"hit\"}", 1.0),
        ("sum by (upstream) (http_client_request_duration_seconds_count{upstream=\"market\"})", 2.0),
        ("tollgate_upstream_credits_remaining{window=\"month\"}", 18.0),
        ("db_client_operation_duration_seconds_count{db_query_summary=\"SELECT users\"}", 6.0),
        ("up{job=\"shop\"}", 1.0),
    ] {
        assert_eq!(server.values(query, |_| true).await, [value], "{query}");
    }
    let (health, error) = server.target().await;
    assert_eq!((&*health, &*error), ("up", ""), "the page is OpenMetrics, which Prometheus asks for");
    metered.send("GET", "/fail", &[]).await;
    server.values("http_server_request_duration_seconds_count{http_route=\"/fail\"}", |values| values == [2.0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_no_fault_with_the_page() {
    if !prometheus::wanted() || !redis_server::wanted() {
        return;
    }
    let (metered, _server) = shared().await;
    passes(&promtool(&["check", "metrics"], &metered.metrics.prometheus()));
}

async fn shared() -> (Metered, RedisServer) {
    let server = RedisServer::start();
    let redis = Redis::new(&server.url()).expect("a URL");
    let metered = Metered::new(|gate| gate.redis(redis));
    while !metered.gate.stats().remote.is_some_and(|remote| remote.up) || !metered.gate.stats().cache[1].up {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    metered.traffic().await;
    for n in 0..20 {
        metered.send("GET", &format!("/prices/{n}"), &[]).await;
    }
    (metered, server)
}

/// The queries of a board, with its variables replaced.
fn queries(board: &Value) -> Vec<(String, String)> {
    let panels = board["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title");
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        targets.iter().map(move |target| (title.to_owned(), target["expr"].as_str().expect("a query").to_owned()))
    });
    let filled = targets.map(|(title, query)| {
        (title, query.replace("$__rate_interval", "1m").replace("$__range", "5m").replace("$job", ".*"))
    });
    filled.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_of_the_board_has_data() {
    let board: Value = serde_json::from_str(BOARD).expect("JSON");
    let queries = queries(&board);
    assert!(queries.len() >= 20 && queries.iter().all(|(_, query)| !query.contains('$')), "{queries:?}");
    if !prometheus::wanted() || !redis_server::wanted() {
        return;
    }
    let (metered, _server) = shared().await;
    let server = Prometheus::scraping(served(&metered).await).await;
    server.values("sum(http_server_request_duration_seconds_count)", |_| true).await;
    metered.traffic().await;
    for (title, query) in queries {
        let values = server.values(&query, |_| true).await;
        assert!(values.iter().all(|value| value.is_finite() && *value >= 0.0), "{title}: {query}: {values:?}");
    }
}

#[test]
fn each_alert_has_a_case_that_fires_and_one_that_does_not() {
    let alerts: Vec<&str> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10);
    for alert in alerts {
        let cases: Vec<&str> =
            CASES.split("- eval_time:").filter(|case| case.contains(&format!("alertname: {alert}\n"))).collect();
        let fires = |case: &&&str| case.contains("exp_alerts:\n") && case.contains("exp_labels");
        assert!(cases.iter().any(|case| fires(&case)), "{alert} fires in no case");
        assert!(cases.iter().any(|case| case.contains("exp_alerts: []")), "{alert} is silent in no case");
    }
    if prometheus::wanted() {
        passes(&promtool(&["check", "rules", "examples/grafana/alerts.yml"], ""));
        passes(&promtool(&["test", "rules", "examples/grafana/alerts_test.yml"], ""));
    }
}

fn passes(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
