//! [`SloStatus`]: objectives, their error budgets, and how fast these burn.
//!
//! A burn rate of 1 uses up exactly the budget: with an objective of 95 %, it means that 5 % were bad. An objective is missed
//! when it burns faster than that over five minutes and over an hour, and met again when the last five minutes do not: a short
//! peak is no alarm, and an alarm ends soon after its cause (Google SRE workbook, "Alerting on SLOs", multiwindow).

use std::time::Duration;

use serde::Serialize;

use super::observed::Observation;
use super::targets::{FAST_SHARE, MIN_SAMPLES, Targets};
use super::totals::{Totals, share};

/// Objective of a gate, and how it is kept. Serialises to JSON.
///
/// ```
/// use tollgate::Tollgate;
///
/// let gate = Tollgate::builder().build()?;
/// let latency = &gate.health().slos[0];
/// assert_eq!((latency.name.as_str(), latency.objective, latency.state), ("latency", 0.95, "unknown"));
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SloStatus {
    /// Name: `latency`, `errors`, `queries`, `hits NAME` of a route or namespace, or `latency ROUTES`.
    pub name: String,
    /// What is demanded, such as `95 % of requests within 500 ms`.
    pub text: String,
    /// Share that must be good.
    pub objective: f64,
    /// Good share of the last hour; `None` below 20 samples.
    pub actual: Option<f64>,
    /// Burn rate of the last five minutes; `None` below 20 samples.
    pub burn_5m: Option<f64>,
    /// Burn rate of the last hour.
    pub burn_1h: Option<f64>,
    /// State: `met`, `missed`, or `unknown`.
    pub state: &'static str,
}

impl SloStatus {
    /// Judges an objective by the bad and all samples of five minutes and an hour.
    fn of(name: String, text: String, objective: f64, recent: (u64, u64), hour: (u64, u64)) -> Self {
        let bad = |(bad, all): (u64, u64)| share(bad, all).filter(|_| all >= MIN_SAMPLES);
        let burn = |samples| bad(samples).map(|bad| bad / (1.0 - objective));
        let (burn_5m, burn_1h) = (burn(recent), burn(hour));
        let state = match (burn_5m, burn_1h) {
            (Some(now), Some(hour)) if now > 1.0 && hour > 1.0 => "missed",
            (_, Some(_)) => "met",
            _ => "unknown",
        };
        Self { name, text, objective, actual: bad(hour).map(|bad| 1.0 - bad), burn_5m, burn_1h, state }
    }
}

/// Returns the state of all objectives.
pub(crate) fn judge(observed: &Observation, targets: &Targets) -> Vec<SloStatus> {
    let (recent, hour) = (&observed.recent, &observed.hour);
    let of = |bad: fn(&Totals) -> u64, all: fn(&Totals) -> u64| ((bad(recent), all(recent)), (bad(hour), all(hour)));
    let mut all = Vec::new();
    let (now, before) = of(|counts| counts.slow_requests, |counts| counts.requests);
    let text = format!("{} of requests within {}", percent(FAST_SHARE), span(targets.latency));
    all.push(SloStatus::of("latency".to_owned(), text, FAST_SHARE, now, before));
    let (now, before) = of(|counts| counts.errors, |counts| counts.requests);
    let text = format!("{} of requests without a server error", percent(1.0 - targets.errors));
    all.push(SloStatus::of("errors".to_owned(), text, 1.0 - targets.errors, now, before));
    let (now, before) = of(|counts| counts.slow_queries, |counts| counts.queries);
    let text = format!("{} of queries within {}", percent(FAST_SHARE), span(targets.query));
    all.push(SloStatus::of("queries".to_owned(), text, FAST_SHARE, now, before));
    all.extend(observed.targeted.iter().map(|targeted| {
        let samples = |(good, bad): (u64, u64)| (bad, good + bad);
        let (recent, hour) = (samples(targeted.recent), samples(targeted.hour));
        SloStatus::of(targeted.objective.clone(), targeted.text.clone(), targeted.target, recent, hour)
    }));
    all
}

/// Formats a share: `99.5 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{} %", (share * 1_000.0).round() / 10.0)
}

/// Formats a duration: `500 ms`, `1.5 s`.
pub(crate) fn span(span: Duration) -> String {
    match span.as_secs_f64() {
        seconds if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 120.0 => format!("{} s", (seconds * 10.0).round() / 10.0),
        seconds if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        seconds if seconds < 172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        seconds => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(recent: (u64, u64), hour: (u64, u64)) -> SloStatus {
        let of = |(slow_requests, requests)| Totals { slow_requests, requests, ..Totals::default() };
        let observed = Observation { recent: of(recent), hour: of(hour), ..Observation::default() };
        judge(&observed, &Targets::default()).swap_remove(0)
    }

    #[test]
    fn an_objective_is_missed_when_both_windows_burn_too_fast() {
        for (recent, hour, state) in [
            ((0, 100), (0, 1_000), "met"),
            ((50, 100), (50, 1_200), "met"),
            ((50, 100), (500, 1_200), "missed"),
            ((1, 100), (500, 1_200), "met"),
            ((5, 100), (60, 1_200), "met"),
            ((19, 19), (500, 1_200), "met"),
            ((19, 19), (19, 19), "unknown"),
            ((0, 0), (0, 0), "unknown"),
        ] {
            assert_eq!(latency(recent, hour).state, state, "{recent:?} {hour:?}");
        }
        let burning = latency((50, 100), (120, 1_200));
        assert_eq!((burning.burn_5m.map(f64::round), burning.actual), (Some(10.0), Some(0.9)));
        assert!((burning.burn_1h.expect("enough") - 2.0).abs() < 1e-9);
    }

    #[test]
    fn durations_are_shown_with_their_units() {
        let shown = [0.000_05, 0.25, 1.5, 90.0, 3_600.0, 86_400.0, 864_000.0].map(|s| span(Duration::from_secs_f64(s)));
        assert_eq!(shown, ["50 µs", "250 ms", "1.5 s", "90 s", "60 min", "24 h", "10 days"]);
    }
}
