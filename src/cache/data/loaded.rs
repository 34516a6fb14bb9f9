//! [`Loaded`]: what a load brings, and its own word on how to keep it. [`LoadError`]: why there is nothing.

use std::fmt;
use std::time::Duration;

/// A value, and what its load says about keeping it. A plain value says nothing: a load may return either.
///
/// ```
/// use std::time::Duration;
/// use tollgate::cache::{Cached, DataCache, Loaded};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let data = DataCache::in_memory(1 << 20);
/// let users: Cached<Option<String>> = data.cached("users").ttl(Duration::from_secs(600)).build()?;
/// let user = users.get_or_load(7, || async {
///     // Nobody of that number: known as well, though not for as long.
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
    /// This value, kept as its namespace says.
    pub const fn new(value: V) -> Self {
        Self { value, ttl: None, tags: Vec::new() }
    }

    /// Is fresh for this long, whatever the namespace says; with zero it is not kept at all.
    pub fn ttl(mut self, span: Duration) -> Self {
        self.ttl = Some(span);
        self
    }

    /// Can be taken back by this tag too: 1 to 256 visible ASCII characters without a comma. A value with a tag that
    /// cannot be one is not kept.
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

/// Why [`get_or_load`](super::Cached::get_or_load) has nothing to return.
///
/// ```
/// use tollgate::cache::LoadError;
///
/// let error = LoadError::Failed(std::io::Error::other("no route to host"));
/// assert_eq!(error.to_string(), "no route to host");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// The load failed, with this error of its own, unchanged.
    Failed(E),
    /// It took longer than the [hard time-out](super::CachedBuilder::hard_timeout). It goes on, and what it brings is
    /// kept.
    TimedOut,
}

impl<E> LoadError<E> {
    /// The load's own error.
    pub fn into_inner(self) -> Option<E> {
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
            Self::TimedOut => f.write_str("the load took too long, and goes on without this caller"),
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
