//! Accounts against a pretend API on loopback whose connections break before and after it counts: never less is counted
//! here than there, by one node or several.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tollgate::Circuit;
use tollgate::upstream::{Credits, MemoryCredits, OnLimit, Priority, Upstream, UpstreamLayer};
use tollgate::{Clock, ManualClock};
use tower::{Layer, ServiceExt};

#[path = "support/pretend.rs"]
mod pretend;

use pretend::{Behaviour, Fault, PretendApi};

type Plain = Client<HttpConnector, Empty<Bytes>>;

fn client() -> Plain {
    Client::builder(TokioExecutor::new()).build_http()
}

/// A number that looks like chance and is not.
fn noise(n: u64) -> u64 {
    let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 32)
}

async fn get(service: &Upstream<Plain>, url: &str) -> Option<StatusCode> {
    let request = Request::get(url).body(Empty::new()).expect("a request");
    let response = service.clone().oneshot(request).await.ok()?;
    let status = response.status();
    let _ = response.into_body().collect().await;
    Some(status)
}

fn faults(seed: u64) -> impl Fn(u64) -> Fault + Send + Sync + 'static {
    move |n| match noise(seed << 32 | n) % 12 {
        0 => Fault::ResetBefore,
        1 => Fault::ResetAfter,
        2 => Fault::Broken,
        3 | 4 => Fault::Slow(noise(n) % 4),
        _ => Fault::None,
    }
}

#[tokio::test]
async fn under_random_faults_no_account_counts_less_than_the_api() {
    for seed in 0..6 {
        let hand = ManualClock::new();
        let clock = Clock::Manual(hand.clone());
        let behaviour = Behaviour { limit: 300, window: Duration::from_secs(60), ..Behaviour::default() };
        let api = PretendApi::start_with(behaviour, clock.clone(), faults(seed)).await;
        let ledger = Arc::new(MemoryCredits::default());
        let node = || {
            let builder = UpstreamLayer::builder("api").quota(Credits::per_minute(100_000)).on_limit(OnLimit::Observe);
            let layer = builder.clock(clock.clone()).store(ledger.clone()).circuit(None).build().expect("a layer");
            let service = layer.layer(client());
            (layer, service)
        };
        let nodes = [node(), node()];
        for round in 0..40_u64 {
            let calls = (0..8).map(|n| {
                let (service, url) = (nodes[(n % 2) as usize].1.clone(), api.url(&format!("/{n}")));
                let leaves = noise(seed ^ round << 8 ^ n).is_multiple_of(9);
                async move {
                    let patience = Duration::from_millis(if leaves { 1 } else { 10_000 });
                    let _ = tokio::time::timeout(patience, get(&service, &url)).await;
                }
            });
            futures_util::future::join_all(calls).await;
            let seen = api.seen();
            let stats = nodes.each_ref().map(|(layer, _)| layer.stats());
            let ours: u64 = stats.iter().map(|stats| stats.credits).sum();
            assert!(ours >= seen.counted, "seed {seed}: {ours} < {}", seen.counted);
            // What both booked is in the ledger, whoever spent it.
            let most = stats.iter().map(|stats| stats.windows[0].spent).max().unwrap_or(0);
            let owed: u64 = stats.iter().map(|stats| stats.unbooked).sum();
            assert!(most + owed >= seen.in_window, "seed {seed}: {most} + {owed} < {}", seen.in_window);
            if noise(seed ^ round).is_multiple_of(7) {
                hand.advance(Duration::from_secs(20));
            }
        }
    }
}

#[tokio::test]
async fn one_node_knows_at_least_what_the_api_says_of_its_own_limit() {
    for seed in 10..16 {
        let hand = ManualClock::new();
        let clock = Clock::Manual(hand.clone());
        let behaviour = Behaviour { limit: 10_000, window: Duration::from_secs(60), ..Behaviour::default() };
        let api = PretendApi::start_with(behaviour, clock.clone(), faults(seed)).await;
        let layer = UpstreamLayer::builder("api").clock(clock).circuit(None).build().expect("a layer");
        let service = layer.layer(client());
        for round in 0..60_u64 {
            let calls = (0..6).map(|n| {
                let (service, url) = (&service, api.url(&format!("/{n}")));
                async move { get(service, &url).await }
            });
            futures_util::future::join_all(calls).await;
            let (seen, stats) = (api.seen(), layer.stats());
            if let Some(core) = stats.learned.first() {
                assert!(core.spent >= seen.in_window, "seed {seed}: {} < {}", core.spent, seen.in_window);
            }
            if noise(seed ^ round).is_multiple_of(9) {
                hand.advance(Duration::from_secs(17));
            }
        }
        // Nothing failed for two minutes: what is known is exact.
        for _ in 0..30 {
            hand.advance(Duration::from_secs(10));
            get(&service, &api.url("/a")).await;
        }
        let (seen, stats) = (api.seen(), layer.stats());
        assert!(stats.learned[0].spent <= seen.in_window + 4, "{} and {}", stats.learned[0].spent, seen.in_window);
    }
}

#[tokio::test]
async fn who_sheds_is_never_refused_by_the_quota() {
    let clock = Clock::Manual(ManualClock::new());
    let behaviour = Behaviour { limit: 50, ..Behaviour::default() };
    let api = PretendApi::start(behaviour, clock.clone()).await;
    let layer = UpstreamLayer::builder("api").share(Priority::Normal, 1.0).clock(clock).build().expect("a layer");
    let service = layer.layer(client());
    let mut shed = 0;
    for _ in 0..200 {
        shed += usize::from(get(&service, &api.url("/a")).await.is_none());
    }
    let seen = api.seen();
    assert_eq!((seen.counted, seen.refused, shed), (50, 0, 150));
}

#[tokio::test]
async fn a_secondary_limit_is_obeyed() {
    let hand = ManualClock::new();
    let clock = Clock::Manual(hand.clone());
    let api = PretendApi::start(Behaviour { most_a_second: 5, ..Behaviour::default() }, clock.clone()).await;
    let layer = UpstreamLayer::builder("api").circuit(Circuit::default()).clock(clock).build().expect("a layer");
    let service = layer.layer(client());
    for _ in 0..3 {
        for _ in 0..20 {
            get(&service, &api.url("/a")).await;
        }
        hand.advance(Duration::from_secs(1));
    }
    let seen = api.seen();
    assert_eq!((seen.counted, seen.secondary), (15, 3), "one refusal a second, then nobody asks");
}
