//! [`Loaded`], [`LoadProgress`], [`LoadError`]: outcomes of a load.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::engine::record::Stored;
use crate::cache::engine::typed_value::TypedValue;

/// A value with storage options. Loads may also return a plain value.
///
/// ```
/// use std::time::Duration;
/// use tollgate::cache::{Cached, DataCache, Loaded};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let data = DataCache::in_memory(1 << 20);
/// let users: Cached<Option<String>> = data.cached("users").ttl(Duration::from_secs(600)).build()?;
/// let user = users.get_or_load(7, || async {
/// // A missing user is cached too, for a shorter time.
///     Ok::<_, std::io::Error>(Loaded::new(None).ttl(Duration::from_secs(30)).tag("users"))
/// });
/// assert_eq!(*user.await?, None);
/// assert!(users.get(7).await.is_some());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Loaded<V> {
    pub(super) value: V,
    pub(super) ttl: Option<Duration>,
    pub(super) tags: Vec<Box<str>>,
}

impl<V> Loaded<V> {
    /// Creates a result that is stored as its namespace defines.
    ///
    /// ```
    /// use tollgate::cache::Loaded;
    ///
    /// let loaded = Loaded::new("Ada".to_owned()).tag("users");
    /// # let _ = loaded;
    /// ```
    pub const fn new(value: V) -> Self {
        Self { value, ttl: None, tags: Vec::new() }
    }

    /// Sets the lifetime in place of the namespace's; with zero the value is not stored.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use tollgate::cache::Loaded;
    ///
    /// let loaded = Loaded::new(None::<String>).ttl(Duration::from_secs(30));
    /// # let _ = loaded;
    /// ```
    pub fn ttl(mut self, span: Duration) -> Self {
        self.ttl = Some(span);
        self
    }

    /// Adds a tag for invalidation: 1 to 256 visible ASCII characters without a comma. A value with a malformed tag is
    /// not stored.
    ///
    /// ```
    /// use tollgate::cache::Loaded;
    ///
    /// let loaded = Loaded::new("Ada".to_owned()).tag("users").tag("admins");
    /// # let _ = loaded;
    /// ```
    pub fn tag(mut self, tag: impl Into<Box<str>>) -> Self {
        self.tags.push(tag.into());
        self
    }
}

impl<V> From<V> for Loaded<V> {
    fn from(value: V) -> Self {
        Self::new(value)
    }
}

/// Progress of a shared load.
#[derive(Clone)]
pub(super) enum LoadProgress {
    /// The value is there.
    Loaded(Arc<TypedValue>),
    /// The load failed, with an error of the type of its call site.
    Failed(Arc<dyn Any + Send + Sync>),
}

impl LoadProgress {
    /// Returns the progress of a load whose value another process has stored.
    pub(super) fn of(stored: Stored) -> Option<Self> {
        match stored {
            Stored::Value(value) => Some(Self::Loaded(value)),
            _ => None,
        }
    }
}

/// Error of [`get_or_load`](super::Cached::get_or_load).
///
/// ```
/// use std::sync::Arc;
/// use tollgate::cache::LoadError;
///
/// let error = LoadError::Failed(Arc::new(std::io::Error::other("no route to host")));
/// assert_eq!(error.to_string(), "no route to host");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// The load failed with this error, which all callers that waited for it share.
    Failed(Arc<E>),
    /// The load exceeded the [hard timeout](super::CachedBuilder::hard_timeout). It continues, and its result is
    /// stored, unless it exceeds [`wait`](super::CachedBuilder::wait) too.
    TimedOut,
}

impl<E> LoadError<E> {
    /// Returns the load's error.
    ///
    /// ```
    /// use tollgate::cache::LoadError;
    ///
    /// # use std::sync::Arc;
    /// let error = LoadError::Failed(Arc::new("no route to host"));
    /// assert_eq!(error.into_inner().as_deref(), Some(&"no route to host"));
    /// assert_eq!(LoadError::<&str>::TimedOut.into_inner(), None);
    /// ```
    #[must_use]
    pub fn into_inner(self) -> Option<Arc<E>> {
        match self {
            Self::Failed(error) => Some(error),
            Self::TimedOut => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::TimedOut => f.write_str("load exceeded the hard timeout and continues in the background"),
        }
    }
}

impl<E: std::error::Error> std::error::Error for LoadError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            Self::TimedOut => None,
        }
    }
}
