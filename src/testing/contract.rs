//! Contract of stores, as a test suite for your own store.
//!
//! Both functions panic at the first thing that is wrong and say what it is. They make keys of their own, so that they
//! may
//! run on a store that others use meanwhile, and wait a little over a second of the runtime's time (none, where it is
//! paused and the store believes the time it is told).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::base::clock::{Clock, Timestamp};
use crate::cache::{CacheKey, CacheStore, Stored, entry_for_tests};
use crate::identity::KeyHash;
use crate::limit::{Check, LimitStore, Quota, Settlement, Verdict, Verdicts};

/// When entries are stored.
const NOW: Timestamp = Timestamp::from_nanos(86_400_000_000_000);

/// Runs the contract of [`LimitStore`] on a store.
///
/// | it is held to | |
/// |---|---|
/// | the limit | no more are admitted than the quota says, one after the other or at the same time, and never much less |
/// | all or none | where one check refuses, none is charged; one in dry-run never stands in the way |
/// | the order | verdicts come in the order of the checks |
/// | what remains | never more than would be admitted |
/// | looking | `peek` says what `decide` would, and charges nothing |
/// | settling | what was charged too much is given back, what was charged too little is charged |
/// | time | what was spent is free again after a period |
///
/// ```
/// use std::sync::Arc;
/// use tollgate::store::memory::MemoryLimits;
/// use tollgate::testing::contract;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// contract::limits(Arc::new(MemoryLimits::new(1_000))).await;
/// # }
/// ```
///
/// # Panics
/// Where the store breaks its contract, or returns an error.
pub async fn limits(store: Arc<dyn LimitStore>) {
    holds_to_the_limit(&*store).await;
    takes_all_or_none(&*store).await;
    looks_without_charging(&*store).await;
    settles(&*store).await;
    admits_no_more_at_the_same_time(&store).await;
    forgets_after_a_period(&*store).await;
}

/// Runs the contract of [`CacheStore`] on a store.
///
/// | it is held to | |
/// |---|---|
/// | the key | what was put under a key is found under it, and under no other |
/// | the entry | fields, body, status, tags and times come back as they were |
/// | the latest | what is put again replaces what was there |
/// | removal | what was removed is not found |
/// | many | entries asked for together come in the order of their keys |
///
/// A store that several processes share must have joined its fleet: an entry it could not check is a miss.
///
/// ```
/// use std::sync::Arc;
/// use tollgate::store::memory::MemoryCache;
/// use tollgate::testing::contract;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// contract::cache(Arc::new(MemoryCache::new(1 << 20))).await;
/// # }
/// ```
///
/// # Panics
/// Where the store breaks its contract, or returns an error.
pub async fn cache(store: Arc<dyn CacheStore>) {
    let keys: Vec<CacheKey> = (0..3).map(|_| unused_key()).collect();
    for key in &keys {
        assert!(found(&*store, key).await.is_none(), "something lies under a key that was never put");
    }
    let entry = |key: &CacheKey, body: &str| {
        let fields = [("etag", "\"1\""), ("x-twice", "a"), ("x-twice", "b")];
        entry_for_tests(key, &fields, Bytes::copy_from_slice(body.as_bytes()), NOW, store.generation())
    };
    put(&*store, &keys[0], entry(&keys[0], "first")).await;
    put(&*store, &keys[1], entry(&keys[1], "second")).await;
    is_as_put(&*store, &keys[0], "first").await;
    is_as_put(&*store, &keys[1], "second").await;
    assert!(found(&*store, &keys[2]).await.is_none(), "one key's entry lies under another");
    put(&*store, &keys[0], entry(&keys[0], "")).await;
    is_as_put(&*store, &keys[0], "").await;
    let asked = [keys[1].clone(), keys[2].clone(), keys[0].clone()];
    let many = right(store.get_many(&asked, NOW).await, "get_many");
    let places: Vec<Option<&CacheKey>> = many.iter().map(|found| found.as_ref().map(Stored::key)).collect();
    assert_eq!(
        places,
        [Some(&keys[1]), None, Some(&keys[0])],
        "entries asked for together, in the order of their keys"
    );
    right(store.remove(&keys[0]).await, "remove");
    assert!(found(&*store, &keys[0]).await.is_none(), "a key that was removed is found");
    is_as_put(&*store, &keys[1], "second").await;
    right(store.remove(&keys[0]).await, "removing what is not there");
    store.claim(&keys[2], Duration::from_secs(60)).await;
    right(store.release(&keys[2]).await, "release");
    assert!(store.claim(&keys[2], Duration::from_secs(1)).await, "a claim that was given up is held against others");
    right(store.release(&keys[2]).await, "release");
    drop(store.stats());
}

async fn found(store: &dyn CacheStore, key: &CacheKey) -> Option<Stored> {
    right(store.get(key, NOW).await, "get")
}

async fn put(store: &dyn CacheStore, key: &CacheKey, stored: Stored) {
    right(store.put(key, stored, NOW).await, "put");
}

async fn is_as_put(store: &dyn CacheStore, key: &CacheKey, body: &str) {
    let Some(Stored::Entry(entry)) = found(store, key).await else {
        wrong("what was put is not found, or is no entry");
    };
    assert_eq!(entry.key(), key, "the entry is of another key");
    assert_eq!(entry.status(), http::StatusCode::OK, "the status changed");
    let twice: Vec<_> = entry.headers().get_all("x-twice").iter().collect();
    assert_eq!(twice, ["a", "b"], "a field changed");
    assert_eq!(entry.tags().collect::<Vec<_>>(), ["a-tag"], "a tag changed");
    assert_eq!(entry.length(), body.len() as u64, "the length changed");
    assert_eq!(entry.body_for_tests(), body.as_bytes(), "the body changed");
    let shift = entry.retain_until().since(NOW).abs_diff(Duration::from_secs(60));
    assert!(shift < Duration::from_secs(1), "its life changed by {shift:?}");
}

async fn holds_to_the_limit(store: &dyn LimitStore) {
    let check = check(Quota::per_minute(5));
    for left in (0..5).rev() {
        let verdict = decide_one(store, check).await;
        assert!(verdict.admits(), "refused with {} left", left + 1);
        assert!(verdict.remaining() <= left, "more remains than is left after the charge");
    }
    let Some(wait) = decide_one(store, check).await.wait() else { wrong("a sixth of five is admitted") };
    assert!(wait <= Duration::from_secs(61), "a wait of {wait:?} for a period of a minute");
    assert!(decide_one(store, self::check(Quota::per_minute(5))).await.admits(), "one key's charge counts for another");
}

async fn takes_all_or_none(store: &dyn LimitStore) {
    let (one, other) = (check(Quota::per_minute(1)), check(Quota::per_minute(9)));
    let verdicts = decide(store, &[one, other]).await;
    assert!(verdicts.iter().all(Verdict::admits), "two checks that fit");
    let remaining: Vec<u32> = verdicts.iter().map(Verdict::remaining).collect();
    assert!(remaining[0] == 0 && (1..=8).contains(&remaining[1]), "verdicts in the checks' order: {remaining:?}");
    let verdicts = decide(store, &[other, one]).await;
    assert_eq!(verdicts.iter().map(Verdict::admits).collect::<Vec<_>>(), [true, false]);
    // A store that asks in several places may have to give back.
    for _ in 0..100 {
        if peek(store, other.cost(8)).await.admits() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(peek(store, other.cost(8)).await.admits(), "charged, though another check refused");
    let mut dry = one;
    dry.enforced = false;
    let verdicts = decide(store, &[dry, other]).await;
    assert!(!verdicts[0].admits(), "a check in dry-run says what it would do");
    assert!(verdicts[1].admits(), "a check in dry-run stands in the way");
    assert!(verdicts[1].remaining() <= 7, "more remains than was left");
    let mut more = 0;
    while decide_one(store, other).await.admits() {
        more += 1;
        assert!(more <= 9, "no end of a limit of nine");
    }
    assert!((4..=7).contains(&more), "{more} more of nine, of which two were spent before");
}

async fn looks_without_charging(store: &dyn LimitStore) {
    let check = check(Quota::per_minute(2));
    for _ in 0..4 {
        assert!(peek(store, check).await.admits(), "looking charges");
    }
    decide_one(store, check.cost(2)).await;
    assert!(!peek(store, check).await.admits(), "looking does not see what was charged");
}

async fn settles(store: &dyn LimitStore) {
    let check = check(Quota::per_minute(10));
    let at = now();
    decide_one(store, check.cost(6)).await;
    right(store.settle(&[Settlement::new(check.cost(6), at, 1)], now()).await, "settle");
    let left = peek(store, check).await.remaining();
    // A refund never creates burst: less than what was charged too much may come back, more never.
    assert!((3..=9).contains(&left), "1 of 10 was spent in the end, and {left} more would be admitted");
    right(store.settle(&[Settlement::new(check, now(), 100)], now()).await, "settle");
    assert!(!peek(store, check).await.admits(), "what was charged too little is not charged");
}

async fn admits_no_more_at_the_same_time(store: &Arc<dyn LimitStore>) {
    const TASKS: usize = 8;
    let check = check(Quota::per_minute(50));
    let admitted = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (store, admitted) = (store.clone(), admitted.clone());
            tokio::spawn(async move {
                for _ in 0..20 {
                    let verdict = decide_one(&*store, check).await;
                    admitted.fetch_add(u64::from(verdict.admits()), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        if task.await.is_err() {
            wrong("a store panicked");
        }
    }
    let admitted = admitted.load(Ordering::Relaxed);
    assert!(admitted <= 50, "{admitted} admitted of 160 that came at the same time, at 50 a minute");
    // A store that buys in advance may hold a part of it back for a while.
    assert!(admitted >= 25, "only {admitted} admitted of 160 that came at the same time, at 50 a minute");
}

async fn forgets_after_a_period(store: &dyn LimitStore) {
    let check = check(Quota::per_second(2));
    decide_one(store, check.cost(2)).await;
    let pause = Duration::from_millis(1_100);
    tokio::time::sleep(pause).await;
    let verdicts = right(store.decide(&[check.cost(2)], now() + pause).await, "decide");
    assert!(verdicts[0].admits(), "what was spent a period ago is not free again");
}

async fn decide(store: &dyn LimitStore, checks: &[Check]) -> Verdicts {
    let verdicts = right(store.decide(checks, now()).await, "decide");
    assert_eq!(verdicts.len(), checks.len(), "one verdict for each check");
    verdicts
}

async fn decide_one(store: &dyn LimitStore, check: Check) -> Verdict {
    decide(store, &[check]).await[0]
}

async fn peek(store: &dyn LimitStore, check: Check) -> Verdict {
    let verdicts = right(store.peek(&[check], now()).await, "peek");
    assert_eq!(verdicts.len(), 1, "one verdict for each check");
    verdicts[0]
}

fn now() -> Timestamp {
    Clock::System.now()
}

fn check(quota: Quota) -> Check {
    let key = KeyHash::from_bits(unused());
    Check::new(key, quota).in_fleet(key)
}

fn unused_key() -> CacheKey {
    CacheKey::from_bytes(&unused().to_be_bytes(), 8)
}

/// A number that was never drawn before, here or elsewhere.
fn unused() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

#[track_caller]
#[expect(clippy::panic, reason = "documented: it panics where the store breaks its contract")]
fn right<T>(answer: Result<T, crate::Error>, what: &str) -> T {
    match answer {
        Ok(value) => value,
        Err(error) => panic!("{what} failed: {error}"),
    }
}

#[track_caller]
#[expect(clippy::panic, reason = "documented: it panics where the store breaks its contract")]
fn wrong(what: &str) -> ! {
    panic!("{what}")
}
