//! [`BatchError`]: error of a batched call.

use std::fmt;
use std::sync::Arc;

/// Error of a [`Batcher`](crate::batch::Batcher). Cloned for each caller, all of which share the call's own error.
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
    /// The bulk call with this key failed.
    Failed(Arc<E>),
    /// The bulk call panicked, or the runtime shut down.
    Panicked,
}

impl<E> Clone for BatchError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(error.clone()),
            Self::Panicked => Self::Panicked,
        }
    }
}

impl<E: fmt::Display> fmt::Display for BatchError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Panicked => f.write_str("bulk call panicked"),
        }
    }
}

impl<E: std::error::Error> std::error::Error for BatchError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            Self::Panicked => None,
        }
    }
}
