//! OpenTelemetry: the spans of requests and of their detached fetches, sent to a collector over OTLP.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let traces = tollgate_recipes::otlp::export("http://127.0.0.1:4318/v1/traces", "shop")?;
//! let gate = tollgate::Tollgate::builder().timing_with(|timing| timing.request_spans(true)).build()?;
//! // … serve …
//! traces.shutdown()?;
//! # let _ = gate;
//! # Ok(()) }
//! ```

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Sends all spans of the process from level `DEBUG` on. Shut the provider down at the end, so that the last ones are sent.
pub fn export(endpoint: &str, service: &'static str) -> Result<SdkTracerProvider, Box<dyn std::error::Error>> {
    let exporter = SpanExporter::builder().with_http().with_endpoint(endpoint).build()?;
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name(service).build())
        .with_batch_exporter(exporter)
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tollgate"));
    tracing_subscriber::registry().with(layer.with_filter(LevelFilter::DEBUG)).try_init()?;
    Ok(provider)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use axum::Router;
    use axum::body::Bytes;
    use axum::routing::post;
    use http::{Request, Response};
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use prost::Message;
    use tollgate::Tollgate;
    use tollgate::cache::{Rule, Rules};
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;

    /// A collector that keeps what it receives; returns its endpoint.
    async fn collector(spans: Arc<Mutex<Vec<Span>>>) -> String {
        let receive = move |body: Bytes| async move {
            let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
            let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
            spans.lock().expect("not poisoned").extend(scopes.flat_map(|scope| scope.spans));
            ""
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let app = Router::new().route("/v1/traces", post(receive));
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}/v1/traces")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn requests_are_spans_and_a_detached_fetch_is_linked_to_its_request() {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let traces = export(&collector(spans.clone()).await, "shop").expect("no other subscriber");
        let rules = Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(60)).same_for_everyone());
        let gate = Tollgate::builder().routes(["/prices/{symbol}"]).cache(rules);
        let gate = gate.timing_with(|timing| timing.request_spans(true)).build().expect("a gate");
        let service = gate.layer().layer(service_fn(|_: Request<String>| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok::<_, Infallible>(Response::new("42".to_owned()))
        }));
        let request = || Request::get("/prices/ACME").header("host", "a").body(String::new()).expect("a request");
        for _ in 0..2 {
            drop(service.clone().oneshot(request()).await.expect("infallible"));
        }
        // Its client leaves while the fetch is under way.
        let other = Request::get("/prices/OTHER").header("host", "a").body(String::new()).expect("a request");
        drop(tokio::time::timeout(Duration::from_millis(5), service.clone().oneshot(other)).await);
        gate.shutdown().await;
        tokio::task::spawn_blocking(move || traces.shutdown()).await.expect("no panic").expect("all are sent");
        let spans = spans.lock().expect("not poisoned");
        let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
        let (requests, fetches) = (named("GET /prices/{symbol}"), named("fetch"));
        assert_eq!(requests.len(), 3, "{spans:?}");
        assert!(!fetches.is_empty(), "{spans:?}");
        for fetch in fetches {
            let of = |request: &&&Span| fetch.links.iter().any(|link| link.span_id == request.span_id);
            assert!(requests.iter().any(|request| of(&request) || fetch.parent_span_id == request.span_id), "{fetch:?}");
        }
    }
}
