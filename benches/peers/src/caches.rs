//! Response caches over one origin. Every body is read to its end.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tollgate::Tollgate;
use tollgate::cache::{CacheLayer, Rule, Rules};
use tollgate::identity::{KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Limit, Quota, Tiers};
use tower::{Layer, Service};

use crate::limits::Cases;
use crate::measure::{Req, Run, service_read};

/// Answers that many bytes, fresh for an hour.
pub struct Origin<B>(Bytes, PhantomData<fn() -> B>);

impl<B> Clone for Origin<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

fn origin<B>(size: usize) -> Origin<B> {
    Origin(vec![b'x'; size].into(), PhantomData)
}

impl<B: From<Bytes>, Q> Service<Request<Q>> for Origin<B> {
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Ready<Result<Response<B>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Q>) -> Self::Future {
        let response = Response::builder()
            .header("content-type", "application/json")
            .header("cache-control", "max-age=3600")
            .header("etag", "\"v1\"");
        ready(Ok(response.body(self.0.clone().into()).expect("a response")))
    }
}

fn request(path: &str, n: u64) -> Req {
    let mut request = crate::limits::request(n);
    *request.uri_mut() = path.parse().expect("a path");
    request.headers_mut().insert("host", http::HeaderValue::from_static("example.com"));
    request
}

/// The same thing again and again.
pub fn hit(n: u64) -> Req {
    request("/prices/ACME", n)
}

/// Something else each time.
pub fn miss(n: u64) -> Req {
    request(&format!("/prices/{n}"), n)
}

/// The client has it already.
pub fn revalidate(n: u64) -> Req {
    let mut request = hit(n);
    request.headers_mut().insert("if-none-match", http::HeaderValue::from_static("\"v1\""));
    request
}

/// All caches over an origin of that size, the bare one first.
pub fn caches(size: usize) -> Cases {
    vec![
        ("bare service", service_read(origin::<Body>(size))),
        ("**tollgate**", tollgate(size)),
        ("http-cache-tower-server", http_cache(size)),
        ("tower-http-cache", tower_http_cache(size)),
        ("axum-response-cache", axum_response_cache(size)),
        ("hitbox", hitbox(size)),
    ]
}

/// What a hit costs beside that many other entries, over the bare origin: nanoseconds.
pub fn hit_among(entries: u64) -> f64 {
    let layer = CacheLayer::builder().rules(everything()).memory(8 << 30).build().expect("a layer");
    let mut run = service_read(layer.layer(origin::<Body>(64)));
    for first in (0..entries).step_by(10_000) {
        run((first..entries.min(first + 10_000)).map(miss).collect());
    }
    let mut bare = service_read(origin::<Body>(64));
    let (mut best, mut base, mut at) = (f64::MAX, f64::MAX, 1_u64);
    for _ in 0..60 {
        let mut among = || {
            at = at.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            miss((at >> 20) % entries)
        };
        let requests: Vec<Req> = (0..2_000).map(|_| among()).collect();
        let same: Vec<Req> = (0..2_000).map(|_| among()).collect();
        best = best.min(run(requests) as f64 / 2_000.0);
        base = base.min(bare(same) as f64 / 2_000.0);
    }
    best - base
}

/// Timing, two limits and the cache, as `Tollgate` stacks them.
pub fn stack(size: usize) -> Cases {
    let plenty = Quota::new(9_999, Duration::from_millis(1));
    let gate = Tollgate::builder()
        .identify(by::bearer().or(by::client_ip(TrustedProxies::none())))
        .limit(Tiers::new(plenty))
        .limit(Limit::per_ip(Quota::new(9_998, Duration::from_millis(2))))
        .cache(Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(3_600))))
        .build()
        .expect("a gate");
    vec![
        ("bare service", service_read(origin::<Body>(size))),
        ("**tollgate**: timing, two limits, cache hit", service_read(gate.layer().layer(origin::<Body>(size)))),
    ]
}

/// Every request shares fetches, as in the other caches.
fn everything() -> Rules {
    Rules::new().otherwise(Rule::from_headers())
}

fn tollgate(size: usize) -> Run {
    let layer = CacheLayer::builder().rules(everything()).memory(256 << 20).max_entry(2 << 20).build();
    let layer = layer.expect("a layer");
    service_read(layer.layer(origin::<Body>(size)))
}

fn http_cache(size: usize) -> Run {
    use http_cache::MokaManager;
    use http_cache_tower_server::ServerCacheLayer;
    service_read(ServerCacheLayer::new(MokaManager::default()).layer(origin::<Body>(size)))
}

fn tower_http_cache(size: usize) -> Run {
    use tower_http_cache::prelude::{CacheLayer, InMemoryBackend};
    let layer = CacheLayer::builder(InMemoryBackend::new(100_000)).ttl(Duration::from_secs(3_600)).build();
    service_read(layer.layer(origin::<Full<Bytes>>(size)))
}

fn axum_response_cache(size: usize) -> Run {
    use axum_response_cache::CacheLayer;
    service_read(CacheLayer::with_lifespan(Duration::from_secs(3_600)).layer(origin::<Body>(size)))
}

fn hitbox(size: usize) -> Run {
    use hitbox::Config;
    use hitbox::policy::PolicyConfig;
    use hitbox_http::extractors::Method;
    use hitbox_http::extractors::path::PathExtractor;
    use hitbox_http::predicates::{NeutralRequestPredicate, NeutralResponsePredicate};
    use hitbox_moka::MokaBackend;
    use hitbox_tower::Cache;
    let config = Config::builder()
        .request_predicate(NeutralRequestPredicate::new())
        .response_predicate(NeutralResponsePredicate::new())
        .extractor(Method::new().path("/prices/{symbol}"))
        .policy(PolicyConfig::builder().ttl(Duration::from_secs(3_600)).build())
        .build();
    let cache = Cache::builder().backend(MokaBackend::builder().max_entries(100_000).build()).config(config).build();
    service_read(cache.layer(origin::<Full<Bytes>>(size)))
}
