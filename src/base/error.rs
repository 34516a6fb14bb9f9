//! The error type: an invalid configuration, or a store that did not answer.
//!
//! No request receives this error. Configuration fails when it is built; a store's failure becomes an
//! [`Event`](crate::Event) and a local decision or a miss.

use std::error::Error as StdError;
use std::fmt;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// Error of a configuration or a store: one lower-case line that names the offending value.
///
/// ```
/// use tollgate::limit::Quota;
///
/// let error = "0/min".parse::<Quota>().unwrap_err();
/// assert!(error.is_config());
/// assert!(error.to_string().contains("0/min"));
/// ```
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: Box<str>,
    source: Option<BoxError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Config,
    Store,
    Outage,
    TooLarge,
    Superseded,
}

impl Error {
    /// Creates the error of a user-supplied store, with the engine's error as its source.
    ///
    /// ```
    /// use tollgate::Error;
    ///
    /// let error = Error::store("write failed", std::io::Error::other("disk full"));
    /// assert!(error.is_store() && !error.is_config());
    /// ```
    pub fn store(message: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind: Kind::Store, message: message.into().into(), source: Some(source.into()) }
    }

    /// Creates the error of a store in an outage, which is logged once and not for each request.
    pub(crate) fn outage(store: &str, why: crate::base::outage::Outage) -> Self {
        Self { kind: Kind::Outage, message: format!("{store}: {why}").into(), source: None }
    }

    /// Creates the error of a connection that cannot be used any more: a [`RemoteStore`](crate::store::RemoteStore) makes
    /// another one.
    ///
    /// ```
    /// use tollgate::Error;
    ///
    /// let error = Error::disconnected(std::io::Error::other("connection reset"));
    /// assert!(error.is_store());
    /// ```
    pub fn disconnected(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        Self { kind: Kind::Outage, message: source.to_string().into(), source: Some(source) }
    }

    /// Creates the error of an outage with a specific message.
    pub(crate) fn outage_with(message: String, why: crate::base::outage::Outage) -> Self {
        Self { kind: Kind::Outage, message: message.into(), source: Some(why.into()) }
    }

    /// Whether a store has no log that would tell other processes.
    pub(crate) fn is_unlogged(&self) -> bool {
        self.is_outage_by(crate::base::outage::Outage::Unlogged)
    }

    /// Whether a server rejected the credentials: trying again soon is in vain.
    pub(crate) fn is_denied(&self) -> bool {
        self.is_outage_by(crate::base::outage::Outage::Denied)
    }

    fn is_outage_by(&self, why: crate::base::outage::Outage) -> bool {
        self.source.as_ref().and_then(|source| source.downcast_ref()) == Some(&why)
    }

    pub(crate) fn is_outage(&self) -> bool {
        self.kind == Kind::Outage
    }

    /// Creates the error of a value that no level of the store can hold.
    pub(crate) fn too_large(store: &str, bytes: u64, max: u64) -> Self {
        let message = format!("{store}: {bytes} bytes exceed its bound of {max}; raise the bound or store less");
        Self { kind: Kind::TooLarge, message: message.into(), source: None }
    }

    pub(crate) fn is_too_large(&self) -> bool {
        self.kind == Kind::TooLarge
    }

    /// Creates the error of a value that was not stored because a newer one is.
    pub(crate) fn superseded(store: &str) -> Self {
        Self { kind: Kind::Superseded, message: format!("{store}: a newer value is stored").into(), source: None }
    }

    pub(crate) fn is_superseded(&self) -> bool {
        self.kind == Kind::Superseded
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self { kind: Kind::Config, message: message.into().into(), source: None }
    }

    /// Returns whether a configuration is invalid.
    #[must_use]
    pub fn is_config(&self) -> bool {
        self.kind == Kind::Config
    }

    /// Returns whether a store failed.
    #[must_use]
    pub fn is_store(&self) -> bool {
        matches!(self.kind, Kind::Store | Kind::Outage | Kind::TooLarge)
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}
