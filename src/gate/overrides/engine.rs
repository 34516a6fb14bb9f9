//! [`OverrideEngine`]: applies overrides, ends them, and keeps them and those of the fleet equal.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::apply::OverriddenLayers;
use super::spec::Override;
use super::status::OverrideStatus;
use super::table::{OverrideTable, PendingChange};
use crate::base::clock::{Clock, Timestamp, unix_millis};
use crate::base::error::Error;
use crate::base::event::{Event, Events};
use crate::base::lock::Mutex;
use crate::store::fleet_records::port::FleetRecords;

/// Kind of the records in the shared store.
const KIND: &str = "overrides";
/// Interval at which overrides end and the shared store is read.
const INTERVAL: Duration = Duration::from_secs(2);
/// Environment variable that makes a node start without stored overrides.
const VARIABLE: &str = "TOLLGATE__OVERRIDES";

/// Overrides of a gate. Dropping it ends its task.
pub(crate) struct OverrideEngine {
    shared: Arc<Shared>,
    task: OnceLock<AbortHandle>,
}

struct Shared {
    layers: OverriddenLayers,
    store: Option<Arc<dyn FleetRecords>>,
    clock: Clock,
    events: Events,
    /// Stored overrides from before this time are ignored, in milliseconds since 1970.
    ignored_before: u64,
    table: Mutex<OverrideTable>,
    /// One exchange with the store at a time.
    exchange: tokio::sync::Mutex<()>,
}

impl OverrideEngine {
    /// # Errors
    /// If the environment variable `TOLLGATE__OVERRIDES` has an unknown value.
    pub(crate) fn new(
        layers: OverriddenLayers,
        store: Option<Arc<dyn FleetRecords>>,
        clock: Clock,
        events: Events,
    ) -> Result<Self, Error> {
        let ignored_before = match std::env::var(VARIABLE) {
            Ok(value) if value == "ignore" => unix_millis(clock.wall()),
            Ok(value) if !value.is_empty() => {
                return Err(Error::config(format!("{VARIABLE}={value}: unknown value; use ignore, or unset it")));
            }
            _ => 0,
        };
        let (table, exchange) = (Mutex::default(), tokio::sync::Mutex::default());
        let shared = Arc::new(Shared { layers, store, clock, events, ignored_before, table, exchange });
        let engine = Self { shared, task: OnceLock::new() };
        engine.start();
        Ok(engine)
    }

    /// Starts the task that ends overrides and reads the store, if there is a runtime and it has not.
    pub(crate) fn start(&self) {
        if let Ok(runtime) = Handle::try_current() {
            self.task.get_or_init(|| runtime.spawn(run(Arc::downgrade(&self.shared))).abort_handle());
        }
    }

    /// Returns the store of records that the nodes share.
    #[cfg(feature = "admin")]
    pub(crate) fn records(&self) -> Option<Arc<dyn FleetRecords>> {
        self.shared.store.clone()
    }

    pub(super) async fn apply(&self, asked: &Override) -> Result<OverrideStatus, Error> {
        self.start();
        let shared = &self.shared;
        let (target, setting) = asked.checked()?;
        shared.layers.check(&target, setting)?;
        let at = shared.now();
        let id = {
            let mut table = shared.table.lock();
            let id = table.add(asked, (target, setting), shared.store.is_some(), at)?;
            shared.layers.apply(table.settings());
            id
        };
        shared.events.emit(&Event::Overridden {
            id: &id,
            value: &setting.to_string(),
            actor: &asked.actor,
            reason: &asked.reason,
        });
        shared.exchange().await;
        let (now, wall) = shared.now();
        let status = shared.table.lock().get(&id, now, wall);
        status.ok_or_else(|| Error::config(format!("override {id:?} was removed meanwhile")))
    }

    pub(super) async fn remove(&self, id: &str, actor: &str) -> bool {
        let shared = &self.shared;
        let is_removed = {
            let mut table = shared.table.lock();
            let is_removed = table.remove(id, shared.now().1);
            shared.layers.apply(table.settings());
            is_removed
        };
        let is_removed = is_removed || shared.remove_stored(id).await;
        if is_removed {
            shared.events.emit(&Event::OverrideEnded { id, actor: Some(actor) });
            shared.exchange().await;
        }
        is_removed
    }

    /// Returns the number of overrides in force.
    pub(crate) fn count(&self) -> u64 {
        self.shared.table.lock().settings().count() as u64
    }

    pub(super) fn list(&self) -> Vec<OverrideStatus> {
        self.shared.expire();
        let (now, wall) = self.shared.now();
        self.shared.table.lock().list(now, wall)
    }

    /// Writes what is pending, and reads what other nodes have changed.
    pub(super) async fn sync(&self) {
        self.shared.expire();
        self.shared.exchange().await;
    }
}

impl Drop for OverrideEngine {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

async fn run(shared: Weak<Shared>) {
    loop {
        let Some(engine) = shared.upgrade() else { return };
        engine.expire();
        engine.exchange().await;
        drop(engine);
        tokio::time::sleep(INTERVAL).await;
    }
}

impl Shared {
    fn now(&self) -> (Timestamp, u64) {
        (self.clock.now(), unix_millis(self.clock.wall()))
    }

    /// Ends what has expired.
    fn expire(&self) {
        let mut table = self.table.lock();
        let expired = table.expire(self.clock.now());
        if !expired.is_empty() {
            self.layers.apply(table.settings());
        }
        drop(table);
        expired.iter().for_each(|id| self.events.emit(&Event::OverrideEnded { id, actor: None }));
    }

    /// Removes an override that only the store has: this node ignores it.
    async fn remove_stored(&self, id: &str) -> bool {
        let Some(store) = &self.store else { return false };
        let _one = self.exchange.lock().await;
        let found = store.list(KIND).await.unwrap_or_default();
        found.iter().any(|record| record.name == id) && store.remove(KIND, id).await.is_ok()
    }

    /// Writes what is pending, then reads all. An outage leaves both for the next time: the guard reports it.
    async fn exchange(&self) {
        let Some(store) = &self.store else { return };
        let _one = self.exchange.lock().await;
        if self.read(&**store).await.is_err() {
            return;
        }
        let pending = self.table.lock().pending(self.clock.now());
        for change in pending {
            let written = match &change {
                PendingChange::Put(record) => store.put(KIND, record.clone()).await,
                PendingChange::Remove(id) => store.remove(KIND, id).await,
            };
            if written.is_err() {
                return;
            }
            self.table.lock().written(&change);
        }
    }

    async fn read(&self, store: &dyn FleetRecords) -> Result<(), Error> {
        let found = store.list(KIND).await?;
        let mut table = self.table.lock();
        if table.merge(&found, self.clock.now(), self.ignored_before) {
            self.layers.apply(table.settings());
        }
        Ok(())
    }
}
