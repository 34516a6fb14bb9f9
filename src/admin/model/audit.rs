//! [`Audit`]: what operators did, the last of it, of all nodes if a store is shared.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::store::fleet_records::port::{FleetRecord, FleetRecords};

const KIND: &str = "audit";
/// Entries of a node that the store keeps.
const PER_NODE: u64 = 100;
/// Entries that this process keeps.
const MAX_ENTRIES: usize = 200;
const TTL: Duration = Duration::from_secs(30 * 86_400);
/// Time for which a purge can be revoked.
const REVOCABLE_FOR: Duration = Duration::from_secs(600);

/// What an operator did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::admin) struct AuditEntry {
    /// Milliseconds since 1970.
    pub(in crate::admin) at: u64,
    pub(in crate::admin) node: String,
    pub(in crate::admin) actor: String,
    /// What was asked, such as `purge tag prices`.
    pub(in crate::admin) action: String,
    /// Result, or the reason of a failure.
    pub(in crate::admin) outcome: String,
    pub(in crate::admin) reason: String,
    /// What a purge made stale or a revocation restored, such as `tag:prices`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::admin) purged: Option<(PurgeKind, String)>,
}

/// What an action did to entries that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::admin) enum PurgeKind {
    /// Made them stale.
    Stale,
    /// Revoked that.
    Revoked,
}

/// A purge that can be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::admin) struct RevocablePurge {
    pub(in crate::admin) what: String,
    pub(in crate::admin) age: Duration,
}

/// Returns the purges of the last ten minutes that were not revoked, newest first. `entries` are newest first, `wall` is in
/// milliseconds since 1970.
pub(in crate::admin) fn revocable(entries: &[AuditEntry], wall: u64) -> Vec<RevocablePurge> {
    let mut seen: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for entry in entries {
        let Some((kind, what)) = &entry.purged else { continue };
        let age = Duration::from_millis(wall.saturating_sub(entry.at));
        if age > REVOCABLE_FOR || seen.contains(&what.as_str()) {
            continue;
        }
        seen.push(what);
        if *kind == PurgeKind::Stale {
            found.push(RevocablePurge { what: what.clone(), age });
        }
    }
    found
}

/// The last entries.
pub(in crate::admin) struct Audit {
    node: String,
    entries: Mutex<VecDeque<AuditEntry>>,
    /// Entries that the store does not have yet, oldest first.
    unsent: Mutex<VecDeque<AuditEntry>>,
    number: AtomicU64,
    store: Option<Arc<dyn FleetRecords>>,
}

impl Audit {
    pub(in crate::admin) fn new(node: String, store: Option<Arc<dyn FleetRecords>>) -> Self {
        Self { node, entries: Mutex::default(), unsent: Mutex::default(), number: AtomicU64::new(0), store }
    }

    /// Adds an entry here, then to the store. While the store is away it waits.
    pub(in crate::admin) async fn add(&self, entry: AuditEntry) {
        {
            let mut entries = self.entries.lock();
            if entries.len() == MAX_ENTRIES {
                entries.pop_back();
            }
            entries.push_front(entry.clone());
        }
        {
            let mut unsent = self.unsent.lock();
            if unsent.len() == MAX_ENTRIES {
                unsent.pop_front();
            }
            unsent.push_back(entry);
        }
        self.flush().await;
    }

    /// Writes what the store does not have yet.
    pub(in crate::admin) async fn flush(&self) {
        let Some(store) = &self.store else { return };
        loop {
            let Some(entry) = self.unsent.lock().pop_front() else { return };
            let number = self.number.fetch_add(1, Ordering::Relaxed) % PER_NODE;
            let Ok(contents) = serde_json::to_vec(&entry) else { continue };
            let record = FleetRecord { name: format!("{}-{number}", self.node), contents, left: TTL };
            if store.put(KIND, record).await.is_err() {
                self.unsent.lock().push_front(entry);
                return;
            }
        }
    }

    /// Returns the entries of this process, newest first.
    pub(in crate::admin) fn own(&self) -> Vec<AuditEntry> {
        self.entries.lock().iter().cloned().collect()
    }

    /// Returns the entries of all nodes, newest first; those of this process if the store is away.
    pub(in crate::admin) async fn all(&self) -> Vec<AuditEntry> {
        let mut all = self.own();
        if let Some(store) = &self.store {
            let found: Result<_, Error> = store.list(KIND).await;
            let others = found.unwrap_or_default().into_iter();
            let others = others.filter_map(|record| serde_json::from_slice::<AuditEntry>(&record.contents).ok());
            all.extend(others.filter(|entry| entry.node != self.node));
            all.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        }
        all.truncate(MAX_ENTRIES);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at_minute: u64, kind: PurgeKind, what: &str) -> AuditEntry {
        AuditEntry {
            at: at_minute * 60_000,
            node: String::new(),
            actor: String::new(),
            action: String::new(),
            outcome: String::new(),
            reason: String::new(),
            purged: Some((kind, what.to_owned())),
        }
    }

    #[test]
    fn what_was_purged_in_the_last_ten_minutes_and_not_revoked_since_can_be_revoked() {
        let entries = [
            entry(30, PurgeKind::Stale, "tag:again"),
            entry(29, PurgeKind::Revoked, "tag:again"),
            entry(28, PurgeKind::Revoked, "/mended"),
            entry(27, PurgeKind::Stale, "/mended"),
            entry(20, PurgeKind::Stale, "/a/*"),
            entry(19, PurgeKind::Stale, "/old"),
        ];
        let found: Vec<_> = revocable(&entries, 30 * 60_000).into_iter().map(|purge| purge.what).collect();
        assert_eq!(found, ["tag:again", "/a/*"]);
    }

    #[test]
    fn entries_of_earlier_versions_are_read() {
        let old = r#"{"at":1,"node":"n","actor":"ann","action":"purge","outcome":"done","reason":""}"#;
        assert_eq!(serde_json::from_str::<AuditEntry>(old).expect("an entry").purged, None);
    }
}
