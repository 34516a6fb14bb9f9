//! [`DataInvalidate`]: invalidates typed values.

use std::fmt;
use std::sync::Arc;

use super::key::{self, KeyPart};
use super::namespace::Namespace;
use crate::base::error::Error;
use crate::cache::engine::barrier::{InvalidationScope, Prefix};
use crate::cache::engine::cache_engine;
use crate::cache::engine::invalidation::Invalidation;

/// Invalidates values by key, key prefix or tag, or all of a namespace, in constant time.
///
/// After a call returns, no value is served whose load began before it, even if that load is still under way: see
/// [`cache`](crate::cache) on invalidation. A [`soft`](Self::soft) handle marks values stale instead. If processes
/// share a store, the invalidation reaches all of them; if the store is unavailable, the call returns an error, is
/// effective in this process, and reaches the others once the store is back.
///
/// ```
/// use tollgate::cache::{Cached, DataCache};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
/// users.put(("user", 7, "name"), "Ada".to_owned()).await?;
/// users.invalidate().prefix(("user", 7)).await?;
/// assert!(users.get(("user", 7, "name")).await.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct DataInvalidate {
    namespace: Arc<Namespace>,
    soft: bool,
}

impl DataInvalidate {
    pub(super) const fn new(namespace: Arc<Namespace>) -> Self {
        Self { namespace, soft: false }
    }

    /// Returns a handle that marks values stale instead of void. They are served while they are refreshed, or if that
    /// fails, within the namespace's stale windows.
    ///
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// users.invalidate().soft().all().await?;
    /// # Ok(()) }
    /// ```
    pub fn soft(mut self) -> Self {
        self.soft = true;
        self
    }

    /// Invalidates the value under this key.
    ///
    /// # Errors
    /// If other processes cannot be reached.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// users.invalidate().key(("user", 7)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn key<K: KeyPart>(&self, key: K) -> Result<(), Error> {
        let key = key::key(&self.namespace.key_prefix, &key);
        if self.soft {
            return self.invalidate_scope(InvalidationScope::Resource(key.resource().into())).await;
        }
        let engine = &self.namespace.engine;
        cache_engine::invalidate_and_remove(&*engine.store, &engine.barriers, &key, true).await
    }

    /// Invalidates every value whose key begins with these parts: `("user", 7)` covers `("user", 7, "name")`, and not
    /// `("user", 70)`.
    ///
    /// Barriers are bounded: beyond 256 prefixes the older half becomes one invalidation of everything
    /// before. To invalidate many groups separately, give each a tag.
    ///
    /// # Errors
    /// If other processes cannot be reached.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// users.invalidate().prefix(("user", 7)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn prefix<K: KeyPart>(&self, parts: K) -> Result<(), Error> {
        self.invalidate_scope(self.prefix_scope(key::prefix(&parts))).await
    }

    /// Invalidates every entry with this tag, in any namespace; also responses in the same store.
    ///
    /// # Errors
    /// If the tag is malformed: a tag is 1 to 256 visible ASCII characters without a comma. If other processes cannot
    /// be reached.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").tag("people").build()?;
    /// users.invalidate().tag("people").await?;
    /// # Ok(()) }
    /// ```
    pub async fn tag(&self, tag: &str) -> Result<(), Error> {
        self.invalidate_scope(Invalidation::tag(tag)?.scope).await
    }

    /// Invalidates everything in this namespace.
    ///
    /// # Errors
    /// If other processes cannot be reached.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// users.invalidate().all().await?;
    /// # Ok(()) }
    /// ```
    pub async fn all(&self) -> Result<(), Error> {
        self.invalidate_scope(self.prefix_scope(Box::default())).await
    }

    fn prefix_scope(&self, path: Box<[u8]>) -> InvalidationScope {
        let (scheme, authority) = (Some(key::SCHEME.into()), Some(key::authority(&self.namespace.name)));
        InvalidationScope::Prefix(Prefix { scheme, authority, path })
    }

    async fn invalidate_scope(&self, scope: InvalidationScope) -> Result<(), Error> {
        let engine = &self.namespace.engine;
        cache_engine::invalidate(&*engine.store, &engine.barriers, &Invalidation::new(scope, self.soft)).await
    }
}

impl fmt::Debug for DataInvalidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataInvalidate").field("name", &self.namespace.name).field("soft", &self.soft).finish()
    }
}
