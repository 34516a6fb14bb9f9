//! [`View`]: everything that the page shows, read once.

use std::hash::{Hash, Hasher};
use std::time::{Duration, SystemTime};

use super::audit::AuditEntry;
use super::fleet::NodeSnapshot;
use super::service::AdminShared;
use crate::gate::health::RecentMinutes;
use crate::limit::Refusal;
use crate::upstream::UpstreamStats;
use crate::{Health, OverrideStatus, Stats};

/// Minutes of the charts.
pub(super) const MINUTES: u64 = 60;
/// Refusals of the page.
const REFUSALS: usize = 12;

/// What a page shows.
pub(super) struct View {
    pub(super) stats: Stats,
    pub(super) health: Health,
    pub(super) minutes: RecentMinutes,
    /// Counts of the last 24 hours: calls avoided, and time saved.
    pub(super) saved: (u64, Duration),
    pub(super) money: Option<f64>,
    pub(super) overrides: Vec<OverrideStatus>,
    pub(super) audit: Vec<AuditEntry>,
    pub(super) nodes: Vec<NodeSnapshot>,
    pub(super) refusals: Vec<Refusal>,
    pub(super) upstreams: Vec<UpstreamStats>,
    pub(super) latency_target: Duration,
    pub(super) node: String,
    pub(super) up_for: Duration,
    pub(super) wall: SystemTime,
}

impl View {
    pub(super) fn of(shared: &AdminShared) -> Self {
        let gate = &shared.gate;
        let health = gate.health();
        let (minutes, day) = (gate.health.minutes(MINUTES), gate.health.day());
        Self {
            saved: (day.avoided, day.time_saved),
            money: gate.cost_per_call.map(|cost| cost * day.avoided as f64),
            overrides: gate.overrides().list(),
            audit: shared.audit.own(),
            nodes: shared.fleet.nodes(node(shared, &health)),
            refusals: gate.limits().latest_refusals(REFUSALS),
            upstreams: gate.health.upstreams(),
            latency_target: gate.health.latency_target(),
            node: shared.node.clone(),
            up_for: gate.health.age(),
            wall: gate.health.wall(),
            stats: gate.stats(),
            health,
            minutes,
        }
    }
}

/// Returns what this node tells the others.
pub(super) fn node(shared: &AdminShared, health: &Health) -> NodeSnapshot {
    let recent = shared.gate.health.recent();
    NodeSnapshot {
        node: shared.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        configuration: shared.configuration.clone(),
        up_seconds: shared.gate.health.age().as_secs(),
        status: health.status.to_owned(),
        score: health.score,
        requests_5m: recent.requests,
        refused_5m: recent.refused,
        hit_ratio: recent.hit_ratio(),
        overrides: shared.gate.overrides().list().iter().map(|one| format!("{} {}", one.id, one.value)).collect(),
    }
}

/// Returns the hash of a configuration: nodes with the same limits, rules and version have the same.
pub(super) fn configuration_hash(stats: &Stats, rules: &[String]) -> String {
    // Keyed by nothing: nodes compare it.
    let mut hasher = siphasher::sip::SipHasher13::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    for limit in &stats.limits {
        (&limit.name, &limit.quota, limit.mode.as_str()).hash(&mut hasher);
    }
    for limit in &stats.concurrency {
        (&limit.name, limit.limit).hash(&mut hasher);
    }
    rules.hash(&mut hasher);
    format!("{:08x}", hasher.finish() >> 32)
}
