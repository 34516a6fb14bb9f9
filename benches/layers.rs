//! What each layer adds to a bare service, in one run, with allocations counted: `cargo bench --bench layers`.
//!
//! Compare rows of one run only; the machine's noise is in all of them alike. Columns: time per request, and under each
//! row the allocations per request.
#![expect(clippy::expect_used, reason = "a bench may fail")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use tollgate::PeerAddr;
use tollgate::identity::{KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Check, Limit, LimitStore, Quota, RateLimitLayer, Tiers};
use tollgate::store::memory::MemoryLimits;
use tower::{Layer, Service, ServiceExt};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

type Req = Request<Full<Bytes>>;

fn main() {
    divan::Divan::from_args().sample_size(32).sample_count(5_000).main();
}

/// Answers at once with a small body: what is left when a layer is free.
#[derive(Clone)]
struct Bare;

impl Service<Req> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        black_box(&request);
        std::future::ready(Ok(Response::new(Full::from(Bytes::from_static(b"ok")))))
    }
}

/// A request from one of `clients` addresses.
fn request(client: u32) -> Req {
    let mut request = Request::get("/prices/ACME").body(Full::default()).expect("a request");
    request.extensions_mut().insert(PeerAddr(SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 | client), 80))));
    request
}

/// Measures calls alone: requests are made outside, responses dropped outside, the service is called in place.
fn measure<S>(bencher: Bencher<'_, '_>, mut service: S)
where
    S: Service<Req, Error = Infallible>,
{
    let mut client = 0;
    let next = || {
        client = (client + 1) % 1_000;
        request(client)
    };
    bencher.with_inputs(next).bench_local_values(|request| {
        let ready = service.ready().now_or_never().expect("ready at once");
        ready.expect("infallible").call(request).now_or_never().expect("answered at once").ok()
    });
}

#[divan::bench]
fn a_bare_service(bencher: Bencher<'_, '_>) {
    measure(bencher, Bare);
}

mod limit {
    use super::*;

    #[divan::bench]
    fn accept_one_limit(bencher: Bencher<'_, '_>) {
        measure(bencher, RateLimitLayer::per_ip(Quota::per_minute(900)).layer(Bare));
    }

    #[divan::bench]
    fn accept_one_bucket(bencher: Bencher<'_, '_>) {
        measure(bencher, RateLimitLayer::per_ip(Quota::per_minute(900).bucket(900)).layer(Bare));
    }

    #[divan::bench]
    fn accept_tiers_and_ip(bencher: Bencher<'_, '_>) {
        let layer = RateLimitLayer::builder()
            .identify(by::bearer().or(by::client_ip(TrustedProxies::none())))
            .limit(Tiers::new(Quota::per_minute(900)))
            .limit(Limit::per_ip(Quota::per_hour(900)))
            .build()
            .expect("a layer");
        measure(bencher, layer.layer(Bare));
    }

    #[divan::bench]
    fn refuse(bencher: Bencher<'_, '_>) {
        let service = RateLimitLayer::per_ip(Quota::per_hour(1)).layer(Bare);
        for client in 0..1_000 {
            let _ = service.clone().oneshot(request(client)).now_or_never();
        }
        measure(bencher, service);
    }

    /// The tower plumbing alone.
    #[divan::bench]
    fn switched_off(bencher: Bencher<'_, '_>) {
        let layer = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_second(9_999))).enabled(false).build();
        measure(bencher, layer.expect("a layer").layer(Bare));
    }

    #[divan::bench]
    fn exempt(bencher: Bencher<'_, '_>) {
        let layer = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_second(9_999))).exempt(|_| true).build();
        measure(bencher, layer.expect("a layer").layer(Bare));
    }

    #[divan::bench]
    fn accept_everybody_without_fields(bencher: Bencher<'_, '_>) {
        let layer = RateLimitLayer::builder().limit(Limit::global(Quota::per_second(1_000_000_000)).shadow()).build();
        measure(bencher, layer.expect("a layer").layer(Bare));
    }

    #[divan::bench]
    fn accept_without_fields(bencher: Bencher<'_, '_>) {
        let layer = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_second(9_999)).shadow()).build();
        measure(bencher, layer.expect("a layer").layer(Bare));
    }

    /// The decision alone, per key held.
    #[divan::bench(args = [1_000, 1_000_000], consts = [false, true])]
    fn bare_decision<const BUCKET: bool>(bencher: Bencher<'_, '_>, keys: u64) {
        let store = MemoryLimits::new(keys as usize * 2);
        let quota = if BUCKET { Quota::per_second(1_000_000).bucket(1_000_000) } else { Quota::per_second(1_000_000) };
        let now = tollgate::Clock::default().now();
        let key =
            |n: u64| tollgate::identity::KeyHash::from_bits(n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17));
        (0..keys).for_each(|n| drop(store.decide(&[Check::new(key(n), quota)], now)));
        let next = std::sync::atomic::AtomicU64::new(0);
        bencher
            .with_inputs(|| {
                let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Check::new(key(n.wrapping_mul(0x2545_F491_4F6C_DD1D) % keys), quota)
            })
            .bench_values(|check| store.decide(black_box(&[check]), now + Duration::from_micros(1)));
    }

    /// A key never seen before, into a store that has room and into one that is full of others.
    #[divan::bench(args = [false, true])]
    fn first_seen_key(bencher: Bencher<'_, '_>, full: bool) {
        let store = MemoryLimits::new(if full { 10_000 } else { 1_000_000 });
        let now = tollgate::Clock::default().now();
        let (mut n, quota) = (0_u64, Quota::per_minute(100));
        let mut next = || {
            n += 1;
            Check::new(
                tollgate::identity::KeyHash::from_bits(n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17)),
                quota,
            )
        };
        (0..20_000).for_each(|_| drop(store.decide(&[next()], now)));
        bencher.with_inputs(next).bench_local_values(|check| store.decide(black_box(&[check]), now));
    }

    #[divan::bench(threads = [1, 2])]
    fn one_hot_key(bencher: Bencher<'_, '_>) {
        let store = MemoryLimits::new(1_000);
        let check =
            Check::new(tollgate::identity::KeyHash::from_bits(7), Quota::per_second(1_000_000).bucket(1_000_000));
        let now = tollgate::Clock::default().now();
        bencher.bench(|| store.decide(black_box(&[check]), now));
    }
}

/// What a decision is made of.
mod parts {
    use super::*;

    #[divan::bench]
    fn read_the_clock(bencher: Bencher<'_, '_>) {
        let clock = tollgate::Clock::default();
        bencher.bench(|| clock.now());
    }

    #[divan::bench]
    fn find_the_peer(bencher: Bencher<'_, '_>) {
        let request = request(7);
        bencher.bench(|| tollgate::RequestHead::of(black_box(&request)).peer());
    }

    #[divan::bench]
    fn identify_by_address(bencher: Bencher<'_, '_>) {
        let (who, request) = (by::client_ip(TrustedProxies::none()), request(7));
        bencher.bench(|| who.extract(&tollgate::RequestHead::of(black_box(&request))).is_some());
    }
}

mod timing {
    use tollgate::timing::{TimingLayer, timed};

    use super::*;

    #[divan::bench]
    fn by_pattern(bencher: Bencher<'_, '_>) {
        let layer = TimingLayer::builder().routes(["/prices/{symbol}", "/me"]).build().expect("a layer");
        measure(bencher, layer.layer(Bare));
    }

    #[divan::bench]
    fn unmatched(bencher: Bencher<'_, '_>) {
        measure(bencher, TimingLayer::new().layer(Bare));
    }

    #[divan::bench]
    fn one_query(bencher: Bencher<'_, '_>) {
        let inner = tower::service_fn(|_: Req| async {
            timed("load price", std::future::ready(())).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
        });
        measure(bencher, TimingLayer::new().layer(inner));
    }
}

/// The response cache. A request names its authority, as every request does on the wire.
mod cache {
    use tollgate::cache::CacheLayer;

    use super::*;

    /// Answers `size` bytes, fresh for an hour where the path says so.
    #[derive(Clone)]
    pub(super) struct Origin(pub(super) Bytes);

    impl Service<Req> for Origin {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;

        fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Req) -> Self::Future {
            let control = if request.uri().path() == "/never" { "no-store" } else { "max-age=3600" };
            let response = Response::builder()
                .header("content-type", "application/json")
                .header("cache-control", control)
                .header("etag", "\"v1\"");
            std::future::ready(Ok(response.body(Full::from(self.0.clone())).expect("a response")))
        }
    }

    pub(super) fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    /// Fills the cache through the service, so that what follows hits.
    pub(super) fn filled<S>(service: &S, request: Req)
    where
        S: Service<Req, Error = Infallible> + Clone,
    {
        runtime().block_on(async {
            let _ = service.clone().oneshot(request).await;
            tokio::task::yield_now().await;
        });
    }

    /// From one of a thousand addresses: together they stay below every limit.
    pub(super) fn named() -> Req {
        static CLIENT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let mut request = request(CLIENT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 1_000);
        request.headers_mut().insert("host", http::HeaderValue::from_static("example.com"));
        request
    }

    pub(super) fn measure_named<S>(bencher: Bencher<'_, '_>, mut service: S)
    where
        S: Service<Req, Error = Infallible>,
    {
        bencher.with_inputs(named).bench_local_values(|request| {
            let ready = service.ready().now_or_never().expect("ready at once");
            ready.expect("infallible").call(request).now_or_never().expect("answered at once").ok()
        });
    }

    #[divan::bench]
    fn a_bare_origin(bencher: Bencher<'_, '_>) {
        measure_named(bencher, Origin(Bytes::from(vec![0; 1 << 10])));
    }

    #[divan::bench(args = [1 << 10, 1 << 20])]
    fn hit(bencher: Bencher<'_, '_>, size: usize) {
        let service =
            CacheLayer::builder().max_entry(2 << 20).build().expect("a layer").layer(Origin(vec![0; size].into()));
        filled(&service, named());
        measure_named(bencher, service);
    }

    #[divan::bench]
    fn passed_by_post(bencher: Bencher<'_, '_>) {
        let mut service = CacheLayer::in_memory(64 << 20).layer(Origin(vec![0; 1 << 10].into()));
        let post = || {
            let mut request = named();
            *request.method_mut() = http::Method::POST;
            request
        };
        bencher.with_inputs(post).bench_local_values(|request| service.call(request).now_or_never());
    }

    /// A fetch, its body read and stored; another key each time.
    #[divan::bench(sample_count = 500)]
    fn miss_and_store(bencher: Bencher<'_, '_>) {
        let (runtime, mut n) = (runtime(), 0_u64);
        let rules = tollgate::cache::Rules::new().otherwise(tollgate::cache::Rule::from_headers());
        let layer = CacheLayer::builder().rules(rules).build().expect("a layer");
        let mut service = layer.layer(Origin(vec![0; 1 << 10].into()));
        let next = || {
            n += 1;
            let mut request = named();
            *request.uri_mut() = format!("/prices/{n}").parse().expect("a path");
            request
        };
        bencher.with_inputs(next).bench_local_values(|request| runtime.block_on(service.call(request)));
    }
}

/// Everything at once, as `Tollgate` stacks it: timing, two limits, cache.
mod stack {
    use tollgate::Tollgate;
    use tollgate::cache::{Rule, Rules};

    use super::cache::{Origin, filled, measure_named, named};
    use super::*;

    fn gate() -> Tollgate {
        Tollgate::builder()
            .identify(by::bearer().or(by::client_ip(TrustedProxies::none())))
            .limit(Tiers::new(Quota::per_second(9_999)))
            .limit(Limit::per_ip(Quota::per_minute(9_999_999)))
            .cache(Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(3600))))
            .build()
            .expect("a gate")
    }

    #[divan::bench]
    fn hit(bencher: Bencher<'_, '_>) {
        let service = gate().layer().layer(Origin(vec![0; 1 << 10].into()));
        filled(&service, named());
        measure_named(bencher, service);
    }
}

/// The same from one thread and from two, each with a service and clients of its own: what they share is the layer's state.
mod threads {
    use std::any::Any;
    use std::cell::RefCell;

    use tollgate::cache::CacheLayer;

    use super::cache::{Origin, filled, named};
    use super::*;

    thread_local! {
        static OWN: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
    }

    fn measure_together<S>(bencher: Bencher<'_, '_>, service: S)
    where
        S: Service<Req, Error = Infallible> + Clone + Sync + 'static,
    {
        bencher.with_inputs(named).bench_values(|request| {
            OWN.with_borrow_mut(|own| {
                if !own.as_ref().is_some_and(|own| own.is::<S>()) {
                    *own = Some(Box::new(service.clone()));
                }
                let service = own.as_mut().and_then(|own| own.downcast_mut::<S>()).expect("just put");
                let ready = service.ready().now_or_never().expect("ready at once");
                ready.expect("infallible").call(request).now_or_never().expect("answered at once").ok()
            })
        });
    }

    #[divan::bench(threads = [1, 2])]
    fn a_bare_service(bencher: Bencher<'_, '_>) {
        measure_together(bencher, Bare);
    }

    #[divan::bench(threads = [1, 2])]
    fn accept_one_limit(bencher: Bencher<'_, '_>) {
        measure_together(bencher, RateLimitLayer::per_ip(Quota::per_second(9_999)).layer(Bare));
    }

    #[divan::bench(threads = [1, 2])]
    fn hit_one_entry(bencher: Bencher<'_, '_>) {
        let service = CacheLayer::builder().build().expect("a layer").layer(Origin(vec![0; 1 << 10].into()));
        filled(&service, named());
        measure_together(bencher, service);
    }
}
