use super::*;
use crate::base::clock::Timestamp;
use crate::cache::http::deadlines::Deadlines;
use crate::cache::http::stored_head::LogPosition;

fn record(number: u64, node: u64, what: Option<&str>) -> LogRecord {
    let what = what.map(|tag| Invalidation::new(InvalidationScope::Tag(tag.into()), false));
    LogRecord { number, id: LogRecordId { node, count: number }, what }
}

fn meta(fleet: u64, tag: &str) -> StoredHead {
    let never = Timestamp::MAX;
    StoredHead {
        status: http::StatusCode::OK,
        headers: http::HeaderMap::new(),
        age: std::time::Duration::ZERO,
        stored_at: Timestamp::ZERO,
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
        immutable: false,
        tags: [Box::from(tag)].into(),
        took: std::time::Duration::ZERO,
        began: LogPosition { here: 0, fleet },
        checked: AtomicU64::new(0),
    }
}

fn check(history: &InvalidationLog, fleet: u64, tag: &str) -> Validity {
    history.check(&CacheKey::from_bytes(b"k", 1), &meta(fleet, tag))
}

/// A history of node 1 that begins with number 10.
fn begun() -> InvalidationLog {
    let history = InvalidationLog::new(1);
    history.start_over(&[record(10, 2, None)]);
    history
}

#[test]
fn records_survive_the_journey() {
    for what in [None, Some("a")] {
        let sent = record(7, 3, what);
        let line = [b"7:", &LogRecord::encode(sent.id, sent.what.as_ref())[..]].concat();
        assert_eq!(LogRecord::decode(&line), Some(sent));
        for at in 2..line.len() {
            let mut flipped = line.clone();
            flipped[at] ^= 1;
            assert_eq!(LogRecord::decode(&flipped), None, "byte {at}");
        }
        assert_eq!(LogRecord::decode(&line[..line.len() - 1]), None);
    }
    assert_eq!(LogRecord::decode(b"x"), None);
    assert_eq!(LogRecord::decode(b"x:y"), None);
}

#[test]
fn nothing_is_valid_before_history_is_known() {
    assert_eq!(check(&InvalidationLog::new(1), 0, "a"), Validity::Void);
    assert_eq!(check(&InvalidationLog::new(1), 5, "a"), Validity::Void);
}

#[test]
fn an_entry_is_void_once_an_invalidation_after_its_fetch_concerns_it() {
    let history = begun();
    assert_eq!(check(&history, 10, "a"), Validity::Valid);
    assert_eq!(check(&history, 9, "a"), Validity::Void, "from before anything that is known");
    let news = history.hear(&record(11, 2, Some("a")));
    assert_eq!(news, LogUpdate::News(vec![Invalidation::new(InvalidationScope::Tag("a".into()), false)]));
    assert_eq!(history.number(), 11);
    assert_eq!(check(&history, 10, "a"), Validity::Void);
    assert_eq!(check(&history, 10, "b"), Validity::Valid);
    assert_eq!(check(&history, 11, "a"), Validity::Valid);
}

#[test]
fn a_lost_message_shows_at_the_next_and_in_the_log() {
    let history = begun();
    assert_eq!(history.hear(&record(12, 2, Some("b"))), LogUpdate::Behind);
    assert_eq!(history.number(), 10, "nothing is taken in out of order");
    let log = [record(10, 2, None), record(11, 2, Some("a")), record(12, 2, Some("b"))];
    let LogUpdate::News(news) = history.read_on(&log) else { panic!("news") };
    assert_eq!((news.len(), history.number()), (2, 12));
    assert_eq!(history.hear(&record(12, 2, Some("b"))), LogUpdate::News(vec![]), "known already");
    assert_eq!(history.read_on(&log[2..]), LogUpdate::News(vec![]));
}

#[test]
fn a_message_that_overtakes_a_page_of_the_log_breaks_nothing() {
    let history = begun();
    let log = [record(10, 2, None), record(11, 2, Some("a"))];
    assert!(matches!(history.hear(&log[1]), LogUpdate::News(news) if news.len() == 1));
    assert_eq!(history.read_on(&log), LogUpdate::News(vec![]));
}

#[test]
fn a_log_that_does_not_go_on_from_here_is_broken() {
    let history = begun();
    for log in [
        vec![],
        vec![record(12, 2, Some("a"))],
        // The same number, another record: a server that came back without the latest.
        vec![record(10, 3, None), record(11, 3, Some("a"))],
    ] {
        assert_eq!(history.read_on(&log), LogUpdate::Broken, "{log:?}");
    }
    history.start_over(&[record(500, 3, None), record(501, 3, Some("a"))]);
    assert_eq!(history.number(), 501);
    assert_eq!(check(&history, 499, "b"), Validity::Void);
    assert_eq!(check(&history, 500, "b"), Validity::Valid);
    assert_eq!(check(&history, 500, "a"), Validity::Void);
    // One whose beginning was trimmed: what came right before its first record is known.
    history.start_over(&[record(700, 3, Some("a"))]);
    assert_eq!((check(&history, 699, "b"), check(&history, 698, "b")), (Validity::Valid, Validity::Void));
}

#[test]
fn ours_bind_at_once_and_until_they_are_in_the_log() {
    let history = begun();
    let what = Invalidation::new(InvalidationScope::Tag("a".into()), false);
    let (id, line) = history.begin(&what);
    assert_eq!((check(&history, 10, "a"), check(&history, 10, "b")), (Validity::Void, Validity::Valid));
    assert_eq!(history.pending(), [line]);
    let logged = LogRecord { number: 11, id, what: Some(what) };
    assert_eq!(history.hear(&logged), LogUpdate::News(vec![]), "this process has done it already");
    assert_eq!((history.waiting(), check(&history, 11, "a")), (0, Validity::Valid));
    assert_eq!(check(&history, 10, "a"), Validity::Void);
}

#[test]
fn a_soft_one_makes_stale() {
    let history = begun();
    history.begin(&Invalidation::new(InvalidationScope::Tag("a".into()), true));
    assert_eq!(check(&history, 10, "a"), Validity::Stale);
    let soft =
        LogRecord { what: Some(Invalidation::new(InvalidationScope::Tag("b".into()), true)), ..record(11, 2, None) };
    history.hear(&soft);
    assert_eq!(check(&history, 10, "b"), Validity::Stale);
}

#[test]
fn too_many_that_wait_become_one_on_everything() {
    let history = begun();
    for n in 0..=MOST_PENDING {
        history.begin(&Invalidation::new(InvalidationScope::Tag(format!("t{n}").into()), false));
    }
    assert_eq!(history.waiting(), 1);
    assert_eq!(check(&history, 10, "anything"), Validity::Void);
}
