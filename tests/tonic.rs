//! The tonic example, over a real socket and through a real client.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::net::TcpListener;
use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};
use tollgate::identity::{KeyExtractor, by};
use tollgate::limit::{Limit, Quota};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

#[path = "../examples/tonic.rs"]
#[allow(dead_code, unreachable_pub, reason = "an example is a program of its own")]
mod example;

use example::{PriceReply, PriceRequest};

async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(example::serve(listener));
    format!("http://{address}")
}

async fn call(channel: &Channel, path: &'static str) -> Result<Response<PriceReply>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("a connection");
    let request = Request::new(PriceRequest { symbol: "ACME".to_owned() });
    client.unary(request, PathAndQuery::from_static(path), ProstCodec::default()).await
}

/// google.rpc.Status, as far as it is looked at.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// google.rpc.RetryInfo.
#[derive(Clone, Copy, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Span>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Span {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[tokio::test]
async fn twenty_calls_pass_and_the_next_is_resource_exhausted_with_retry_info() {
    let url = start().await;
    let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("a connection");
    for n in 1..=20 {
        let reply = call(&channel, "/shop.Prices/Get").await.expect("a reply");
        assert_eq!(reply.get_ref().cents, 400);
        assert_eq!(reply.metadata().get("x-ratelimit-remaining").expect("the field"), &(20 - n).to_string());
    }
    let refused = call(&channel, "/shop.Prices/Get").await.expect_err("a refusal");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let status = RpcStatus::decode(refused.details()).expect("google.rpc.Status");
    assert_eq!(status.code, Code::ResourceExhausted as i32);
    let detail = &status.details[0];
    assert_eq!(detail.type_url, "type.googleapis.com/google.rpc.RetryInfo");
    let info = RetryInfo::decode(&detail.value[..]).expect("google.rpc.RetryInfo");
    let delay = Duration::from_secs(info.retry_delay.expect("a delay").seconds.unsigned_abs());
    assert!(delay >= Duration::from_secs(1) && delay <= Duration::from_secs(60), "{delay:?}");
}

#[tokio::test]
async fn what_the_service_itself_refuses_passes_through() {
    let url = start().await;
    let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("a connection");
    let status = call(&channel, "/shop.Prices/Put").await.expect_err("no such method");
    assert_eq!(status.code(), Code::Unimplemented);
}

/// A method with a limit of its own, or with none, is not counted against the pattern for all methods.
#[tokio::test]
async fn declared_routes_decide_which_limit_counts_a_call() {
    let limit = Limit::global(Quota::per_minute(2)).on("/shop.Prices/{method}");
    let gate = Tollgate::builder().limit(limit).routes(["/shop.Prices/{method}", "/shop.Prices/Get"]);
    let gate = gate.build().expect("a gate");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = Server::builder().layer(gate.layer()).add_service(example::Prices);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("a connection");
    for _ in 0..5 {
        call(&channel, "/shop.Prices/Get").await.expect("a reply");
    }
    let codes = futures_util::future::join_all((0..3).map(|_| call(&channel, "/shop.Prices/Put"))).await;
    let refused =
        codes.iter().filter(|answer| answer.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted));
    assert_eq!(refused.count(), 1);
}

/// Users are verified by their metadata, and counted apart; a call without a valid token is counted by its address.
#[tokio::test]
async fn a_user_is_identified_by_metadata() {
    let runs = Arc::<AtomicUsize>::default();
    let counted = runs.clone();
    let user = by::verify(by::bearer(), move |token: String| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok::<Option<u64>, Infallible>(token.strip_prefix("user-").and_then(|id| id.parse().ok())))
    });
    let peer = by::peer_from(|connection: &TcpConnectInfo| connection.remote_addr());
    let gate = Tollgate::builder().identify(user.or(peer)).limit(Limit::per_user("2/min").named("user"));
    let gate = gate.build().expect("a gate");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = Server::builder().layer(gate.layer()).add_service(example::Prices);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("a connection");
    for token in ["user-1", "user-2", "invented"] {
        for n in 0..3 {
            let mut request = Request::new(PriceRequest { symbol: "ACME".to_owned() });
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("metadata"));
            let mut client = tonic::client::Grpc::new(channel.clone());
            client.ready().await.expect("a connection");
            let path = PathAndQuery::from_static("/shop.Prices/Get");
            let answer: Result<Response<PriceReply>, Status> = client.unary(request, path, ProstCodec::default()).await;
            assert_eq!(
                answer.map_or_else(|status| status.code(), |_| Code::Ok),
                [Code::Ok, Code::Ok, Code::ResourceExhausted][n]
            );
        }
    }
    assert_eq!(
        call(&channel, "/shop.Prices/Get").await.expect_err("the address is spent").code(),
        Code::ResourceExhausted
    );
    assert_eq!(runs.load(Ordering::SeqCst), 3, "once a token");
    assert_eq!((gate.stats().limits[0].admitted, gate.stats().limits[0].refused), (6, 4));
}

/// Routes that are declared once serve timing, limits and cache.
#[tokio::test]
async fn every_layer_counts_a_method_under_its_declared_route() {
    let limit = Limit::global(Quota::per_minute(2)).on("/shop.Prices/Get");
    let gate = Tollgate::builder().limit(limit).routes(["/shop.Prices/Get", "/shop.Prices/{method}"]);
    let gate = gate.cache(Rules::new().route("/shop.Prices/Get", Rule::from_headers())).build().expect("a gate");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = Server::builder().layer(gate.layer()).add_service(example::Prices);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("a connection");
    for _ in 0..3 {
        let _ = call(&channel, "/shop.Prices/Get").await;
    }
    call(&channel, "/shop.Prices/Put").await.expect_err("no such method");
    let stats = gate.stats();
    let routes: Vec<&str> = stats.routes.keys().map(String::as_str).collect();
    assert_eq!(routes, ["/shop.Prices/Get", "/shop.Prices/{method}"]);
    let get = &stats.routes["/shop.Prices/Get"];
    assert_eq!((get.requests, get.limited, get.bypassed["method"]), (3, 1, 2));
    let others = &stats.routes["/shop.Prices/{method}"];
    assert_eq!((others.requests, others.limited, others.latency.count), (1, 0, 1));
}
