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

/// What an operator did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AuditEntry {
    /// Milliseconds since 1970.
    pub(super) at: u64,
    pub(super) node: String,
    pub(super) actor: String,
    /// What was asked, such as `purge tag prices`.
    pub(super) action: String,
    /// Result, or the reason of a failure.
    pub(super) outcome: String,
    pub(super) reason: String,
}

/// The last entries.
pub(super) struct Audit {
    node: String,
    entries: Mutex<VecDeque<AuditEntry>>,
    number: AtomicU64,
    store: Option<Arc<dyn FleetRecords>>,
}

impl Audit {
    pub(super) fn new(node: String, store: Option<Arc<dyn FleetRecords>>) -> Self {
        Self { node, entries: Mutex::default(), number: AtomicU64::new(0), store }
    }

    /// Adds an entry here, then to the store. One that the store does not take stays in this process.
    pub(super) async fn add(&self, entry: AuditEntry) {
        {
            let mut entries = self.entries.lock();
            if entries.len() == MAX_ENTRIES {
                entries.pop_back();
            }
            entries.push_front(entry.clone());
        }
        let Some(store) = &self.store else { return };
        let number = self.number.fetch_add(1, Ordering::Relaxed) % PER_NODE;
        let Ok(contents) = serde_json::to_vec(&entry) else { return };
        let record = FleetRecord { name: format!("{}-{number}", self.node), contents, left: TTL };
        let _ = store.put(KIND, record).await;
    }

    /// Returns the entries of this process, newest first.
    pub(super) fn own(&self) -> Vec<AuditEntry> {
        self.entries.lock().iter().cloned().collect()
    }

    /// Returns the entries of all nodes, newest first; those of this process if the store is away.
    pub(super) async fn all(&self) -> Vec<AuditEntry> {
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
