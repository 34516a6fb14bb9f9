use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::limit::Quota;
use crate::store::memory::shard::OVERFLOW;

const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);

fn decide(store: &MemoryLimits, checks: &[Check], now: Timestamp) -> Verdicts {
    let MaybeReady::Ready(Ok(verdicts)) = store.decide(checks, now) else { panic!("memory answers at once") };
    verdicts
}

/// A well-mixed key, as produced by the keyed hash.
fn key(n: u64) -> KeyHash {
    let mut z = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    KeyHash::from_bits(z ^ (z >> 31))
}

#[test]
fn all_or_none() {
    let store = MemoryLimits::new(1_000);
    let narrow = Check::new(key(1), Quota::per_minute(1));
    let wide = Check::new(key(2), Quota::per_minute(10));
    assert!(decide(&store, &[wide, narrow], START).iter().all(Verdict::admits));
    for _ in 0..5 {
        let verdicts = decide(&store, &[wide, narrow], START);
        assert!(verdicts[0].admits() && !verdicts[1].admits());
        assert_eq!(verdicts[0].remaining(), 9, "a refusal charges nobody");
    }
}

#[test]
fn shadow_checks_do_not_block_others() {
    let store = MemoryLimits::new(1_000);
    let mut trial = Check::new(key(1), Quota::per_minute(1));
    trial.enforced = false;
    let real = Check::new(key(2), Quota::per_minute(10));
    decide(&store, &[trial, real], START);
    let verdicts = decide(&store, &[trial, real], START);
    assert!(!verdicts[0].admits() && verdicts[1].admits());
    assert_eq!(verdicts[1].remaining(), 8);
}

#[test]
fn a_peek_charges_nothing() {
    let store = MemoryLimits::new(1_000);
    let check = Check::new(key(1), Quota::per_minute(2));
    for _ in 0..5 {
        let MaybeReady::Ready(Ok(verdicts)) = store.peek(&[check], START) else { panic!("memory answers at once") };
        assert_eq!((verdicts[0].admits(), verdicts[0].remaining()), (true, 2));
    }
}

#[test]
fn settling_refunds_or_charges_the_difference() {
    for quota in [Quota::per_minute(100), Quota::per_minute(100).bucket(100)] {
        let store = MemoryLimits::new(1_000);
        let check = Check::new(key(1), quota).cost(10);
        let left = |store: &MemoryLimits| decide(store, &[check.cost(0)], START)[0].remaining();
        decide(&store, &[check], START);
        assert_eq!(left(&store), 90);
        let _ = store.settle(&[Settlement::new(check, START, 4)], START);
        assert_eq!(left(&store), 96, "{quota}");
        let _ = store.settle(&[Settlement::new(check, START, 106)], START);
        assert_eq!(left(&store), 0, "{quota}: more than was left is charged all the same");
    }
}

#[test]
fn floods_are_bounded_and_reset_no_exhausted_key() {
    let store = MemoryLimits::new(1_000);
    let quota = Quota::per_minute(5);
    let limited: Vec<Check> = (0..20).map(|n| Check::new(key(n), quota)).collect();
    for check in &limited {
        (0..5).for_each(|_| assert!(decide(&store, &[*check], START)[0].admits()));
    }
    let mut admitted = 0_u64;
    for n in 0..100_000 {
        let now = START + Duration::from_micros(n);
        admitted += u64::from(decide(&store, &[Check::new(key(1_000_000 + n), quota)], now)[0].admits());
    }
    assert!(store.stats().keys <= 1_000);
    assert!(store.stats().evicted >= 99_000 - 1_000);
    assert_eq!(admitted, 100_000, "newcomers are not locked out");
    for check in &limited {
        assert!(!decide(&store, &[*check], START + Duration::from_secs(1))[0].admits(), "forgiven by the flood");
    }
}

#[test]
fn a_flood_evicts_no_key_that_cannot_afford_its_next_request() {
    let (store, quota) = (MemoryLimits::new(1_000), Quota::per_hour(7));
    let limited: Vec<Check> = (0..20).map(|n| Check::new(key(n), quota).cost(5)).collect();
    for check in &limited {
        assert!(decide(&store, &[*check], START)[0].admits());
        assert!(!decide(&store, &[*check], START)[0].admits(), "2 of 7 are left");
    }
    for n in 0..100_000 {
        decide(&store, &[Check::new(key(1_000_000 + n), quota).cost(5)], START + Duration::from_micros(n));
    }
    for check in &limited {
        assert!(!decide(&store, &[*check], START + Duration::from_secs(1))[0].admits(), "forgiven by the flood");
    }
}

#[test]
fn what_was_used_under_a_longer_quota_is_remembered() {
    for (long, short) in [
        (Quota::per_day(10), Quota::per_minute(15)),
        (Quota::per_day(10).bucket(10), Quota::per_minute(15)),
        (Quota::per_day(10), Quota::per_minute(15).bucket(3)),
    ] {
        for capacity in [1, 64, 1_000] {
            let store = MemoryLimits::new(capacity.max(2));
            let check = |quota| Check::new(key(1), quota);
            let admitted = |quota, now| (0..50).filter(|_| decide(&store, &[check(quota)], now)[0].admits()).count();
            assert_eq!(admitted(long, START), 10);
            assert_eq!(admitted(short, START), 0, "the share is carried along");
            let later = START + Duration::from_secs(600);
            assert!(admitted(short, later) > 0);
            assert_eq!(admitted(long, later), 0, "{long} and {short}");
            assert!(store.stats().keys <= 2);
        }
    }
}

#[test]
fn new_keys_share_overflow_buckets_if_all_are_exhausted() {
    let store = MemoryLimits::new(100);
    let quota = Quota::per_minute(1);
    // One more than fits, each at its limit: the rest share the overflow buckets.
    let first: Vec<bool> =
        (0..1_000).map(|n| decide(&store, &[Check::new(key(n), quota)], START)[0].admits()).collect();
    assert!(first[..50].iter().all(|admitted| *admitted));
    let late = first[200..].iter().filter(|admitted| **admitted).count();
    assert!(late <= OVERFLOW as usize * store.shards.len(), "{late}");
    assert!((0..50).all(|n| !decide(&store, &[Check::new(key(n), quota)], START)[0].admits()));
    // A whole window later their states equal none, and new keys fit.
    let later = START + Duration::from_secs(61);
    assert!((2_000..2_050).all(|n| decide(&store, &[Check::new(key(n), quota)], later)[0].admits()));
}

#[test]
fn threads_together_admit_exactly_the_limit() {
    let store = Arc::new(MemoryLimits::new(1_000));
    let user = Check::new(key(1), Quota::per_minute(1_000));
    let total: usize = std::thread::scope(|scope| {
        let work = |n: u64| {
            let store = store.clone();
            scope.spawn(move || {
                let own = Check::new(key(100 + n), Quota::per_minute(600));
                let checks = if n.is_multiple_of(2) { [user, own] } else { [own, user] };
                (0..1_000).filter(|_| decide(&store, &checks, START).iter().all(Verdict::admits)).count()
            })
        };
        (0..4).map(work).collect::<Vec<_>>().into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(total, 1_000);
}

/// The documentation states these sizes: tables are at most four fifths full.
#[test]
fn memory_per_key_matches_the_documentation() {
    use crate::limit::algorithm::window::Log;
    assert_eq!(size_of::<crate::store::memory::table::Slot>() * 5 / 4, 40);
    assert_eq!(40 + size_of::<Log<u16>>(), 160);
    assert_eq!(40 + size_of::<Log<u32>>(), 264);
    assert_eq!(size_of::<Verdict>(), 24);
}

/// Keys of every kind in one store with changing quotas: a bucket's slot is never taken for a log's.
#[test]
fn a_key_may_change_its_kind_of_quota() {
    let store = MemoryLimits::new(64);
    let quotas = [Quota::per_minute(100), Quota::per_minute(100).bucket(100), Quota::per_minute(1_000_000)];
    for (n, quota) in (0..1_000).zip(quotas.iter().cycle()) {
        let check = Check::new(key(n % 50), *quota).cost(quota.limit() / 100);
        let verdict = decide(&store, &[check], START)[0];
        let used = n / 50 + 1;
        let left = u64::from(quota.limit()).saturating_sub(used * u64::from(quota.limit() / 100));
        let off = left.abs_diff(u64::from(verdict.remaining()));
        assert!(off <= u64::from(quota.limit() / 100), "{quota}: {verdict:?}, {left} left after {used}");
    }
    assert_eq!(store.stats().keys, 50);
}
