//! The backplane: how the invalidations of one process reach all others.
//!
//! Redis holds the *log*, a sorted set of the latest invalidations by number, and the number of the last. One script
//! appends to it and publishes what it appended. Messages make it fast; the log makes it right: a process reads on from
//! where it was after every fresh connection, whenever a message is missing, and once a second besides. What it finds
//! there decides what it may still use: see `cache/engine/invalidation_log.rs`.
//!
//! An invalidation that Redis cannot be told of binds in this process, is kept, and goes into the log when Redis is
//! back.

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
use super::names::{KeyNames, LASTING, random};
use super::settings::Redis;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::lock::{Mutex, RwLock};
use crate::base::outage::Outage;
use crate::cache::engine::codec::FleetClock;
use crate::cache::engine::invalidation_log::{InvalidationLog, LogRecord, LogUpdate};
use crate::cache::{CacheKey, Invalidation, InvalidationSink};
use crate::resilience::guard::FailOpen;

/// How often the log is looked at, messages or none.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many looks lie between one agreement on the secret and the next.
const GREET_EVERY: u32 = 60;
/// How long a subscription may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between one attempt to subscribe and the next.
const RETRY: Duration = Duration::from_millis(200);
/// How far two readings of the fleet's clock may be apart.
const TOLERANCE: Duration = Duration::from_secs(1);
/// How many invalidations the log keeps.
const MOST: u64 = 16_384;
/// First byte of a message that removes a key.
const REMOVAL: u8 = b'-';

/// Appends a record, publishes it, and returns it with its number. Begins a history where there is none.
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

/// Begins a history anew where there is none, or where it ends before ARGV[2].
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
    pub(super) history: InvalidationLog,
    names: RwLock<Option<KeyNames>>,
    fleet_clock: Mutex<Option<FleetClock>>,
    listener: OnceLock<InvalidationSink>,
    /// Ours, until we are told another.
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
            history: InvalidationLog::new(random()),
            names: RwLock::new(names),
            fleet_clock: Mutex::new(None),
            listener: OnceLock::new(),
            clock: Clock::System,
            running: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    /// The listener is the first layer that is built around the store.
    pub(super) fn listen(self: &Arc<Self>, listener: InvalidationSink) {
        self.guard.listen(listener.events());
        drop(self.listener.set(listener));
        self.start();
    }

    pub(super) fn listener(&self) -> Option<&InvalidationSink> {
        self.listener.get()
    }

    pub(super) fn clock(&self) -> &Clock {
        self.listener().map_or(&self.clock, InvalidationSink::clock)
    }

    /// How keys are called, once that is known.
    pub(super) fn names(&self) -> Option<KeyNames> {
        self.names.read().clone()
    }

    /// The fleet's clock, once it was read.
    pub(super) fn fleet_clock(&self) -> Option<FleetClock> {
        *self.fleet_clock.lock()
    }

    /// Sees to it that the backplane's task runs, where there is a runtime for it to run in.
    pub(super) fn start(self: &Arc<Self>) {
        if self.running.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.running.swap(true, Ordering::AcqRel) {
            // A task that ends with its runtime is begun again in the next.
            let running = Running(Arc::downgrade(self));
            runtime.spawn(run(running));
        }
    }

    /// Takes an invalidation back here at once; the future tells the others.
    pub(super) fn invalidate(
        self: &Arc<Self>,
        what: &Invalidation,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static + use<> {
        let (_, record) = self.history.begin(what);
        let this = self.clone();
        async move {
            this.start();
            this.append(&record).await.map_err(|outage| {
                let waiting = this.history.waiting();
                let message = format!(
                    "invalidated in this process; the others will hear of it when Redis is back ({waiting} waiting): {outage}"
                );
                Error::outage_with(message, outage)
            })
        }
    }

    /// Tells the others that a key is gone. Best effort: what it removes is no longer wanted, not wrong.
    pub(super) async fn publish_removal(&self, key: &CacheKey) {
        let resource = u32::try_from(key.resource().len()).unwrap_or(u32::MAX);
        let message = [&[REMOVAL][..], &resource.to_be_bytes(), key.as_bytes()].concat();
        let channel = self.key("channel");
        let told = self
            .guard
            .call(async |mut connection: Conn| connection.query::<i64>(cmd("PUBLISH").arg(channel).arg(message)).await);
        // The guard has said so.
        let _ = told.await;
    }

    async fn append(&self, record: &[u8]) -> Result<(), Outage> {
        let base = LogRecord::encode(self.history.identity(), None);
        let mut script = cmd("EVAL");
        script.arg(APPEND).arg(2).arg(self.key("number")).arg(self.key("log"));
        script.arg(base).arg(record).arg(MOST).arg(LASTING).arg(self.key("channel"));
        let line: Vec<u8> = self.guard.call(async |mut connection: Conn| connection.query(&script).await).await?;
        // What this process fetches from now on comes after it.
        self.hear(&line);
        Ok(())
    }

    /// What is new since the last look; as an error, that Redis is away.
    async fn look(&self) -> Result<(), Outage> {
        for record in self.history.pending() {
            self.append(&record).await?;
        }
        let Some(number) = self.history.bookmark() else { return self.start_over(0).await };
        let records = self.read(&number.to_string()).await?;
        if !self.apply(self.history.read_on(&records)) {
            return self.start_over(number).await;
        }
        Ok(())
    }

    /// Reads the whole log, and drops what is held from before.
    async fn start_over(&self, known: u64) -> Result<(), Outage> {
        let base = LogRecord::encode(self.history.identity(), None);
        let mut script = cmd("EVAL");
        script.arg(RESTART).arg(2).arg(self.key("number")).arg(self.key("log"));
        script.arg(base).arg(known).arg(LASTING);
        self.guard.call(async |mut connection: Conn| connection.query::<i64>(&script).await).await?;
        let records = self.read("-inf").await?;
        self.history.start_over(&records);
        // After the history: what is read from Redis from now on was compared with it.
        if let Some(listener) = self.listener() {
            listener.missed_something();
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

    /// Acts on news; false where history broke off.
    fn apply(&self, heard: LogUpdate) -> bool {
        match heard {
            LogUpdate::News(news) => {
                if let Some(listener) = self.listener() {
                    news.iter().for_each(|what| listener.invalidated(what));
                }
                true
            }
            LogUpdate::Behind => {
                self.wake.notify_one();
                true
            }
            LogUpdate::Broken => false,
        }
    }

    fn hear(&self, message: &[u8]) {
        if let Some(removed) = message.strip_prefix(&[REMOVAL]) {
            if let (Some((resource, key)), Some(listener)) = (removed.split_first_chunk::<4>(), self.listener()) {
                listener.removed(&CacheKey::from_bytes(key, u32::from_be_bytes(*resource) as usize));
            }
            return;
        }
        match LogRecord::decode(message) {
            Some(record) => drop(self.apply(self.history.hear(&record))),
            // Written by another version, or by somebody else: the log knows.
            None => self.wake.notify_one(),
        }
    }

    /// Commands sent on every fresh connection.
    async fn greet(&self) -> Result<(), Outage> {
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
        // A clock that is turned by hand goes on from where it first met the server's.
        if matches!(self.clock(), Clock::Manual(_)) && self.fleet_clock().is_some() {
            return Ok(());
        }
        let mut before = self.fleet_clock();
        loop {
            let reading = self.ask_clock().await?;
            // One that is far from the last is not believed until a second says the same.
            if before.is_some_and(|before| before.apart(reading) < TOLERANCE) {
                *self.fleet_clock.lock() = Some(reading);
                return Ok(());
            }
            before = Some(reading);
        }
    }

    async fn ask_clock(&self) -> Result<FleetClock, Outage> {
        let asked = self.guard.call(async |mut connection: Conn| connection.query::<(u64, u64)>(&cmd("TIME")).await);
        let (seconds, micros) = asked.await?;
        let fleet = seconds.saturating_mul(1_000_000).saturating_add(micros).saturating_mul(1_000);
        Ok(FleetClock::reading(self.clock().now(), fleet))
    }

    /// The names of the backplane's own keys, all in one slot of a Cluster.
    fn key(&self, what: &str) -> String {
        format!("{}:{{cache}}:{what}", self.redis.prefix)
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

/// The task: ends when the store is dropped.
async fn run(running: Running) {
    let Some(mut connects) = running.0.upgrade().map(|backplane| backplane.guard.connects()) else { return };
    let (mut greeted, mut looks) = (0, 0_u32);
    let mut messages: Option<PubSubStream> = None;
    loop {
        let Some(backplane) = running.0.upgrade() else { return };
        let connection = *connects.borrow_and_update();
        // Again each minute: a Redis that is full may have pushed the secret out, and the next node would draw another.
        looks = looks.wrapping_add(1);
        let greets = connection != greeted || looks.is_multiple_of(GREET_EVERY);
        if greets && backplane.greet().await.is_ok() {
            greeted = connection;
        }
        let mut pause = LOOK_EVERY;
        if connection > 0 {
            if messages.is_none() {
                messages = subscribe(&backplane).await;
            }
            // Read after subscribing: nothing falls in between.
            let looked = backplane.look().await.is_ok() && backplane.read_clock().await.is_ok();
            if !looked || messages.is_none() || connection != greeted {
                pause = RETRY;
            }
        }
        let backplane = Arc::downgrade(&backplane);
        wait(&backplane, &mut messages, &mut connects, pause).await;
    }
}

/// Hears messages until it is time to look again.
async fn wait(
    backplane: &Weak<Backplane>,
    messages: &mut Option<PubSubStream>,
    connects: &mut tokio::sync::watch::Receiver<u64>,
    pause: Duration,
) {
    let mut over = pin!(async {
        let (woken, connected) = (pin!(woken(backplane)), pin!(connects.changed()));
        select(select(woken, connected), pin!(tokio::time::sleep(pause))).await;
    });
    loop {
        let next = poll_fn(|cx| match messages.as_mut() {
            Some(messages) => messages.poll_next_unpin(cx),
            None => Poll::Pending,
        });
        let heard = match select(next, over.as_mut()).await {
            Either::Left((heard, _)) => heard,
            Either::Right(_) => return,
        };
        match (heard, backplane.upgrade()) {
            (Some(message), Some(backplane)) => backplane.hear(message.get_payload_bytes()),
            // The subscription is over: look at once, and subscribe anew.
            _ => {
                *messages = None;
                return;
            }
        }
    }
}

async fn woken(backplane: &Weak<Backplane>) {
    match backplane.upgrade() {
        // Held while waiting: at most until the next look.
        Some(backplane) => backplane.wake.notified().await,
        None => std::future::pending().await,
    }
}

async fn subscribe(backplane: &Backplane) -> Option<PubSubStream> {
    let channel = backplane.key("channel");
    let subscribing = backplane.redis.address.subscribe(&backplane.redis.authority, &channel);
    tokio::time::timeout(PATIENCE, subscribing).await.ok()?.ok()
}
