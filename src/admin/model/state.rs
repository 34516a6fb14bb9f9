//! [`AdminState`]: the gate that is shown, and what this node and the others know.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::audit::{Audit, AuditEntry, RevocablePurge, revocable};
use super::fleet::Fleet;
use crate::base::clock::unix_millis;
use crate::base::random::random;
use crate::store::fleet_records::port::FleetRecords;
use crate::{Stats, Tollgate};

/// State of an admin service.
pub(in crate::admin) struct AdminState {
    pub(in crate::admin) gate: Tollgate,
    /// Name of this node: drawn at its start.
    pub(in crate::admin) node: String,
    pub(in crate::admin) configuration: String,
    pub(in crate::admin) audit: Audit,
    pub(in crate::admin) fleet: Fleet,
}

impl AdminState {
    pub(in crate::admin) fn new(gate: Tollgate) -> Self {
        let node = format!("{:08x}", random() >> 32);
        let records: Option<Arc<dyn FleetRecords>> = gate.records();
        Self {
            configuration: configuration_hash(&gate.stats(), &gate.rule_patterns()),
            audit: Audit::new(node.clone(), records.clone()),
            fleet: Fleet::new(records),
            node,
            gate,
        }
    }

    /// Returns the purges among these entries that can be revoked.
    pub(in crate::admin) fn revocable_purges(&self, entries: &[AuditEntry]) -> Vec<RevocablePurge> {
        revocable(entries, unix_millis(self.gate.health.wall()))
    }
}

/// Returns the hash of a configuration: nodes with the same limits, rules and version have the same.
fn configuration_hash(stats: &Stats, rules: &[String]) -> String {
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
