//! Spans: one for each request, with its outcome, and one for each fetch that continues without its client.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Limit, Quota};
use tollgate::testing::FakePeer;
use tollgate::{Tollgate, TollgateBuilder};
use tower::{Layer as _, ServiceExt, service_fn};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

/// Fields of each span by its number, and what is known of its relations.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<u64, Seen>>>);

#[derive(Clone, Debug, Default)]
struct Seen {
    target: String,
    fields: BTreeMap<&'static str, String>,
    parent: Option<u64>,
    follows: Vec<u64>,
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut seen = Seen { target: attributes.metadata().target().to_owned(), ..Seen::default() };
        attributes.record(&mut seen);
        seen.parent = context.span(id).and_then(|span| span.parent().map(|parent| parent.id().into_u64()));
        self.0.lock().expect("not poisoned").insert(id.into_u64(), seen);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        if let Some(seen) = self.0.lock().expect("not poisoned").get_mut(&id.into_u64()) {
            values.record(seen);
        }
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, _: Context<'_, S>) {
        if let Some(seen) = self.0.lock().expect("not poisoned").get_mut(&id.into_u64()) {
            seen.follows.push(follows.into_u64());
        }
    }
}

impl Spans {
    fn of(&self, target: &str) -> Vec<(u64, Seen)> {
        let spans = self.0.lock().expect("not poisoned");
        spans.iter().filter(|(_, seen)| seen.target == target).map(|(id, seen)| (*id, seen.clone())).collect()
    }
}

/// Sends requests through a gate; each status is that of the path's last segment.
async fn through(set: impl FnOnce(TollgateBuilder) -> TollgateBuilder, paths: &[&str]) -> Spans {
    let spans = Spans::default();
    let _installed = tracing::subscriber::set_default(Registry::default().with(spans.clone()));
    let builder = Tollgate::builder().routes(["/pages/{status}"]).timing_with(|timing| timing.request_spans(true));
    let gate = set(builder).build().expect("a gate");
    let service = gate.layer().layer(service_fn(async |request: Request<Full<Bytes>>| {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let status =
            request.uri().path().rsplit('/').next().and_then(|text| StatusCode::from_bytes(text.as_bytes()).ok());
        let response = Response::builder().status(status.unwrap_or_default()).header("cache-control", "max-age=60");
        Ok::<_, Infallible>(response.body(Full::from("a page")).expect("a response"))
    }));
    let peer = FakePeer::at("192.0.2.1");
    for path in paths {
        let request = Request::get(*path).header("host", "example.com").body(Full::default()).expect("a request");
        let response = service.clone().oneshot(peer.mark(request)).await.expect("an answer");
        response.into_body().collect().await.expect("a body");
    }
    spans
}

#[tokio::test]
async fn a_request_has_a_span_with_its_outcome() {
    let cache = || Rules::new().route("/pages/{status}", Rule::ttl(Duration::from_secs(60)));
    let limit = Limit::per_ip(Quota::per_hour(3)).named("ip");
    let paths = ["/pages/200", "/pages/200", "/pages/503", "/nowhere"];
    let spans = through(|gate| gate.cache(cache()).limit(limit), &paths).await.of("tollgate::request");
    let field = |at: usize, name: &str| spans[at].1.fields.get(name).map_or("", |value| value).to_owned();
    assert_eq!(spans.len(), 4);
    let row = |at| {
        ["otel.name", "http.route", "http.response.status_code", "error.type", "tollgate.cache", "tollgate.limit"]
            .map(|name| field(at, name))
    };
    assert_eq!(row(0), ["GET /pages/{status}", "/pages/{status}", "200", "", "miss", "allowed"]);
    assert_eq!(row(1), ["GET /pages/{status}", "/pages/{status}", "200", "", "hit", "allowed"]);
    assert_eq!(row(2), ["GET /pages/{status}", "/pages/{status}", "503", "503", "miss", "allowed"]);
    assert_eq!(row(3), ["GET", "", "429", "", "", "refused"]);
    assert_eq!((field(2, "otel.status_code"), field(0, "otel.kind")), ("ERROR".to_owned(), "server".to_owned()));
}

#[tokio::test]
async fn a_fetch_that_continues_in_a_task_has_a_span_that_follows_from_the_requests() {
    let rules = Rules::new().route("/pages/{status}", Rule::ttl(Duration::from_secs(60)));
    let spans = through(|gate| gate.cache(rules), &["/pages/200", "/pages/200"]).await;
    let (requests, fetches) = (spans.of("tollgate::request"), spans.of("tollgate::fetch"));
    assert_eq!((requests.len(), fetches.len()), (2, 1), "a hit fetches nothing");
    let (_, fetch) = &fetches[0];
    assert_eq!((fetch.parent, fetch.follows.as_slice()), (Some(requests[0].0), [requests[0].0].as_slice()));
}

#[tokio::test]
async fn without_the_setting_there_is_no_span_of_a_request() {
    let spans = through(|gate| gate.timing_with(|timing| timing.request_spans(false)), &["/pages/200"]).await;
    assert!(spans.of("tollgate::request").is_empty());
}
