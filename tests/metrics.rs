//! Metrics of all layers: each family is documented and has values, in both text formats and through the `metrics` facade.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/exposition.rs"]
mod exposition;
#[path = "support/metered.rs"]
mod metered;
#[path = "support/redis.rs"]
mod redis_server;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use exposition::Exposition;
use http_body_util::Full;
use metered::Metered;
use redis_server::RedisServer;
use tollgate::cache::{CacheLayer, Cached};
use tollgate::store::redis::Redis;
use tollgate::timing::{TimingBuilder, TimingLayer, timed_query};
use tollgate::{Clock, ManualClock, Metrics, Tollgate};
use tower::{Layer, ServiceExt, service_fn};

const GUIDE: &str = include_str!("../src/docs/metrics.md");

/// The families of the guide: type, unit and labels.
fn documented() -> BTreeMap<&'static str, (&'static str, &'static str, BTreeSet<&'static str>)> {
    let rows = GUIDE.lines().filter(|line| line.starts_with("| `")).map(|line| line.split('|').map(str::trim));
    let rows = rows.map(Iterator::collect::<Vec<_>>).filter(|row| ["counter", "gauge", "histogram"].contains(&row[2]));
    let labels =
        |cell: &'static str| cell.split('`').skip(1).step_by(2).filter(|name| !name.contains(char::is_uppercase));
    rows.map(|row| (row[1].trim_matches('`'), (row[2], row[3], labels(row[4]).collect()))).collect()
}

/// A service with a shared store, after traffic.
async fn measured() -> (Metered, RedisServer) {
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

#[tokio::test(flavor = "multi_thread")]
async fn every_family_is_documented_and_has_values() {
    if !redis_server::wanted() {
        return;
    }
    let (metered, _server) = measured().await;
    let (page, documented) = (Exposition::read(&metered.metrics.prometheus()), documented());
    let (found, wanted): (BTreeSet<&str>, BTreeSet<&str>) =
        (page.families.keys().map(|name| &**name).collect(), documented.keys().copied().collect());
    assert_eq!(wanted.difference(&found).collect::<Vec<_>>(), Vec::<&&str>::new(), "documented, and not there");
    assert_eq!(found.difference(&wanted).collect::<Vec<_>>(), Vec::<&&str>::new(), "there, and not documented");
    for (name, family) in &page.families {
        let (kind, _, labels) = &documented[&**name];
        assert_eq!(family.kind, *kind, "{name}");
        assert!(family.labels().is_subset(labels), "{name}: {:?} of {labels:?}", family.labels());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_metrics_has_the_same_values_and_units() {
    if !redis_server::wanted() {
        return;
    }
    let (metered, _server) = measured().await;
    let accept = HeaderMap::from_iter([(
        "accept".parse().expect("a name"),
        HeaderValue::from_static("application/openmetrics-text;version=1.0.0"),
    )]);
    let response = metered.metrics.respond(&accept);
    assert_eq!(response.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let (open, plain) = (Exposition::read(response.body()), metered.metrics.respond(&HeaderMap::new()));
    assert_eq!(plain.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let plain = Exposition::read(plain.body());
    assert_eq!(open.families.len(), plain.families.len());
    for (name, (kind, unit, _)) in documented() {
        let family = &open.families[name.strip_suffix("_total").unwrap_or(name)];
        assert_eq!(family.kind, kind, "{name}");
        let stated = matches!(unit, "seconds" | "bytes" | "ratio").then(|| unit.to_owned());
        assert_eq!(family.unit, stated, "{name}");
    }
    for name in
        ["tollgate_requests_total", "http_server_request_duration_seconds_count", "tollgate_limit_requests_total"]
    {
        assert_eq!(open.sum(name, &[]), plain.sum(name, &[]), "{name}");
    }
}

/// Name, labels and sum of some series.
type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

/// Checks a page after the traffic.
async fn has(expected: &[Expected<'_>]) {
    let metered = Metered::new(|gate| gate);
    metered.traffic().await;
    let text = metered.metrics.prometheus();
    let page = Exposition::read(&text);
    for (name, labels, value) in expected {
        assert_eq!(page.sum(name, labels), Some(*value), "{name} {labels:?} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_queries_are_those_of_the_traffic() {
    let requests = "http_server_request_duration_seconds_count";
    has(&[
        (
            requests,
            &[
                ("http_request_method", "GET"),
                ("http_response_status_code", "200"),
                ("http_route", "/prices/{symbol}"),
                ("url_scheme", "http"),
                ("error_type", ""),
            ],
            4.0,
        ),
        (requests, &[("http_response_status_code", "500"), ("error_type", "500"), ("http_route", "/fail")], 1.0),
        (requests, &[("http_response_status_code", "404"), ("http_route", ""), ("error_type", "")], 1.0),
        (requests, &[("http_request_method", "_OTHER"), ("http_response_status_code", "405")], 1.0),
        (
            requests,
            &[("http_request_method", "POST"), ("http_response_status_code", "201"), ("http_route", "/orders")],
            1.0,
        ),
        (requests, &[("http_response_status_code", "429"), ("http_route", "/scarce")], 2.0),
        (
            "db_client_operation_duration_seconds_count",
            &[("db_system_name", "sqlite"), ("db_query_summary", "SELECT users"), ("db_query_text", "")],
            6.0,
        ),
        ("db_client_operation_duration_seconds_count", &[("db_query_summary", "totals")], 1.0),
        ("tollgate_timed_call_duration_seconds_count", &[("name", "mail")], 1.0),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_limits_and_upstreams_are_those_of_the_traffic() {
    has(&[
        ("tollgate_findings_total", &[("http_route", "/report"), ("kind", "n_plus_one")], 1.0),
        ("tollgate_cache_requests_total", &[("http_route", "/prices/{symbol}"), ("outcome", "hit")], 1.0),
        ("tollgate_cache_requests_total", &[("http_route", "/prices/{symbol}"), ("outcome", "miss")], 2.0),
        (
            "tollgate_cache_requests_total",
            &[("http_route", "/prices/{symbol}"), ("outcome", "bypass"), ("reason", "cookie")],
            1.0,
        ),
        ("tollgate_cache_not_stored_total", &[("http_route", "/cookie"), ("reason", "set-cookie")], 1.0),
        ("tollgate_cache_data_lookups_total", &[("namespace", "stock"), ("outcome", "miss")], 2.0),
        ("tollgate_cache_data_lookups_total", &[("namespace", "stock"), ("outcome", "hit")], 1.0),
        ("tollgate_cache_level_hits_total", &[("level", "memory"), ("upstream", "market")], 2.0),
        ("tollgate_limit_requests_total", &[("limit", "scarce"), ("outcome", "refused")], 2.0),
        ("tollgate_limit_requests_total", &[("limit", "scarce"), ("outcome", "admitted")], 3.0),
        ("tollgate_limit_requests_total", &[("limit", "draft"), ("outcome", "shadowed")], 4.0),
        (
            "http_client_request_duration_seconds_count",
            &[
                ("upstream", "market"),
                ("url_template", "/quotes/{symbol}"),
                ("http_response_status_code", "200"),
                ("error_type", ""),
            ],
            1.0,
        ),
        (
            "http_client_request_duration_seconds_count",
            &[("http_response_status_code", ""), ("error_type", "_OTHER")],
            1.0,
        ),
        (
            "tollgate_upstream_request_duration_seconds_count",
            &[("upstream", "market"), ("http_response_status_code", "200")],
            3.0,
        ),
        ("tollgate_upstream_credits_used", &[("window", "month"), ("upstream", "market")], 2.0),
        ("tollgate_upstream_credits_remaining", &[("window", "month"), ("upstream", "market")], 18.0),
        ("tollgate_upstream_circuit_open", &[("upstream", "market")], 0.0),
    ])
    .await;
}

/// Sends requests through a layer; each answers with the status in its path's last segment.
async fn through(timing: &TimingLayer, requests: impl IntoIterator<Item = Request<()>>) {
    let service = timing.layer(service_fn(async |request: Request<()>| {
        let status =
            request.uri().path().rsplit('/').next().and_then(|text| StatusCode::from_bytes(text.as_bytes()).ok());
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = status.unwrap_or(StatusCode::OK);
        Ok::<_, Infallible>(response)
    }));
    for request in requests {
        service.clone().oneshot(request).await.expect("an answer");
    }
}

fn layer(set: impl FnOnce(TimingBuilder) -> TimingBuilder) -> TimingLayer {
    set(TimingLayer::builder().clock(Clock::Manual(ManualClock::new()))).build().expect("a layer")
}

fn request(method: &str, uri: &str) -> Request<()> {
    Request::builder().method(method).uri(uri).body(()).expect("a request")
}

#[tokio::test]
async fn series_are_bounded_and_no_request_is_lost() {
    let routes: Vec<String> = (0..300).map(|n| format!("/{n}/{{status}}")).collect();
    let timing = layer(|builder| builder.routes(&routes).max_routes(300));
    let statuses = [200, 201, 204, 301, 400, 401, 403, 404, 409, 422, 500, 503];
    let requests = (0..300).flat_map(|n| statuses.map(|status| request("GET", &format!("/{n}/{status}"))));
    through(&timing, requests).await;
    let page = Exposition::read(&timing.prometheus());
    let name = "http_server_request_duration_seconds_count";
    assert_eq!(page.sum(name, &[]), Some(3_600.0));
    assert!(page.series(name).len() <= 2_048, "{}", page.series(name).len());
    let other = [("http_route", "other"), ("http_request_method", "other"), ("http_response_status_code", "other")];
    assert!(page.sum(name, &other).is_some_and(|count| count > 1_000.0));
    let failed: f64 = 300.0 * 2.0;
    let by_error = ["500", "503", "other"].map(|error| page.sum(name, &[("error_type", error)]).unwrap_or_default());
    assert_eq!(by_error.iter().sum::<f64>(), failed, "failures stay failures");
}

#[tokio::test]
async fn a_route_whose_client_or_service_invents_methods_and_statuses_has_few_series() {
    let timing = layer(|builder| builder.routes(["/{status}"]));
    let methods = ["GET", "BREW", "WHEN", "POST", "PUT"];
    let requests = (100..1000).flat_map(|status| methods.map(|method| request(method, &format!("/{status}"))));
    through(&timing, requests).await;
    let page = Exposition::read(&timing.prometheus());
    let name = "http_server_request_duration_seconds_count";
    assert_eq!(page.sum(name, &[]), Some(4_500.0));
    assert!(page.series(name).len() <= 67, "{}", page.series(name).len());
}

#[tokio::test]
async fn the_scheme_is_that_of_the_target() {
    let timing = layer(|builder| builder.routes(["/a"]));
    through(&timing, [request("GET", "https://shop/a"), request("GET", "/a"), request("GET", "/a")]).await;
    let page = Exposition::read(&timing.prometheus());
    let count = |scheme| page.sum("http_server_request_duration_seconds_count", &[("url_scheme", scheme)]);
    assert_eq!((count("https"), count("http")), (Some(1.0), Some(2.0)));
}

#[tokio::test]
async fn http_metrics_can_be_left_to_the_application() {
    let timing = layer(|builder| builder.http_metrics(false));
    through(&timing, [request("GET", "/a")]).await;
    let page = Exposition::read(&timing.prometheus());
    assert!(page.families.keys().all(|name| !name.starts_with("http_server")), "{:?}", page.families.keys());
    assert_eq!(page.sum("tollgate_requests_total", &[("outcome", "answered")]), Some(1.0));
}

#[tokio::test]
async fn buckets_can_be_added() {
    let (three, micro) = (Duration::from_millis(300), Duration::from_micros(100));
    let timing = layer(|builder| builder.buckets([three]).query_buckets([micro]).query_text_label(true));
    let service = timing.layer(service_fn(|_: Request<()>| async {
        timed_query("SELECT a FROM t WHERE b = 1", async {}).await;
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    service.oneshot(request("GET", "/")).await.expect("an answer");
    let page = Exposition::read(&timing.prometheus());
    assert_eq!(page.sum("http_server_request_duration_seconds_bucket", &[("le", "0.3")]), Some(1.0));
    assert_eq!(page.sum("http_server_request_duration_seconds_bucket", &[("le", "0.25")]), Some(1.0), "a superset");
    let text = ("db_query_text", "SELECT a FROM t WHERE b = ?");
    assert_eq!(page.sum("db_client_operation_duration_seconds_bucket", &[("le", "0.0001"), text]), Some(1.0));
    let many = (1..60).map(Duration::from_secs);
    assert!(TimingLayer::builder().buckets(many).build().is_err());
    assert!(TimingLayer::builder().query_buckets([Duration::ZERO]).build().is_err());
}

#[tokio::test]
async fn a_counter_never_falls_while_requests_run() {
    let timing = TimingLayer::builder().routes(["/{status}"]).build().expect("a layer");
    let load = tokio::task::spawn_blocking({
        let timing = timing.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let requests = (0..20_000).map(|n| request("GET", ["/200", "/404", "/500"][n % 3]));
            runtime.block_on(through(&timing, requests));
        }
    });
    let mut last = BTreeMap::new();
    while !load.is_finished() {
        let page = Exposition::read(&timing.prometheus());
        for sample in page.families.values().filter(|family| family.kind != "gauge").flat_map(|family| &family.samples)
        {
            let before = last.insert((sample.name.clone(), sample.labels.clone()), sample.value);
            assert!(before.is_none_or(|before| before <= sample.value), "{sample:?} after {before:?}");
        }
    }
    load.await.expect("no panic");
    assert_eq!(
        Exposition::read(&timing.prometheus()).sum("http_server_request_duration_seconds_count", &[]),
        Some(20_000.0)
    );
}

#[tokio::test]
async fn evictions_are_counted_and_removals_are_not() {
    let cache = CacheLayer::in_memory(1 << 20);
    let values: Cached<String> = cache.data().cached("values").build().expect("a namespace");
    for _ in 0..2 {
        values.put(0_u64, "x".repeat(10_000)).await.expect("stored");
    }
    assert_eq!(cache.stats().levels[0].evictions, 0, "it was replaced");
    for key in 1..300_u64 {
        values.put(key, "x".repeat(10_000)).await.expect("stored");
    }
    let level = &cache.stats().levels[0];
    assert!(level.evictions > 100 && level.evictions + level.entries == 300, "{level:?}");
    let evictions = level.evictions;
    for key in 0..300_u64 {
        values.remove(key).await.expect("removed");
    }
    let level = &cache.stats().levels[0];
    assert_eq!((level.entries, level.evictions), (0, evictions));
    let page = Exposition::read(&cache.prometheus());
    assert_eq!(page.sum("tollgate_cache_level_evictions_total", &[("level", "memory")]), Some(evictions as f64));
}

/// Keeps what is handed to the facade: values of counters and gauges, numbers of durations.
#[derive(Clone, Default)]
struct Facade(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    described: BTreeSet<String>,
    series: BTreeMap<String, BTreeSet<Vec<String>>>,
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Facade {
    fn keep(&self, key: &metrics::Key) {
        let mut kept = self.0.lock().expect("not poisoned");
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        kept.labels.entry(key.name().to_owned()).or_default().extend(key.labels().map(|label| label.key().to_owned()));
        kept.series.entry(key.name().to_owned()).or_default().insert(labels);
    }

    fn describe(&self, name: &metrics::KeyName) {
        self.0.lock().expect("not poisoned").described.insert(name.as_str().to_owned());
    }
}

impl metrics::Recorder for Facade {
    fn describe_counter(&self, name: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {
        self.describe(&name);
    }
    fn describe_gauge(&self, name: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {
        self.describe(&name);
    }
    fn describe_histogram(&self, name: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {
        self.describe(&name);
    }
    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        self.keep(key);
        metrics::Counter::noop()
    }
    fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        self.keep(key);
        metrics::Gauge::noop()
    }
    fn register_histogram(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        self.keep(key);
        metrics::Histogram::noop()
    }
}

/// The facade is of a thread, so the traffic is of one, too.
#[test]
fn every_family_reaches_the_facade() {
    if !redis_server::wanted() {
        return;
    }
    let facade = Facade::default();
    let page = metrics::with_local_recorder(&facade, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (metered, _server) = measured().await;
            metered.metrics.publish();
            Exposition::read(&metered.metrics.prometheus())
        })
    });
    let kept = facade.0.lock().expect("not poisoned");
    for (name, (_, _, labels)) in documented() {
        assert!(kept.described.contains(name), "{name} is not described");
        let series = kept.series.get(name).unwrap_or_else(|| panic!("{name} does not reach the facade"));
        assert!(kept.labels[name].iter().all(|label| labels.contains(&**label)), "{name}");
        let shown = page.families[name].samples.iter().map(|sample| {
            let labels = sample.labels.iter().filter(|(label, _)| *label != "le");
            labels.map(|(label, value)| format!("{label}={value}")).collect::<BTreeSet<_>>()
        });
        let known: BTreeSet<BTreeSet<String>> = series.iter().map(|labels| labels.iter().cloned().collect()).collect();
        assert_eq!(shown.collect::<BTreeSet<_>>(), known, "{name}: the same series as in the text");
    }
}

#[test]
fn a_process_without_a_gate_for_requests_has_metrics_too() {
    let market = Tollgate::upstream("market").build().expect("a gate");
    let page = Exposition::read(&Metrics::default().upstream(&market).prometheus());
    assert_eq!(page.sum("tollgate_upstream_waits_total", &[("upstream", "market")]), Some(0.0));
    assert!(page.families.keys().all(|name| !name.starts_with("tollgate_limit")), "{:?}", page.families.keys());
    assert_eq!(Exposition::read(&market.prometheus()).families.len(), page.families.len());
}
