//! The batcher: when a batch leaves, who gets what, and what failures cost.
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and reads a paused clock")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::{Instant, sleep};
use tollgate::cache::{Cached, DataCache};
use tollgate::{BatchError, Batcher, BatcherBuilder};

type Calls = Arc<Mutex<Vec<Vec<u64>>>>;

/// Answers even keys by their double, knows no odd ones, and fails for keys over 1 000.
fn doubling(set: impl FnOnce(BatcherBuilder) -> BatcherBuilder) -> (Batcher<u64, u64, String>, Calls) {
    let calls = Calls::default();
    let log = calls.clone();
    let batcher = set(Batcher::builder()).build(move |keys: Vec<u64>| {
        log.lock().expect("not poisoned").push(keys.clone());
        async move {
            sleep(Duration::from_millis(10)).await;
            match keys.iter().find(|key| **key > 1_000) {
                Some(bad) => Err(format!("{bad} is bad")),
                None => {
                    Ok(keys.into_iter().filter(|key| key % 2 == 0).map(|key| (key, key * 2)).collect::<HashMap<_, _>>())
                }
            }
        }
    });
    (batcher, calls)
}

fn ask(
    batcher: &Batcher<u64, u64, String>,
    key: u64,
) -> tokio::task::JoinHandle<Result<Option<u64>, BatchError<String>>> {
    let batcher = batcher.clone();
    tokio::spawn(async move { batcher.get(key).await })
}

#[tokio::test(start_paused = true)]
async fn a_batch_leaves_after_two_milliseconds_and_each_key_is_asked_for_once() {
    let (batcher, calls) = doubling(|batcher| batcher);
    let begun = Instant::now();
    let asked: Vec<_> = [2, 4, 3, 2].map(|key| ask(&batcher, key)).into();
    sleep(Duration::from_millis(1)).await;
    assert!(calls.lock().expect("not poisoned").is_empty(), "it waits for company");
    let late = ask(&batcher, 6);
    let mut answers = Vec::new();
    for task in asked.into_iter().chain([late]) {
        answers.push(task.await.expect("no panic").expect("no error"));
    }
    assert_eq!(answers, [Some(4), Some(8), None, Some(4), Some(12)]);
    assert_eq!(*calls.lock().expect("not poisoned"), [vec![2, 4, 3, 6]]);
    assert!(begun.elapsed() <= Duration::from_millis(13), "{:?}", begun.elapsed());
    assert_eq!((batcher.stats().requests, batcher.stats().calls, batcher.stats().keys), (5, 1, 4));
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_leaves_at_once_and_the_next_one_waits_its_own_time() {
    let (batcher, calls) = doubling(|batcher| batcher.max_keys(100).delay(Duration::from_millis(2)));
    let asked: Vec<_> = (0..250).map(|key| ask(&batcher, key)).collect();
    tokio::task::yield_now().await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(calls.lock().expect("not poisoned").iter().map(Vec::len).collect::<Vec<_>>(), [100, 100]);
    for task in asked {
        task.await.expect("no panic").expect("no error");
    }
    assert_eq!(calls.lock().expect("not poisoned").iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
}

#[tokio::test(start_paused = true)]
async fn one_bad_key_among_a_hundred_is_found_and_the_others_are_answered() {
    let (batcher, calls) = doubling(|batcher| batcher);
    let keys: Vec<u64> = (0..99).chain([7_777]).collect();
    let asked: Vec<_> = keys.iter().map(|key| ask(&batcher, *key)).collect();
    for (key, task) in keys.into_iter().zip(asked) {
        match task.await.expect("no panic") {
            Ok(answer) => assert_eq!(answer, (key % 2 == 0).then_some(key * 2)),
            Err(error) => assert_eq!((key, error.to_string()), (7_777, "7777 is bad".to_owned())),
        }
    }
    assert!(calls.lock().expect("not poisoned").len() <= 15, "one, and at most 14 more");
}

#[tokio::test(start_paused = true)]
async fn where_everything_fails_halving_ends() {
    for (splits, most) in [(0, 1), (6, 7), (16, 17)] {
        let (batcher, calls) = doubling(|batcher| batcher.splits(splits));
        let asked: Vec<_> = (2_000..2_100).map(|key| ask(&batcher, key)).collect();
        for task in asked {
            assert!(task.await.expect("no panic").is_err());
        }
        assert_eq!(calls.lock().expect("not poisoned").len(), most);
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_cancels_nobody_and_a_batch_of_nobody_is_no_call() {
    let (batcher, calls) = doubling(|batcher| batcher);
    let (stays, leaves) = (ask(&batcher, 2), ask(&batcher, 4));
    tokio::task::yield_now().await;
    leaves.abort();
    assert_eq!(stays.await.expect("no panic").expect("no error"), Some(4));
    assert_eq!(*calls.lock().expect("not poisoned"), [vec![2]], "what nobody waits for is not asked for");
    // The first, who set the clock, leaves too.
    let (first, second) = (ask(&batcher, 6), ask(&batcher, 8));
    tokio::task::yield_now().await;
    first.abort();
    assert_eq!(second.await.expect("no panic").expect("no error"), Some(16));
    let all = [ask(&batcher, 10), ask(&batcher, 12)];
    tokio::task::yield_now().await;
    all.iter().for_each(tokio::task::JoinHandle::abort);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(calls.lock().expect("not poisoned").len(), 2);
    // While the call is under way everybody leaves but one.
    let (stays, leaves) = (ask(&batcher, 14), ask(&batcher, 14));
    sleep(Duration::from_millis(5)).await;
    leaves.abort();
    assert_eq!(stays.await.expect("no panic").expect("no error"), Some(28));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_error_for_its_batch_alone() {
    let breaks = Arc::new(AtomicBool::new(true));
    for at_once in [true, false] {
        let switch = breaks.clone();
        switch.store(true, Ordering::SeqCst);
        let batcher = Batcher::new(move |keys: Vec<u64>| {
            let broken = switch.swap(false, Ordering::SeqCst);
            assert!(!(broken && at_once), "a bug of the call, before its future");
            async move {
                assert!(!broken, "a bug of the call, in its future");
                Ok::<_, String>(keys.into_iter().map(|key| (key, key)))
            }
        });
        let answers = tokio::join!(batcher.get(1), batcher.get(2));
        assert!(matches!(answers, (Err(BatchError::Panicked), Err(BatchError::Panicked))));
        assert_eq!(batcher.get(1).await.expect("no error"), Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn under_a_cache_only_what_is_missing_is_asked_for() {
    let (batcher, calls) = doubling(|batcher| batcher);
    let cached: Cached<Option<u64>> = DataCache::in_memory(1 << 20).cached("doubles").build().expect("a namespace");
    cached.put_many((0..150).filter(|key| key % 3 == 0).map(|key| (key, Some(key)))).await.expect("kept");
    let ask = move |key: u64| batcher.get(key);
    let found = cached.get_or_load_many((0..150).chain([7_777]), ask.clone()).await;
    for (key, found) in (0..150).zip(&found) {
        let expected = if key % 3 == 0 { Some(key) } else { (key % 2 == 0).then_some(key * 2) };
        assert_eq!(found.as_deref().ok(), Some(&expected), "{key}");
    }
    assert!(found[150].is_err(), "a result for each key");
    let asked: Vec<u64> = calls.lock().expect("not poisoned").concat();
    assert!(asked.iter().all(|key| key % 3 != 0 || *key == 7_777));
    // All are known now, also those there is nothing of, but the one that failed.
    let before = calls.lock().expect("not poisoned").len();
    cached.get_or_load_many(0..150, ask).await;
    assert_eq!(calls.lock().expect("not poisoned").len(), before);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asked_for_reaches_nobody() {
    let batcher = Batcher::new(|_: Vec<u64>| async {
        Ok::<_, String>(HashMap::from([(1, "one".to_owned()), (2, "two".to_owned()), (3, "a secret".to_owned())]))
    });
    let (one, two, four) = tokio::join!(batcher.get(1), batcher.get(2), batcher.get(4));
    let found = [one, two, four].map(|answer| answer.expect("no error"));
    assert_eq!(found, [Some("one".to_owned()), Some("two".to_owned()), None]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever stays gets the answer to its own key, whatever the others do; nothing is asked for twice in a batch.
    #[test]
    fn everybody_who_stays_gets_its_own(steps in proptest::collection::vec((0_u64..1_012, 0_u64..4, any::<bool>()), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let (batcher, calls) = doubling(|batcher| batcher.max_keys(20).splits(1_000));
            let mut tasks = Vec::new();
            for (key, pause, leaves) in steps {
                let task = ask(&batcher, key);
                sleep(Duration::from_millis(pause)).await;
                match leaves {
                    true => task.abort(),
                    false => tasks.push((key, task)),
                }
            }
            for (key, task) in tasks {
                match task.await.expect("no panic") {
                    Ok(answer) => assert_eq!(answer, (key % 2 == 0).then_some(key * 2)),
                    Err(error) => assert!(key > 1_000 && error.to_string().contains(&key.to_string())),
                }
            }
            for call in calls.lock().expect("not poisoned").iter() {
                let distinct: std::collections::HashSet<_> = call.iter().collect();
                assert!(distinct.len() == call.len() && !call.is_empty() && call.len() <= 20);
            }
        });
    }
}
