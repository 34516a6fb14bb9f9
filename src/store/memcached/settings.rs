//! [`Memcached`]: the servers of a memcached level.

use std::sync::Arc;
use std::time::Duration;

use super::bytes::MemcachedBytes;
use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::ByteStore;
use crate::store::remote::{RemoteSettings, RemoteStore};

/// Longest entry: memcached's bound of a megabyte, less its own head and the name.
const MAX_ENTRY: usize = (1 << 20) - 1_024;

/// Servers and settings of a memcached level.
///
/// ```
/// use tollgate::Tollgate;
/// use tollgate::cache::Rules;
/// use tollgate::store::memcached::Memcached;
///
/// let servers = Memcached::new(["10.0.0.1:11211", "10.0.0.2:11211"]).secret("the same on every node");
/// let gate = Tollgate::builder().cache(Rules::new()).memcached(servers).build()?;
/// # let _ = gate;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Memcached {
    servers: Vec<Box<str>>,
    settings: RemoteSettings,
}

impl Memcached {
    /// Creates the settings of a level in these servers, as `host:port` or `memcached://host:port`, which is the same. Every
    /// process lists the same ones.
    ///
    /// ```
    /// use tollgate::store::memcached::Memcached;
    ///
    /// let servers = Memcached::new(["127.0.0.1:11211"]).secret("the same on every node");
    /// # let _ = servers;
    /// ```
    pub fn new<S: Into<Box<str>>>(servers: impl IntoIterator<Item = S>) -> Self {
        let servers = servers.into_iter().map(|server| address(server.into())).collect();
        Self { servers, settings: RemoteSettings::new("memcached").max_entry(MAX_ENTRY) }
    }

    /// Sets the secret under which names are hashed, the same on every node; at least 8 bytes. Required, since memcached
    /// has no place where the nodes could agree on one.
    ///
    /// ```
    /// use tollgate::store::RemoteStore;
    /// use tollgate::store::memcached::Memcached;
    ///
    /// let error = RemoteStore::memcached(Memcached::new(["127.0.0.1:11211"])).unwrap_err();
    /// assert!(error.to_string().contains("secret"));
    /// ```
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.settings = self.settings.secret(secret);
        self
    }

    /// Sets the deadline of a call, after which it is a miss. Defaults to 50 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::store::memcached::Memcached;
    ///
    /// let servers = Memcached::new(["127.0.0.1:11211"]).deadline(Duration::from_millis(20));
    /// # let _ = servers;
    /// ```
    pub fn deadline(mut self, span: Duration) -> Self {
        self.settings = self.settings.deadline(span);
        self
    }

    /// Limits how long memcached keeps an entry; other levels may keep it for longer. Defaults to a year.
    ///
    /// ```
    /// use tollgate::store::memcached::Memcached;
    ///
    /// let servers = Memcached::new(["127.0.0.1:11211"]).max_ttl(std::time::Duration::from_secs(300));
    /// # let _ = servers;
    /// ```
    pub fn max_ttl(mut self, span: Duration) -> Self {
        self.settings = self.settings.max_ttl(span);
        self
    }

    /// Sets the prefix of all names. Defaults to `tollgate`.
    ///
    /// ```
    /// use tollgate::store::memcached::Memcached;
    ///
    /// let servers = Memcached::new(["127.0.0.1:11211"]).prefix("shop");
    /// # let _ = servers;
    /// ```
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.settings = self.settings.prefix(prefix);
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.servers.is_empty() {
            return Err(Error::config("memcached: no server; name one as host:port"));
        }
        for (place, server) in self.servers.iter().enumerate() {
            if !is_address(server) {
                return Err(Error::config(format!("memcached: server {server:?} must be host:port")));
            }
            if self.servers[..place].contains(server) {
                return Err(Error::config(format!("memcached: server {server:?} is named twice; remove one")));
            }
        }
        Ok(())
    }
}

/// Returns the address of a URL; anything else as it is.
fn address(server: Box<str>) -> Box<str> {
    let Some(address) = server.strip_prefix("memcached://") else { return server };
    address.strip_suffix('/').unwrap_or(address).into()
}

/// Whether this is `host:port`; an IPv6 address is in brackets.
fn is_address(server: &str) -> bool {
    let Some((host, port)) = server.rsplit_once(':') else { return false };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).map_or(host, |_| "ipv6");
    let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl RemoteStore {
    /// Creates a cache store in memcached servers, to be used behind a local memory; connects in the background. See
    /// [`store::memcached`](crate::store::memcached).
    ///
    /// # Errors
    /// If no server is named, one is not `host:port` or named twice, or there is no secret.
    ///
    /// # Examples
    /// ```
    /// use std::sync::Arc;
    /// use tollgate::cache::DataCache;
    /// use tollgate::store::RemoteStore;
    /// use tollgate::store::memcached::Memcached;
    ///
    /// let servers = Memcached::new(["127.0.0.1:11211"]).secret("the same on every node");
    /// let data = DataCache::builder().level_2(Arc::new(RemoteStore::memcached(servers)?)).build();
    /// assert_eq!(data.levels()[1].name, "memcached");
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn memcached(memcached: Memcached) -> Result<Self, Error> {
        memcached.check()?;
        let Memcached { servers, settings } = memcached;
        let servers: Arc<[Box<str>]> = servers.into();
        let dial = move || -> BoxFuture<Result<Arc<dyn ByteStore>, Error>> {
            let servers = servers.clone();
            Box::pin(async move { Ok(Arc::new(MemcachedBytes::open(&servers).await?) as Arc<dyn ByteStore>) })
        };
        Self::dialled(dial, false, settings)
    }
}
