//! Connections: parsing of the URL, and the tasks that drive them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Row, Socket};

#[cfg(not(feature = "postgres-tls"))]
use super::no_tls as tls;
#[cfg(feature = "postgres-tls")]
use super::tls;
use crate::base::error::Error;
use crate::base::outage::Outage;

/// Time without traffic after which a connection is probed.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Parameter of a statement, with its type.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Address of a server, with the certificate authority that it must have, in PEM; the system's if there is none.
#[derive(Clone)]
pub(super) struct ServerAddress {
    pub(super) config: Config,
    pub(super) authority: Option<Vec<u8>>,
}

/// Parses a URL.
///
/// # Errors
/// If it is no PostgreSQL URL, or needs a disabled feature. The message contains no password.
pub(super) fn parse(url: &str) -> Result<ServerAddress, Error> {
    let shown = without_password(url);
    let wrong = |why: &dyn std::fmt::Display| Error::config(format!("unsupported PostgreSQL URL {shown:?}: {why}"));
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(wrong(&"it must begin with postgres:// or postgresql://"));
    }
    let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| wrong(&reason(&error)))?;
    if config.get_hosts().is_empty() {
        return Err(wrong(&"it names no host"));
    }
    if asks_for_tls(&config) && !tls::AVAILABLE {
        return Err(wrong(&"TLS requires the feature postgres-tls"));
    }
    config.keepalives_idle(KEEPALIVE);
    if config.get_application_name().is_none() {
        config.application_name("tollgate");
    }
    Ok(ServerAddress { config, authority: None })
}

/// Whether TLS is asked for. Without that, a build with TLS connects as one without.
fn asks_for_tls(config: &Config) -> bool {
    !matches!(config.get_ssl_mode(), SslMode::Disable | SslMode::Prefer)
}

/// Replaces the password of a URL.
pub(super) fn without_password(url: &str) -> String {
    let hidden = |query: &str| query.split('&').any(|pair| pair.starts_with("password=")).then_some("…");
    if !url.contains("://") {
        // Pairs of libpq, perhaps, with a password.
        return url.split([' ', '=']).next().unwrap_or_default().to_owned() + "…";
    }
    let (url, query) = url.split_once('?').map_or((url, None), |(url, query)| (url, Some(query)));
    let query = query.map(|query| format!("?{}", hidden(query).unwrap_or(query))).unwrap_or_default();
    let shown = url.split_once("://").and_then(|(scheme, rest)| {
        let (user, host) = rest.rsplit_once('@')?;
        let user = user.split_once(':').map_or(user.to_owned(), |(name, _)| format!("{name}:…"));
        Some(format!("{scheme}://{user}@{host}"))
    });
    shown.unwrap_or_else(|| url.to_owned()) + &query
}

/// Returns the innermost cause, which names the value that was wrong.
fn reason(error: &tokio_postgres::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// Connection with the task that drives it, which ends with it.
#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    driver: JoinHandle<()>,
    /// Held by a transaction of several statements, and by those who must not get into one.
    turn: Mutex<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // The task of a server that hangs would wait for its replies for ever.
        self.driver.abort();
    }
}

impl Link {
    /// Opens a connection, without a timeout of its own. Notifications go to `messages`.
    pub(super) async fn open(
        address: &ServerAddress,
        messages: Option<UnboundedSender<String>>,
    ) -> Result<Arc<Self>, Error> {
        match asks_for_tls(&address.config) {
            true => {
                let connector = tls::connector(address.authority.as_deref())?;
                Self::open_over(&address.config, connector, messages).await
            }
            false => Self::open_over(&address.config, NoTls, messages).await,
        }
    }

    async fn open_over<T>(
        config: &Config,
        tls: T,
        messages: Option<UnboundedSender<String>>,
    ) -> Result<Arc<Self>, Error>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
        <T as MakeTlsConnect<Socket>>::TlsConnect: TlsConnect<Socket>,
    {
        let (client, connection) = config.connect(tls).await.map_err(into_error)?;
        let driver = tokio::spawn(drive(connection, messages));
        Ok(Arc::new(Self { client, driver, turn: Mutex::default() }))
    }

    /// Waits until no transaction of several statements is in progress, for a connection that has such.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Runs one statement, unnamed, in a transaction of its own.
    pub(super) async fn query(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        self.client.query_typed(statement, parameters).await.map_err(into_error)
    }

    /// Runs a statement that returns one row.
    pub(super) async fn query_one(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<Row, Error> {
        let row = self.query(statement, parameters).await?.into_iter().next();
        row.ok_or_else(|| Error::store("postgres: a statement returned no row", "no row"))
    }

    /// Runs several statements in one transaction.
    pub(super) async fn batch(&self, statements: &str) -> Result<(), Error> {
        self.client.batch_execute(statements).await.map_err(into_error)
    }
}

/// Drives a connection until it ends.
async fn drive<S, T>(mut connection: Connection<S, T>, messages: Option<UnboundedSender<String>>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match (poll_fn(|cx| connection.poll_message(cx)).await, &messages) {
            (Some(Ok(AsyncMessage::Notification(message))), Some(messages)) => {
                // A receiver that is gone closes the connection.
                let _ = messages.send(message.payload().to_owned());
            }
            (Some(Ok(_)), _) => {}
            (Some(Err(_)) | None, _) => return,
        }
    }
}

/// Converts an error: a lost connection, and tables that are gone, are an outage, after which the store reconnects.
pub(super) fn into_error(error: tokio_postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else { return Error::disconnected(reason(&error)) };
    let code = db.code().code();
    match code.get(..2) {
        Some("28") => Error::outage_with(db.to_string(), Outage::Denied),
        // 08 connection, 3D no such database, 57 shutdown, 42P01 and 42883 a table or function is gone.
        Some("08" | "3D" | "57") => Error::disconnected(db.clone()),
        _ if matches!(code, "42P01" | "42883" | "3F000") => Error::disconnected(db.clone()),
        _ => Error::store(format!("postgres: {}", db.message()), error),
    }
}

/// Returns a column, or an error if it has another type.
pub(super) fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, Error> {
    row.try_get(at).map_err(|error| Error::store("postgres: a column has another type", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_passwords_never_shown() {
        for (url, named) in [
            ("http://127.0.0.1", "must begin with"),
            ("postgres://user:hunter2@host/db?nonsense=1", "nonsense"),
            ("postgres:///db", "no host"),
            ("host=h user=u password=hunter2", "must begin with"),
            ("postgres://user:hunter2@host:port/db", "port"),
        ] {
            let error = parse(url).err().expect("unsupported").to_string();
            assert!(error.contains(named) && !error.contains("hunter2"), "{error}");
        }
        assert_eq!(parse("postgres://user:hunter2@host/db?sslmode=require").is_ok(), cfg!(feature = "postgres-tls"));
        assert!(parse("postgres://user:hunter2@host:5433,other/db?target_session_attrs=read-write").is_ok());
        assert_eq!(without_password("postgres://u:p@h/d?password=p&x=1"), "postgres://u:…@h/d?…");
        assert_eq!(without_password("postgres://h/d?x=1"), "postgres://h/d?x=1");
    }
}
