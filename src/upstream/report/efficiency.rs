//! [`EfficiencyReport`]: requests, calls, credits and a score, by endpoint.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::base::json_units::millis;

use super::score::Weights;

/// Endpoints of one or several upstreams, ordered by score, lowest first. Prints as aligned text.
///
/// ```
/// use tollgate::upstream::{Credits, UpstreamLayer};
///
/// let github = UpstreamLayer::with_quota("github", Credits::per_hour(5_000))?;
/// println!("{}", github.report());
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
#[non_exhaustive]
pub struct EfficiencyReport {
    /// One row per endpoint, worst first.
    pub rows: Vec<EndpointReport>,
}

/// Use of one endpoint.
///
/// ```
/// use tollgate::Tollgate;
///
/// let market = Tollgate::upstream("market").build()?;
/// for row in market.report().rows {
///     println!("{}: {} calls for {} requests", row.endpoint, row.calls, row.requests);
/// }
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EndpointReport {
    /// Name of the upstream.
    pub upstream: String,
    /// Pattern of the endpoint, or `unmatched`.
    pub endpoint: String,
    /// Requests, answered from the cache or by the upstream.
    #[serde(rename = "requests_total")]
    pub requests: u64,
    /// Calls of the upstream.
    #[serde(rename = "calls_total")]
    pub calls: u64,
    /// Requests that needed no call.
    #[serde(rename = "avoided_total")]
    pub avoided: u64,
    /// The share of requests that needed no call, 0 to 1.
    pub hit_ratio: f64,
    /// Cost of the calls in credits.
    #[serde(rename = "credits_total")]
    pub credits: u64,
    /// Credits per request.
    pub credits_per_request: f64,
    /// Mean duration of a request.
    #[serde(rename = "mean_latency_ms", serialize_with = "millis")]
    pub mean_latency: Duration,
    /// Cost of the calls in money, if a credit has a price.
    pub money: Option<f64>,
    /// Savings: avoided requests at the mean price of those made.
    pub saved: Option<f64>,
    /// Score from 0 to 100, see [`Weights`].
    pub score: f64,
}

/// Counters of one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    pub(crate) upstream: String,
    pub(crate) endpoint: String,
    pub(crate) requests: u64,
    pub(crate) calls: u64,
    pub(crate) credits: u64,
    pub(crate) mean_latency: Duration,
}

impl EfficiencyReport {
    pub(crate) fn of(usages: impl IntoIterator<Item = Usage>, weights: &Weights, price: Option<f64>) -> Self {
        let mut rows: Vec<_> = usages.into_iter().map(|usage| EndpointReport::of(usage, weights, price)).collect();
        rows.sort_by(|one, other| one.score.total_cmp(&other.score).then_with(|| one.endpoint.cmp(&other.endpoint)));
        Self { rows }
    }

    /// Combines two reports, worst endpoints first.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.rows.extend(other.rows);
        self.rows.sort_by(|one, other| one.score.total_cmp(&other.score));
        self
    }
}

impl EndpointReport {
    fn of(usage: Usage, weights: &Weights, price: Option<f64>) -> Self {
        let Usage { upstream, endpoint, requests, calls, credits, mean_latency } = usage;
        // Background refreshes are calls without a request.
        let requests = requests.max(1);
        let avoided = requests.saturating_sub(calls);
        let share = |n: u64, of: u64| n as f64 / of.max(1) as f64;
        let (hit_ratio, credits_per_request) = (share(avoided, requests), share(credits, requests));
        let each = if calls == 0 { 1.0 } else { share(credits, calls) };
        Self {
            upstream,
            endpoint,
            requests,
            calls,
            avoided,
            hit_ratio,
            credits,
            credits_per_request,
            mean_latency,
            money: price.map(|price| credits as f64 * price),
            saved: price.map(|price| avoided as f64 * each * price),
            score: weights.score(hit_ratio, credits_per_request, mean_latency),
        }
    }
}

impl fmt::Display for EfficiencyReport {
    /// Writes one line per endpoint, below a header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [
            "upstream", "endpoint", "requests", "calls", "avoided", "hit", "credits", "each", "mean", "money", "saved",
            "score",
        ];
        let lines: Vec<[String; 12]> = self.rows.iter().map(EndpointReport::cells).collect();
        let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).chain([head[at].len()]).max();
        let widths: Vec<usize> = (0..head.len()).map(|at| width(at).unwrap_or(0)).collect();
        let write = |f: &mut fmt::Formatter<'_>, cells: &[String]| {
            for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                match at {
                    0 => write!(f, "{cell:<width$}")?,
                    1 => write!(f, "  {cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)
        };
        write(f, &head.map(str::to_owned))?;
        lines.iter().try_for_each(|line| write(f, line))
    }
}

impl EndpointReport {
    fn cells(&self) -> [String; 12] {
        let money = |money: Option<f64>| money.map_or_else(|| "-".to_owned(), |money| format!("{money:.2}"));
        [
            self.upstream.clone(),
            self.endpoint.clone(),
            self.requests.to_string(),
            self.calls.to_string(),
            self.avoided.to_string(),
            format!("{:.1} %", self.hit_ratio * 100.0),
            self.credits.to_string(),
            format!("{:.3}", self.credits_per_request),
            format!("{:.1} ms", self.mean_latency.as_secs_f64() * 1e3),
            money(self.money),
            money(self.saved),
            format!("{:.1}", self.score),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(endpoint: &str, requests: u64, calls: u64, credits: u64, ms: u64) -> Usage {
        let mean_latency = Duration::from_millis(ms);
        Usage { upstream: "market".into(), endpoint: endpoint.into(), requests, calls, credits, mean_latency }
    }

    #[test]
    fn the_worst_come_first_in_aligned_columns() {
        let usages = [usage("/prices/{symbol}", 1_000, 50, 50, 50), usage("/history", 200, 200, 1_000, 400)];
        let report = EfficiencyReport::of(usages, &Weights::default(), Some(0.01));
        assert_eq!(report.rows[0].endpoint, "/history");
        assert_eq!((report.rows[1].avoided, report.rows[1].score.round()), (950, 97.0));
        assert_eq!((report.rows[1].money, report.rows[1].saved), (Some(0.5), Some(9.5)));
        let text = report.to_string();
        let expected = "\
upstream  endpoint          requests  calls  avoided     hit  credits   each      mean  money  saved  score
market    /history               200    200        0   0.0 %     1000  5.000  400.0 ms  10.00   0.00   18.4
market    /prices/{symbol}      1000     50      950  95.0 %       50  0.050   50.0 ms   0.50   9.50   97.0
";
        assert_eq!(text, expected, "\n{text}");
        assert_eq!(report.clone().merged(EfficiencyReport::default()), report);
    }

    #[test]
    fn an_unused_endpoint_has_no_ratio() {
        let report = EfficiencyReport::of([usage("/", 0, 0, 0, 0)], &Weights::default(), None);
        assert!(report.rows[0].score.is_finite() && report.to_string().contains('-'));
    }
}
