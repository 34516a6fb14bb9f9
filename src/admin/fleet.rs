//! [`Fleet`]: what each node tells the others, through the shared store, every ten seconds.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::lock::Mutex;
use crate::store::fleet_records::port::{FleetRecord, FleetRecords};

const KIND: &str = "nodes";
/// Interval of the exchange.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// Time after which a node that tells nothing is gone.
const TTL: Duration = Duration::from_secs(30);

/// What a node tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct NodeSnapshot {
    pub(super) node: String,
    /// Version of the crate.
    pub(super) version: String,
    /// Hash of the configuration: nodes of a fleet should agree.
    pub(super) configuration: String,
    pub(super) up_seconds: u64,
    pub(super) status: String,
    pub(super) score: Option<u8>,
    /// Requests of the last five minutes.
    pub(super) requests_5m: u64,
    pub(super) refused_5m: u64,
    pub(super) hit_ratio: Option<f64>,
    /// IDs and values of the overrides in force.
    pub(super) overrides: Vec<String>,
}

/// Nodes of a fleet.
pub(super) struct Fleet {
    store: Option<Arc<dyn FleetRecords>>,
    known: Mutex<Vec<NodeSnapshot>>,
}

impl Fleet {
    pub(super) fn new(store: Option<Arc<dyn FleetRecords>>) -> Self {
        Self { store, known: Mutex::default() }
    }

    /// Returns all nodes, this one first.
    pub(super) fn nodes(&self, own: NodeSnapshot) -> Vec<NodeSnapshot> {
        let others = self.known.lock();
        let others = others.iter().filter(|node| node.node != own.node).cloned().collect::<Vec<_>>();
        [vec![own], others].concat()
    }

    /// Tells the others about this node, and reads what they tell.
    pub(super) async fn exchange(&self, own: &NodeSnapshot) {
        let (Some(store), Ok(contents)) = (&self.store, serde_json::to_vec(own)) else { return };
        let record = FleetRecord { name: own.node.clone(), contents, left: TTL };
        let written = store.put(KIND, record).await;
        match store.list(KIND).await {
            Ok(found) => {
                let nodes = found.iter().filter_map(|record| serde_json::from_slice(&record.contents).ok());
                *self.known.lock() = nodes.collect();
            }
            // Nothing is known of the others while the store is away.
            Err(_) if written.is_err() => self.known.lock().clear(),
            Err(_) => {}
        }
    }
}
