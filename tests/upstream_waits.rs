//! Nothing waits longer than its bound: whatever the pace, the quota, the upstream and the store are up to.
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and asks the paused clock")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use proptest::prelude::*;
use tollgate::upstream::{
    Balance, Booking, CallPace, CreditStore, Credits, Error, MemoryCredits, OnLimit, Priority, UpstreamLayer,
};
use tollgate::{Clock, ManualClock, MaybeReady};
use tower::{Layer, ServiceExt, service_fn};

type Req = Request<Full<Bytes>>;

/// The runtime's timers count milliseconds and round up.
const ROUNDING: Duration = Duration::from_millis(4);

/// A store that takes a while, each time another.
struct Moody(Vec<u64>, AtomicU64, MemoryCredits);

impl CreditStore for Moody {
    fn book(&self, bookings: &[Booking]) -> MaybeReady<Result<Vec<Balance>, tollgate::Error>> {
        let turn = self.1.fetch_add(1, Ordering::SeqCst) as usize;
        let (wait, answer) = (Duration::from_millis(self.0[turn % self.0.len()]), self.2.book(bookings));
        MaybeReady::Pending(Box::pin(async move {
            tokio::time::sleep(wait).await;
            answer.await
        }))
    }
}

#[derive(Clone, Debug)]
struct Case {
    most: u64,
    pace: Option<(u32, u32)>,
    quota: u64,
    store: Option<Vec<u64>>,
    /// What the upstream answers, in turn: all is well, or wait for so many seconds.
    upstream: Vec<Option<u64>>,
    /// When callers come, and how much they matter.
    callers: Vec<(u64, u8)>,
}

fn cases() -> impl Strategy<Value = Case> {
    let store = prop::option::of(prop::collection::vec(0_u64..400, 1..5));
    let upstream = prop::collection::vec(prop::option::weighted(0.1, 0_u64..3), 1..20);
    let callers = prop::collection::vec((0_u64..3_000, 0_u8..3), 1..60);
    (0_u64..2_500, prop::option::of((1_u32..60, 1_u32..5)), 1_u64..80, store, upstream, callers)
        .prop_map(|(most, pace, quota, store, upstream, callers)| Case { most, pace, quota, store, upstream, callers })
}

fn layer(case: &Case, clock: &ManualClock) -> UpstreamLayer {
    let mut builder = UpstreamLayer::builder("api")
        .clock(Clock::Manual(clock.clone()))
        .quota(Credits::per_minute(case.quota))
        .on_limit(OnLimit::Wait(Duration::from_millis(case.most)));
    if let Some((calls, burst)) = case.pace {
        builder = builder.pace(CallPace::per_second(calls).burst(burst));
    }
    if let Some(waits) = &case.store {
        builder = builder.store(Arc::new(Moody(waits.clone(), AtomicU64::new(0), MemoryCredits::default())));
    }
    builder.build().expect("a layer")
}

async fn play(case: &Case) {
    let clock = ManualClock::new();
    let turns = Arc::new(AtomicU64::new(0));
    let script = case.upstream.clone();
    // The upstream answers at once, so that all a call takes is its wait.
    let service = layer(case, &clock).layer(service_fn(move |_: Req| {
        let turn = turns.fetch_add(1, Ordering::SeqCst) as usize;
        let response = match script[turn % script.len()] {
            None => Response::new(Full::<Bytes>::default()),
            Some(seconds) => {
                let refusal = Response::builder().status(429).header("retry-after", seconds);
                refusal.body(Full::default()).expect("a response")
            }
        };
        async move { Ok::<_, std::convert::Infallible>(response) }
    }));
    let ticking = async {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            clock.advance(Duration::from_millis(1));
        }
    };
    let calls = case.callers.iter().map(|(comes, matters)| {
        let service = service.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(*comes)).await;
            let mut request = Request::get("http://api.example.com/").body(Full::default()).expect("a request");
            let priority = [Priority::Low, Priority::Normal, Priority::High][usize::from(*matters)];
            request.extensions_mut().insert(priority);
            let since = tokio::time::Instant::now();
            let called = service.oneshot(request).await;
            let (shed, waited) = (matches!(called, Err(Error::Rejected(_))), since.elapsed());
            (shed, waited)
        }
    });
    let all = std::pin::pin!(futures_util::future::join_all(calls));
    let ticking = std::pin::pin!(ticking);
    // The clock ticks for ever.
    let futures_util::future::Either::Left((ended, _)) = futures_util::future::select(all, ticking).await;
    for (shed, waited) in ended {
        assert!(waited <= Duration::from_millis(case.most) + ROUNDING, "waited {waited:?}, shed: {shed}; {case:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_call_waits_longer_than_its_mode_allows(case in cases()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(play(&case));
    }
}
