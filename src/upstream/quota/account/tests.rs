use std::time::Duration;

use http::StatusCode;
use proptest::prelude::*;
use smallvec::{SmallVec, smallvec};

use super::*;
use crate::resilience::breaker::BreakerPolicy;
use crate::upstream::learn::observed_limits::ObservedLimits;
use crate::upstream::quota::credit::Credits;

const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);
/// 2026-01-01T00:00:00Z.
const NEW_YEAR: i64 = 1_767_225_600_000_000_000;
const CALL: PlannedCall = PlannedCall { endpoint: 0, cost: 1, share: 1.0, unbooked: false };

fn at(nanos: u64) -> PointInTime {
    PointInTime { now: START.after(nanos), unix: NEW_YEAR + nanos as i64 }
}

fn seconds(n: u64) -> u64 {
    n * 1_000_000_000
}

fn config() -> AccountConfig {
    let alert_at = smallvec![80, 90];
    AccountConfig {
        enforce: true,
        booked: false,
        free_not_modified: true,
        alert_at,
        usual_share: 0.9,
        slow_after: seconds(10),
        probe_interval: Duration::from_secs(3_600),
    }
}

fn account(config: AccountConfig, quotas: &[Credits]) -> Account {
    let calendars: SmallVec<[Calendar; 2]> = quotas.iter().map(|credits| Calendar::new(*credits, at(0))).collect();
    Account::new(config, calendars, Some(Breaker::new(BreakerPolicy::default())), 2)
}

fn sent(verdict: CallVerdict) -> AccountTicket {
    match verdict {
        CallVerdict::Send(ticket) => ticket,
        other => unreachable!("{other:?}"),
    }
}

fn refused(verdict: CallVerdict) -> (RejectedReason, u64) {
    match verdict {
        CallVerdict::Reject(reason, until) => (reason, until.nanos_since(START) / seconds(1)),
        other => unreachable!("{other:?}"),
    }
}

fn settle(
    account: &mut Account,
    ticket: &AccountTicket,
    status: StatusCode,
    observed: ObservedLimits,
    point: PointInTime,
) -> AccountEvents {
    account.settle(ticket, CallEnding::Answered(status, &observed), point)
}

#[test]
fn a_class_stops_at_its_share_and_the_next_window_begins_anew() {
    let mut account = account(config(), &[Credits::per_minute(10), Credits::per_month(15)]);
    for call in 0..5 {
        sent(account.admit(PlannedCall { share: 0.5, ..CALL }, at(call)));
    }
    assert_eq!(refused(account.admit(PlannedCall { share: 0.5, ..CALL }, at(9))), (RejectedReason::Quota, 60));
    for call in 10..15 {
        sent(account.admit(CALL, at(call)));
    }
    assert_eq!(refused(account.admit(CALL, at(20))).1, 60);
    assert!(
        matches!(account.admit(PlannedCall { cost: 0, ..CALL }, at(20)), CallVerdict::Send(_)),
        "what is free passes"
    );
    // Ten are in flight when the minute ends and may count in the next.
    assert_eq!(refused(account.admit(CALL, at(seconds(60)))).1, 120);
    let month = account.calendars[1].spent();
    assert_eq!(month, 10, "all or none: what the minute refused is not spent in the month");
}

#[test]
fn not_modified_is_free_and_a_failure_is_not() {
    let mut account = account(config(), &[Credits::per_hour(100)]);
    let ticket = sent(account.admit(CALL, at(0)));
    settle(&mut account, &ticket, StatusCode::NOT_MODIFIED, ObservedLimits::new(), at(1));
    assert_eq!((account.calendars[0].spent(), account.burn.last_hour(at(1).now)), (0, 0));
    let ticket = sent(account.admit(CALL, at(2)));
    account.settle(&ticket, CallEnding::Failed, at(3));
    let ticket = sent(account.admit(CALL, at(2)));
    account.settle(&ticket, CallEnding::Cancelled, at(3));
    assert_eq!(account.calendars[0].spent(), 2);
    account.config.free_not_modified = false;
    let ticket = sent(account.admit(CALL, at(4)));
    settle(&mut account, &ticket, StatusCode::NOT_MODIFIED, ObservedLimits::new(), at(5));
    assert_eq!(account.calendars[0].spent(), 3);
}

#[test]
fn limits_bind_the_endpoints_that_were_told_of_them() {
    let mut account = account(config(), &[]);
    let search = PlannedCall { endpoint: 1, ..CALL };
    let ticket = sent(account.admit(search, at(0)));
    let observed = ObservedLimits::new().limit("search", 30, 0, Duration::from_secs(60));
    settle(&mut account, &ticket, StatusCode::OK, observed, at(1));
    assert_eq!(refused(account.admit(search, at(2))), (RejectedReason::Quota, 60));
    let ticket = sent(account.admit(CALL, at(3)));
    let observed = ObservedLimits::new().limit("core", 5_000, 4_999, Duration::from_secs(3_600));
    settle(&mut account, &ticket, StatusCode::OK, observed, at(4));
    sent(account.admit(CALL, at(5)));
    sent(account.admit(search, at(seconds(61))));
}

#[test]
fn a_pause_holds_all_calls_and_grows_without_a_retry_time() {
    let mut account = account(config(), &[]);
    let ticket = sent(account.admit(CALL, at(0)));
    let observed = ObservedLimits::new().retry_after(Duration::from_secs(30));
    settle(&mut account, &ticket, StatusCode::FORBIDDEN, observed, at(0));
    assert_eq!(refused(account.admit(PlannedCall { endpoint: 1, ..CALL }, at(1))), (RejectedReason::RetryAfter, 30));
    let mut now = 30;
    for pause in [2, 4, 8, 16, 32, 64, 64] {
        let ticket = sent(account.admit(CALL, at(seconds(now))));
        let observed = ObservedLimits { refused: true, ..ObservedLimits::new() };
        settle(&mut account, &ticket, StatusCode::TOO_MANY_REQUESTS, observed, at(seconds(now)));
        now += pause;
        assert_eq!(refused(account.admit(CALL, at(seconds(now) - 1))).1, now);
    }
    let ticket = sent(account.admit(CALL, at(seconds(now))));
    settle(&mut account, &ticket, StatusCode::OK, ObservedLimits::new(), at(seconds(now)));
    assert_eq!(account.refusals, 0);
}

#[test]
fn a_failing_upstream_is_not_called_until_the_probe_or_its_retry_time() {
    let mut account = account(config(), &[Credits::per_hour(1_000)]);
    for n in 0..5 {
        let ticket = sent(account.admit(CALL, at(n)));
        let observed = ObservedLimits::new();
        let ending = if n == 0 { CallEnding::Failed } else { CallEnding::Answered(StatusCode::BAD_GATEWAY, &observed) };
        let events = account.settle(&ticket, ending, at(n));
        assert_eq!(events.circuit, (n == 4).then_some(true));
    }
    assert_eq!(refused(account.admit(CALL, at(seconds(1)))), (RejectedReason::CircuitOpen, 1));
    let ticket = sent(account.admit(CALL, at(seconds(2))));
    assert_eq!(
        settle(&mut account, &ticket, StatusCode::OK, ObservedLimits::new(), at(seconds(2))).circuit,
        Some(false)
    );
    let ticket = sent(account.admit(CALL, at(seconds(2))));
    let observed =
        ObservedLimits { unavailable: true, retry_after: Some(Duration::from_secs(120)), ..ObservedLimits::new() };
    let events = settle(&mut account, &ticket, StatusCode::SERVICE_UNAVAILABLE, observed, at(seconds(2)));
    assert_eq!(events.circuit, Some(true));
    assert_eq!(refused(account.admit(CALL, at(seconds(60)))), (RejectedReason::CircuitOpen, 122));
    sent(account.admit(CALL, at(seconds(122))));
}

#[test]
fn observe_mode_counts_calls_it_would_reject() {
    let mut account = account(AccountConfig { enforce: false, ..config() }, &[Credits::per_hour(2)]);
    for n in 0..5 {
        sent(account.admit(CALL, at(n)));
    }
    assert_eq!((account.would_reject, account.calendars[0].spent()), (3, 5));
}

#[test]
fn thresholds_are_told_once() {
    let mut account = account(AccountConfig { enforce: false, ..config() }, &[Credits::per_minute(10)]);
    let mut observed = Vec::new();
    for n in 0..20 {
        sent(account.admit(CALL, at(n)));
        observed.extend(account.alerts().into_iter().map(|alert| (alert.spent, alert.percent)));
    }
    assert_eq!(observed, [(8, 80), (9, 90)]);
}

#[test]
fn caches_are_told_where_it_changed() {
    let mut account = account(config(), &[Credits::per_hour(10_000)]);
    account.advance(at(0));
    assert_eq!(account.changed_allowances().map(|observed| observed[0].left), Some(1.0));
    let mut times = 0;
    for n in 0..4_500 {
        sent(account.admit(CALL, at(n)));
        times += usize::from(account.changed_allowances().is_some());
    }
    assert!((120..=130).contains(&times), "half of nine tenths in 256ths: {times}");
    assert!(account.changed_allowances().is_none());
}

/// Model of a server with its own fixed window, and the calendar.
struct Server {
    limit: u64,
    /// Times of the counted calls.
    counted: Vec<u64>,
}

impl Server {
    fn in_minute(&self, now: u64) -> u64 {
        let minute = |nanos: u64| nanos / seconds(60);
        self.counted.iter().filter(|at| minute(**at) == minute(now)).count() as u64
    }

    fn observed(&self, now: u64) -> ObservedLimits {
        let used = self.in_minute(now);
        let left = Duration::from_nanos(seconds(60) - now % seconds(60)).as_secs() + 1;
        ObservedLimits::new().limit("", self.limit, self.limit.saturating_sub(used), Duration::from_secs(left))
    }
}

proptest! {
    /// With overlapping, failing, delayed and overtaken calls, neither the local count nor the observed limit is ever
    /// less than what the server has counted in its minute.
    #[test]
    fn never_less_than_the_server_counted(
        steps in prop::collection::vec((0_u64..4_000_000_000, 0_u8..9, any::<prop::sample::Index>()), 1..300),
    ) {
        let mut account = account(AccountConfig { enforce: false, ..config() }, &[Credits::per_minute(1_000_000)]);
        let mut server = Server { limit: 1_000_000, counted: Vec::new() };
        let mut now = 0;
        // A call, and the report made when the server counted it.
        let mut calls: Vec<(AccountTicket, Option<ObservedLimits>)> = Vec::new();
        for (step, kind, which) in steps {
            now += if kind == 0 { step * 10 } else { step / 16 };
            let some = (!calls.is_empty()).then(|| which.index(calls.len()));
            match (kind, some) {
                (0..=3, _) | (_, None) => calls.push((sent(account.admit(CALL, at(now))), None)),
                (4 | 5, Some(one)) if calls[one].1.is_none() => {
                    server.counted.push(now);
                    calls[one].1 = Some(server.observed(now));
                }
                (6 | 7, Some(one)) if calls[one].1.is_some() => {
                    let (ticket, observed) = calls.swap_remove(one);
                    settle(&mut account, &ticket, StatusCode::OK, observed.unwrap_or_default(), at(now));
                }
                (_, Some(one)) => {
                    // Lost on the way to the server, which counts it anyway, or on the way back.
                    let (ticket, observed) = calls.swap_remove(one);
                    account.settle(&ticket, CallEnding::Failed, at(now));
                    if observed.is_none() {
                        server.counted.push(now);
                    }
                }
            }
            account.advance(at(now));
            let counted = server.in_minute(now);
            prop_assert!(account.calendars[0].spent() >= counted, "{} < {counted}", account.calendars[0].spent());
            if let Some(learned) = account.learned.first() {
                prop_assert!(learned.spent >= counted, "learned {} < {counted}", learned.spent);
            }
        }
        // Without calls in flight, the report is exact.
        for (ticket, observed) in calls {
            let observed = observed.unwrap_or_else(|| { server.counted.push(now); server.observed(now) });
            settle(&mut account, &ticket, StatusCode::OK, observed, at(now));
        }
        now += seconds(180);
        for _ in 0..2 {
            let ticket = sent(account.admit(CALL, at(now)));
            server.counted.push(now);
            settle(&mut account, &ticket, StatusCode::OK, server.observed(now), at(now));
        }
        prop_assert_eq!(account.learned[0].spent, 2);
    }
}
