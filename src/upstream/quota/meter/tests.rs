use super::*;
use crate::upstream::learn::observed_limits::named;

const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);

fn at(seconds: i64) -> PointInTime {
    PointInTime { now: START + Duration::from_secs(seconds.unsigned_abs()), unix: seconds * SECOND }
}

fn observed(limit: u64, remaining: u64, seconds: u64) -> observed_limits::ObservedLimit {
    observed_limits::ObservedLimit {
        name: named(b"core"),
        limit: Some(limit),
        remaining: Some(remaining),
        resets_in: Some(Duration::from_secs(seconds)),
        ..observed_limits::ObservedLimit::default()
    }
}

#[test]
fn a_calendar_turns_forward_only_and_takes_along_what_is_under_way() {
    let mut day = Calendar::new(Credits::per_minute(100), at(30));
    day.spend(40);
    assert_eq!((day.spent(), day.ends), (40, START + Duration::from_secs(60)));
    day.advance(PointInTime { unix: 10 * SECOND, ..at(31) }, 0);
    assert_eq!(day.spent(), 40, "a clock that was set back refunds nothing");
    day.advance(PointInTime { unix: -7_000 * SECOND, ..at(32) }, 0);
    assert_eq!(day.spent(), 40);
    day.advance(at(60), 3);
    assert_eq!((day.spent(), day.span), (3, WindowSpan { start: 60, end: 120 }));
}

#[test]
fn a_booked_credit_counts_when_it_is_booked_by_others_and_when_it_is_spent_here() {
    let mut month = Calendar::new(Credits::per_month(100), at(0));
    assert!(!month.is_booked(1));
    let store = |booked, returned| Balance { booked, returned };
    month.booked(10, store(30, 0));
    assert_eq!((month.spent(), month.unspent()), (20, 10), "20 by others");
    month.spend(4);
    assert_eq!((month.spent(), month.unspent(), month.shortfall(10)), (24, 6, 4));
    month.spend(8);
    assert_eq!((month.spent(), month.unbooked()), (32, 2), "more than was booked, while the store was away");
    month.booked(2, store(32, 0));
    assert_eq!((month.spent(), month.unbooked(), month.unspent()), (32, 0, 0));
    month.booked(5, store(5, 0));
    assert_eq!((month.spent(), month.unbooked()), (32, 27), "the store lost data");
    month.booked(27, store(32, 0));
    assert_eq!((month.spent(), month.unbooked()), (32, 0));
    month.booked(8, store(40, 0));
    month.booked(-8, store(40, 8));
    assert_eq!((month.spent(), month.unspent()), (32, 0));
    month.booked(1, store(41, 18));
    assert_eq!((month.spent(), month.unbooked()), (22, 0), "returned by others: no data was lost");
}

#[test]
fn a_report_counts_with_what_it_cannot_include() {
    let answer = |sent: u64, unreported| CountedResponse { sent: START + Duration::from_secs(sent), unreported };
    let after = |seconds: u64| START + Duration::from_secs(seconds);
    let mut core =
        LearnedLimit::new(&observed(100, 90, 60), answer(0, 3), Duration::from_secs(3_600), after(1)).expect("a limit");
    assert_eq!((core.limit, core.spent, core.ends), (100, 13, after(61)));
    core.spent += 5;
    core.report(&observed(100, 95, 60), answer(0, 0), after(2));
    assert_eq!(core.spent, 18, "an answer that was overtaken changes nothing");
    core.report(&observed(100, 88, 58), answer(0, 1), after(3));
    assert_eq!(core.spent, 13, "the latest count, and what it shortfall");
    core.report(&observed(100, 99, 3_600), answer(0, 0), after(4));
    assert_eq!((core.spent, core.ends), (1, after(3_604)), "another window");
    core.report(&observed(100, 10, 57), answer(3, 0), after(5));
    assert_eq!(core.spent, 1, "an answer of the window before");
    core.report(&observed(50, 49, 5), answer(6, 0), after(7));
    assert_eq!((core.limit, core.spent, core.ends), (50, 1, after(12)), "the last report applies");
    core.advance(after(12), 2);
    assert_eq!(
        (core.spent, core.fits(48, 1.0, after(8)), core.fits(49, 1.0, after(8)), core.fits(24, 0.5, after(8))),
        (2, true, false, false)
    );
    core.block_until(after(9_000), after(8));
    assert!(!core.fits(1, 1.0, after(8)) && core.ends == after(9_000));
}

#[test]
fn a_share_of_a_small_limit_is_not_nothing() {
    for (limit, share, calls) in
        [(1, 0.9, 1), (1, 0.5, 1), (5, 0.9, 5), (10, 0.9, 9), (60_000, 0.9, 54_000), (7, 1.0, 7), (9, 0.0, 0)]
    {
        assert_eq!(allowed(limit, share), calls, "{share} of {limit}");
    }
}

#[test]
fn a_limit_without_numbers_is_none_and_one_without_a_moment_lasts_a_minute() {
    let answer = CountedResponse { sent: START, unreported: 0 };
    assert!(
        LearnedLimit::new(
            &observed_limits::ObservedLimit { remaining: None, ..observed(1, 1, 1) },
            answer,
            Duration::from_secs(3_600),
            START
        )
        .is_none()
    );
    let only = observed_limits::ObservedLimit { limit: None, resets_in: None, ..observed(0, 7, 0) };
    let learned = LearnedLimit::new(&only, answer, Duration::from_secs(3_600), START).expect("a limit");
    assert_eq!((learned.limit, learned.spent, learned.ends), (7, 0, START + Duration::from_secs(60)));
}
