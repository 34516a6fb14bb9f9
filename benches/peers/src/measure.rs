//! Time, allocations and bytes of a request through a service.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::runtime::Runtime;
use tower::Service;

pub type Req = Request<Body>;

/// Counts this thread's allocations.
pub struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count(allocations: u64, bytes: i64) {
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + allocations));
    let _ = LIVE.try_with(|n| n.set(n.get() + bytes));
}

/// Bytes that `make` allocates and keeps, and what it made.
pub fn kept<T>(make: impl FnOnce() -> T) -> (i64, T) {
    let before = LIVE.get();
    let made = make();
    (LIVE.get() - before, made)
}

/// One service under test: runs these requests one after the other, and says how long that took in nanoseconds.
pub type Run = Box<dyn FnMut(Vec<Req>) -> u64>;

/// A service as a [`Run`]. Responses are dropped inside the time, requests were made outside.
pub fn service<S, R>(service: S) -> Run
where
    S: Service<Req, Response = R> + 'static,
    R: 'static,
{
    timed(service, async |response| drop(black_box(response)))
}

/// The same for a service whose bodies are read to their end.
pub fn service_read<S, B>(service: S) -> Run
where
    S: Service<Req, Response = Response<B>> + 'static,
    B: http_body::Body<Data = Bytes> + 'static,
{
    timed(service, async |response: Response<B>| drop(black_box(response.into_body().collect().await.ok())))
}

fn timed<S, R>(mut service: S, end: impl AsyncFn(R) + 'static) -> Run
where
    S: Service<Req, Response = R> + 'static,
{
    let runtime = runtime();
    Box::new(move |requests| {
        runtime.block_on(async {
            let start = Instant::now();
            for request in requests {
                let _ = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
                if let Ok(response) = service.call(request).await {
                    end(response).await;
                }
            }
            start.elapsed().as_nanos() as u64
        })
    })
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What one request costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub nanos: f64,
    pub allocations: f64,
}

/// The least mean time of a request over all rounds, and its allocations, for each case. The cases take turns, so that
/// the machine's moods meet all of them alike.
pub fn all(cases: &mut [Run], request: fn(u64) -> Req, rounds: usize, batch: u64) -> Vec<Cost> {
    let mut costs = vec![Cost { nanos: f64::MAX, allocations: 0.0 }; cases.len()];
    let mut sent = 0;
    for round in 0..rounds {
        for (run, cost) in cases.iter_mut().zip(&mut costs) {
            let requests: Vec<Req> = (0..batch).map(|n| request(sent + n)).collect();
            // What the case before has pushed out of the processor's caches comes back first.
            run((0..8).map(|n| request((1 << 40) + sent + n)).collect());
            let before = ALLOCATIONS.get();
            let nanos = run(requests) as f64 / batch as f64;
            // The first rounds fill caches and tables.
            if round >= rounds / 8 {
                cost.nanos = cost.nanos.min(nanos);
                cost.allocations = (ALLOCATIONS.get() - before) as f64 / batch as f64;
            }
        }
        sent += batch;
    }
    costs
}
