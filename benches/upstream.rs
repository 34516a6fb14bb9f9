//! What care for a quota adds to a bare client service, in one run, with allocations counted:
//! `cargo bench --bench upstream`.
//!
//! Compare rows of one run only; the machine's noise is in all of them alike.
#![expect(clippy::expect_used, reason = "a bench may fail")]

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box};
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use tollgate::upstream::{Credits, OnLimit, Priority, UpstreamBuilder, UpstreamLayer};
use tower::{Layer, Service, ServiceExt};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

type Req = Request<Full<Bytes>>;

fn main() {
    divan::Divan::from_args().sample_size(32).sample_count(5_000).main();
}

/// A client that answers at once: what is left when a layer is free. With or without GitHub's fields.
#[derive(Clone)]
struct Bare {
    fields: bool,
}

impl Service<Req> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        black_box(&request);
        let mut response = Response::new(Full::from(Bytes::from_static(b"ok")));
        if self.fields {
            for (name, value) in [
                ("date", "Thu, 01 Jan 2026 00:00:00 GMT"),
                ("x-ratelimit-limit", "5000000"),
                ("x-ratelimit-remaining", "4999000"),
                ("x-ratelimit-used", "1000"),
                ("x-ratelimit-reset", "1767227400"),
                ("x-ratelimit-resource", "core"),
            ] {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
        }
        std::future::ready(Ok(response))
    }
}

/// Measures calls alone: requests are made outside, responses dropped outside, the service is called in place.
fn measure<S>(bencher: Bencher<'_, '_>, mut service: S)
where
    S: Service<Req>,
{
    let next = || Request::get("http://api.example.com/repos").body(Full::default()).expect("a request");
    bencher.with_inputs(next).bench_local_values(|request| {
        let ready = service.ready().now_or_never().expect("ready at once");
        ready.ok().expect("ready").call(request).now_or_never().expect("answered at once").ok()
    });
}

fn layer(set: impl FnOnce(UpstreamBuilder) -> UpstreamBuilder) -> UpstreamLayer {
    let builder = UpstreamLayer::builder("api").quota(Credits::per_month(1 << 40)).quota(Credits::per_minute(1 << 40));
    set(builder).build().expect("a layer")
}

#[divan::bench(args = [false, true])]
fn a_bare_client(bencher: Bencher<'_, '_>, fields: bool) {
    measure(bencher, Bare { fields });
}

#[divan::bench(args = [false, true])]
fn observed(bencher: Bencher<'_, '_>, fields: bool) {
    measure(bencher, layer(|builder| builder.on_limit(OnLimit::Observe)).layer(Bare { fields }));
}

#[divan::bench(args = [false, true])]
fn shedding(bencher: Bencher<'_, '_>, fields: bool) {
    measure(bencher, layer(|builder| builder.on_limit(OnLimit::Reject)).layer(Bare { fields }));
}

#[divan::bench]
fn waiting_without_need(bencher: Bencher<'_, '_>) {
    measure(
        bencher,
        layer(|builder| builder.on_limit(OnLimit::Wait(Duration::from_secs(1)))).layer(Bare { fields: false }),
    );
}

#[divan::bench]
fn shed(bencher: Bencher<'_, '_>) {
    let service = layer(|builder| builder.share(Priority::Normal, 0.0)).layer(Bare { fields: false });
    measure(bencher, service);
}

/// Two threads, one account.
#[divan::bench(threads = [1, 2])]
fn one_account(bencher: Bencher<'_, '_>) {
    let service = layer(|builder| builder).layer(Bare { fields: false });
    bencher
        .with_inputs(|| Request::get("http://api.example.com/repos").body(Full::default()).expect("a request"))
        .bench_values(|request| service.clone().call(request).now_or_never().expect("answered at once").ok());
}
