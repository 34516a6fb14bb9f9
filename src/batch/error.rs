//! [`BatchError`]: why a key has no answer.

use std::fmt;
use std::sync::Arc;

/// Why a [`Batcher`](crate::batch::Batcher) cannot answer. Clones share the call's own error: several callers may get
/// it.
///
/// ```
/// use std::sync::Arc;
/// use tollgate::BatchError;
///
/// let error = BatchError::Failed(Arc::new(std::io::Error::other("no route to host")));
/// assert_eq!(error.to_string(), "no route to host");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum BatchError<E> {
    /// The bulk call that asked for the key failed.
    Failed(Arc<E>),
    /// It panicked, or the runtime shut down.
    Broken,
}

impl<E> Clone for BatchError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(error.clone()),
            Self::Broken => Self::Broken,
        }
    }
}

impl<E: fmt::Display> fmt::Display for BatchError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Broken => f.write_str("the bulk call panicked"),
        }
    }
}

impl<E: std::error::Error> std::error::Error for BatchError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            Self::Broken => None,
        }
    }
}
