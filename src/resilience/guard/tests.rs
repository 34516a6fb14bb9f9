use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::base::event::Event;

const D: Duration = Duration::from_millis(25);
const MS: Duration = Duration::from_millis(1);

/// A server whose behaviour is set by the test; a connection is its number.
#[derive(Clone, Default)]
struct Server {
    listens: Arc<AtomicBool>,
    /// Neither accepts nor answers.
    hangs: Arc<AtomicBool>,
    dials: Arc<AtomicU64>,
    served: Arc<AtomicUsize>,
    reports: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn up() -> Self {
        let server = Self::default();
        server.listens.store(true, Ordering::SeqCst);
        server
    }

    fn guard(&self) -> FailOpen<u64> {
        self.guard_by(D)
    }

    fn guard_by(&self, deadline: Duration) -> FailOpen<u64> {
        self.guard_with(GuardSettings::new(deadline))
    }

    fn guard_with(&self, settings: GuardSettings) -> FailOpen<u64> {
        let (server, reports) = (self.clone(), self.reports.clone());
        let events = Events::new(Some(Arc::new(move |event: &Event<'_>| {
            let word = match event {
                Event::StoreDown { .. } => "down",
                Event::StoreUp { .. } => "up",
                _ => "other",
            };
            reports.lock().push(word.to_owned());
        })));
        let dial = move || -> BoxFuture<Result<u64, Error>> {
            let server = server.clone();
            Box::pin(async move {
                let number = server.dials.fetch_add(1, Ordering::SeqCst) + 1;
                server.wait().await;
                let listens = server.listens.load(Ordering::SeqCst);
                if listens { Ok(number) } else { Err(Error::store("refused", "nobody listens")) }
            })
        };
        FailOpen::new("test", settings, dial, events)
    }

    async fn wait(&self) {
        while self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(5 * MS).await;
        }
    }

    async fn answer(&self, _connection: u64) -> Result<u8, Fault> {
        self.served.fetch_add(1, Ordering::SeqCst);
        self.wait().await;
        let listens = self.listens.load(Ordering::SeqCst);
        if listens { Ok(1) } else { Err(Fault::Lost(Error::store("gone", "reset"))) }
    }

    async fn call(&self, guard: &FailOpen<u64>) -> Result<u8, Outage> {
        guard.call(|connection| self.answer(connection)).await
    }

    fn reports(&self) -> Vec<String> {
        self.reports.lock().clone()
    }
}

async fn settled(guard: &FailOpen<u64>) {
    let mut connects = guard.connects();
    connects.wait_for(|number| *number > 0).await.expect("the guard lives");
}

async fn took<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let start = runtime_now();
    (future.await, runtime_now() - start)
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_for_a_connection() {
    let server = Server::default();
    let guard = server.guard();
    for _ in 0..1_000 {
        let (answer, took) = took(server.call(&guard)).await;
        assert_eq!((answer, took), (Err(Outage::Disconnected), Duration::ZERO));
    }
    assert_eq!(server.served.load(Ordering::SeqCst), 0);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let dials = server.dials.load(Ordering::SeqCst);
    assert!((40..=100).contains(&dials), "at most ten attempts a second: {dials} in ten");
    assert_eq!(server.reports(), ["down"], "reported once");
    server.listens.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(server.call(&guard).await, Ok(1), "back within a quarter of a second");
    assert_eq!(server.reports(), ["down", "up"]);
    assert_eq!(guard.generation(), 1);
}

#[tokio::test(start_paused = true)]
async fn rejected_credentials_are_tried_again_within_a_second_and_not_more_often() {
    let (tried, right) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, is_right) = (tried.clone(), right.clone());
    let dial = move || -> BoxFuture<Result<u64, Error>> {
        counted.fetch_add(1, Ordering::SeqCst);
        let is_right = is_right.load(Ordering::SeqCst);
        let denied = || Error::outage_with("wrong password".to_owned(), Outage::Denied);
        Box::pin(async move { if is_right { Ok(1) } else { Err(denied()) } })
    };
    let guard = FailOpen::new("test", GuardSettings::new(D), dial, Events::new(None));
    let call = || guard.call(|_| async { Ok(1_u8) });
    assert_eq!(call().await, Err(Outage::Disconnected));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let tries = tried.load(Ordering::SeqCst);
    assert!((12..=14).contains(&tries), "every 800 ms: {tries} in ten seconds");
    right.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(801)).await;
    assert_eq!(call().await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_server_costs_the_deadline_until_the_breaker_opens() {
    let server = Server::up();
    let guard = server.guard();
    settled(&guard).await;
    assert_eq!(server.call(&guard).await, Ok(1));
    server.hangs.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        let (answer, took) = took(server.call(&guard)).await;
        assert_eq!((answer, took), (Err(Outage::Deadline), D - super::ROUNDING));
    }
    let (answer, time) = took(server.call(&guard)).await;
    assert_eq!((answer, time), (Err(Outage::Disconnected), Duration::ZERO));
    // Hanging attempts do not delay the next ones, and the first success is used.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(server.dials.load(Ordering::SeqCst) >= 15);
    server.hangs.store(false, Ordering::SeqCst);
    tokio::time::sleep(D).await;
    assert_eq!(server.call(&guard).await, Ok(1), "the first call over the fresh connection tries it");
    assert_eq!(guard.generation(), 2);
    assert_eq!(server.reports(), ["down", "up"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_is_abandoned_within_a_quarter_of_a_second() {
    for deadline in [D, 2 * D] {
        let server = Server::up();
        let guard = server.guard_by(deadline);
        settled(&guard).await;
        let slow = || {
            guard.call(|_| async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok(())
            })
        };
        let (calls, time) = took(async {
            let mut calls = 0;
            while guard.check().is_ok() {
                assert_eq!(slow().await, Err(Outage::Deadline));
                calls += 1;
            }
            calls
        })
        .await;
        assert_eq!((calls, time), (5, 5 * (deadline - super::ROUNDING)));
        assert!(time <= Duration::from_millis(250), "{time:?}");
        let (answer, time) = took(slow()).await;
        assert_eq!((answer, time), (Err(Outage::Disconnected), Duration::ZERO), "nobody waits from then on");
    }
}

#[tokio::test(start_paused = true)]
async fn the_configured_circuit_applies() {
    let circuit = Circuit::default().failures(2).probe_every(Duration::from_secs(7));
    let server = Server::up();
    let guard = server.guard_with(GuardSettings { circuit, ..GuardSettings::new(D) });
    settled(&guard).await;
    for _ in 0..2 {
        let refused = guard.call(|_| async { Err::<(), _>(Fault::Refused(Error::store("no", "no"))) }).await;
        assert_eq!(refused, Err(Outage::Refused));
    }
    assert_eq!(server.call(&guard).await, Err(Outage::Open));
    tokio::time::sleep(Duration::from_millis(6_900)).await;
    assert_eq!(server.call(&guard).await, Err(Outage::Open), "not before its time");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.call(&guard).await, Ok(1));
    assert_eq!(server.reports(), ["down", "up"]);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_slow_open_it_where_that_was_set() {
    for (slow_after, opens) in [(None, false), (Some(10 * MS), true)] {
        let circuit = slow_after.map_or_else(Circuit::default, |span| Circuit::default().minimum(4).slow_after(span));
        let server = Server::up();
        let guard = server.guard_with(GuardSettings { circuit, ..GuardSettings::new(D) });
        settled(&guard).await;
        let slow = || {
            guard.call(|_| async {
                tokio::time::sleep(12 * MS).await;
                Ok(())
            })
        };
        for _ in 0..4 {
            assert_eq!(slow().await, Ok(()));
        }
        let after = if opens { Err(Outage::Open) } else { Ok(1) };
        assert_eq!(server.call(&guard).await, after, "{slow_after:?}");
    }
}

/// Accepts every connection and then fails; it may not be dialled on every call.
#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_then_fails_is_dialled_five_times_a_second_at_most() {
    for breaks in [true, false] {
        let server = Server::up();
        let guard = server.guard();
        settled(&guard).await;
        let start = runtime_now();
        while runtime_now() - start < Duration::from_secs(10) {
            let answer = guard.call(|_| async move {
                if breaks { Err(Fault::Lost(Error::store("gone", "reset"))) } else { std::future::pending().await }
            });
            assert!(answer.await.map(|()| 0).is_err());
            tokio::time::sleep(MS).await;
        }
        let dials = server.dials.load(Ordering::SeqCst);
        assert!((40..=52).contains(&dials), "{dials} connections in ten seconds");
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_outages_leak_nothing() {
    let server = Server::up();
    let guard = server.guard();
    settled(&guard).await;
    assert_eq!(server.call(&guard).await, Ok(1));
    let held = |guard: &FailOpen<u64>| {
        let metrics = tokio::runtime::Handle::current().metrics();
        let inner = (Arc::strong_count(&guard.inner), Arc::weak_count(&guard.inner));
        // Resources that a leaked attempt or call would hold.
        (metrics.num_alive_tasks(), inner, Arc::strong_count(&server.dials), guard.inner.connects.receiver_count())
    };
    let before = held(&guard);
    assert_eq!((before.0, before.1), (0, (1, 0)));
    for cycle in 1..=1_000 {
        let hangs = cycle % 2 == 0;
        if hangs {
            server.hangs.store(true, Ordering::SeqCst)
        } else {
            server.listens.store(false, Ordering::SeqCst)
        }
        while guard.check().is_ok() {
            assert!(server.call(&guard).await.is_err());
        }
        // Long enough for several attempts that overlap.
        tokio::time::sleep(Duration::from_millis(450)).await;
        assert_eq!(held(&guard).0, 1, "one task dials");
        server.hangs.store(false, Ordering::SeqCst);
        server.listens.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(server.call(&guard).await, Ok(1), "cycle {cycle}");
        assert_eq!(held(&guard), before, "cycle {cycle}");
    }
    assert_eq!((guard.generation(), server.reports().len()), (1_001, 2_000));
}

#[tokio::test(start_paused = true)]
async fn occasional_slow_answers_keep_the_connection() {
    let server = Server::up();
    let guard = server.guard();
    settled(&guard).await;
    for i in 0..1_000 {
        let slow = i % 20 == 7;
        let answer = guard.call(|_| async move {
            if slow {
                tokio::time::sleep(D * 4).await;
            }
            Ok(1)
        });
        assert_eq!(answer.await, if slow { Err(Outage::Deadline) } else { Ok(1) });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((guard.generation(), server.reports().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_rejecting_server_is_probed_over_the_same_connection() {
    let server = Server::up();
    let guard = server.guard();
    settled(&guard).await;
    let (refuses, asked) = (AtomicBool::new(true), AtomicUsize::new(0));
    let call = || {
        guard.call(|_| async {
            asked.fetch_add(1, Ordering::SeqCst);
            let refuses = refuses.load(Ordering::SeqCst);
            if refuses { Err(Fault::Refused(Error::store("no", "READONLY"))) } else { Ok(1) }
        })
    };
    for _ in 0..1_000 {
        assert!(call().await.is_err());
        tokio::time::sleep(10 * MS).await;
    }
    let asked_before = asked.load(Ordering::SeqCst);
    assert!((13..=16).contains(&asked_before), "five, then one a second for ten seconds: {asked_before}");
    refuses.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(call().await, Ok(1));
    assert_eq!(call().await, Ok(1));
    assert_eq!((guard.generation(), server.reports()), (1, vec!["down".to_owned(), "up".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_replaced_by_a_fresh_one() {
    let server = Server::up();
    let guard = server.guard();
    settled(&guard).await;
    server.listens.store(false, Ordering::SeqCst);
    assert_eq!(server.call(&guard).await, Err(Outage::Disconnected));
    server.listens.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(server.call(&guard).await, Ok(1));
    assert_eq!((guard.generation(), guard.stats().up), (2, true));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_leaks_nothing() {
    let server = Server::default();
    for _ in 0..100 {
        let guard = server.guard();
        assert!(server.call(&guard).await.is_err());
        tokio::time::sleep(MS).await;
    }
    tokio::time::sleep(MS).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 0);
}

#[test]
fn a_guard_built_outside_a_runtime_connects_on_first_use() {
    let server = Server::up();
    let guard = server.guard();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime().block_on(async {
        assert_eq!(server.call(&guard).await, Err(Outage::Disconnected));
        settled(&guard).await;
        assert_eq!(server.call(&guard).await, Ok(1));
    });
    // The next runtime finds the state that the first one left.
    runtime().block_on(async { assert_eq!(server.call(&guard).await, Ok(1)) });
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_began_before_anyone_listened_is_reported_to_who_listens() {
    let dial = || -> BoxFuture<Result<u64, Error>> {
        Box::pin(std::future::ready(Err(Error::store("refused", "nobody listens"))))
    };
    let guard = FailOpen::new("test", GuardSettings::new(D), dial, Events::default());
    let _ = guard.call(|_| async { Ok::<u8, Fault>(1) }).await;
    tokio::time::sleep(10 * MS).await;
    let reports = Arc::new(Mutex::new(Vec::new()));
    let heard = reports.clone();
    let events = || {
        let heard = heard.clone();
        Events::new(Some(Arc::new(move |event: &Event<'_>| heard.lock().push(format!("{event:?}")))))
    };
    guard.listen(events());
    guard.listen(events());
    let reports = reports.lock();
    assert!(reports.len() == 1 && reports[0].contains("refused"), "{reports:?}");
}
