//! The one error type: a configuration that cannot be built, or a store that did not answer.
//!
//! No request ever sees this error. Configuration fails when it is built; a store's failure becomes an
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
}

impl Error {
    /// A store's failure, for those who write a store of their own. `source` is what the engine said.
    pub fn store(message: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind: Kind::Store, message: message.into().into(), source: Some(source.into()) }
    }

    /// A store that is known to be away: it was said when it went, and is not said again for each request.
    #[cfg(feature = "redis")]
    pub(crate) fn outage(store: &str, why: crate::base::outage::Outage) -> Self {
        Self { kind: Kind::Outage, message: format!("{store}: {why}").into(), source: None }
    }

    /// An outage whose consequence is worth a sentence of its own.
    #[cfg(feature = "redis")]
    pub(crate) fn outage_so(message: String, why: crate::base::outage::Outage) -> Self {
        Self { kind: Kind::Outage, message: message.into(), source: Some(why.into()) }
    }

    pub(crate) fn is_outage(&self) -> bool {
        self.kind == Kind::Outage
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self { kind: Kind::Config, message: message.into().into(), source: None }
    }

    /// Whether a configuration was refused.
    #[must_use]
    pub fn is_config(&self) -> bool {
        self.kind == Kind::Config
    }

    /// Whether a store failed.
    #[must_use]
    pub fn is_store(&self) -> bool {
        matches!(self.kind, Kind::Store | Kind::Outage)
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
