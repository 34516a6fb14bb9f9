use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000_000_000;
const START: Timestamp = Timestamp::from_nanos(86_400_123_456_789);

/// Rolls, checks and charges, as an engine does.
fn admit<C: BucketCount>(window: &Window, log: &mut Log<C>, now: Timestamp, cost: u32) -> Result<(), Duration> {
    window.roll(log, now);
    window.check(log, now, cost)?;
    window.charge(log, now, cost);
    Ok(())
}

#[test]
fn twenty_pass_and_the_twenty_first_waits_even_at_second_59() {
    let (window, mut log) = (Window::new(20, MINUTE), Log::new());
    for i in 0..20 {
        admit(&window, &mut log, START + Duration::from_secs(i * 59 / 19), 1).expect("one of twenty");
    }
    let at_59 = START + Duration::from_secs(59);
    let wait = admit(&window, &mut log, at_59, 1).expect_err("the 21st");
    assert!(wait >= Duration::from_secs(1) && wait <= Duration::from_millis(2_200), "{wait:?}");
    admit(&window, &mut log, at_59 + wait, 1).expect("after the wait");
}

#[test]
fn a_burst_is_free_again_exactly_one_period_later() {
    let (window, mut log) = (Window::new(20, MINUTE), Log::new());
    (0..20).for_each(|_| admit(&window, &mut log, START, 1).expect("one of twenty"));
    assert_eq!(window.verdict(&log, START, None).reset(), Duration::from_secs(60));
    assert_eq!(admit(&window, &mut log, START, 1), Err(Duration::from_secs(60)));
    let just_before = START + Duration::from_nanos(MINUTE - 1);
    assert!(admit(&window, &mut log, just_before, 1).is_err());
    (0..20).for_each(|_| admit(&window, &mut log, START + Duration::from_secs(60), 1).expect("one of twenty"));
}

#[test]
fn a_refund_comes_only_from_the_charged_sub_bucket_while_it_counts() {
    let (window, mut log) = (Window::new(20, MINUTE), Log::new());
    admit(&window, &mut log, START, 5).expect("room");
    admit(&window, &mut log, START + Duration::from_secs(30), 5).expect("room");
    window.refund(&mut log, 9, START);
    assert_eq!(window.verdict(&log, START, None).remaining(), 15);
    let later = START + Duration::from_secs(70);
    window.roll(&mut log, later);
    window.refund(&mut log, 5, START);
    assert_eq!(window.verdict(&log, later, None).remaining(), 15);
}

#[test]
fn a_rescaled_log_keeps_its_share_and_its_times() {
    let (small, large) = (Window::new(100, MINUTE), Window::new(1_000, MINUTE));
    let mut log = Log::new();
    for i in 0..50 {
        admit(&small, &mut log, START + Duration::from_secs(i), 1).expect("room");
    }
    let wider: Log<u16> = large.rescale(&log, &small);
    assert_eq!(large.verdict(&wider, START, None).remaining(), 500);
    let again: Log = small.rescale(&wider, &large);
    assert_eq!(small.verdict(&again, START, None).remaining(), 50);
}

#[test]
fn utilisation_under_uniform_overload_is_at_least_098() {
    for (limit, overload) in [(20_u64, 3.7), (20, 10.0), (100, 1.01), (100, 2.0), (1_000, 1.1), (1_000, 10.0)] {
        let (window, mut log) = (Window::new(limit as u32, MINUTE), Log::new());
        let step = Duration::from_nanos((MINUTE as f64 / limit as f64 / overload) as u64);
        let (mut now, mut admitted, periods) = (START, 0_u64, 200);
        while now.since(START) < Duration::from_nanos(MINUTE * periods) {
            admitted += u64::from(admit(&window, &mut log, now, 1).is_ok());
            now = now + step;
        }
        let utilisation = admitted as f64 / (limit * periods) as f64;
        assert!(utilisation >= 0.98, "limit {limit} at {overload}×: {utilisation}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Compared with an exact log: never more than the limit in any window, and the returned wait suffices if nothing
    /// else is charged.
    #[test]
    fn never_more_than_the_limit_in_any_window(
        limit in 1_u32..60, period in 1_000_000_u64..100_000_000_000,
        steps in prop::collection::vec((0.0_f64..0.2, 1_u32..4, 0_u8..10), 1..400),
    ) {
        let (window, mut log) = (Window::new(limit, period), Log::new());
        let (mut now, mut exact) = (START, Vec::<(Timestamp, u32)>::new());
        for (step, cost, jump) in steps {
            let scale = if jump == 0 { 8.0 } else { 1.0 };
            now = now + Duration::from_nanos((step * scale * period as f64) as u64);
            match admit(&window, &mut log, now, cost) {
                Ok(()) => exact.push((now, cost)),
                Err(wait) if cost <= limit => {
                    prop_assert!(wait > Duration::ZERO && wait <= Duration::from_nanos(period));
                    let mut patient = log.clone();
                    prop_assert!(admit(&window, &mut patient, now + wait, cost).is_ok());
                }
                Err(_) => {}
            }
            let recent: u32 = exact.iter().filter(|(at, _)| now.since(*at) < Duration::from_nanos(period)).map(|e| e.1).sum();
            prop_assert!(recent <= limit, "{recent} in a window of {limit}");
            prop_assert!(window.verdict(&log, now, None).remaining() <= limit - recent, "remaining is a lower bound");
            prop_assert!(window.verdict(&log, now, None).reset() <= Duration::from_nanos(period));
        }
    }
}
