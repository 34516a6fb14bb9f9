//! Far more keys than a bounded store holds: memory stays bounded, limited keys stay limited, newcomers are served.
//!
//! A million keys unless `TOLLGATE_FLOOD_KEYS` says otherwise; ten million take a minute and a half unoptimised. Its own
//! binary, so that the process's memory is its own.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Inner, Req};
use tollgate::identity::{Key, by};
use tollgate::limit::{Limit, Quota, RateLimitLayer};
use tollgate::{Clock, ManualClock};
use tower::{Layer, ServiceExt};

const CAPACITY: usize = 10_000;

fn keys() -> u64 {
    std::env::var("TOLLGATE_FLOOD_KEYS").map_or(1_000_000, |text| text.parse().expect("a number of keys"))
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).expect("a field").parse().expect("a number");
    pages * 4096
}

#[derive(Clone, Copy)]
struct Who(u64);

fn request(who: u64) -> Req {
    let mut request = http::Request::new(http_body_util::Empty::new());
    request.extensions_mut().insert(Who(who));
    request
}

#[test]
fn a_flood_of_keys_is_bounded_and_forgives_nobody() {
    let hand = ManualClock::new();
    let layer = RateLimitLayer::builder()
        .limit(Limit::by(by::extension_with(|who: &Who| Some(Key::number("user", who.0))), Quota::per_minute(5)))
        .capacity(CAPACITY)
        .clock(Clock::Manual(hand.clone()))
        .build()
        .expect("a layer");
    let service = layer.layer(Inner(Arc::default()));
    let ask = |who| {
        let answered = futures_util::FutureExt::now_or_never(service.clone().oneshot(request(who)));
        answered.expect("answered at once").expect("infallible").status().as_u16()
    };
    let limited = || (0..100).map(|n| u64::MAX - n);
    for who in limited() {
        (0..5).for_each(|_| assert_eq!(ask(who), 200));
        assert_eq!(ask(who), 429);
    }
    // Fill the store, then flood it a hundred times over.
    let filled = CAPACITY as u64 * 2;
    let mut refused = (0..filled).filter(|who| ask(*who) != 200).count();
    let before = resident();
    for who in filled..keys() {
        refused += usize::from(ask(who) != 200);
        if who % 1_000 == 0 {
            hand.advance(Duration::from_millis(3));
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < before / 10, "grew by {grown} bytes on top of {before}");
    assert!(layer.stats().store.keys <= CAPACITY as u64);
    assert_eq!(refused, 0, "newcomers are not locked out");
    assert!(limited().all(|who| ask(who) == 429), "a limited key was forgiven");
}
