//! Backplane: distributes invalidations between processes.
//!
//! Redis holds the *log*, a sorted set of the latest invalidations by number, and the latest number. A script appends
//! to it and publishes the record. Messages provide speed, the log correctness: a process reads the log from its last
//! position after every new connection, after a missing message, and once a second. The log decides which entries
//! remain valid: see `cache/engine/invalidation_log.rs`.
//!
//! While Redis is unavailable, an invalidation is effective in this process, is queued, and is appended to the log
//! afterwards.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use redis::aio::PubSubStream;
use redis::cmd;
use tokio::sync::Notify;

use super::connect::Conn;
use super::names::{KEY_EXPIRY_SECONDS, KeyNames, random};
use super::settings::Redis;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::lock::{Mutex, RwLock};
use crate::base::outage::Outage;
use crate::cache::engine::codec::FleetClock;
use crate::cache::engine::invalidation_log::{InvalidationLog, LogRecord, LogUpdate};
use crate::cache::{CacheKey, Invalidation, InvalidationSink};
use crate::resilience::guard::FailOpen;

/// Interval of reading the log.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Number of reads between two agreements on the secret.
const READS_PER_GREETING: u32 = 60;
/// Timeout of subscribing.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval between attempts to subscribe.
const SUBSCRIBE_RETRY: Duration = Duration::from_millis(200);
/// Maximum difference of two readings of the fleet clock.
const TOLERANCE: Duration = Duration::from_secs(1);
/// Maximum number of records in the log.
const MAX_RECORDS: u64 = 16_384;
/// First byte of a message that removes a key.
const REMOVAL: u8 = b'-';

/// Appends a record, publishes it, and returns it with its number. Starts a log if there is none.
const APPEND: &str = r"
local number = redis.call('INCR', KEYS[1])
if number == 1 then
  local time = redis.call('TIME')
  number = time[1] * 1000000 + time[2]
  redis.call('DEL', KEYS[2])
  local base = string.format('%.0f', number)
  redis.call('ZADD', KEYS[2], base, base .. ':' .. ARGV[1])
  number = number + 1
  redis.call('SET', KEYS[1], string.format('%.0f', number))
end
local score = string.format('%.0f', number)
local line = score .. ':' .. ARGV[2]
redis.call('ZADD', KEYS[2], score, line)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', number - tonumber(ARGV[3])))
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[5], line)
return line";

/// Starts a new log if there is none, or if it ends before `ARGV[2]`.
const RESTART: &str = r"
local number = tonumber(redis.call('GET', KEYS[1]) or '0')
local log = redis.call('ZCARD', KEYS[2])
if number == 0 or log == 0 or number < tonumber(ARGV[2]) then
  local time = redis.call('TIME')
  local fresh = time[1] * 1000000 + time[2]
  if fresh <= number then fresh = number + 1 end
  if fresh <= tonumber(ARGV[2]) then fresh = tonumber(ARGV[2]) + 1 end
  local score = string.format('%.0f', fresh)
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[1], score, 'EX', ARGV[3])
  redis.call('ZADD', KEYS[2], score, score .. ':' .. ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
return 1";

/// State shared by the cache in Redis and its backplane.
pub(super) struct Backplane {
    pub(super) redis: Redis,
    pub(super) guard: FailOpen<Conn>,
    pub(super) invalidation_log: InvalidationLog,
    names: RwLock<Option<KeyNames>>,
    fleet_clock: Mutex<Option<FleetClock>>,
    sink: OnceLock<InvalidationSink>,
    /// The local clock, until a sink provides one.
    clock: Clock,
    running: AtomicBool,
    wake: Notify,
}

impl Backplane {
    pub(super) fn new(redis: Redis, guard: FailOpen<Conn>) -> Arc<Self> {
        let names = redis.secret.as_deref().map(KeyNames::under);
        Arc::new(Self {
            redis,
            guard,
            invalidation_log: InvalidationLog::new(random()),
            names: RwLock::new(names),
            fleet_clock: Mutex::new(None),
            sink: OnceLock::new(),
            clock: Clock::System,
            running: AtomicBool::new(false),
            wake: Notify::new(),
        })
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

    /// Returns the key names, once the secret is known.
    pub(super) fn names(&self) -> Option<KeyNames> {
        self.names.read().clone()
    }

    /// Returns the fleet clock, once it has been read.
    pub(super) fn fleet_clock(&self) -> Option<FleetClock> {
        *self.fleet_clock.lock()
    }

    /// Spawns the backplane's task if there is a runtime and none is running.
    pub(super) fn start(self: &Arc<Self>) {
        if self.running.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.running.swap(true, Ordering::AcqRel) {
            // A task that ends with its runtime is spawned again in the next.
            let running = Running(Arc::downgrade(self));
            runtime.spawn(run(running));
        }
    }

    /// Invalidates in this process at once; the future distributes the invalidation.
    pub(super) fn invalidate(
        self: &Arc<Self>,
        invalidation: &Invalidation,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static + use<> {
        let (_, record) = self.invalidation_log.record_local(invalidation);
        let this = self.clone();
        async move {
            this.start();
            this.append(&record).await.map_err(|outage| {
                let pending = this.invalidation_log.pending_count();
                let message = format!(
                    "invalidated in this process; other processes receive it when Redis is back ({pending} pending): {outage}"
                );
                Error::outage_with(message, outage)
            })
        }
    }

    /// Publishes the removal of a key. Best effort: a copy elsewhere is unwanted, not wrong.
    pub(super) async fn publish_removal(&self, key: &CacheKey) {
        let resource = u32::try_from(key.resource().len()).unwrap_or(u32::MAX);
        let message = [&[REMOVAL][..], &resource.to_be_bytes(), key.as_bytes()].concat();
        let channel = self.key("channel");
        let published = self
            .guard
            .call(async |mut connection: Conn| connection.query::<i64>(cmd("PUBLISH").arg(channel).arg(message)).await);
        // The guard has reported it.
        let _ = published.await;
    }

    async fn append(&self, record: &[u8]) -> Result<(), Outage> {
        let base = LogRecord::encode(self.invalidation_log.next_id(), None);
        let mut script = cmd("EVAL");
        script.arg(APPEND).arg(2).arg(self.key("number")).arg(self.key("log"));
        script.arg(base).arg(record).arg(MAX_RECORDS).arg(KEY_EXPIRY_SECONDS).arg(self.key("channel"));
        let line: Vec<u8> = self.guard.call(async |mut connection: Conn| connection.query(&script).await).await?;
        // Fetches of this process come after it from now on.
        self.on_message(&line);
        Ok(())
    }

    /// Reads new records; an error if Redis is unavailable.
    async fn read_new(&self) -> Result<(), Outage> {
        for record in self.invalidation_log.pending() {
            self.append(&record).await?;
        }
        let Some(number) = self.invalidation_log.last_number() else { return self.reset_log(0).await };
        let records = self.read(&number.to_string()).await?;
        if !self.apply(self.invalidation_log.apply_page(&records)) {
            return self.reset_log(number).await;
        }
        Ok(())
    }

    /// Reads the whole log, and voids everything from before.
    async fn reset_log(&self, known: u64) -> Result<(), Outage> {
        let base = LogRecord::encode(self.invalidation_log.next_id(), None);
        let mut script = cmd("EVAL");
        script.arg(RESTART).arg(2).arg(self.key("number")).arg(self.key("log"));
        script.arg(base).arg(known).arg(KEY_EXPIRY_SECONDS);
        self.guard.call(async |mut connection: Conn| connection.query::<i64>(&script).await).await?;
        let records = self.read("-inf").await?;
        self.invalidation_log.reset(&records);
        // After the reset: later reads from Redis are compared with the new log.
        if let Some(sink) = self.sink() {
            sink.updates_lost();
        }
        Ok(())
    }

    async fn read(&self, from: &str) -> Result<Vec<LogRecord>, Outage> {
        let mut command = cmd("ZRANGEBYSCORE");
        command.arg(self.key("log")).arg(from).arg("+inf");
        let lines: Vec<Vec<u8>> =
            self.guard.call(async |mut connection: Conn| connection.query(&command).await).await?;
        Ok(lines.iter().map_while(|line| LogRecord::decode(line)).collect())
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

    fn on_message(&self, message: &[u8]) {
        if let Some(removed) = message.strip_prefix(&[REMOVAL]) {
            if let (Some((resource, key)), Some(sink)) = (removed.split_first_chunk::<4>(), self.sink()) {
                sink.removed(&CacheKey::from_bytes(key, u32::from_be_bytes(*resource) as usize));
            }
            return;
        }
        match LogRecord::decode(message) {
            Some(record) => drop(self.apply(self.invalidation_log.apply_message(&record))),
            // Written by another version or another program: read the log.
            None => self.wake.notify_one(),
        }
    }

    /// Runs the commands for a new connection.
    async fn initialize(&self) -> Result<(), Outage> {
        if self.redis.secret.is_none() {
            let (name, known) = (self.key("secret"), self.names());
            let agreed = self
                .guard
                .call(async |mut connection: Conn| KeyNames::agree(&mut connection, &name, known.as_ref()).await);
            let agreed = agreed.await?;
            *self.names.write() = Some(agreed);
        }
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
        let asked = self.guard.call(async |mut connection: Conn| connection.query::<(u64, u64)>(&cmd("TIME")).await);
        let (seconds, micros) = asked.await?;
        let fleet = seconds.saturating_mul(1_000_000).saturating_add(micros).saturating_mul(1_000);
        Ok(FleetClock::reading(self.clock().now(), fleet))
    }

    /// Returns the name of a key of the backplane; all of them share one slot of a Cluster.
    fn key(&self, suffix: &str) -> String {
        format!("{}:{{cache}}:{suffix}", self.redis.prefix)
    }
}

/// Held by the task while it runs.
struct Running(Weak<Backplane>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(backplane) = self.0.upgrade() {
            backplane.running.store(false, Ordering::Release);
        }
    }
}

/// Task of the backplane; ends when the store is dropped.
async fn run(running: Running) {
    let Some(mut connects) = running.0.upgrade().map(|backplane| backplane.guard.connects()) else { return };
    let (mut greeted, mut reads) = (0, 0_u32);
    let mut messages: Option<PubSubStream> = None;
    loop {
        let Some(backplane) = running.0.upgrade() else { return };
        let connection = *connects.borrow_and_update();
        // Repeated each minute: a full Redis may have evicted the secret, and the next node would draw another.
        reads = reads.wrapping_add(1);
        let greets = connection != greeted || reads.is_multiple_of(READS_PER_GREETING);
        if greets && backplane.initialize().await.is_ok() {
            greeted = connection;
        }
        let mut pause = READ_INTERVAL;
        if connection > 0 {
            if messages.is_none() {
                messages = subscribe(&backplane).await;
            }
            // Read after subscribing, so that no record is missed in between.
            let read = backplane.read_new().await.is_ok() && backplane.read_clock().await.is_ok();
            if !read || messages.is_none() || connection != greeted {
                pause = SUBSCRIBE_RETRY;
            }
        }
        let backplane = Arc::downgrade(&backplane);
        wait(&backplane, &mut messages, &mut connects, pause).await;
    }
}

/// Receives messages until the next read is due.
async fn wait(
    backplane: &Weak<Backplane>,
    messages: &mut Option<PubSubStream>,
    connects: &mut tokio::sync::watch::Receiver<u64>,
    pause: Duration,
) {
    let mut over = pin!(async {
        let (notified, connected) = (pin!(notified(backplane)), pin!(connects.changed()));
        select(select(notified, connected), pin!(tokio::time::sleep(pause))).await;
    });
    loop {
        let next = poll_fn(|cx| match messages.as_mut() {
            Some(messages) => messages.poll_next_unpin(cx),
            None => Poll::Pending,
        });
        let update = match select(next, over.as_mut()).await {
            Either::Left((update, _)) => update,
            Either::Right(_) => return,
        };
        match (update, backplane.upgrade()) {
            (Some(message), Some(backplane)) => backplane.on_message(message.get_payload_bytes()),
            // The subscription ended: read at once, and subscribe again.
            _ => {
                *messages = None;
                return;
            }
        }
    }
}

async fn notified(backplane: &Weak<Backplane>) {
    match backplane.upgrade() {
        // Holds a reference while waiting, at most until the next read.
        Some(backplane) => backplane.wake.notified().await,
        None => std::future::pending().await,
    }
}

async fn subscribe(backplane: &Backplane) -> Option<PubSubStream> {
    let channel = backplane.key("channel");
    let subscribing = backplane.redis.address.subscribe(&backplane.redis.authority, &channel);
    tokio::time::timeout(SUBSCRIBE_TIMEOUT, subscribing).await.ok()?.ok()
}
