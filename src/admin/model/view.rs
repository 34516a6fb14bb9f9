//! [`View`]: everything that the page shows, read once.

use std::time::{Duration, SystemTime};

use super::audit::AuditEntry;
use super::fleet::NodeSnapshot;
use super::state::AdminState;
use crate::gate::health::RecentMinutes;
use crate::limit::Refusal;
use crate::upstream::UpstreamStats;
use crate::{Health, OverrideStatus, Stats};

/// Minutes of the charts.
pub(in crate::admin) const MINUTES: u64 = 60;
/// Refusals of the page.
const REFUSALS: usize = 12;

/// What a page shows.
pub(in crate::admin) struct View {
    pub(in crate::admin) stats: Stats,
    pub(in crate::admin) health: Health,
    pub(in crate::admin) minutes: RecentMinutes,
    /// Counts of the last 24 hours: calls avoided, and time saved.
    pub(in crate::admin) saved: (u64, Duration),
    pub(in crate::admin) money: Option<f64>,
    pub(in crate::admin) overrides: Vec<OverrideStatus>,
    pub(in crate::admin) audit: Vec<AuditEntry>,
    pub(in crate::admin) nodes: Vec<NodeSnapshot>,
    pub(in crate::admin) refusals: Vec<Refusal>,
    pub(in crate::admin) upstreams: Vec<UpstreamStats>,
    #[cfg(feature = "jobs")]
    pub(in crate::admin) jobs: Vec<crate::JobStatus>,
    pub(in crate::admin) latency_target: Duration,
    pub(in crate::admin) node: String,
    pub(in crate::admin) up_for: Duration,
    pub(in crate::admin) wall: SystemTime,
}

impl View {
    pub(in crate::admin) fn of(shared: &AdminState) -> Self {
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
            #[cfg(feature = "jobs")]
            jobs: gate.jobs().list(),
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
pub(in crate::admin) fn node(shared: &AdminState, health: &Health) -> NodeSnapshot {
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
