//! [`DataInvalidate`]: takes typed values back.

use std::fmt;
use std::sync::Arc;

use super::key::{self, KeyPart};
use super::namespace::Namespace;
use crate::base::error::Error;
use crate::cache::engine::barrier::{InvalidationScope, Prefix};
use crate::cache::engine::engine_parts;
use crate::cache::engine::invalidation::Invalidation;

/// Voids values by key, by the beginning of keys, by tag, or all of a namespace, in constant time.
///
/// After a call has returned, no value is served whose load began before it, even if that load is still under way: see
/// [`cache`](crate::cache) on invalidation. A [`soft`](Self::soft) handle marks values stale instead. Where processes
/// share
/// a store, all of them take the values back; if the store cannot be told, the call returns an error, binds in this
/// process
/// all the same, and the others hear of it as soon as the store is back.
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
    space: Arc<Namespace>,
    soft: bool,
}

impl DataInvalidate {
    pub(super) const fn new(space: Arc<Namespace>) -> Self {
        Self { space, soft: false }
    }

    /// A handle that marks values stale instead of voiding them: they are served while they are refreshed, or where
    /// that
    /// fails, as far as the namespace's windows allow.
    pub fn soft(mut self) -> Self {
        self.soft = true;
        self
    }

    /// The value under this key.
    ///
    /// # Errors
    /// Where other processes cannot be told now.
    pub async fn key<K: KeyPart>(&self, key: K) -> Result<(), Error> {
        let key = key::key(&self.space.beginning, &key);
        self.raise(InvalidationScope::Resource(key.resource().into())).await
    }

    /// Every value whose key begins with these parts: `("user", 7)` means `("user", 7, "name")`, and not `("user",
    /// 70)`.
    ///
    /// The latest 256 beginnings are remembered apart, of keys and tags the latest 16 384; of more, the older half
    /// becomes
    /// one invalidation of everything before. Where each of many things is taken back as a whole, give each a tag.
    ///
    /// # Errors
    /// Where other processes cannot be told now.
    pub async fn prefix<K: KeyPart>(&self, beginning: K) -> Result<(), Error> {
        self.raise(self.beginning_with(key::prefix(&beginning))).await
    }

    /// Every entry that carries this tag, in whatever namespace; also responses, where they share the store.
    ///
    /// # Errors
    /// Where no entry could carry it: a tag is 1 to 256 visible ASCII characters without a comma. Where other processes
    /// cannot be told now.
    pub async fn tag(&self, tag: &str) -> Result<(), Error> {
        self.raise(Invalidation::tag(tag)?.scope).await
    }

    /// Everything in this namespace.
    ///
    /// # Errors
    /// Where other processes cannot be told now.
    pub async fn all(&self) -> Result<(), Error> {
        self.raise(self.beginning_with(Box::default())).await
    }

    fn beginning_with(&self, path: Box<[u8]>) -> InvalidationScope {
        let (scheme, authority) = (Some(key::SCHEME.into()), Some(key::authority(&self.space.name)));
        InvalidationScope::Prefix(Prefix { scheme, authority, path })
    }

    async fn raise(&self, scope: InvalidationScope) -> Result<(), Error> {
        let engine = &self.space.engine;
        engine_parts::invalidate(&*engine.store, &engine.barriers, &Invalidation::new(scope, self.soft)).await
    }
}

impl fmt::Debug for DataInvalidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataInvalidate").field("name", &self.space.name).field("soft", &self.soft).finish()
    }
}
