//! What a month costs, re-derived on a clock that is turned by hand.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tollgate::cache::{Rule, Rules};
use tollgate::upstream::Credits;
use tollgate::{Clock, ManualClock, Tollgate};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Numbers that look like chance, from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Calls of the upstream for requests at these times, answers being kept so long.
async fn calls(arrivals: impl IntoIterator<Item = Duration>, ttl: Duration) -> u64 {
    let (hand, calls) = (ManualClock::new(), Arc::<AtomicU64>::default());
    let gate = Tollgate::upstream("market")
        .quota(Credits::per_month(1_000_000))
        .cache(Rules::new().route("/prices", Rule::ttl(ttl)))
        .clock(Clock::Manual(hand.clone()))
        .build()
        .expect("a gate");
    let counter = calls.clone();
    let mut client = gate.layer().layer(service_fn(move |_: Request<Full<Bytes>>| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("42"))) }
    }));
    let mut now = Duration::ZERO;
    for at in arrivals {
        hand.advance(at - now);
        now = at;
        let request = Request::get("http://api.example.com/prices").body(Full::default()).expect("a request");
        client.ready().await.expect("infallible").call(request).await.expect("an answer");
    }
    let stats = gate.stats();
    assert_eq!(stats.upstream.calls, calls.load(Ordering::SeqCst));
    assert_eq!(stats.calls_avoided + stats.calls, stats.requests);
    calls.load(Ordering::SeqCst)
}

/// A thousand users view two pages a day for thirty days, each at any moment, independently: 60 000 arrivals, spread
/// evenly over the month as chance does. Every page needs the same answer. Between two calls lie the fifteen minutes that
/// the answer is kept, and the wait for whoever comes next, 43.2 s on average:
/// 2 592 000 s ⁄ (900 s + 43.2 s) = 2 748.
#[tokio::test]
async fn sixty_thousand_calls_a_month_become_2748() {
    let (users, pages, days) = (1_000, 2, 30);
    let month = Duration::from_secs(days * 86_400);
    let expected = month.as_secs_f64() / (900.0 + month.as_secs_f64() / (users * pages * days) as f64);
    assert_eq!(expected.round(), 2_748.0);
    let mut dice = Dice(SEED);
    let mut arrivals: Vec<Duration> = (0..users * pages * days).map(|_| month.mul_f64(dice.roll())).collect();
    arrivals.sort_unstable();
    let (one_by_one, kept) = (arrivals.len(), calls(arrivals, Duration::from_secs(900)).await);
    println!("one by one {one_by_one} calls, kept for 15 minutes {kept}");
    assert_eq!((one_by_one, kept), (60_000, 2_748));
}

/// One month of many: others come to between 2 744 and 2 753.
const SEED: u64 = 6;

#[tokio::test]
async fn twelve_hundred_requests_a_minute_are_one_call_a_minute() {
    let minutes = 10;
    let arrivals = (0..1_200 * minutes).map(|n| Duration::from_millis(50 * n));
    assert_eq!(calls(arrivals, Duration::from_secs(60)).await, minutes);
}

/// The same thousand users with a job that fetches every fifteen minutes: the upstream is called 2 880 times a month whatever they
/// do, and every one of them gets an answer from the cache. The first value comes before the first user.
#[tokio::test(start_paused = true)]
async fn with_a_job_no_user_waits_for_the_upstream() {
    let (users, views, days) = (1_000_u64, 2, 30_u64);
    let start = std::time::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    let (hand, calls) = (ManualClock::starting(start - Duration::from_secs(900)), Arc::<AtomicU64>::default());
    let gate = Tollgate::builder().clock(Clock::Manual(hand.clone())).build().expect("a gate");
    let prices = gate.data().cached::<u64>("prices").ttl(Duration::from_secs(1_800)).build().expect("a namespace");
    let (paid, cache) = (calls.clone(), prices.clone());
    let refresh = move |_| {
        let (paid, cache) = (paid.clone(), cache.clone());
        async move { cache.put("all", paid.fetch_add(1, Ordering::SeqCst)).await.map(|_| ()) }
    };
    gate.jobs().every("15m").job("prices", refresh).expect("a job");
    let mut dice = Dice(SEED);
    let month = days * 86_400;
    let mut arrivals: Vec<u64> = (0..users * views * days).map(|_| (month as f64 * dice.roll()) as u64).collect();
    arrivals.sort_unstable();
    let mut arrivals = arrivals.into_iter().peekable();
    for slot in 0..month / 900 {
        hand.advance(Duration::from_secs(900));
        // The job looks at the clock within a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        while arrivals.next_if(|at| *at < (slot + 1) * 900).is_some() {
            assert!(prices.get("all").await.is_some(), "a user waits in slot {slot}");
        }
    }
    let stats = gate.stats();
    let data = &stats.data[0];
    println!("with a job {} calls, {} hits, {} misses", calls.load(Ordering::SeqCst), data.hits, data.misses);
    assert_eq!((calls.load(Ordering::SeqCst), data.hits, data.misses), (2_880, 60_000, 0));
}
