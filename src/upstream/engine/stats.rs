//! [`UpstreamStats`]: what an upstream's account says, as plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::shared::UpstreamShared;
use crate::base::clock::Timestamp;
use crate::base::route::UNMATCHED;
use crate::upstream::quota::account::Endpoint;
use crate::upstream::quota::meter::Moment;
use crate::upstream::quota::rejected::RejectedReason;

/// Statistics of one upstream. Serialises to JSON, durations in seconds.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct UpstreamStats {
    /// The upstream's name.
    pub upstream: String,
    /// `observe`, `wait` or `shed`.
    pub mode: &'static str,
    /// The windows that were configured, in the order they were.
    pub windows: Vec<WindowStats>,
    /// Limits reported by the upstream.
    pub learned: Vec<WindowStats>,
    /// Calls that were made.
    pub calls: u64,
    /// Cost in credits.
    pub credits: u64,
    /// Credits spent in the last hour.
    pub burn_last_hour: u64,
    /// Credits spent in the last day.
    pub burn_last_day: u64,
    /// Calls that were not made, by reason.
    pub sheds: BTreeMap<&'static str, u64>,
    /// Calls that were made only because this layer observes.
    pub would_shed: u64,
    /// Calls that waited.
    pub waits: u64,
    /// State of the circuit: `closed`, `open`, or `off` without one.
    pub circuit: &'static str,
    /// Whether the store of the credits answers; nothing where there is none.
    pub store_up: Option<bool>,
    /// Credits spent here that the store does not know of yet.
    pub owed: u64,
    /// By endpoint, those that were called.
    pub endpoints: Vec<EndpointStats>,
}

/// One window of a quota.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WindowStats {
    /// `minute`, `hour`, `day`, `month`, or the upstream's own name for the limit; empty where it gave none.
    pub window: String,
    /// What may be spent in it.
    pub limit: u64,
    /// Credits spent: never less than the upstream has counted.
    pub spent: u64,
    /// Credits left.
    pub remaining: u64,
    /// How long until the next window.
    #[serde(rename = "resets_in_s", serialize_with = "seconds")]
    pub resets_in: Duration,
    /// How long the rest lasts at the higher of the last hour's and the last day's rate; nothing where it lasts until
    /// the
    /// next window.
    #[serde(rename = "exhausted_in_s", serialize_with = "maybe_seconds")]
    pub exhausted_in: Option<Duration>,
}

/// One endpoint of an upstream.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Its pattern, or `unmatched`.
    pub endpoint: String,
    /// Calls that were made.
    pub calls: u64,
    /// Cost in credits.
    pub credits: u64,
    /// Calls that ended in the client's error.
    pub failed: u64,
    /// Calls that were answered 304: what was cached is still so.
    pub not_modified: u64,
    /// How long an answer took, on average, until its head was there.
    #[serde(rename = "mean_latency_s", serialize_with = "seconds")]
    pub mean_latency: Duration,
}

impl UpstreamStats {
    pub(crate) fn of(core: &UpstreamShared) -> Self {
        let (held, Moment { now, .. }) = core.now();
        let account = &held.account;
        let window = |window: String, limit: u64, spent: u64, ends: Timestamp| {
            let remaining = limit.saturating_sub(spent);
            let exhausted_in = account.burn.exhausted_in(remaining, now, ends);
            WindowStats { window, limit, spent, remaining, resets_in: ends.since(now), exhausted_in }
        };
        let ours =
            account.calendars.iter().map(|c| window(c.credits.window().to_owned(), c.limit(), c.spent(), c.ends));
        let theirs = account
            .learned
            .iter()
            .map(|l| window(String::from_utf8_lossy(&l.name).into_owned(), l.limit, l.spent, l.ends));
        let names = core.patterns.names().iter().map(|name| &**name).chain([UNMATCHED]);
        let endpoints = names.zip(&account.endpoints).filter(|(_, endpoint)| endpoint.calls > 0);
        let sheds = RejectedReason::ALL.map(|reason| (reason.as_str(), account.sheds[reason as usize]));
        Self {
            upstream: core.name.to_string(),
            mode: core.mode.as_str(),
            windows: ours.collect(),
            learned: theirs.collect(),
            calls: account.endpoints.iter().map(|endpoint| endpoint.calls).sum(),
            credits: account.endpoints.iter().map(|endpoint| endpoint.credits).sum(),
            burn_last_hour: account.burn.last_hour(now),
            burn_last_day: account.burn.last_day(now),
            sheds: sheds.into_iter().filter(|(_, count)| *count > 0).collect(),
            would_shed: account.would_shed,
            waits: account.waits,
            circuit: match &account.breaker {
                None => "off",
                Some(breaker) if breaker.is_open() => "open",
                Some(_) => "closed",
            },
            store_up: core.store.as_ref().map(|_| !account.is_store_away(now)),
            owed: if core.store.is_some() { account.owed() } else { 0 },
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

fn seconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64())
}

fn maybe_seconds<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(|span| span.as_secs_f64()).serialize(serializer)
}
