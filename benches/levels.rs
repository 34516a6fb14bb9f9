//! What each level of a cache costs, beside a bare loop of its engine: `cargo bench --bench levels`. The file level also beside
//! redb, on the same data.
//!
//! Starts the servers that it needs. Compare rows of one run only. An engine is a [`ByteStore`](tollgate::cache::ByteStore); the
//! level adds encoding, checksum, deadline and circuit breaker. Values are 1 KiB.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench may fail, prints, and measures"
)]

#[path = "levels/file.rs"]
mod file;
#[path = "../tests/support/memcached.rs"]
mod memcached;
#[path = "../tests/support/postgres.rs"]
mod postgres;
#[path = "../tests/support/redis.rs"]
mod redis_server;
#[path = "levels/servers.rs"]
mod servers;

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Length of a value.
const VALUE: usize = 1_024;
const HOUR: Duration = Duration::from_secs(3_600);

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    println!("values of {VALUE} bytes; microseconds\n");
    println!("{:<48}{:>9}{:>9}{:>9}{:>9}", "", "put p50", "p99", "get p50", "p99");
    file::run(&runtime);
    runtime.block_on(servers::run());
    println!();
    file::reopen(100_000, VALUE);
    file::reopen(1_000_000, 200);
}

/// Durations of one operation.
#[derive(Default)]
struct Spans(Vec<u64>);

impl Spans {
    fn time<T>(&mut self, operation: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = black_box(operation());
        self.0.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        result
    }

    fn micros(&mut self, percent: usize) -> f64 {
        self.0.sort_unstable();
        let at = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(at).map_or(f64::NAN, |nanos| *nanos as f64 / 1_000.0)
    }
}

/// Times one asynchronous operation after the other.
async fn timed<F: Future>(count: u64, mut call: impl FnMut(u64) -> F) -> Spans {
    let mut spans = Spans::default();
    for n in 0..count {
        let begun = Instant::now();
        black_box(call(n).await);
        spans.0.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    spans
}

fn row(name: &str, puts: Option<Spans>, mut gets: Spans) {
    let puts = puts.map_or_else(
        || format!("{:>9}{:>9}", "", ""),
        |mut puts| format!("{:>9.2}{:>9.2}", puts.micros(50), puts.micros(99)),
    );
    println!("{name:<48}{puts}{:>9.2}{:>9.2}", gets.micros(50), gets.micros(99));
}
