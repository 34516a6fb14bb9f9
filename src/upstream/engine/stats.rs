//! [`UpstreamStats`]: statistics of one upstream.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::shared::UpstreamShared;
use crate::base::clock::Timestamp;
use crate::base::json_units::{maybe_seconds, millis, seconds};
use crate::base::route::UNMATCHED;
use crate::upstream::quota::account::Endpoint;
use crate::upstream::quota::meter::PointInTime;
use crate::upstream::quota::rejected::RejectedReason;

/// Statistics of one upstream. Serialises to JSON, with durations in seconds.
///
/// ```
/// use tollgate::upstream::{Credits, UpstreamLayer};
///
/// let layer = UpstreamLayer::builder("search").quota(Credits::per_minute(100)).build()?;
/// assert_eq!((layer.stats().calls, layer.stats().on_limit), (0, "reject"));
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct UpstreamStats {
    /// Name of the upstream.
    pub upstream: String,
    /// Treatment of calls beyond the quota: `observe`, `wait` or `reject`.
    pub on_limit: &'static str,
    /// Configured windows, in configuration order.
    pub windows: Vec<WindowStats>,
    /// Limits reported by the upstream.
    pub learned: Vec<WindowStats>,
    /// Calls sent.
    #[serde(rename = "calls_total")]
    pub calls: u64,
    /// Cost in credits.
    #[serde(rename = "credits_total")]
    pub credits: u64,
    /// Credits spent in the last hour.
    pub burn_last_hour: u64,
    /// Credits spent in the last day.
    pub burn_last_day: u64,
    /// Calls rejected, by reason.
    #[serde(rename = "rejections_total")]
    pub rejections: BTreeMap<&'static str, u64>,
    /// Calls that were sent only because of [`OnLimit::Observe`](crate::upstream::OnLimit::Observe).
    #[serde(rename = "would_reject_total")]
    pub would_reject: u64,
    /// Calls that waited.
    #[serde(rename = "waits_total")]
    pub waits: u64,
    /// State of the circuit: `closed`, `open`, or `off` without one.
    pub circuit: &'static str,
    /// Whether the credit store is reachable; `None` without a store.
    pub store_up: Option<bool>,
    /// Credits spent here and not yet booked in the store.
    #[serde(rename = "unbooked_total")]
    pub unbooked: u64,
    /// Endpoints that were called.
    pub endpoints: Vec<EndpointStats>,
}

/// One window of a quota.
///
/// ```
/// use tollgate::upstream::{Credits, UpstreamLayer};
///
/// let layer = UpstreamLayer::builder("search").quota(Credits::per_minute(100)).build()?;
/// assert_eq!(layer.stats().windows[0].remaining, 100);
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WindowStats {
    /// `minute`, `hour`, `day`, `month`, or the upstream's name of the limit; empty if it has none.
    pub window: String,
    /// Credits that may be spent in the window.
    pub limit: u64,
    /// Credits spent: never less than the upstream has counted.
    pub spent: u64,
    /// Credits left.
    pub remaining: u64,
    /// Time until the next window.
    #[serde(rename = "resets_in_seconds", serialize_with = "seconds")]
    pub resets_in: Duration,
    /// Time until the quota is used up, at the higher rate of the last hour and the last day; `None` if it lasts
    /// until the next window.
    #[serde(rename = "exhausted_in_seconds", serialize_with = "maybe_seconds")]
    pub exhausted_in: Option<Duration>,
}

/// Statistics of one endpoint.
///
/// ```
/// fn worst(stats: &tollgate::upstream::UpstreamStats) -> Option<&str> {
///     stats.endpoints.iter().max_by_key(|endpoint| endpoint.failed).map(|endpoint| endpoint.endpoint.as_str())
/// }
/// # let _ = worst;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Pattern, or `unmatched`.
    pub endpoint: String,
    /// Calls sent.
    #[serde(rename = "calls_total")]
    pub calls: u64,
    /// Cost in credits.
    #[serde(rename = "credits_total")]
    pub credits: u64,
    /// Calls that failed with an error of the client.
    #[serde(rename = "failed_total")]
    pub failed: u64,
    /// Responses with status 304 (Not Modified).
    #[serde(rename = "not_modified_total")]
    pub not_modified: u64,
    /// Mean time to the response head.
    #[serde(rename = "mean_latency_ms", serialize_with = "millis")]
    pub mean_latency: Duration,
}

impl UpstreamStats {
    pub(crate) fn of(core: &UpstreamShared) -> Self {
        let (held, PointInTime { now, .. }) = core.now();
        let account = &held.account;
        let window = |window: String, limit: u64, spent: u64, ends: Timestamp| {
            let remaining = limit.saturating_sub(spent);
            let exhausted_in = account.burn.exhausted_in(remaining, now, ends);
            WindowStats { window, limit, spent, remaining, resets_in: ends.since(now), exhausted_in }
        };
        let ours =
            account.calendars.iter().map(|c| window(c.credits.window().to_owned(), c.limit(), c.spent(), c.ends));
        let upstream_time = account
            .learned
            .iter()
            .filter(|l| !l.is_unknown())
            .map(|l| window(String::from_utf8_lossy(&l.name).into_owned(), l.limit, l.spent, l.ends));
        let names = core.patterns.names().iter().map(|name| &**name).chain([UNMATCHED]);
        let endpoints = names.zip(&account.endpoints).filter(|(_, endpoint)| endpoint.calls > 0);
        let rejections = RejectedReason::ALL.map(|reason| (reason.as_str(), account.rejections[reason as usize]));
        Self {
            upstream: core.name.to_string(),
            on_limit: core.on_limit.as_str(),
            windows: ours.collect(),
            learned: upstream_time.collect(),
            calls: account.endpoints.iter().map(|endpoint| endpoint.calls).sum(),
            credits: account.endpoints.iter().map(|endpoint| endpoint.credits).sum(),
            burn_last_hour: account.burn.last_hour(now),
            burn_last_day: account.burn.last_day(now),
            rejections: rejections.into_iter().filter(|(_, count)| *count > 0).collect(),
            would_reject: account.would_reject,
            waits: account.waits,
            circuit: match &account.breaker {
                None => "off",
                Some(breaker) if breaker.is_open() => "open",
                Some(_) => "closed",
            },
            store_up: core.store.as_ref().map(|_| !account.is_store_away(now)),
            unbooked: if core.store.is_some() { account.unbooked() } else { 0 },
            endpoints: endpoints.map(|(name, endpoint)| EndpointStats::of(name, endpoint)).collect(),
        }
    }
}

impl EndpointStats {
    fn of(name: &str, endpoint: &Endpoint) -> Self {
        let &Endpoint { calls, credits, answered, failed, not_modified, time, .. } = endpoint;
        let mean_latency = Duration::from_nanos(time.checked_div(answered).unwrap_or(0));
        Self { endpoint: name.to_owned(), calls, credits, failed, not_modified, mean_latency }
    }
}
