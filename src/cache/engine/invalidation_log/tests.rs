use super::*;
use crate::base::clock::Timestamp;
use crate::cache::engine::barrier::InvalidationScope;
use crate::cache::http::deadlines::Deadlines;
use crate::cache::http::record_meta::LogPosition;

fn record(number: u64, node: u64, invalidation: Option<&str>) -> LogRecord {
    let invalidation = invalidation.map(|tag| Invalidation::new(InvalidationScope::Tag(tag.into()), false));
    LogRecord { number, id: LogRecordId { node, count: number }, invalidation }
}

fn meta(fleet: u64, tag: &str) -> RecordMeta {
    let never = Timestamp::MAX;
    RecordMeta {
        stored_at: Timestamp::ZERO,
        requested_at: Timestamp::ZERO,
        deadlines: Deadlines {
            fresh_until: never,
            initial_staleness: std::time::Duration::ZERO,
            refresh_from: never,
            revalidate_until: never,
            error_until: never,
            unreachable_until: never,
            retain_until: never,
        },
        strict: false,
        tags: [Box::from(tag)].into(),
        took: std::time::Duration::ZERO,
        began: LogPosition { local: 0, fleet },
        checked: AtomicU64::new(0),
        copied_at: AtomicU64::new(0),
    }
}

fn check(log: &InvalidationLog, fleet: u64, tag: &str) -> Validity {
    log.check(&CacheKey::from_bytes(b"k", 1), &meta(fleet, tag))
}

/// A log of node 1 that starts with number 10.
fn log_from_ten() -> InvalidationLog {
    let log = InvalidationLog::new(1);
    log.reset(&[record(10, 2, None)]);
    log
}

#[test]
fn records_round_trip() {
    for invalidation in [None, Some("a")] {
        let sent = record(7, 3, invalidation);
        let encoded = LogRecord::encode(sent.id, sent.invalidation.as_ref());
        assert_eq!(LogRecord::decode(7, &encoded), Some(sent));
        for at in 0..encoded.len() {
            let mut flipped = encoded.clone();
            flipped[at] ^= 1;
            assert_eq!(LogRecord::decode(7, &flipped), None, "byte {at}");
        }
        assert_eq!(LogRecord::decode(7, &encoded[..encoded.len() - 1]), None);
    }
    assert_eq!(LogRecord::decode(7, b"x"), None);
}

#[test]
fn nothing_is_valid_before_the_log_is_known() {
    assert_eq!(check(&InvalidationLog::new(1), 0, "a"), Validity::Void);
    assert_eq!(check(&InvalidationLog::new(1), 5, "a"), Validity::Void);
}

#[test]
fn entries_are_void_after_a_later_applicable_invalidation() {
    let log = log_from_ten();
    assert_eq!(check(&log, 10, "a"), Validity::Valid);
    assert_eq!(check(&log, 9, "a"), Validity::Void, "from before anything that is known");
    let applied = log.apply_message(&record(11, 2, Some("a")));
    assert_eq!(applied, LogUpdate::Applied(vec![Invalidation::new(InvalidationScope::Tag("a".into()), false)]));
    assert_eq!(log.number(), 11);
    assert_eq!(check(&log, 10, "a"), Validity::Void);
    assert_eq!(check(&log, 10, "b"), Validity::Valid);
    assert_eq!(check(&log, 11, "a"), Validity::Valid);
}

#[test]
fn lost_messages_are_detected_and_read_from_the_log() {
    let log = log_from_ten();
    assert_eq!(log.apply_message(&record(12, 2, Some("b"))), LogUpdate::Gap);
    assert_eq!(log.number(), 10, "nothing is taken in out of order");
    let page = [record(10, 2, None), record(11, 2, Some("a")), record(12, 2, Some("b"))];
    let LogUpdate::Applied(applied) = log.apply_page(&page) else { panic!("news") };
    assert_eq!((applied.len(), log.number()), (2, 12));
    assert_eq!(log.apply_message(&record(12, 2, Some("b"))), LogUpdate::Applied(vec![]), "known already");
    assert_eq!(log.apply_page(&page[2..]), LogUpdate::Applied(vec![]));
}

#[test]
fn messages_may_overtake_pages() {
    let log = log_from_ten();
    let page = [record(10, 2, None), record(11, 2, Some("a"))];
    assert!(matches!(log.apply_message(&page[1]), LogUpdate::Applied(applied) if applied.len() == 1));
    assert_eq!(log.apply_page(&page), LogUpdate::Applied(vec![]));
}

#[test]
fn discontinuous_logs_are_detected() {
    let log = log_from_ten();
    for page in [
        vec![],
        vec![record(12, 2, Some("a"))],
        // The same number with another record: a server that returned without the latest ones.
        vec![record(10, 3, None), record(11, 3, Some("a"))],
    ] {
        assert_eq!(log.apply_page(&page), LogUpdate::Diverged, "{page:?}");
    }
    log.reset(&[record(500, 3, None), record(501, 3, Some("a"))]);
    assert_eq!(log.number(), 501);
    assert_eq!(check(&log, 499, "b"), Validity::Void);
    assert_eq!(check(&log, 500, "b"), Validity::Valid);
    assert_eq!(check(&log, 500, "a"), Validity::Void);
    // A log with a trimmed beginning: the record before its first one is known.
    log.reset(&[record(700, 3, Some("a"))]);
    assert_eq!((check(&log, 699, "b"), check(&log, 698, "b")), (Validity::Valid, Validity::Void));
}

#[test]
fn local_invalidations_apply_at_once_until_logged() {
    let log = log_from_ten();
    let invalidation = Invalidation::new(InvalidationScope::Tag("a".into()), false);
    let (id, line) = log.record_local(&invalidation);
    assert_eq!((check(&log, 10, "a"), check(&log, 10, "b")), (Validity::Void, Validity::Valid));
    assert_eq!(log.pending(), [line]);
    let logged = LogRecord { number: 11, id, invalidation: Some(invalidation) };
    assert_eq!(log.apply_message(&logged), LogUpdate::Applied(vec![]), "this process has done it already");
    assert_eq!((log.pending_count(), check(&log, 11, "a")), (0, Validity::Valid));
    assert_eq!(check(&log, 10, "a"), Validity::Void);
}

#[test]
fn soft_invalidations_mark_stale() {
    let log = log_from_ten();
    log.record_local(&Invalidation::new(InvalidationScope::Tag("a".into()), true));
    assert_eq!(check(&log, 10, "a"), Validity::Stale);
    let soft = LogRecord {
        invalidation: Some(Invalidation::new(InvalidationScope::Tag("b".into()), true)),
        ..record(11, 2, None)
    };
    log.apply_message(&soft);
    assert_eq!(check(&log, 10, "b"), Validity::Stale);
}

#[test]
fn revocable_invalidations_mark_stale_until_they_are_revoked() {
    use InvalidationEffect::{Revoked, StaleUntilRevoked};
    let log = log_from_ten();
    let of = |effect| Invalidation { scope: InvalidationScope::Tag("a".into()), effect };
    let seen = |number, id, effect| LogRecord { number, id, invalidation: Some(of(effect)) };
    // Pending here, revoked while pending: nothing of it is left, and others are told to revoke too.
    log.record_local(&of(StaleUntilRevoked));
    assert_eq!(check(&log, 10, "a"), Validity::Stale);
    let (revoked, _) = log.record_local(&of(Revoked));
    assert_eq!((check(&log, 10, "a"), log.pending_count()), (Validity::Valid, 1));
    log.apply_message(&seen(11, revoked, Revoked));
    assert_eq!(log.pending_count(), 0);
    // Logged by another node, and revoked here while the store is away.
    log.apply_message(&seen(12, LogRecordId { node: 2, count: 1 }, StaleUntilRevoked));
    assert_eq!((check(&log, 11, "a"), check(&log, 12, "a")), (Validity::Stale, Validity::Valid));
    log.record_local(&of(Revoked));
    assert_eq!(check(&log, 11, "a"), Validity::Valid);
    // A soft invalidation of a program is not revoked by that.
    log.apply_message(&seen(13, LogRecordId { node: 2, count: 2 }, InvalidationEffect::Stale));
    assert_eq!(check(&log, 12, "a"), Validity::Stale);
}

#[test]
fn excess_pending_invalidations_become_one_on_everything() {
    let log = log_from_ten();
    for n in 0..=MAX_PENDING {
        log.record_local(&Invalidation::new(InvalidationScope::Tag(format!("t{n}").into()), false));
    }
    assert_eq!(log.pending_count(), 1);
    assert_eq!(check(&log, 10, "anything"), Validity::Void);
}

#[test]
fn a_record_of_a_later_version_invalidates_everything_and_the_log_goes_on() {
    let log = log_from_ten();
    let unreadable = LogRecord::unreadable(11, b"another version's");
    assert_eq!(unreadable, LogRecord::unreadable(11, b"another version's"), "the same each time it is read");
    let page = [record(10, 2, None), unreadable.clone(), record(12, 3, Some("a"))];
    assert_eq!(
        log.apply_page(&page),
        LogUpdate::Applied(
            [unreadable, page[2].clone()].into_iter().filter_map(|record| record.invalidation).collect()
        )
    );
    assert_eq!(check(&log, 10, "b"), Validity::Void);
    assert_eq!(check(&log, 11, "b"), Validity::Valid);
    assert_eq!(log.last_number(), Some(12));
}
