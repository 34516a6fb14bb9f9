//! What a typed value costs, and what batching saves: `cargo bench --bench data`.
//!
//! Compare rows of one run only. The batcher's rows are of whole runs against a simulated upstream that takes a
//! millisecond for a call and serves eight calls at a time; the calls it got are printed behind them.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench may fail, prints, and measures"
)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use divan::{AllocProfiler, Bencher, black_box};
use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tollgate::Batcher;
use tollgate::cache::{Cached, DataCache};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const KEYS: u64 = 1_000;

fn main() {
    divan::Divan::from_args().sample_size(64).sample_count(2_000).main();
    upstream();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A namespace that holds a thousand values.
fn filled() -> Cached<String> {
    let cached: Cached<String> =
        DataCache::in_memory(64 << 20).cached("bench").ttl(Duration::from_secs(3_600)).build().expect("a namespace");
    for n in 0..KEYS {
        cached.put(("user", n), n.to_string()).now_or_never().expect("at once").expect("kept");
    }
    cached
}

/// Numbers in no order.
fn any_key() -> impl FnMut() -> u64 {
    let mut n = 0_u64;
    move || {
        n = n.wrapping_add(1);
        n.wrapping_mul(0x2545_F491_4F6C_DD1D) % KEYS
    }
}

mod hit {
    use super::*;

    /// The floor: moka alone, by a key of the same bytes.
    #[divan::bench]
    fn bare_moka(bencher: Bencher<'_, '_>) {
        let cache: moka::sync::Cache<(&'static str, u64), Arc<String>, foldhash::fast::RandomState> =
            moka::sync::Cache::builder()
                .max_capacity(100_000)
                .build_with_hasher(foldhash::fast::RandomState::default());
        (0..KEYS).for_each(|n| cache.insert(("user", n), Arc::new(n.to_string())));
        bencher.with_inputs(any_key()).bench_local_values(|n| cache.get(black_box(&("user", n))));
    }

    #[divan::bench]
    fn get_or_load(bencher: Bencher<'_, '_>) {
        let cached = filled();
        bencher.with_inputs(any_key()).bench_local_values(|n| {
            let load = move || async move { Ok::<_, Infallible>(n.to_string()) };
            cached.get_or_load(("user", black_box(n)), load).now_or_never().expect("at once")
        });
    }

    #[divan::bench]
    fn get(bencher: Bencher<'_, '_>) {
        let cached = filled();
        bencher
            .with_inputs(any_key())
            .bench_local_values(|n| cached.get(("user", black_box(n))).now_or_never().expect("at once"));
    }

    #[divan::bench(threads = [1, 2])]
    fn get_or_load_of_one_key(bencher: Bencher<'_, '_>) {
        let cached = filled();
        bencher.bench(|| {
            let load = || async { Ok::<_, Infallible>(String::new()) };
            cached.get_or_load(("user", black_box(7)), load).now_or_never()
        });
    }

    /// A hundred keys, all of them there.
    #[divan::bench]
    fn get_or_load_many_of_100(bencher: Bencher<'_, '_>) {
        let cached = filled();
        bencher.bench_local(|| {
            let load = |(_, n): (&'static str, u64)| async move { Ok::<_, Infallible>(n.to_string()) };
            let keys = (0..100).map(|n| ("user", black_box(n)));
            cached.get_or_load_many(keys, load).now_or_never().expect("at once").len()
        });
    }

    #[divan::bench]
    fn get_many_of_100(bencher: Bencher<'_, '_>) {
        let cached = filled();
        bencher.bench_local(|| {
            cached.get_many((0..100).map(|n| ("user", black_box(n)))).now_or_never().expect("at once").len()
        });
    }
}

mod miss {
    use super::*;

    /// A key never seen before: a task, a load that is ready at once, and keeping what it brings.
    #[divan::bench(sample_count = 200)]
    fn get_or_load(bencher: Bencher<'_, '_>) {
        let (cached, runtime, mut n) = (filled(), runtime(), KEYS);
        bencher.bench_local(|| {
            n += 1;
            let (key, load) = (("user", n), move || async move { Ok::<_, Infallible>(n.to_string()) });
            runtime.block_on(cached.get_or_load(key, load)).expect("infallible")
        });
    }
}

/// An upstream that takes a millisecond for a call, whatever it asks for, and serves eight at a time.
struct Upstream {
    serving: Semaphore,
    calls: AtomicU64,
}

impl Upstream {
    async fn ask(&self) {
        let turn = self.serving.acquire().await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(turn);
    }
}

/// 256 callers who ask for 16 keys each, one after the other, of 2 000: by themselves, in batches, and in batches for
/// what is not cached.
fn upstream() {
    const CALLERS: u64 = 256;
    const EACH: u64 = 16;
    const KEYS: u64 = 2_000;
    let key = |caller: u64, n: u64| (caller * 0x9E37 + n * 0x85EB) % KEYS;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let run = |name: &str, how: u8| {
        let upstream = Arc::new(Upstream { serving: Semaphore::new(8), calls: AtomicU64::new(0) });
        let asked = upstream.clone();
        let batcher = Batcher::new(move |keys: Vec<u64>| {
            let upstream = asked.clone();
            async move {
                upstream.ask().await;
                Ok::<_, Infallible>(keys.into_iter().map(|key| (key, key)).collect::<HashMap<_, _>>())
            }
        });
        let cached: Cached<Option<u64>> = DataCache::in_memory(8 << 20).cached("bench").build().expect("a namespace");
        let begun = Instant::now();
        let callers = (0..CALLERS).map(|caller| {
            let (upstream, batcher, cached) = (upstream.clone(), batcher.clone(), cached.clone());
            async move {
                for n in 0..EACH {
                    let key = key(caller, n);
                    match how {
                        0 => upstream.ask().await,
                        1 => drop(batcher.get(key).await.expect("answered")),
                        _ => {
                            let batcher = batcher.clone();
                            drop(cached.get_or_load(key, move || batcher.get(key)).await.expect("answered"));
                        }
                    }
                }
            }
        });
        let tasks: Vec<_> = callers.map(|caller| runtime.spawn(caller)).collect();
        runtime.block_on(join_all(tasks)).into_iter().for_each(|done| done.expect("no panic"));
        let took = begun.elapsed();
        let calls = upstream.calls.load(Ordering::Relaxed);
        println!("{name:<34} {:>9.1} ms {calls:>7} calls", took.as_secs_f64() * 1e3);
    };
    println!("\n{CALLERS} callers, {EACH} keys each of {KEYS}, an upstream of 1 ms a call and 8 calls at a time");
    run("one by one", 0);
    run("Batcher", 1);
    run("Cached over a Batcher", 2);
}
