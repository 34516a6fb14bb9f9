//! Contract tests for stores, to run on your own implementation.
//!
//! The functions panic at the first violation with a description. They use new keys, so that they can run on a store
//! in use, and sleep for a little over a second of runtime time (none if the runtime's time is paused and the store
//! takes `now` from its arguments).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::base::clock::{Clock, Timestamp};
use crate::cache::{
    ByteStore, CacheKey, CacheStore, GetOrClaim, Lease, LeaseState, Stored, encoded_for_tests, entry_for_tests,
};
use crate::identity::KeyHash;
use crate::limit::{Check, LimitStore, Quota, Settlement, Verdict, Verdicts};

/// Time at which entries are stored.
const NOW: Timestamp = Timestamp::from_nanos(86_400_000_000_000);

/// Runs the contract tests of [`LimitStore`] on a store.
///
/// | aspect | requirement |
/// |---|---|
/// | the limit | no more units are admitted than the quota allows, sequentially or concurrently, and never much less |
/// | all or none | if one check refuses, none is charged; a check in shadow never blocks the others |
/// | order | verdicts are in the order of the checks |
/// | remaining units | never more than would be admitted |
/// | peek | `peek` returns what `decide` would, without charging |
/// | settlement | excess charges are refunded, missing ones are charged |
/// | time | spent units are available again after a period |
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
/// If the store violates its contract, or returns an error.
pub async fn limits(store: Arc<dyn LimitStore>) {
    enforces_the_limit(&*store).await;
    charges_all_or_none(&*store).await;
    peeks_without_charging(&*store).await;
    settles_the_difference(&*store).await;
    enforces_the_limit_concurrently(&store).await;
    replenishes_after_a_period(&*store).await;
}

/// Runs the contract tests of [`CacheStore`] on a store.
///
/// | aspect | requirement |
/// |---|---|
/// | key | a value is found under its key and under no other |
/// | entry | fields, body, status, tags and times are preserved |
/// | replacement | a later value replaces an earlier one |
/// | removal | removed values are not found |
/// | batches | values of several keys are in the order of the keys |
///
/// A shared store must have joined its fleet before: entries that it cannot validate are misses.
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
/// If the store violates its contract, or returns an error.
pub async fn cache(store: Arc<dyn CacheStore>) {
    let keys: Vec<CacheKey> = (0..3).map(|_| unique_key()).collect();
    for key in &keys {
        assert!(found(&*store, key).await.is_none(), "a key that was never put is found");
    }
    let entry = |key: &CacheKey, body: &str| {
        let fields = [("etag", "\"1\""), ("x-twice", "a"), ("x-twice", "b")];
        entry_for_tests(key, &fields, Bytes::copy_from_slice(body.as_bytes()), NOW, store.generation())
    };
    put(&*store, &keys[0], entry(&keys[0], "first")).await;
    put(&*store, &keys[1], entry(&keys[1], "second")).await;
    assert_stored(&*store, &keys[0], "first").await;
    assert_stored(&*store, &keys[1], "second").await;
    assert!(found(&*store, &keys[2]).await.is_none(), "an entry is found under another key");
    put(&*store, &keys[0], entry(&keys[0], "")).await;
    assert_stored(&*store, &keys[0], "").await;
    let asked = [keys[1].clone(), keys[2].clone(), keys[0].clone()];
    let many = expect_ok(store.get_many(&asked, NOW).await, "get_many");
    let places: Vec<Option<&CacheKey>> = many.iter().map(|found| found.as_ref().map(Stored::key)).collect();
    assert_eq!(places, [Some(&keys[1]), None, Some(&keys[0])], "entries of several keys are in the order of the keys");
    expect_ok(store.remove(&keys[0]).await, "remove");
    assert!(found(&*store, &keys[0]).await.is_none(), "a removed key is found");
    assert_stored(&*store, &keys[1], "second").await;
    expect_ok(store.remove(&keys[0]).await, "removing a missing key");
    let lease = Lease::new(keys[2].clone(), unique_number(), Duration::from_secs(60));
    store.claim(&lease).await;
    expect_ok(store.release(&lease, None).await, "release");
    assert_eq!(store.claim(&lease).await, LeaseState::Granted, "a released lease is still held");
    let answer = expect_ok(store.get_or_claim(&keys[2], &lease, NOW).await, "get_or_claim");
    assert!(matches!(answer, GetOrClaim::Missing(None | Some(LeaseState::Granted))), "a holder loses its lease");
    expect_ok(store.put_and_release(&keys[2], entry(&keys[2], "leased"), &lease, NOW).await, "put_and_release");
    assert_stored(&*store, &keys[2], "leased").await;
    expect_ok(store.remove(&keys[2]).await, "remove");
    drop(store.stats());
}

/// Runs the contract tests of [`ByteStore`] on a store, and of its log if it has one.
///
/// | aspect | requirement |
/// |---|---|
/// | names | a value is found under its name and under no other; bytes of any kind and length are preserved |
/// | batches | values of several names are in the order of the names |
/// | order | a value whose fetch began earlier does not replace a later one, unless it is five minutes older |
/// | removal | removed values are not found |
/// | leases | one token gets one, and the next after its release or end; what its holder found is remembered |
/// | log | records have growing positions, are read from any of them on, and are published |
///
/// ```
/// use std::sync::Arc;
/// use tollgate::testing::{MemoryBytes, contract};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// contract::bytes(Arc::new(MemoryBytes::with_log())).await;
/// # }
/// ```
///
/// # Panics
/// If the store violates its contract, or returns an error.
pub async fn bytes(store: Arc<dyn ByteStore>) {
    let names: Vec<String> = (0..3).map(|_| format!("contract:{:x}", unique_number())).collect();
    keeps_bytes(&*store, &names).await;
    orders_by_start(&*store, &names[2]).await;
    expect_ok(store.remove(names.clone()).await, "remove");
    assert_eq!(expect_ok(store.get_many(names.clone()).await, "get"), vec![None; 3], "a removed value is found");
    expect_ok(store.remove(names.clone()).await, "removing missing values");
    leases(&*store, &names[0]).await;
    logs(&*store).await;
}

async fn keeps_bytes(store: &dyn ByteStore, names: &[String]) {
    let ttl = Duration::from_secs(60);
    assert_eq!(expect_ok(store.get_many(names.to_vec()).await, "get"), vec![None; 3], "a value that was never put");
    let every_byte: Bytes = (0..=u8::MAX).cycle().take(100_000).collect::<Vec<u8>>().into();
    let put = async |name: &String, value: Bytes| expect_ok(store.put(name.clone(), value, ttl).await, "put");
    assert!(put(&names[0], every_byte.clone()).await, "a first value is not stored");
    assert!(put(&names[1], Bytes::from_static(b"second")).await, "a first value is not stored");
    let asked = vec![names[1].clone(), names[2].clone(), names[0].clone()];
    let found = expect_ok(store.get_many(asked).await, "get");
    assert!(found == [Some(Bytes::from_static(b"second")), None, Some(every_byte)], "other bytes, or another order");
    assert!(put(&names[1], Bytes::from_static(b"third")).await, "a value without an order is not replaced");
    let found = expect_ok(store.get_many(vec![names[1].clone()]).await, "get");
    assert_eq!(found, [Some(Bytes::from_static(b"third"))], "a replaced value is found");
}

async fn orders_by_start(store: &dyn ByteStore, name: &str) {
    let key = unique_key();
    let value = |seconds: u64| encoded_for_tests(&key, NOW + Duration::from_secs(seconds));
    let put =
        async |seconds| expect_ok(store.put(name.to_owned(), value(seconds), Duration::from_secs(60)).await, "put");
    let found = async || expect_ok(store.get_many(vec![name.to_owned()]).await, "get").remove(0);
    assert!(put(100).await && put(200).await, "a later value is not stored");
    assert!(!put(150).await, "an earlier value is said to be stored");
    assert!(found().await == Some(value(200)), "an earlier value replaced a later one");
    assert!(put(1_000).await && put(100).await, "a clock that was set back stops the store");
    assert!(found().await == Some(value(100)), "a value is said to be stored and is not");
}

async fn leases(store: &dyn ByteStore, name: &str) {
    let lease = |token, seconds| Lease::new(format!("{name}:lease"), token, Duration::from_secs(seconds));
    let claim = async |lease| expect_ok(store.claim(lease).await, "claim");
    let release = async |lease, uncacheable| expect_ok(store.release(lease, uncacheable).await, "release");
    assert_eq!(claim(lease(1, 60)).await, LeaseState::Granted, "a free lease is not granted");
    // A store without leases grants all.
    let has_leases = claim(lease(2, 60)).await == LeaseState::Held;
    assert_eq!(claim(lease(1, 60)).await, LeaseState::Granted, "its holder does not get a lease again");
    release(lease(2, 60), None).await;
    assert!(!has_leases || claim(lease(2, 60)).await == LeaseState::Held, "another token has released a lease");
    match expect_ok(store.get_or_claim(name.to_owned(), lease(2, 60)).await, "get_or_claim") {
        GetOrClaim::Found(_) => fail("a value that is not there"),
        GetOrClaim::Missing(state) => {
            assert!(state.is_none_or(|state| (state == LeaseState::Held) == has_leases), "two answers about one lease");
        }
    }
    release(lease(1, 60), None).await;
    assert_eq!(claim(lease(2, 1)).await, LeaseState::Granted, "a released lease is still held");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(claim(lease(1, 60)).await, LeaseState::Granted, "a lease outlives its end");
    release(lease(1, 60), Some(Duration::from_secs(1))).await;
    assert!(!has_leases || claim(lease(2, 60)).await == LeaseState::Uncacheable, "what a holder found is forgotten");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(claim(lease(2, 60)).await, LeaseState::Granted, "what a holder found is remembered for too long");
    release(lease(2, 60), None).await;
    expect_ok(store.put(name.to_owned(), Bytes::from_static(b"value"), Duration::from_secs(60)).await, "put");
    let found = expect_ok(store.get_or_claim(name.to_owned(), lease(1, 60)).await, "get_or_claim");
    assert_eq!(found, GetOrClaim::Found(Bytes::from_static(b"value")), "a value is not found");
    assert_eq!(claim(lease(2, 60)).await, LeaseState::Granted, "a value that is there was leased");
    release(lease(2, 60), None).await;
    expect_ok(store.remove(vec![name.to_owned()]).await, "remove");
}

async fn logs(store: &dyn ByteStore) {
    let Some(log) = store.log() else { return };
    let secret = expect_ok(log.agree("a first proposal".to_owned()).await, "agree");
    assert_eq!(expect_ok(log.agree("another one".to_owned()).await, "agree"), secret, "two secrets");
    assert!(expect_ok(log.now().await, "now") > 1_600_000_000_000_000_000, "nanoseconds since 1970");
    let mut messages = expect_ok(log.subscribe().await, "subscribe");
    let record = |n: u8| Bytes::from(vec![n; 40]);
    let append = async |n| expect_ok(log.append(record(0), record(n)).await, "append");
    let (one, two) = (append(1).await, append(2).await);
    assert_eq!(two, one + 1, "positions do not grow by one");
    let read = expect_ok(log.read(Some(one)).await, "read");
    assert_eq!(read, [(one, record(1)), (two, record(2))], "records are not read from a position on");
    let all = expect_ok(log.read(None).await, "read");
    assert!(all.len() > read.len() && all.ends_with(&read), "a log begins with the record that started it");
    expect_ok(log.restart(record(9), two).await, "restart");
    assert_eq!(expect_ok(log.read(Some(two)).await, "read"), [(two, record(2))], "a log that goes on was restarted");
    let wait = async {
        while let Some(message) = futures_util::StreamExt::next(&mut messages).await {
            if message == crate::cache::LogMessage::Record(two, record(2)) {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(5), wait).await.is_ok(), "a record was not published");
}

async fn found(store: &dyn CacheStore, key: &CacheKey) -> Option<Stored> {
    expect_ok(store.get(key, NOW).await, "get")
}

async fn put(store: &dyn CacheStore, key: &CacheKey, stored: Stored) {
    expect_ok(store.put(key, stored, NOW).await, "put");
}

async fn assert_stored(store: &dyn CacheStore, key: &CacheKey, body: &str) {
    let Some(Stored::Entry(entry)) = found(store, key).await else {
        fail("a stored entry is not found, or is not an entry");
    };
    assert_eq!(entry.key(), key, "the entry has another key");
    assert_eq!(entry.status(), http::StatusCode::OK, "the status changed");
    let twice: Vec<_> = entry.headers().get_all("x-twice").iter().collect();
    assert_eq!(twice, ["a", "b"], "a field changed");
    assert_eq!(entry.tags().collect::<Vec<_>>(), ["a-tag"], "a tag changed");
    assert_eq!(entry.length(), body.len() as u64, "the length changed");
    assert_eq!(entry.body_for_tests(), body.as_bytes(), "the body changed");
    let shift = entry.retain_until().since(NOW).abs_diff(Duration::from_secs(60));
    assert!(shift < Duration::from_secs(1), "its lifetime changed by {shift:?}");
}

async fn enforces_the_limit(store: &dyn LimitStore) {
    let check = check(Quota::per_minute(5));
    for left in (0..5).rev() {
        let verdict = decide_one(store, check).await;
        assert!(verdict.admits(), "refused with {} left", left + 1);
        assert!(verdict.remaining() <= left, "remaining exceeds the units left after the charge");
    }
    let Some(wait) = decide_one(store, check).await.wait() else { fail("the sixth of five requests is admitted") };
    assert!(wait <= Duration::from_secs(61), "a wait of {wait:?} for a period of a minute");
    assert!(decide_one(store, self::check(Quota::per_minute(5))).await.admits(), "a charge counts for another key");
}

async fn charges_all_or_none(store: &dyn LimitStore) {
    let (one, other) = (check(Quota::per_minute(1)), check(Quota::per_minute(9)));
    let verdicts = decide(store, &[one, other]).await;
    assert!(verdicts.iter().all(Verdict::admits), "two checks within their limits are refused");
    let remaining: Vec<u32> = verdicts.iter().map(Verdict::remaining).collect();
    assert!(
        remaining[0] == 0 && (1..=8).contains(&remaining[1]),
        "verdicts are not in the order of the checks: {remaining:?}"
    );
    let verdicts = decide(store, &[other, one]).await;
    assert_eq!(verdicts.iter().map(Verdict::admits).collect::<Vec<_>>(), [true, false]);
    // A store with several servers may need time for refunds.
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
    assert!(!verdicts[0].admits(), "a check in shadow does not report its refusal");
    assert!(verdicts[1].admits(), "a check in shadow blocks another");
    assert!(verdicts[1].remaining() <= 7, "remaining exceeds the units left");
    let mut more = 0;
    while decide_one(store, other).await.admits() {
        more += 1;
        assert!(more <= 9, "a limit of nine admits more");
    }
    assert!((4..=7).contains(&more), "{more} of nine admitted after two were spent");
}

async fn peeks_without_charging(store: &dyn LimitStore) {
    let check = check(Quota::per_minute(2));
    for _ in 0..4 {
        assert!(peek(store, check).await.admits(), "peek charges");
    }
    decide_one(store, check.cost(2)).await;
    assert!(!peek(store, check).await.admits(), "peek ignores earlier charges");
}

async fn settles_the_difference(store: &dyn LimitStore) {
    let check = check(Quota::per_minute(10));
    let at = now();
    decide_one(store, check.cost(6)).await;
    expect_ok(store.settle(&[Settlement::new(check.cost(6), at, 1)], now()).await, "settle");
    let left = peek(store, check).await.remaining();
    // A refund may restore less than the excess charge, never more.
    assert!((3..=9).contains(&left), "after settling at 1 of 10, {left} more would be admitted");
    expect_ok(store.settle(&[Settlement::new(check, now(), 100)], now()).await, "settle");
    assert!(!peek(store, check).await.admits(), "a settlement above the charge is not charged");
}

async fn enforces_the_limit_concurrently(store: &Arc<dyn LimitStore>) {
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
            fail("the store panicked");
        }
    }
    let admitted = admitted.load(Ordering::Relaxed);
    assert!(admitted <= 50, "{admitted} of 160 concurrent requests admitted, at 50 a minute");
    // A store with leases may hold back a part temporarily.
    assert!(admitted >= 25, "only {admitted} of 160 concurrent requests admitted, at 50 a minute");
}

async fn replenishes_after_a_period(store: &dyn LimitStore) {
    let check = check(Quota::per_second(2));
    decide_one(store, check.cost(2)).await;
    let pause = Duration::from_millis(1_100);
    tokio::time::sleep(pause).await;
    let verdicts = expect_ok(store.decide(&[check.cost(2)], now() + pause).await, "decide");
    assert!(verdicts[0].admits(), "units spent a period ago are not available again");
}

async fn decide(store: &dyn LimitStore, checks: &[Check]) -> Verdicts {
    let verdicts = expect_ok(store.decide(checks, now()).await, "decide");
    assert_eq!(verdicts.len(), checks.len(), "the number of verdicts differs from that of the checks");
    verdicts
}

async fn decide_one(store: &dyn LimitStore, check: Check) -> Verdict {
    decide(store, &[check]).await[0]
}

async fn peek(store: &dyn LimitStore, check: Check) -> Verdict {
    let verdicts = expect_ok(store.peek(&[check], now()).await, "peek");
    assert_eq!(verdicts.len(), 1, "the number of verdicts differs from that of the checks");
    verdicts[0]
}

fn now() -> Timestamp {
    Clock::System.now()
}

fn check(quota: Quota) -> Check {
    let key = KeyHash::from_bits(unique_number());
    Check::new(key, quota).in_fleet(key)
}

fn unique_key() -> CacheKey {
    CacheKey::from_bytes(&unique_number().to_be_bytes(), 8)
}

/// Returns a number not drawn before, in this process or elsewhere.
fn unique_number() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

#[track_caller]
#[expect(clippy::panic, reason = "documented: panics if the store violates its contract")]
fn expect_ok<T>(answer: Result<T, crate::Error>, what: &str) -> T {
    match answer {
        Ok(value) => value,
        Err(error) => panic!("{what} failed: {error}"),
    }
}

#[track_caller]
#[expect(clippy::panic, reason = "documented: panics if the store violates its contract")]
fn fail(what: &str) -> ! {
    panic!("{what}")
}
