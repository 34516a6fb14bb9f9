//! [`MemcachedBytes`]: memcached servers as a [`ByteStore`].

use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::join_all;
use siphasher::sip::SipHasher24;
use tokio::time::{Instant, timeout};

use super::connection::Connection;
use super::protocol::{self, Condition, MetaReply};
use crate::base::clock::{Clock, runtime_now};
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::{ByteStore, Lease, LeaseState, may_replace};

/// Longest relative time: memcached takes more for a date.
const MAX_SECONDS: u64 = 30 * 86_400;
/// Attempts to replace a value that others replace too.
const ATTEMPTS: usize = 4;
/// Interval between attempts to connect to a server.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Longest time for connecting to one server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Value of a lease whose answer cannot be shared.
const UNCACHEABLE: &str = "uncacheable";

/// Values in memcached servers: a [`ByteStore`] without a log. [`RemoteStore::memcached`](crate::store::RemoteStore::memcached)
/// uses it.
///
/// ```no_run
/// use tollgate::cache::ByteStore;
/// use tollgate::store::memcached::MemcachedBytes;
///
/// # async fn example() -> Result<(), tollgate::Error> {
/// let servers = MemcachedBytes::open(&["127.0.0.1:11211".into()]).await?;
/// assert_eq!(servers.get_many(vec!["missing".to_owned()]).await?, [None]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MemcachedBytes {
    servers: Arc<[Arc<Server>]>,
}

/// One server, and its connection while there is one.
struct Server {
    address: Box<str>,
    link: Mutex<Link>,
}

struct Link {
    connection: Option<Arc<Connection>>,
    /// Earliest time of the next attempt to connect.
    retry_at: Instant,
}

/// Reason for which a call did not succeed.
enum Trouble {
    /// The server of this name is away.
    Away,
    /// The server's words.
    Refused(String),
}

impl MemcachedBytes {
    /// Connects to the servers, as `host:port`.
    ///
    /// # Errors
    /// If none is named, or none can be reached within two seconds.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example() -> Result<(), tollgate::Error> {
    /// let servers = tollgate::store::memcached::MemcachedBytes::open(&["127.0.0.1:11211".into()]).await?;
    /// # let _ = servers;
    /// # Ok(()) }
    /// ```
    pub async fn open(addresses: &[Box<str>]) -> Result<Self, Error> {
        let opened =
            join_all(addresses.iter().map(|address| timeout(CONNECT_TIMEOUT, Connection::open(address)))).await;
        let (mut servers, mut failed) = (Vec::new(), None);
        for (address, opened) in addresses.iter().zip(opened) {
            let opened = opened.unwrap_or_else(|late| Err(late.into()));
            let connection = opened.map_err(|error| failed = Some(error)).ok().map(Arc::new);
            let link = Mutex::new(Link { connection, retry_at: runtime_now() });
            servers.push(Arc::new(Server { address: address.clone(), link }));
        }
        let servers = Self { servers: servers.into() };
        match failed {
            _ if servers.has_connection() => Ok(servers),
            Some(error) => Err(Error::disconnected(Error::store("memcached: no server can be reached", error))),
            None => Err(Error::config("memcached: no server; name one as host:port")),
        }
    }

    fn has_connection(&self) -> bool {
        self.servers.iter().any(|server| server.open_connection().is_some())
    }

    /// Returns the server of a name: the one with the highest hash of both, in every process.
    fn server(&self, name: &str) -> Option<&Arc<Server>> {
        let score = |server: &&Arc<Server>| {
            let mut hasher = SipHasher24::new();
            hasher.write(server.address.as_bytes());
            hasher.write_u8(0);
            hasher.write(name.as_bytes());
            hasher.finish()
        };
        self.servers.iter().max_by_key(score)
    }

    /// Calls the server of a name.
    async fn call(&self, name: &str, request: impl FnOnce(u32) -> Vec<u8>) -> Result<MetaReply, Trouble> {
        let connection = self.server(name).and_then(|server| server.connection()).ok_or(Trouble::Away)?;
        match connection.call(request).await {
            Some(MetaReply::Error(words)) => Err(Trouble::Refused(words)),
            Some(reply) => Ok(reply),
            None => Err(Trouble::Away),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<(Bytes, u64)>, Trouble> {
        match self.call(name, |number| protocol::get(name, number)).await? {
            MetaReply::Value(value, version) => Ok(Some((value, version))),
            _ => Ok(None),
        }
    }

    /// Stores a value under a condition; returns whether it held.
    async fn set(&self, name: &str, value: &[u8], seconds: u64, condition: Condition) -> Result<bool, Trouble> {
        let reply = self.call(name, |number| protocol::set(name, value, seconds, condition, number)).await?;
        Ok(reply == MetaReply::Done)
    }

    async fn delete(&self, name: &str, version: Option<u64>) -> Result<bool, Trouble> {
        let reply = self.call(name, |number| protocol::delete(name, version, number)).await?;
        Ok(reply == MetaReply::Done)
    }

    /// Returns the error for a caller: without any server, the level reconnects.
    fn error(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Refused(words) => Error::store(format!("memcached: {words}"), words),
            Trouble::Away if self.has_connection() => {
                Error::store("memcached: the server of this value is away", "no connection")
            }
            Trouble::Away => Error::disconnected(Error::store("memcached: all servers are away", "no connection")),
        }
    }

    /// Stores a value unless the fetch of the stored one began later.
    async fn replace(&self, name: &str, value: &[u8], ttl: Duration) -> Result<bool, Trouble> {
        let seconds = seconds(ttl);
        for _ in 0..ATTEMPTS {
            if self.set(name, value, seconds, Condition::Missing).await? {
                return Ok(true);
            }
            let Some((old, version)) = self.get(name).await? else { continue };
            if !may_replace(&old, value) {
                return Ok(false);
            }
            if self.set(name, value, seconds, Condition::Version(version)).await? {
                return Ok(true);
            }
        }
        // Others store it all the time: theirs is as new.
        Ok(false)
    }

    async fn ask(&self, lease: &Lease<String>) -> Result<LeaseState, Trouble> {
        let held = Held { by: lease.token.to_string(), until: wall_millis() + millis(lease.ttl) }.encode();
        for _ in 0..ATTEMPTS {
            if self.set(&lease.name, &held, seconds(lease.ttl), Condition::Missing).await? {
                return Ok(LeaseState::Granted);
            }
            let Some((old, version)) = self.get(&lease.name).await? else { continue };
            match Held::decode(&old).filter(|old| wall_millis() < old.until) {
                Some(old) if old.by == UNCACHEABLE => return Ok(LeaseState::Uncacheable),
                Some(old) if old.by != lease.token.to_string() => return Ok(LeaseState::Held),
                _ => {}
            }
            if self.set(&lease.name, &held, seconds(lease.ttl), Condition::Version(version)).await? {
                return Ok(LeaseState::Granted);
            }
        }
        Ok(LeaseState::Held)
    }

    async fn end(&self, lease: &Lease<String>, uncacheable: Option<Duration>) -> Result<(), Trouble> {
        let Some((old, version)) = self.get(&lease.name).await? else { return Ok(()) };
        if Held::decode(&old).is_none_or(|old| old.by != lease.token.to_string()) {
            return Ok(());
        }
        match uncacheable {
            Some(span) => {
                let held = Held { by: UNCACHEABLE.to_owned(), until: wall_millis() + millis(span) }.encode();
                self.set(&lease.name, &held, seconds(span), Condition::Version(version)).await.map(drop)
            }
            None => self.delete(&lease.name, Some(version)).await.map(drop),
        }
    }
}

impl fmt::Debug for MemcachedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.servers.iter().map(|server| &server.address)).finish()
    }
}

impl ByteStore for MemcachedBytes {
    fn get_many(&self, names: Vec<String>) -> BoxFuture<Result<Vec<Option<Bytes>>, Error>> {
        let store = self.clone();
        Box::pin(async move {
            let found = join_all(names.iter().map(|name| store.get(name))).await;
            // What a server holds that is away is a miss, unless all are.
            found
                .into_iter()
                .map(|found| match found {
                    Ok(found) => Ok(found.map(|(value, _)| value)),
                    Err(Trouble::Away) if store.has_connection() => Ok(None),
                    Err(trouble) => Err(store.error(trouble)),
                })
                .collect()
        })
    }

    fn put(&self, name: String, value: Bytes, ttl: Duration) -> BoxFuture<Result<bool, Error>> {
        let store = self.clone();
        Box::pin(async move {
            match store.replace(&name, &value, ttl).await {
                // Not stored, as if evicted at once.
                Err(Trouble::Away) if store.has_connection() => Ok(true),
                stored => stored.map_err(|trouble| store.error(trouble)),
            }
        })
    }

    fn remove(&self, names: Vec<String>) -> BoxFuture<Result<u64, Error>> {
        let store = self.clone();
        Box::pin(async move {
            let mut removed = 0;
            for done in join_all(names.iter().map(|name| store.delete(name, None))).await {
                removed += u64::from(done.map_err(|trouble| store.error(trouble))?);
            }
            Ok(removed)
        })
    }

    fn claim(&self, lease: Lease<String>) -> BoxFuture<Result<LeaseState, Error>> {
        let store = self.clone();
        Box::pin(async move {
            match store.ask(&lease).await {
                Err(Trouble::Away) if store.has_connection() => Ok(LeaseState::Granted),
                state => state.map_err(|trouble| store.error(trouble)),
            }
        })
    }

    fn release(&self, lease: Lease<String>, uncacheable: Option<Duration>) -> BoxFuture<Result<(), Error>> {
        let store = self.clone();
        Box::pin(async move { store.end(&lease, uncacheable).await.map_err(|trouble| store.error(trouble)) })
    }
}

impl Server {
    fn open_connection(&self) -> Option<Arc<Connection>> {
        self.link.lock().connection.clone().filter(|connection| !connection.is_closed())
    }

    /// Returns the connection if there is one; else connects in the background.
    fn connection(self: &Arc<Self>) -> Option<Arc<Connection>> {
        let open = self.open_connection();
        if open.is_none() {
            let (mut link, now) = (self.link.lock(), runtime_now());
            if now >= link.retry_at {
                link.retry_at = now + RETRY_INTERVAL;
                tokio::spawn(self.clone().reconnect());
            }
        }
        open
    }

    async fn reconnect(self: Arc<Self>) {
        if let Ok(Ok(connection)) = timeout(CONNECT_TIMEOUT, Connection::open(&self.address)).await {
            self.link.lock().connection = Some(Arc::new(connection));
        }
    }
}

/// Value of a lease: its holder, and until when by the wall clock. memcached itself counts whole seconds.
struct Held {
    by: String,
    until: u64,
}

impl Held {
    fn encode(&self) -> Vec<u8> {
        format!("{} {}", self.by, self.until).into_bytes()
    }

    fn decode(text: &[u8]) -> Option<Self> {
        let (by, until) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        Some(Self { by: by.to_owned(), until: until.parse().ok()? })
    }
}

fn wall_millis() -> u64 {
    Clock::System.wall().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a lifetime for memcached, which ends it up to a second early.
fn seconds(ttl: Duration) -> u64 {
    ttl.as_secs().saturating_add(2).min(MAX_SECONDS)
}
