//! The property of sharing: whatever the service, its bodies, the readers, the store and the bounds, every client gets what
//! it would have got alone, whole, and no later than that plus `wait` (twice, where it waited for its turn).
//!
//! A path is answered alike by every call but the first, which may be slow, stall or fail. Time is turned, not waited for.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail; the clock is the paused one"
)]

#[path = "support/cache_world.rs"]
mod world;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;
use tokio::time::{Instant, sleep, timeout};
use tollgate::cache::Profile;
use tollgate::store::memory::MemoryCache;
use tollgate::testing::{Faulty, InjectedFault};
use world::{Asked, Fault, Reply, World, get, reply};

const WAIT: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(5);
/// What a store that hangs may add to one request: a few look-ups of a quarter of a second.
const STORE: Duration = Duration::from_millis(2_000);
/// A body that stalls is known to do so after at most so long.
const STALL: Duration = Duration::from_millis(1_600);

/// How one call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Whole,
    /// The service fails before its head.
    NoHead,
    /// The head never comes.
    Hangs,
    /// The body fails after so many chunks.
    Fails(usize),
    /// The body stalls for good after so many chunks.
    Stalls(usize),
    /// The service panics before its head.
    Panics,
}

/// A path's answer.
#[derive(Clone, Debug)]
struct Page {
    chunks: usize,
    size: usize,
    promised: bool,
    cacheable: bool,
    etag: bool,
    head_ms: u64,
    chunk_ms: u64,
    first: Ending,
    first_head_ms: u64,
}

/// What a client does with its answer.
#[derive(Clone, Copy, Debug)]
enum Reader {
    Reads,
    /// Sleeps before each frame.
    Slow(u64),
    /// Reads one frame, and stops for a while.
    Stops(u64),
    /// Leaves after so long, answered or not.
    Leaves(u64),
    /// Reads one frame and leaves.
    ReadsOne,
}

#[derive(Clone, Copy, Debug)]
struct Client {
    path: usize,
    at_ms: u64,
    reader: Reader,
}

#[derive(Clone, Debug)]
struct Case {
    pages: Vec<Page>,
    clients: Vec<Client>,
    store: InjectedFault,
    memory: u64,
    max_entry: u64,
    shared: bool,
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        5 => Just(Ending::Whole),
        1 => Just(Ending::NoHead),
        1 => Just(Ending::Hangs),
        1 => Just(Ending::Panics),
        2 => (0..6_usize).prop_map(Ending::Fails),
        3 => (0..6_usize).prop_map(Ending::Stalls),
    ]
}

fn page() -> impl Strategy<Value = Page> {
    let shape = (
        0..8_usize,
        prop_oneof![1..2_usize, 10..500_usize, 2_000..9_000_usize],
        any::<bool>(),
        prop::bool::weighted(0.8),
    );
    let times = (
        prop_oneof![Just(0), 1..400_u64],
        prop_oneof![Just(0), 1..300_u64],
        ending(),
        prop_oneof![Just(0), 0..4_000_u64],
    );
    (shape, any::<bool>(), times).prop_map(
        |((chunks, size, promised, cacheable), etag, (head_ms, chunk_ms, first, first_head_ms))| Page {
            chunks,
            size,
            promised,
            cacheable,
            etag,
            head_ms,
            chunk_ms,
            first,
            first_head_ms,
        },
    )
}

fn reader() -> impl Strategy<Value = Reader> {
    prop_oneof![
        4 => Just(Reader::Reads),
        1 => (1..800_u64).prop_map(Reader::Slow),
        1 => (1..20_000_u64).prop_map(Reader::Stops),
        1 => (0..3_000_u64).prop_map(Reader::Leaves),
        1 => Just(Reader::ReadsOne),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let client = (0..2_usize, prop_oneof![3 => Just(0), 2 => 0..3_000_u64, 1 => 0..12_000_u64], reader())
        .prop_map(|(path, at_ms, reader)| Client { path, at_ms, reader });
    let store = prop_oneof![
        6 => Just(InjectedFault::None),
        1 => Just(InjectedFault::Err),
        1 => Just(InjectedFault::Hang),
        1 => Just(InjectedFault::Panic),
        1 => Just(InjectedFault::PanicOnPoll),
    ];
    let bounds = prop_oneof![Just((1 << 20, 1 << 18)), Just((40_000, 20_000)), Just((8_000, 8_000))];
    (prop::collection::vec(page(), 2), prop::collection::vec(client, 1..14), store, bounds, any::<bool>()).prop_map(
        |(pages, clients, store, (memory, max_entry), shared)| Case {
            pages,
            clients,
            store,
            memory,
            max_entry,
            shared,
        },
    )
}

impl Page {
    fn body(&self) -> Vec<u8> {
        (0..self.chunks).flat_map(|chunk| self.chunk(chunk)).collect()
    }

    fn chunk(&self, chunk: usize) -> Vec<u8> {
        vec![b'a' + chunk as u8; self.size]
    }

    /// What a call answers; the first may go wrong.
    async fn answer(self, asked: Asked, is_first: bool) -> Result<Reply, Fault> {
        let ending = if is_first { self.first } else { Ending::Whole };
        sleep(Duration::from_millis(if is_first { self.first_head_ms } else { self.head_ms })).await;
        match ending {
            Ending::NoHead => return Err(Fault("no head")),
            Ending::Hangs => std::future::pending().await,
            Ending::Panics => panic!("the service panics"),
            _ => {}
        }
        let whole = self.body();
        let mut fields = vec![("cache-control", if self.cacheable { "max-age=3600" } else { "no-store" }.to_owned())];
        if self.etag {
            fields.push(("etag", "\"page\"".to_owned()));
        }
        // A client that was left with a beginning asks for the rest.
        let from =
            asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        if let Some(from) = from.filter(|from: &usize| self.etag && *from < whole.len()) {
            fields.push((":status", "206".to_owned()));
            fields.push(("content-range", format!("bytes {from}-{}/{}", whole.len() - 1, whole.len())));
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            return Ok(reply(&fields, whole[from..].to_vec()));
        }
        if self.promised {
            fields.push(("content-length", whole.len().to_string()));
        }
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut response = reply(&fields, "");
        let frames = stream::unfold(0, move |n| {
            let page = self.clone();
            async move {
                sleep(Duration::from_millis(page.chunk_ms)).await;
                match ending {
                    Ending::Stalls(at) if at <= n => std::future::pending().await,
                    Ending::Fails(at) if at == n => Some((Err(Fault("broken")), n + 1)),
                    Ending::Fails(at) if at < n => None,
                    _ => (n < page.chunks).then(|| (Ok(Frame::data(Bytes::from(page.chunk(n)))), n + 1)),
                }
            }
        });
        *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(frames));
        Ok(response)
    }

    /// How long a call of its own would take.
    fn takes(&self) -> Duration {
        Duration::from_millis(self.head_ms + self.chunk_ms * (self.chunks as u64 + 1))
    }

    /// How long the first call takes, where it comes to an end.
    fn first_takes(&self) -> Duration {
        Duration::from_millis(self.first_head_ms + self.chunk_ms * (self.chunks as u64 + 1))
    }

    /// Whether a follower may have been sent the beginning of a first body that then went wrong.
    fn may_break_followers(&self) -> bool {
        self.promised && self.cacheable && matches!(self.first, Ending::Fails(at) | Ending::Stalls(at) if at > 0)
    }
}

/// What became of a client.
#[derive(Debug)]
enum Outcome {
    Whole(Vec<u8>),
    /// An error, or a panic, before the end.
    Broken,
    Left,
}

async fn run(world: World, client: Client) -> (Outcome, Duration) {
    sleep(Duration::from_millis(client.at_ms)).await;
    let began = Instant::now();
    let reading = tokio::spawn(async move {
        use tower::ServiceExt;
        let path = format!("/{}", client.path);
        let mut answer = world.service().oneshot(get(&path, &[])).await.map_err(drop)?;
        let mut all = Vec::new();
        let mut frames = 0;
        loop {
            match client.reader {
                Reader::Slow(pause) => sleep(Duration::from_millis(pause)).await,
                Reader::Stops(pause) if frames == 1 => sleep(Duration::from_millis(pause)).await,
                Reader::ReadsOne if frames == 1 => return Ok(None),
                _ => {}
            }
            match answer.body_mut().frame().await {
                None => return Ok::<_, ()>(Some(all)),
                Some(Ok(frame)) => all.extend_from_slice(&frame.into_data().expect("data")),
                Some(Err(_)) => return Err(()),
            }
            frames += 1;
        }
    });
    let patience =
        if let Reader::Leaves(after) = client.reader { Duration::from_millis(after) } else { Duration::from_secs(300) };
    let abort = reading.abort_handle();
    let outcome = match timeout(patience, reading).await {
        Ok(Ok(Ok(Some(body)))) => Outcome::Whole(body),
        Ok(Ok(Ok(None))) => Outcome::Left,
        Ok(Ok(Err(())) | Err(_)) => Outcome::Broken,
        Err(_) => {
            abort.abort();
            Outcome::Left
        }
    };
    (outcome, began.elapsed())
}

async fn check(case: Case) -> Result<(), TestCaseError> {
    let calls: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let (pages, counted) = (case.pages.clone(), calls.clone());
    let store = Arc::new(Faulty::new(MemoryCache::new(case.memory)));
    store.inject(case.store);
    let world = World::with(
        |b| {
            let b = b.memory(case.memory).max_entry(case.max_entry).wait(WAIT).idle_timeout(IDLE);
            let b = b.profile(if case.shared { Profile::Shared } else { Profile::App });
            if case.store == InjectedFault::None { b } else { b.store(store) }
        },
        move |asked| {
            let page = pages[asked.path[1..].parse::<usize>().expect("a path")].clone();
            let is_first = {
                let mut calls = counted.lock().expect("not poisoned");
                let count = calls.entry(asked.path.clone()).or_default();
                *count += 1;
                *count == 1
            };
            page.answer(asked, is_first)
        },
    );
    let running: Vec<_> = case.clients.iter().map(|client| tokio::spawn(run(world.clone(), *client))).collect();
    let mut broken_by_panic = HashMap::new();
    let mut outcomes = Vec::new();
    for task in running {
        outcomes.push(task.await.expect("a client does not panic"));
    }
    for (client, (outcome, took)) in case.clients.iter().zip(&outcomes) {
        let page = &case.pages[client.path];
        match outcome {
            Outcome::Left => {}
            Outcome::Whole(body) => {
                prop_assert!(*body == page.body(), "{client:?} got {} of {} bytes", body.len(), page.body().len());
                let own = if let Reader::Reads = client.reader { page.takes() } else { continue };
                // Who led the first call is as slow as that.
                let bound = own.max(page.first_takes()) + 2 * WAIT + STALL + STORE;
                prop_assert!(*took <= bound, "{client:?} took {took:?}, alone {own:?}");
            }
            // Only the client whose fetch it is, and followers that were sent something of it, see what goes wrong.
            Outcome::Broken if page.first != Ending::Whole => {
                let broken = broken_by_panic.entry(client.path).or_insert(0);
                *broken += 1;
                prop_assert!(page.may_break_followers() || *broken == 1, "{client:?}: not its fetch");
            }
            Outcome::Broken => prop_assert!(false, "{client:?} was broken without a cause"),
        }
    }
    sleep(Duration::from_secs(600)).await;
    prop_assert!(world.is_quiet().await, "left behind: {:?}", world.stats());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn every_client_gets_what_it_would_have_got_alone(case in case()) {
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let checked = runtime.block_on(check(case));
        std::panic::set_hook(quiet);
        checked?;
    }
}
