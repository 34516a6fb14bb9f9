//! [`Fleet`]: what each node tells the others, through the shared store, every ten seconds.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::lock::Mutex;
use crate::store::fleet_records::port::{FleetRecord, FleetRecords};

const KIND: &str = "nodes";
/// Interval of the exchange.
pub(in crate::admin) const INTERVAL: Duration = Duration::from_secs(10);
/// Time after which a node that tells nothing is gone.
const TTL: Duration = Duration::from_secs(30);

/// What a node tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::admin) struct NodeSnapshot {
    pub(in crate::admin) node: String,
    /// Version of the crate.
    pub(in crate::admin) version: String,
    /// Hash of the configuration: nodes of a fleet should agree.
    pub(in crate::admin) configuration: String,
    pub(in crate::admin) up_seconds: u64,
    pub(in crate::admin) status: String,
    pub(in crate::admin) score: Option<u8>,
    /// Requests of the last five minutes.
    pub(in crate::admin) requests_5m: u64,
    pub(in crate::admin) refused_5m: u64,
    pub(in crate::admin) hit_ratio: Option<f64>,
    /// IDs and values of the overrides in force.
    pub(in crate::admin) overrides: Vec<String>,
}

/// Nodes of a fleet.
pub(in crate::admin) struct Fleet {
    store: Option<Arc<dyn FleetRecords>>,
    known: Mutex<Vec<NodeSnapshot>>,
}

impl Fleet {
    pub(in crate::admin) fn new(store: Option<Arc<dyn FleetRecords>>) -> Self {
        Self { store, known: Mutex::default() }
    }

    /// Returns all nodes, this one first.
    pub(in crate::admin) fn nodes(&self, own: NodeSnapshot) -> Vec<NodeSnapshot> {
        let others = self.known.lock();
        let others = others.iter().filter(|node| node.node != own.node).cloned().collect::<Vec<_>>();
        [vec![own], others].concat()
    }

    /// Tells the others about this node, and reads what they tell.
    pub(in crate::admin) async fn exchange(&self, own: &NodeSnapshot) {
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
