//! Backplane: distributes invalidations between processes, over the [log](ByteLog) of a byte store.
//!
//! Messages provide speed, the log correctness: a process reads the log from its last position after every new
//! connection, after a missing message, and once a second. The log decides which entries remain valid: see
//! `cache/engine/invalidation_log.rs`.
//!
//! While the server is unavailable, an invalidation is effective in this process, is queued, and is appended to the log
//! afterwards.
//!
//! A store without a log has [local barriers](LocalBarriers) instead, by the time of this process's clock.
//!
//! The levels of one cache share one log: all but one [follow](Backplane::follow) the backplane of another.

mod task;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::task::Running;
use super::names::KeyNames;
use super::settings::RemoteSettings;
use crate::base::clock::{Clock, runtime_now};
use crate::base::error::Error;
use crate::base::lock::{Mutex, RwLock};
use crate::base::maybe_ready::BoxFuture;
use crate::base::outage::Outage;
use crate::base::random::random;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::codec::FleetClock;
use crate::cache::engine::invalidation_log::{InvalidationLog, LogRecord, LogUpdate};
use crate::cache::engine::local_barriers::LocalBarriers;
use crate::cache::http::record_meta::RecordMeta;
use crate::cache::{ByteLog, ByteStore, CacheKey, Invalidation, InvalidationSink, LogMessage};
use crate::resilience::guard::{FailOpen, Fault};

/// Maximum difference of two readings of the fleet clock.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Source of the validity of entries.
enum Validation {
    /// The log that processes share.
    Log(InvalidationLog),
    /// The invalidations of this process.
    Local(LocalBarriers),
}

/// State shared by the store and its backplane.
pub(super) struct Backplane {
    pub(super) settings: RemoteSettings,
    pub(super) guard: FailOpen<Arc<dyn ByteStore>>,
    validation: Validation,
    /// The backplane whose log this one uses instead of its own.
    followed: OnceLock<Arc<Self>>,
    /// Names under the configured secret.
    names: Option<KeyNames>,
    /// Names under the secret that the log holds, which also identifies the log.
    agreed: RwLock<Option<KeyNames>>,
    fleet_clock: Mutex<Option<FleetClock>>,
    sink: OnceLock<InvalidationSink>,
    /// The local clock, until a sink provides one.
    clock: Clock,
    running: AtomicBool,
    wake: Notify,
}

impl Backplane {
    pub(super) fn new(settings: RemoteSettings, guard: FailOpen<Arc<dyn ByteStore>>, has_log: bool) -> Arc<Self> {
        let names = settings.secret.as_deref().map(KeyNames::under);
        let validation = match has_log {
            true => Validation::Log(InvalidationLog::new(random())),
            false => Validation::Local(LocalBarriers::default()),
        };
        Arc::new(Self {
            settings,
            guard,
            validation,
            followed: OnceLock::new(),
            names,
            agreed: RwLock::new(None),
            fleet_clock: Mutex::new(None),
            sink: OnceLock::new(),
            clock: Clock::System,
            running: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    /// Calls the server, within the deadline.
    pub(super) async fn call<T>(
        &self,
        f: impl FnOnce(Arc<dyn ByteStore>) -> BoxFuture<Result<T, Error>>,
    ) -> Result<T, Outage> {
        self.call_by(runtime_now() + self.guard.remaining_timeout(), f).await
    }

    /// Calls the server, with a deadline at `by`.
    pub(super) async fn call_by<T>(
        &self,
        by: Instant,
        f: impl FnOnce(Arc<dyn ByteStore>) -> BoxFuture<Result<T, Error>>,
    ) -> Result<T, Outage> {
        let call = async |bytes| f(bytes).await.map_err(Fault::from);
        self.guard.call_by(by, call).await
    }

    /// Calls the log.
    async fn call_log<T: Send + 'static>(
        &self,
        f: impl FnOnce(&dyn ByteLog) -> BoxFuture<Result<T, Error>>,
    ) -> Result<T, Outage> {
        self.call(|bytes| match bytes.log() {
            Some(log) => f(log),
            None => Box::pin(std::future::ready(Err(Error::store("the store has lost its log", "no log")))),
        })
        .await
    }

    /// Uses the log of another backplane from now on: its positions, clock and names. Called before the first use.
    pub(super) fn follow(&self, owner: &Arc<Self>) {
        drop(self.followed.set(owner.clone()));
    }

    /// Whether another backplane's log is used.
    pub(super) fn follows(&self) -> bool {
        self.followed.get().is_some()
    }

    /// Returns the backplane whose log is used.
    fn owner(&self) -> &Self {
        self.followed.get().map_or(self, |owner| owner)
    }

    /// Registers the sink of the first layer built with the store.
    pub(super) fn listen(self: &Arc<Self>, sink: InvalidationSink) {
        self.guard.listen(sink.events());
        drop(self.sink.set(sink));
        self.start();
    }

    pub(super) fn sink(&self) -> Option<&InvalidationSink> {
        self.sink.get()
    }

    pub(super) fn clock(&self) -> &Clock {
        self.sink().map_or(&self.clock, InvalidationSink::clock)
    }

    /// Returns the names, once the secret is known.
    pub(super) fn names(&self) -> Option<KeyNames> {
        self.names.clone().or_else(|| self.owner().agreed.read().clone())
    }

    /// Returns the ID of the log, once it is known; 0 without a log.
    pub(super) fn log_id(&self) -> Option<u64> {
        match self.owner().validation {
            Validation::Log(_) => self.owner().agreed.read().as_ref().map(KeyNames::log_id),
            Validation::Local(_) => Some(0),
        }
    }

    /// Returns the fleet clock, once it has been read; this process's calendar where the store has no clock.
    pub(super) fn fleet_clock(&self) -> Option<FleetClock> {
        let owner = self.owner();
        match owner.validation {
            Validation::Log(_) => *owner.fleet_clock.lock(),
            Validation::Local(_) => {
                let clock = owner.clock();
                let reading = FleetClock::reading(clock.now(), LocalBarriers::unix_nanos(clock.wall()));
                // Two readings are never taken at the same time: the first one is kept until the calendar is set.
                let mut kept = owner.fleet_clock.lock();
                *kept = kept.filter(|kept| kept.difference(reading) < TOLERANCE).or(Some(reading));
                *kept
            }
        }
    }

    /// Whether the validity of entries is that of a log.
    pub(super) fn has_log(&self) -> bool {
        matches!(self.owner().validation, Validation::Log(_))
    }

    /// Whether entries can be validated.
    pub(super) fn is_ready(&self) -> bool {
        self.generation() > 0
    }

    /// Returns the position to record at the start of a fetch.
    pub(super) fn generation(&self) -> u64 {
        let owner = self.owner();
        match &owner.validation {
            Validation::Log(log) => log.number(),
            Validation::Local(barriers) => barriers.position(owner.clock().wall()),
        }
    }

    /// Returns the number of the latest known record of its own log.
    pub(super) fn logged(&self) -> u64 {
        match &self.validation {
            Validation::Log(log) if !self.follows() => log.number(),
            _ => 0,
        }
    }

    pub(super) fn pending_count(&self) -> u64 {
        match &self.validation {
            Validation::Log(log) if !self.follows() => log.pending_count(),
            _ => 0,
        }
    }

    /// Checks an entry of the store.
    pub(super) fn check(&self, key: &CacheKey, meta: &RecordMeta) -> Validity {
        match &self.owner().validation {
            Validation::Log(log) => log.check(key, meta),
            Validation::Local(barriers) => barriers.check(key, meta),
        }
    }

    /// Spawns the backplane's task if there is a log, a runtime, and no other task.
    pub(super) fn start(self: &Arc<Self>) {
        if let Some(owner) = self.followed.get() {
            return owner.start();
        }
        if self.running.load(Ordering::Relaxed) || !self.has_log() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.running.swap(true, Ordering::AcqRel) {
            // A task that ends with its runtime is spawned again in the next.
            runtime.spawn(task::run(Running(Arc::downgrade(self))));
        }
    }

    /// Invalidates in this process at once; the future distributes the invalidation.
    pub(super) fn invalidate(
        self: &Arc<Self>,
        invalidation: &Invalidation,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static + use<> {
        let record = match &self.validation {
            Validation::Log(log) => Some(log.record_local(invalidation).1),
            Validation::Local(barriers) => {
                barriers.insert(invalidation, self.clock().wall());
                None
            }
        };
        let this = self.clone();
        async move {
            let name = this.settings.name;
            let Some(record) = record else {
                let message = format!(
                    "invalidated in this process alone: {name} has no log; add a level with a log, or remove single entries by \
                     their full URL or key"
                );
                return Err(Error::outage_with(message, Outage::Unlogged));
            };
            this.start();
            this.append(record.into()).await.map_err(|outage| {
                let pending = this.pending_count();
                let message = format!(
                    "invalidated in this process; other processes receive it when {name} is back ({pending} pending): {outage}"
                );
                Error::outage_with(message, outage)
            })
        }
    }

    /// Publishes the removal of a key. Best effort: a copy elsewhere is unwanted, not wrong.
    pub(super) async fn publish_removal(&self, key: &CacheKey) {
        if !self.has_log() {
            return;
        }
        let owner = self.owner();
        let resource = u32::try_from(key.resource().len()).unwrap_or(u32::MAX);
        let message = [&resource.to_be_bytes()[..], key.as_bytes()].concat();
        // The guard has reported it.
        let _ = owner.call_log(|log| log.publish_removal(message.into())).await;
    }

    async fn append(&self, record: Bytes) -> Result<(), Outage> {
        let Validation::Log(log) = &self.validation else { return Ok(()) };
        let base = LogRecord::encode(log.next_id(), None).into();
        let sent = record.clone();
        let number = self.call_log(|log| log.append(base, sent)).await?;
        // Fetches of this process come after it from now on.
        self.on_message(LogMessage::Record(number, record));
        Ok(())
    }

    /// Reads new records; an error if the server is unavailable.
    async fn read_new(&self) -> Result<(), Outage> {
        let Validation::Log(log) = &self.validation else { return Ok(()) };
        for record in log.pending() {
            self.append(record.into()).await?;
        }
        let Some(number) = log.last_number() else { return self.reset_log(log, 0).await };
        let records = self.read(Some(number)).await?;
        if !self.apply(log.apply_page(&records)) {
            return self.reset_log(log, number).await;
        }
        Ok(())
    }

    /// Reads the whole log, and voids everything from before.
    async fn reset_log(&self, log: &InvalidationLog, known: u64) -> Result<(), Outage> {
        let base = LogRecord::encode(log.next_id(), None).into();
        self.call_log(|log| log.restart(base, known)).await?;
        let records = self.read(None).await?;
        log.reset(&records);
        // After the reset: later reads from the server are compared with the new log.
        if let Some(sink) = self.sink() {
            sink.updates_lost();
        }
        Ok(())
    }

    async fn read(&self, from: Option<u64>) -> Result<Vec<LogRecord>, Outage> {
        let records = self.call_log(|log| log.read(from)).await?;
        let decode = |(number, record): &(u64, Bytes)| {
            LogRecord::decode(*number, record).unwrap_or_else(|| LogRecord::unreadable(*number, record))
        };
        Ok(records.iter().map(decode).collect())
    }

    /// Applies an update; returns false if the log has diverged.
    fn apply(&self, update: LogUpdate) -> bool {
        match update {
            LogUpdate::Applied(invalidations) => {
                if let Some(sink) = self.sink() {
                    invalidations.iter().for_each(|invalidation| sink.invalidated(invalidation));
                }
                true
            }
            LogUpdate::Gap => {
                self.wake.notify_one();
                true
            }
            LogUpdate::Diverged => false,
        }
    }

    fn on_message(&self, message: LogMessage) {
        let Validation::Log(log) = &self.validation else { return };
        match message {
            LogMessage::Removal(removed) => {
                if let (Some((resource, key)), Some(sink)) = (removed.split_first_chunk::<4>(), self.sink()) {
                    sink.removed(&CacheKey::from_bytes(key, u32::from_be_bytes(*resource) as usize));
                }
            }
            LogMessage::Record(number, record) => match LogRecord::decode(number, &record) {
                Some(record) => drop(self.apply(log.apply_message(&record))),
                // Written by another version or another program: read the log.
                None => self.wake.notify_one(),
            },
            LogMessage::Unknown => self.wake.notify_one(),
        }
    }

    /// Agrees on the secret of the log and reads the clock, after connecting.
    async fn initialize(&self) -> Result<(), Outage> {
        let known = self.agreed.read().clone();
        let proposed = KeyNames::proposal(known.as_ref());
        let agreed = self.call_log(|log| -> BoxFuture<Result<KeyNames, Error>> {
            let agreeing = log.agree(proposed);
            Box::pin(async move { KeyNames::agreed(&agreeing.await?, known.as_ref()) })
        });
        let agreed = agreed.await?;
        *self.agreed.write() = Some(agreed);
        self.read_clock().await
    }

    async fn read_clock(&self) -> Result<(), Outage> {
        // A manual clock keeps its first offset to the server's.
        if matches!(self.clock(), Clock::Manual(_)) && self.fleet_clock().is_some() {
            return Ok(());
        }
        let mut before = self.fleet_clock();
        loop {
            let reading = self.fetch_clock().await?;
            // A reading far from the last is accepted once a second one agrees.
            if before.is_some_and(|before| before.difference(reading) < TOLERANCE) {
                *self.fleet_clock.lock() = Some(reading);
                return Ok(());
            }
            before = Some(reading);
        }
    }

    async fn fetch_clock(&self) -> Result<FleetClock, Outage> {
        let fleet = self.call_log(|log| log.now()).await?;
        Ok(FleetClock::reading(self.clock().now(), fleet))
    }
}
