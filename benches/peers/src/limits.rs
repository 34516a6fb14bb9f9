//! Rate limiters over one service.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum_gcra::real_ip::RealIp;
use http::{Request, Response};
use tollgate::identity::{KeyExtractor, KeyHash, TrustedProxies, by};
use tollgate::limit::{Check, Limit, LimitStore, Quota, RateLimitLayer, Tiers};
use tollgate::store::memory::MemoryLimits;
use tower::{Layer, Service};

use crate::measure::{Req, Run, kept, service};

/// Answers at once with a small body.
#[derive(Clone)]
pub struct Bare;

impl Service<Req> for Bare {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        black_box(&request);
        ready(Ok(Response::new(Body::empty())))
    }
}

/// From one of a thousand addresses.
pub fn request(n: u64) -> Req {
    let ip = Ipv4Addr::from(0x0a00_0000 | (n % 1_000) as u32);
    let mut request = Request::get("/prices/ACME").body(Body::empty()).expect("a request");
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from((ip, 80))));
    // What axum_gcra reads; the others pay for its presence with nothing.
    request.extensions_mut().insert(RealIp(IpAddr::V4(ip)));
    request
}

/// Never reached, and short enough to be told in four digits.
fn plenty() -> Quota {
    Quota::new(9_999, Duration::from_millis(1))
}

fn gate(limits: &[Limit]) -> RateLimitLayer {
    let builder = RateLimitLayer::builder().identify(by::bearer().or(by::client_ip(TrustedProxies::none())));
    limits.iter().fold(builder, |builder, limit| builder.limit(limit.clone())).build().expect("a layer")
}

fn tower_governor(headers: bool, per: Duration, burst: u32) -> Run {
    use tower_governor::GovernorLayer;
    use tower_governor::governor::GovernorConfigBuilder;
    let nanos = per.as_nanos() as u64;
    let mut config = GovernorConfigBuilder::default();
    config.per_nanosecond(nanos).burst_size(burst);
    if headers {
        let config = config.use_headers().finish().expect("a configuration");
        service(GovernorLayer::new(config).layer(Bare))
    } else {
        service(GovernorLayer::new(config.finish().expect("a configuration")).layer(Bare))
    }
}

fn axum_governor(per_hour: u32) -> Run {
    use axum_governor::extractor::PeerIp;
    use axum_governor::{GovernorConfigBuilder, GovernorLayer, Quota};
    let quota = Quota::requests_per_hour(NonZeroU32::new(per_hour).expect("not zero"));
    let config = GovernorConfigBuilder::default()
        .with_extractor(PeerIp::default())
        .expect_connect_info()
        .gc_disable()
        .quota_default(quota)
        .finish()
        .expect("a configuration");
    service(GovernorLayer::new(config).layer(Bare))
}

fn axum_gcra(interval: Duration, burst: u64) -> Run {
    use axum_gcra::RateLimitLayer;
    use axum_gcra::gcra::Quota;
    let quota = Quota::new(interval, burst.try_into().expect("not zero"));
    service(RateLimitLayer::<RealIp>::builder().with_default_quota(quota).build().layer(Bare))
}

/// Cases of one table: who, and what runs.
pub type Cases = Vec<(&'static str, Run)>;

pub fn accepting_without_fields() -> Cases {
    vec![
        ("bare service", service(Bare)),
        ("**tollgate**, in shadow", service(gate(&[Limit::per_ip(plenty().bucket(9_999)).shadow()]).layer(Bare))),
        ("tower_governor", tower_governor(false, Duration::from_nanos(100), 100_000_000)),
        ("axum_gcra", axum_gcra(Duration::from_nanos(100), 100_000_000)),
    ]
}

pub fn accepting_with_fields() -> Cases {
    let tiers = RateLimitLayer::builder()
        .identify(by::bearer().or(by::client_ip(TrustedProxies::none())))
        .limit(Tiers::new(plenty()))
        .limit(Limit::per_ip(Quota::new(9_998, Duration::from_millis(2))))
        .build()
        .expect("a layer");
    vec![
        ("bare service", service(Bare)),
        ("**tollgate**, exact window", service(gate(&[Limit::per_ip(plenty())]).layer(Bare))),
        ("**tollgate**, token bucket", service(gate(&[Limit::per_ip(plenty().bucket(9_999))]).layer(Bare))),
        ("**tollgate**, two limits", service(tiers.layer(Bare))),
        ("tower_governor", tower_governor(true, Duration::from_nanos(100), 100_000_000)),
        ("axum-governor", axum_governor(u32::MAX)),
    ]
}

pub fn refusing() -> Cases {
    let hour = Duration::from_secs(3_600);
    vec![
        ("bare service", service(Bare)),
        ("**tollgate**", service(gate(&[Limit::per_ip(Quota::per_hour(1))]).layer(Bare))),
        ("tower_governor", tower_governor(true, hour, 1)),
        ("axum-governor", axum_governor(1)),
        ("axum_gcra", axum_gcra(hour, 1)),
    ]
}

/// What one decision costs where that many keys are held: nanoseconds when known, when first seen, bytes per key.
pub struct Decision {
    pub name: &'static str,
    pub keys: u64,
    pub known: f64,
    pub new: f64,
    pub bytes: f64,
}

/// Well-mixed keys.
fn key(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const LOOKS: u64 = 200_000;

/// The least mean over some rounds of that many calls, keys picked at random.
fn least(keys: u64, mut call: impl FnMut(u64)) -> f64 {
    let (mut best, mut at) = (f64::MAX, 1_u64);
    for _ in 0..15 {
        let start = Instant::now();
        for _ in 0..LOOKS {
            at = at.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            call(key((at >> 20) % keys));
        }
        best = best.min(start.elapsed().as_nanos() as f64 / LOOKS as f64);
    }
    best
}

pub fn decisions(keys: u64) -> Vec<Decision> {
    let quota = Quota::per_second(60_000);
    let mut rows = vec![ours("**tollgate**, token bucket", keys, quota.bucket(60_000))];
    rows.push(ours("**tollgate**, exact window", keys, quota));
    rows.push(governor(keys));
    rows
}

fn ours(name: &'static str, keys: u64, quota: Quota) -> Decision {
    let now = tollgate::Clock::default().now();
    let check = |key: u64| Check::new(KeyHash::from_bits(key), quota);
    let (bytes, (store, new)) = kept(|| {
        let store = MemoryLimits::new(keys as usize);
        let start = Instant::now();
        for n in 0..keys {
            black_box(store.decide_one(&check(key(n)), now));
        }
        let new = start.elapsed().as_nanos() as f64 / keys as f64;
        (store, new)
    });
    let clock = tollgate::Clock::default();
    let known = least(keys, |key| {
        black_box(store.decide_one(&check(key), clock.now()));
    });
    Decision { name, keys, known, new, bytes: bytes as f64 / keys as f64 }
}

fn governor(keys: u64) -> Decision {
    use governor::{Quota, RateLimiter};
    let quota = Quota::per_second(NonZeroU32::new(60_000).expect("not zero"));
    let (bytes, (limiter, new)) = kept(|| {
        let limiter = RateLimiter::dashmap(quota);
        let start = Instant::now();
        (0..keys).for_each(|n| drop(limiter.check_key(&key(n))));
        let new = start.elapsed().as_nanos() as f64 / keys as f64;
        (limiter, new)
    });
    let known = least(keys, |key| drop(black_box(limiter.check_key(&key))));
    Decision { name: "governor, DashMap", keys, known, new, bytes: bytes as f64 / keys as f64 }
}

/// Nanoseconds per decision and thread on one hot key, with one thread and with two.
pub fn hot_key() -> Vec<(&'static str, [f64; 2])> {
    use governor::RateLimiter;
    let store = Arc::new(MemoryLimits::new(1_000));
    let quota = Quota::per_second(4_000_000).bucket(4_000_000);
    let clock = tollgate::Clock::default();
    let ours = move || {
        black_box(store.decide_one(&Check::new(KeyHash::from_bits(7), quota), clock.now()));
    };
    let limiter =
        Arc::new(RateLimiter::dashmap(governor::Quota::per_second(NonZeroU32::new(4_000_000).expect("not zero"))));
    let theirs = move || drop(black_box(limiter.check_key(&7_u64)));
    vec![
        ("**tollgate**, token bucket", [1, 2].map(|n| shared(n, &ours))),
        ("governor, DashMap", [1, 2].map(|n| shared(n, &theirs))),
    ]
}

fn shared(threads: u32, call: &(impl Fn() + Sync)) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            (0..threads).for_each(|_| drop(scope.spawn(|| (0..LOOKS).for_each(|_| call()))));
        });
        best = best.min(start.elapsed().as_nanos() as f64 / (LOOKS * u64::from(threads)) as f64);
    }
    best
}

/// Timing layers.
pub fn timing() -> Cases {
    use tollgate::timing::TimingLayer;
    use tower_http::trace::TraceLayer;
    vec![
        ("bare service", service(Bare)),
        ("**tollgate**, timing", service(TimingLayer::new().layer(Bare))),
        ("tower-http, Trace, no subscriber", service(TraceLayer::new_for_http().layer(Bare))),
    ]
}
