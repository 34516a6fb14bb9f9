//! Redis as a [`ByteStore`] with a [`ByteLog`].
//!
//! | operation | command |
//! |---|---|
//! | look-up | `GET`, or `MGET` for several |
//! | storing | a script: `SET … PX`, unless what is stored began later |
//! | removal | `UNLINK` |
//! | lease, release | a script each, which compares the token of the holder; in one script with a look-up, except in a Cluster |
//! | scan | `SCAN` in bounded steps on every primary; `KEYS`, which blocks the server, is never used |
//! | log | a sorted set of the latest invalidations by number; a script appends and publishes |

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::BoxStream;
use redis::cmd;

use super::connect::{Address, Authority, Conn, Primary};
use super::log;
use super::secret;
use super::settings::Redis;
use crate::base::clock::nanos;
use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::{ByteLog, ByteStore, GetOrClaim, Lease, LeaseState, LogMessage, ScanPage};
use crate::resilience::guard::Fault;
use crate::store::remote::RemoteStore;

/// Approximate number of keys per step of a scan.
const SCAN_STEP: usize = 128;
/// Number of bytes read from a value in a scan.
const HEAD_BYTES: isize = 8 * 1024;

/// Stores a value unless the fetch of the stored one began later, as [`may_replace`](crate::cache::may_replace) says.
const PUT: &str = r"
local old = redis.call('GETRANGE', KEYS[1], 0, 25)
if #old == 26 and string.sub(old, 1, 4) == string.sub(ARGV[1], 1, 4) then
  local began, position = struct.unpack('>I8>I8', string.sub(old, 11, 26))
  local begins, at = struct.unpack('>I8>I8', string.sub(ARGV[1], 11, 26))
  if begins > 0 and began > begins and position >= at and began - begins <= 300000000 then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

/// Asks for a lease: 1 if it is granted, 0 if another token holds it, 2 if there is nothing to share.
const CLAIM: &str = r"
local function claim(name, token, ttl)
  local held = redis.call('GET', name)
  if held == 'uncacheable' then return 2 end
  if held and held ~= token then return 0 end
  redis.call('SET', name, token, 'PX', ttl)
  return 1
end
return claim(KEYS[1], ARGV[1], ARGV[2])";

/// Returns a value, or asks for its lease.
static GET_OR_CLAIM: LazyLock<String> = LazyLock::new(|| {
    let get = r"
local found = redis.call('GET', KEYS[1])
if found then return {found, false} end
return {false, claim(KEYS[2], ARGV[1], ARGV[2])}";
    CLAIM.rsplit_once("return claim").map_or_else(String::new, |(claim, _)| format!("{claim}{get}"))
});

/// Releases a lease of this token; remembers for a while that there is nothing to share.
const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('UNLINK', KEYS[1]) end
redis.call('SET', KEYS[1], 'uncacheable', 'PX', ARGV[2])
return 1";

impl RemoteStore {
    /// Creates a cache store in a Redis shared by a fleet, to be used behind a local memory; connects in the background.
    /// [`TollgateBuilder::redis`](crate::TollgateBuilder::redis) configures one; manually:
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tollgate::cache::{CacheLayer, Levels};
    /// use tollgate::store::RemoteStore;
    /// use tollgate::store::memory::MemoryCache;
    /// use tollgate::store::redis::Redis;
    ///
    /// let redis = RemoteStore::redis(Redis::new("redis://127.0.0.1")?)?;
    /// let levels = Levels::new(Arc::new(MemoryCache::new(64 << 20)), Arc::new(redis));
    /// let layer = CacheLayer::builder().store(Arc::new(levels)).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    ///
    /// # Errors
    /// If a setting is invalid: see [`Redis`].
    pub fn redis(redis: Redis) -> Result<Self, Error> {
        redis.check()?;
        let settings = redis.cache_settings();
        let connector = redis.connector();
        let names = Arc::new(LogNames { prefix: redis.prefix, address: redis.address, authority: redis.authority });
        let dial = move || -> BoxFuture<Result<Arc<dyn ByteStore>, Error>> {
            let (connecting, names) = (connector(), names.clone());
            Box::pin(async move {
                let store: Arc<dyn ByteStore> = Arc::new(RedisBytes { connection: connecting.await?, names });
                Ok(store)
            })
        };
        Self::dialled(dial, true, settings)
    }
}

/// Prefix of the names of the log, and the address of its channel.
struct LogNames {
    prefix: String,
    address: Address,
    authority: Authority,
}

impl LogNames {
    /// Returns the name of a key of the log; all of them share one slot of a Cluster.
    fn key(&self, suffix: &str) -> String {
        format!("{}:{{cache}}:{suffix}", self.prefix)
    }
}

/// One connection to Redis.
#[derive(Clone)]
struct RedisBytes {
    connection: Conn,
    names: Arc<LogNames>,
}

impl RedisBytes {
    /// Runs commands on the connection.
    fn run<T, F, Fut>(&self, commands: F) -> BoxFuture<Result<T, Error>>
    where
        F: FnOnce(Conn, Arc<LogNames>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, Fault>> + Send + 'static,
        T: 'static,
    {
        let commands = commands(self.connection.clone(), self.names.clone());
        Box::pin(async move { commands.await.map_err(into_error) })
    }
}

/// A lost connection is an outage, after which the store reconnects.
fn into_error(fault: Fault) -> Error {
    match fault {
        Fault::Lost(error) => Error::disconnected(error),
        Fault::Refused(error) => error,
    }
}

impl ByteStore for RedisBytes {
    fn get_many(&self, names: Vec<String>) -> BoxFuture<Result<Vec<Option<Bytes>>, Error>> {
        self.run(async move |mut connection: Conn, _| {
            if let [name] = &names[..] {
                let found: Option<Vec<u8>> = connection.query(cmd("GET").arg(name)).await?;
                return Ok(vec![found.map(Bytes::from)]);
            }
            let found: Vec<Option<Vec<u8>>> = connection.query(cmd("MGET").arg(names)).await?;
            Ok(found.into_iter().map(|found| found.map(Bytes::from)).collect())
        })
    }

    fn put(&self, name: String, value: Bytes, ttl: Duration) -> BoxFuture<Result<bool, Error>> {
        self.run(async move |mut connection: Conn, _| {
            let mut put = cmd("EVAL");
            put.arg(PUT).arg(1).arg(name).arg(&value[..]).arg(millis(ttl));
            connection.query(&put).await
        })
    }

    fn remove(&self, names: Vec<String>) -> BoxFuture<Result<u64, Error>> {
        self.run(async move |connection: Conn, _| {
            // One command per key, since each is in a slot of its own; pipelined.
            let removals = names.into_iter().map(|name| {
                let mut connection = connection.clone();
                async move { connection.query::<u64>(cmd("UNLINK").arg(name)).await }
            });
            Ok(try_join_all(removals).await?.iter().sum())
        })
    }

    fn claim(&self, lease: Lease<String>) -> BoxFuture<Result<LeaseState, Error>> {
        self.run(async move |mut connection: Conn, _| {
            let mut claim = cmd("EVAL");
            claim.arg(CLAIM).arg(1).arg(lease.name).arg(lease.token).arg(millis(lease.ttl));
            Ok(lease_state(connection.query(&claim).await?))
        })
    }

    fn release(&self, lease: Lease<String>, uncacheable: Option<Duration>) -> BoxFuture<Result<(), Error>> {
        self.run(async move |mut connection: Conn, _| {
            let mut release = cmd("EVAL");
            release.arg(RELEASE).arg(1).arg(lease.name).arg(lease.token).arg(uncacheable.map_or(0, millis));
            connection.query::<i64>(&release).await.map(drop)
        })
    }

    fn get_or_claim(&self, name: String, lease: Lease<String>) -> BoxFuture<Result<GetOrClaim<Bytes>, Error>> {
        // A value and its lease are in slots of their own.
        if self.connection.is_cluster() {
            let (found, store) = (self.get_many(vec![name]), self.clone());
            return Box::pin(async move {
                match found.await?.into_iter().next().flatten() {
                    Some(found) => Ok(GetOrClaim::Found(found)),
                    None => Ok(GetOrClaim::Missing(Some(store.claim(lease).await?))),
                }
            });
        }
        self.run(async move |mut connection: Conn, _| {
            let mut script = cmd("EVAL");
            script.arg(&*GET_OR_CLAIM).arg(2).arg(name).arg(lease.name).arg(lease.token).arg(millis(lease.ttl));
            let (found, state): (Option<Vec<u8>>, Option<i64>) = connection.query(&script).await?;
            Ok(match found {
                Some(found) => GetOrClaim::Found(found.into()),
                None => GetOrClaim::Missing(state.map(lease_state)),
            })
        })
    }

    fn scan(&self, prefix: String, cursor: Option<String>) -> BoxFuture<Result<ScanPage, Error>> {
        self.run(async move |mut connection: Conn, _| {
            let primaries = connection.primaries().await?;
            let (at, cursor) = cursor.as_deref().and_then(parse_cursor).unwrap_or_default();
            let Some(primary) = primaries.get(at) else { return Ok(ScanPage::default()) };
            let (next, names) = scan_step(&mut connection, primary, &prefix, cursor).await?;
            let heads = heads(&connection, names).await?;
            let next = match next {
                0 if at + 1 < primaries.len() => Some(format!("{}:0", at + 1)),
                0 => None,
                next => Some(format!("{at}:{next}")),
            };
            Ok(ScanPage::new(heads, next))
        })
    }

    fn log(&self) -> Option<&dyn ByteLog> {
        Some(self)
    }
}

fn millis(span: Duration) -> u64 {
    (nanos(span) / 1_000_000).max(1)
}

const fn lease_state(reply: i64) -> LeaseState {
    match reply {
        0 => LeaseState::Held,
        2 => LeaseState::Uncacheable,
        _ => LeaseState::Granted,
    }
}

fn parse_cursor(cursor: &str) -> Option<(usize, u64)> {
    let (primary, cursor) = cursor.split_once(':')?;
    Some((primary.parse().ok()?, cursor.parse().ok()?))
}

async fn scan_step(
    connection: &mut Conn,
    primary: &Primary,
    prefix: &str,
    cursor: u64,
) -> Result<(u64, Vec<String>), Fault> {
    let mut scan = cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(SCAN_STEP);
    connection.query_at(primary, &scan).await
}

async fn heads(connection: &Conn, names: Vec<String>) -> Result<Vec<(String, Bytes)>, Fault> {
    let reads = names.into_iter().map(|name| {
        let mut connection = connection.clone();
        async move {
            let mut read = cmd("GETRANGE");
            read.arg(&name).arg(0).arg(HEAD_BYTES);
            connection.query::<Vec<u8>>(&read).await.map(|head| (name, head.into()))
        }
    });
    // Pipelined over one connection.
    try_join_all(reads).await
}

impl ByteLog for RedisBytes {
    fn now(&self) -> BoxFuture<Result<u64, Error>> {
        self.run(async |mut connection: Conn, _| {
            let (seconds, micros): (u64, u64) = connection.query(&cmd("TIME")).await?;
            Ok(seconds.saturating_mul(1_000_000).saturating_add(micros).saturating_mul(1_000))
        })
    }

    fn agree(&self, proposed: String) -> BoxFuture<Result<String, Error>> {
        self.run(async move |mut connection: Conn, names: Arc<LogNames>| {
            secret::agree(&mut connection, &names.key("secret"), &proposed).await
        })
    }

    fn append(&self, first: Bytes, record: Bytes) -> BoxFuture<Result<u64, Error>> {
        self.run(async move |mut connection: Conn, names: Arc<LogNames>| {
            let append = log::append(|suffix| names.key(suffix), &first, &record);
            connection.query(&append).await
        })
    }

    fn read(&self, from: Option<u64>) -> BoxFuture<Result<Vec<(u64, Bytes)>, Error>> {
        self.run(async move |mut connection: Conn, names: Arc<LogNames>| {
            let from = from.map_or("-inf".to_owned(), |from| from.to_string());
            let mut read = cmd("ZRANGEBYSCORE");
            read.arg(names.key("log")).arg(from).arg("+inf");
            let lines: Vec<Vec<u8>> = connection.query(&read).await?;
            Ok(lines.iter().map_while(|line| log::parse_line(line)).collect())
        })
    }

    fn restart(&self, first: Bytes, known: u64) -> BoxFuture<Result<(), Error>> {
        self.run(async move |mut connection: Conn, names: Arc<LogNames>| {
            connection.query::<i64>(&log::restart(|suffix| names.key(suffix), &first, known)).await.map(drop)
        })
    }

    fn publish_removal(&self, key: Bytes) -> BoxFuture<Result<(), Error>> {
        self.run(async move |mut connection: Conn, names: Arc<LogNames>| {
            let message = log::removal(&key);
            connection.query::<i64>(cmd("PUBLISH").arg(names.key("channel")).arg(message)).await.map(drop)
        })
    }

    fn subscribe(&self) -> BoxFuture<Result<BoxStream<'static, LogMessage>, Error>> {
        let names = self.names.clone();
        Box::pin(async move {
            let subscribed = names.address.subscribe(&names.authority, &names.key("channel")).await;
            let messages = subscribed.map_err(Error::disconnected)?;
            Ok(messages.map(|message| log::parse_message(message.get_payload_bytes())).boxed())
        })
    }
}
