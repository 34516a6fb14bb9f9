//! The measurements behind three choices, beside the crate that was not chosen: `cargo bench --bench choices`.
//!
//! | ours | beside |
//! |---|---|
//! | `timing/measure/histogram` | hdrhistogram at the same precision |
//! | the interpolated clock, `base/clock/ticks` | `quanta`'s calibrated clock, `std::time::Instant` |
//! | a flag before a lock, `cache/tower/live_rules` | `arc_swap` |
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a bench may fail, and reads clocks")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use divan::{Bencher, black_box};

#[path = "../src/timing/measure/histogram.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "the bench uses a part of the file")]
mod histogram;

fn main() {
    divan::main();
}

/// Latencies from a microsecond to some milliseconds.
fn latencies() -> Vec<u64> {
    (0..1024_u64).map(|n| 1_000 + n.wrapping_mul(2_654_435_761) % 5_000_000).collect()
}

#[divan::bench]
fn record_histogram(bencher: Bencher) {
    let (mut ours, values) = (histogram::Histogram::default(), latencies());
    bencher.counter(values.len()).bench_local(|| values.iter().for_each(|nanos| ours.add(black_box(*nanos), 1)));
}

#[divan::bench]
fn record_hdrhistogram(bencher: Bencher) {
    let mut theirs = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 1 << 41, 2).expect("bounds");
    let values = latencies();
    bencher
        .counter(values.len())
        .bench_local(|| values.iter().for_each(|nanos| theirs.record(black_box(*nanos)).expect("within bounds")));
}

#[divan::bench]
fn read_clock_interpolated(bencher: Bencher) {
    let clock = tollgate::Clock::System;
    black_box(clock.now());
    bencher.bench_local(|| black_box(clock.now()));
}

#[divan::bench]
fn read_clock_quanta(bencher: Bencher) {
    let clock = quanta::Clock::new();
    bencher.bench_local(|| black_box(clock.now()));
}

#[divan::bench]
fn read_clock_std(bencher: Bencher) {
    bencher.bench_local(|| black_box(std::time::Instant::now()));
}

#[divan::bench]
fn read_rules_flag(bencher: Bencher) {
    let (is_replaced, built) = (AtomicBool::new(false), Arc::new(7_u64));
    bencher
        .bench_local(|| if black_box(&is_replaced).load(Ordering::Acquire) { 0 } else { *black_box(&built).as_ref() });
}

#[divan::bench]
fn read_rules_arc_swap(bencher: Bencher) {
    let rules = arc_swap::ArcSwap::from_pointee(7_u64);
    black_box(rules.load()); // the first load of a thread registers it, which would be measured as the rule
    bencher.bench_local(|| **black_box(&rules).load());
}
