//! Connections: standalone, Sentinel or Cluster, with or without TLS.
//!
//! | URL | target |
//! |---|---|
//! | `redis://user:password@host:6379/0` | one server |
//! | `rediss://…` | the same over TLS (feature `redis-tls`) |
//! | `redis+sentinel://user:password@s1:26379,s2:26379/mymaster/0` | the primary that the sentinels name |
//! | `redis+cluster://user:password@n1:7000,n2:7001` | a cluster, discovered through any of these nodes |
//!
//! A parameter that would be ignored (`?db=3`) is an error. Sentinels are asked with the server's credentials, else without,
//! unless they have [their own](super::Redis::sentinel_credentials).
//!
//! `rediss+sentinel` and `rediss+cluster` use TLS; `valkey` and `valkeys` are aliases of `redis` and `rediss`.

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSubStream};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo,
    Pipeline, RedisError, RedisFuture, ServerErrorKind, TlsMode, Value,
};

use crate::base::error::Error;
use crate::resilience::guard::Fault;

/// Maximum number of commands in the write buffer.
const WRITE_BUFFER: usize = 1_024;

/// Validated address of a Redis.
#[derive(Clone)]
pub(super) enum Address {
    One(ConnectionInfo),
    Sentinel { sentinels: Vec<ConnectionInfo>, primary: String, own: Option<SentinelAuth> },
    Cluster(Vec<ConnectionInfo>),
}

/// Credentials of the sentinels: a user name, empty for the default user, and a password.
#[derive(Clone)]
pub(super) struct SentinelAuth {
    pub(super) username: String,
    pub(super) password: String,
}

/// Certificates of a certificate authority, in PEM.
pub(super) type Authority = Option<Vec<u8>>;

impl Address {
    /// # Errors
    /// If the URL has none of these forms. The message contains no password.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let shown = without_password(url);
        let wrong = |why: &dyn std::fmt::Display| Error::config(format!("unsupported redis URL {shown:?}: {why}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong(&"missing \"://\""))?;
        let (scheme, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        if matches!(scheme, "rediss" | "valkeys") && !cfg!(feature = "redis-tls") {
            return Err(wrong(&"TLS requires the feature redis-tls"));
        }
        if let Some(parameter) = unknown_parameter(rest, kind) {
            return Err(wrong(&parameter));
        }
        let one = |url: &str| url.into_connection_info().map(without_nagle).map_err(|error| wrong(&reason(&error)));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let at = if user.is_empty() { "" } else { "@" };
        let each = |db: &str| {
            hosts
                .split(',')
                .map(|host| one(&format!("{scheme}://{user}{at}{host}/{db}")))
                .collect::<Result<Vec<_>, _>>()
        };
        match kind {
            "" => Ok(Self::One(one(url)?)),
            "cluster" if !matches!(path, "" | "0") => Err(wrong(&"a cluster has no numbered databases")),
            "cluster" => Ok(Self::Cluster(each("")?)),
            "sentinel" => {
                let (primary, db) = path.split_once('/').unwrap_or((path, ""));
                if primary.is_empty() {
                    return Err(wrong(&"the primary's name follows the sentinels: …/mymaster"));
                }
                Ok(Self::Sentinel { sentinels: each(db)?, primary: primary.to_owned(), own: None })
            }
            other => Err(wrong(&format!("unknown kind {other:?}"))),
        }
    }

    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Opens a connection, without a timeout of its own.
    pub(super) async fn connect(&self, authority: &Authority) -> Result<Conn, Error> {
        let refused = |error: RedisError| Error::store(format!("redis: {}", reason(&error)), error);
        match self {
            Self::One(info) => {
                let connecting = client(info.clone(), authority).map_err(refused)?;
                let connected = connecting.get_multiplexed_async_connection_with_config(&config()).await;
                Ok(Conn { link: Link::One(connected.map_err(refused)?), may_fail_over: false })
            }
            Self::Sentinel { sentinels, primary, own } => {
                let mut first = None;
                for to_sentinel in credentials_to_try(sentinels, own.as_ref()) {
                    let mut client = sentinel(sentinels, primary, authority, to_sentinel.as_ref()).map_err(refused)?;
                    match client.get_async_connection_with_config(&config()).await {
                        Ok(connected) => return Ok(Conn { link: Link::One(connected), may_fail_over: true }),
                        Err(error) => drop(first.get_or_insert(error)),
                    }
                }
                Err(first.map_or_else(|| Error::config("no sentinels"), refused))
            }
            Self::Cluster(nodes) => {
                let client = cluster(nodes, authority).map_err(refused)?;
                Ok(Conn {
                    link: Link::Cluster(client.get_async_connection().await.map_err(refused)?),
                    may_fail_over: false,
                })
            }
        }
    }
}

impl Address {
    /// Opens a connection subscribed to this channel. In a Cluster every node forwards all messages.
    pub(super) async fn subscribe(&self, authority: &Authority, channel: &str) -> Result<PubSubStream, Error> {
        let refused = |error: RedisError| Error::store(format!("redis: {}", reason(&error)), error);
        let client = match self {
            Self::One(info) => client(info.clone(), authority).map_err(refused)?,
            Self::Sentinel { sentinels, primary, own } => {
                let (mut found, mut first) = (None, None);
                for to_sentinel in credentials_to_try(sentinels, own.as_ref()) {
                    let mut client = sentinel(sentinels, primary, authority, to_sentinel.as_ref()).map_err(refused)?;
                    match client.async_get_client().await {
                        Ok(client) => {
                            found = Some(client);
                            break;
                        }
                        Err(error) => drop(first.get_or_insert(error)),
                    }
                }
                match (found, first) {
                    (Some(client), _) => client,
                    (None, Some(error)) => return Err(refused(error)),
                    (None, None) => return Err(Error::config("no sentinels")),
                }
            }
            Self::Cluster(nodes) => {
                let mut last = Error::config("the Redis cluster has no nodes; name at least one");
                for node in nodes {
                    match Box::pin(Self::One(node.clone()).subscribe(authority, channel)).await {
                        Err(error) => last = error,
                        subscribed => return subscribed,
                    }
                }
                return Err(last);
            }
        };
        let mut subscription = client.get_async_pubsub().await.map_err(refused)?;
        subscription.subscribe(channel).await.map_err(refused)?;
        Ok(subscription.into_on_message())
    }
}

/// Returns the parameter of a URL that would be ignored, with the remedy.
fn unknown_parameter(rest: &str, kind: &str) -> Option<String> {
    // An unescaped password may contain a question mark.
    let (_, query) = rest.rsplit_once('@').map_or(rest, |(_, after)| after).split_once('?')?;
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    let unknown = |pair: &&str| !(kind.is_empty() && matches!(*pair, "protocol=resp2" | "protocol=resp3"));
    let pair = query.split('&').find(unknown)?;
    let name = pair.split_once('=').map_or(pair, |(name, _)| name);
    Some(if name == "db" {
        "unknown parameter \"db\"; write the database behind the address: …/3".to_owned()
    } else {
        format!("unknown parameter {name:?}")
    })
}

/// Returns the credentials with which sentinels are asked, in order: their own; else the server's, and none, because a
/// sentinel without a password refuses any.
fn credentials_to_try(sentinels: &[ConnectionInfo], own: Option<&SentinelAuth>) -> Vec<Option<SentinelAuth>> {
    if let Some(own) = own {
        return vec![Some(own.clone())];
    }
    let settings = sentinels.first().map(ConnectionInfo::redis_settings);
    let servers = settings.and_then(|settings| {
        let username = settings.username().unwrap_or_default().to_owned();
        Some(SentinelAuth { username, password: settings.password()?.to_owned() })
    });
    servers.map_or_else(|| vec![None], |servers| vec![Some(servers), None])
}

/// Disables Nagle's algorithm: commands are small and replies are awaited.
fn without_nagle(info: ConnectionInfo) -> ConnectionInfo {
    let tcp = TcpSettings::default().set_nodelay(true);
    info.set_tcp_settings(tcp)
}

/// Timeouts are the caller's.
fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(WRITE_BUFFER)
}

#[cfg(feature = "redis-tls")]
fn certificates(authority: &Authority) -> Option<redis::TlsCertificates> {
    let root_cert = Some(authority.clone()?);
    Some(redis::TlsCertificates { client_tls: None, root_cert })
}

#[cfg(feature = "redis-tls")]
fn client(info: ConnectionInfo, authority: &Authority) -> Result<Client, RedisError> {
    match certificates(authority) {
        Some(certificates) => Client::build_with_tls(info, certificates),
        None => Client::open(info),
    }
}

#[cfg(not(feature = "redis-tls"))]
fn client(info: ConnectionInfo, _: &Authority) -> Result<Client, RedisError> {
    Client::open(info)
}

fn sentinel(
    sentinels: &[ConnectionInfo],
    primary: &str,
    _authority: &Authority,
    own: Option<&SentinelAuth>,
) -> Result<redis::sentinel::SentinelClient, RedisError> {
    let addresses = sentinels.iter().map(|info| info.addr().clone());
    let mut builder = SentinelClientBuilder::new(addresses, primary, SentinelServerType::Master)?;
    let tcp = TcpSettings::default().set_nodelay(true);
    builder = builder.set_client_to_redis_tcp_settings(tcp.clone()).set_client_to_sentinel_tcp_settings(tcp);
    if let Some(SentinelAuth { username, password }) = own {
        builder = builder.set_client_to_sentinel_password(password);
        if !username.is_empty() {
            builder = builder.set_client_to_sentinel_username(username);
        }
    }
    if let Some(first) = sentinels.first() {
        let settings = first.redis_settings();
        builder = builder.set_client_to_redis_db(settings.db());
        if let Some(user) = settings.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let ConnectionAddr::TcpTls { insecure, .. } = first.addr() {
            let mode = if *insecure { TlsMode::Insecure } else { TlsMode::Secure };
            builder = builder.set_client_to_redis_tls_mode(mode).set_client_to_sentinel_tls_mode(mode);
        }
    }
    #[cfg(feature = "redis-tls")]
    if let Some(certificates) = certificates(_authority) {
        builder = builder
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_certificates(certificates);
    }
    builder.build()
}

/// One retry, for a slot that has moved; callers have no time for more.
fn cluster(nodes: &[ConnectionInfo], _authority: &Authority) -> Result<redis::cluster::ClusterClient, RedisError> {
    let builder = ClusterClientBuilder::new(nodes.to_vec())
        .tcp_settings(TcpSettings::default().set_nodelay(true))
        .retries(2)
        .min_retry_wait(1)
        .max_retry_wait(5);
    #[cfg(feature = "redis-tls")]
    let builder = match certificates(_authority) {
        Some(certificates) => builder.certs(certificates),
        None => builder,
    };
    builder.build()
}

/// Multiplexed connection. Clones share the socket.
#[derive(Clone)]
pub(super) struct Conn {
    link: Link,
    /// Whether a new connection may lead to another server.
    may_fail_over: bool,
}

/// A primary: the only server, or one of a cluster by host and port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Primary(Option<(String, u16)>);

#[derive(Clone)]
enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Conn {
    /// Sends a command and reads its reply.
    pub(super) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Fault> {
        let may_fail_over = self.may_fail_over;
        command.query_async(self).await.map_err(|error| fault(error, may_fail_over))
    }

    /// Sends several commands on one key as a pipeline, and reads the replies that are not ignored.
    pub(super) async fn query_all<T: FromRedisValue>(&mut self, commands: &Pipeline) -> Result<T, Fault> {
        let may_fail_over = self.may_fail_over;
        commands.query_async(self).await.map_err(|error| fault(error, may_fail_over))
    }

    /// Whether keys have slots, and a script may use those of one slot only.
    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self.link, Link::Cluster(_))
    }

    /// Returns the primaries: the only server, or those of a cluster.
    pub(super) async fn primaries(&mut self) -> Result<Vec<Primary>, Fault> {
        if matches!(self.link, Link::One(_)) {
            return Ok(vec![Primary(None)]);
        }
        let mut slots = Cmd::new();
        slots.arg("CLUSTER").arg("SLOTS");
        // For each range of slots: first, last, and the servers, the primary first.
        let ranges: Vec<Vec<Value>> = self.query(&slots).await?;
        let primary = |range: &Vec<Value>| {
            let server: Vec<Value> = redis::from_redis_value(range.get(2)?.clone()).ok()?;
            let host = redis::from_redis_value(server.first()?.clone()).ok()?;
            Some(Primary(Some((host, redis::from_redis_value(server.get(1)?.clone()).ok()?))))
        };
        let known: Option<Vec<Primary>> = ranges.iter().map(primary).collect();
        // An omitted server would be skipped silently, so a partial answer is an error.
        let mut primaries = known.filter(|known| !known.is_empty()).ok_or_else(|| {
            Fault::Refused(Error::store("redis: cannot read the reply to CLUSTER SLOTS", "no servers"))
        })?;
        primaries.sort_unstable();
        primaries.dedup();
        Ok(primaries)
    }

    /// Sends a command to one of the [primaries](Self::primaries).
    pub(super) async fn query_at<T: FromRedisValue>(&mut self, primary: &Primary, command: &Cmd) -> Result<T, Fault> {
        let (Link::Cluster(cluster), Primary(Some((host, port)))) = (&mut self.link, primary) else {
            return self.query(command).await;
        };
        let address = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
        let reply = cluster.route_command(command.clone(), RoutingInfo::SingleNode(address)).await;
        reply
            .and_then(|value| redis::from_redis_value(value).map_err(RedisError::from))
            .map_err(|error| fault(error, self.may_fail_over))
    }

    /// Calls a script by its hash; `None` if the server does not know it.
    pub(super) async fn call_script(&mut self, command: &Cmd) -> Result<Option<Value>, Fault> {
        let may_fail_over = self.may_fail_over;
        match command.query_async(self).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => Ok(None),
            Err(error) => Err(fault(error, may_fail_over)),
        }
    }
}

impl ConnectionLike for Conn {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.link {
            Link::One(one) => one.req_packed_command(cmd),
            Link::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.link {
            Link::One(one) => one.req_packed_commands(cmd, offset, count),
            Link::Cluster(cluster) => cluster.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.link {
            Link::One(one) => one.get_db(),
            Link::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// Whether an error invalidates its connection.
///
/// | error | result | reason |
/// |---|---|---|
/// | I/O, an unreadable reply or one of another type | lost | later replies on that socket cannot be trusted |
/// | not allowed, not authenticated | lost | a new connection authenticates again |
/// | read-only or loading, behind sentinels | lost | they may name another primary by now |
/// | any other error reply | refused | the server is available and rejects the command |
pub(super) fn fault(error: RedisError, may_fail_over: bool) -> Fault {
    let refused = match error.kind() {
        ErrorKind::Server(ServerErrorKind::NoPerm) => false,
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown) => {
            !may_fail_over
        }
        ErrorKind::Server(_) => true,
        ErrorKind::Extension => error.code() != Some("NOAUTH"),
        _ => false,
    };
    let message = Error::store(format!("redis: {}", reason(&error)), error);
    if refused { Fault::Refused(message) } else { Fault::Lost(message) }
}

/// Returns the error in one line, without password: the client's errors contain none.
fn reason(error: &RedisError) -> String {
    error.to_string()
}

/// Returns the URL without credentials, for messages and `Debug`.
pub(super) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "…".to_owned() };
    // The last '@': an unescaped password may contain any character.
    let after = rest.rsplit_once('@').map_or(rest, |(_, after)| after);
    format!("{scheme}://{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_select_the_kind() {
        let kind = |url: &str| match Address::parse(url) {
            Ok(Address::One(info)) => format!("one {}", info.addr()),
            Ok(Address::Cluster(nodes)) => format!("cluster of {}", nodes.len()),
            Ok(Address::Sentinel { sentinels, primary, .. }) => {
                format!("{primary} of {} db {}", sentinels.len(), sentinels[0].redis_settings().db())
            }
            Err(error) => format!("{error}"),
        };
        assert_eq!(kind("redis://127.0.0.1"), "one 127.0.0.1:6379");
        assert_eq!(kind("valkey://u:p@example.com:1/2"), "one example.com:1");
        assert_eq!(kind("redis+cluster://u:p@a:1,b:2,c:3"), "cluster of 3");
        assert_eq!(kind("redis+sentinel://:p@a:1,b:2/mymaster/3"), "mymaster of 2 db 3");
        for wrong in ["127.0.0.1", "http://a", "redis+ring://a", "redis+sentinel://a", "redis://", "redis://a:x"] {
            assert!(kind(wrong).contains("unsupported redis URL"), "{wrong}: {}", kind(wrong));
        }
    }

    #[test]
    fn what_a_url_says_is_obeyed_or_refused() {
        for (url, named) in [
            ("redis://a?db=3", Some("…/3")),
            ("redis://u:p?q@a/0?db=3", Some("\"db\"")),
            ("redis://a/3?timeout=5", Some("\"timeout\"")),
            ("redis+sentinel://a/mymaster?db=3", Some("…/3")),
            ("redis+cluster://a/3", Some("numbered databases")),
            ("redis+cluster://a?protocol=resp3", Some("\"protocol\"")),
            ("redis://a/3?protocol=resp3", None),
            ("redis://u:p%3Fq@a/3", None),
            ("redis+cluster://a/0", None),
        ] {
            let refused = Address::parse(url).err().map(|error| error.to_string());
            assert_eq!(refused.is_some(), named.is_some(), "{url}: {refused:?}");
            if let (Some(refused), Some(named)) = (&refused, named) {
                assert!(refused.contains(named) && !refused.contains("p?q"), "{refused}");
            }
        }
    }

    #[test]
    fn messages_contain_no_password() {
        for url in ["redis://u:hunter2@a:x", "redis+sentinel://u:hunter2@a", "hunter2", "redis://u:hun/hunter2@a:x"] {
            let shown = Address::parse(url).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(!shown.is_empty(), "{url} should not parse");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
