//! [`Invalidate`]: invalidates stored responses.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use http::Uri;

use super::shared::CacheShared;
use crate::base::error::Error;
use crate::base::request_head::RequestHead;
#[cfg(feature = "admin")]
use crate::cache::engine::barrier::InvalidationEffect;
use crate::cache::engine::barrier::{InvalidationScope, Prefix};
use crate::cache::engine::invalidation::Invalidation;
use crate::cache::http::glob;
use crate::cache::http::key::{CacheKey, Target};
use crate::cache::http::key_builder::KeyBuilder;
use crate::cache::http::tag;

/// Invalidates entries by tag, URL or URL prefix, or all of them, in constant time.
///
/// After a call returns, no entry is served whose fetch began before it, even if that fetch is still under way: see
/// [`cache`](crate::cache) on invalidation. A [`soft`](Self::soft) handle marks entries stale instead: they are
/// revalidated before they are served, subject to stale-while-revalidate and stale-if-error.
///
/// ```
/// use tollgate::cache::CacheLayer;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let cache = CacheLayer::in_memory(1 << 20);
/// cache.invalidate().tag("prices").await?;
/// cache.invalidate().key("https://api.example.com/prices/ACME?in=eur").await?;
/// cache.invalidate().prefix("/prices/").await?;
/// cache.invalidate().soft().all().await?;
/// assert!(cache.invalidate().tag("two words").await.is_err());
/// # Ok(()) }
/// ```
///
/// If processes share a store, the invalidation reaches all of them. If the store is unavailable, the call returns an
/// error, is effective in this process, and reaches the others once the store is back. Over a store without a log, such as
/// memcached alone, only [`key`](Self::key) with a full URL reaches them: the entry is removed, or the call returns an error
/// and is to be repeated.
#[derive(Clone)]
#[must_use]
pub struct Invalidate {
    core: Arc<CacheShared>,
    soft: bool,
}

/// Entries that an operator purges.
#[cfg(feature = "admin")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PurgeScope {
    All,
    Tag(String),
    /// A path with its query.
    Path(String),
    /// Every path that begins so.
    Prefix(String),
}

impl Invalidate {
    pub(super) const fn new(core: Arc<CacheShared>) -> Self {
        Self { core, soft: false }
    }

    /// Returns a handle that marks entries stale instead of void.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// CacheLayer::in_memory(1 << 20).invalidate().soft().tag("prices").await?;
    /// # Ok(()) }
    /// ```
    pub fn soft(mut self) -> Self {
        self.soft = true;
        self
    }

    /// Invalidates entries with this tag, compared bytewise: `*` has no special meaning.
    ///
    /// # Errors
    /// If the tag is malformed: a tag is 1 to 256 visible ASCII characters without a comma. If other processes cannot
    /// be reached.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// CacheLayer::in_memory(1 << 20).invalidate().tag("prices").await?;
    /// # Ok(()) }
    /// ```
    pub async fn tag(&self, tag: &str) -> Result<(), Error> {
        if !tag::is_valid(tag) {
            return Err(Error::config(format!("invalid tag {tag:?}")));
        }
        self.invalidate_scope(InvalidationScope::Tag(tag.into())).await
    }

    /// Invalidates the entries of one resource, every variant and identity: `https://host/path?query`, `host/path`
    /// under either scheme, or `/path?query` under any authority. Without a scheme, a host has a dot or a port, or is
    /// `localhost`.
    ///
    /// # Errors
    /// If `url` is malformed, such as a path without its slash. If other processes cannot be reached.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let cache = CacheLayer::in_memory(1 << 20);
    /// cache.invalidate().key("https://api.example.com/prices/ACME").await?;
    /// cache.invalidate().key("/prices/ACME").await?;
    /// assert!(cache.invalidate().key("prices/ACME").await.is_err());
    /// # Ok(()) }
    /// ```
    pub async fn key(&self, url: &str) -> Result<(), Error> {
        if url.starts_with('/') {
            return self.invalidate_scope(self.path_scope(url)?).await;
        }
        match split_scheme(url)? {
            (Some(scheme), rest) => self.invalidate_resource(self.resource(scheme, rest, url)?).await,
            (None, _) => {
                let plain = self.invalidate_resource(self.resource("http", url, url)?).await;
                plain.and(self.invalidate_resource(self.resource("https", url, url)?).await)
            }
        }
    }

    /// Invalidates every entry whose URL has this prefix, in the same three forms as for [`key`](Self::key). Comparison
    /// is bytewise: end it with a slash to address a directory.
    ///
    /// # Errors
    /// If the prefix is malformed. If other processes cannot be reached.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// CacheLayer::in_memory(1 << 20).invalidate().prefix("https://api.example.com/prices/").await?;
    /// # Ok(()) }
    /// ```
    pub async fn prefix(&self, prefix: &str) -> Result<(), Error> {
        if prefix.starts_with('/') {
            let path = prefix.as_bytes().into();
            return self
                .invalidate_scope(InvalidationScope::Prefix(Prefix { scheme: None, authority: None, path }))
                .await;
        }
        let (scheme, rest) = split_scheme(prefix)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let resource = self.resource(scheme.unwrap_or("http"), authority, prefix)?;
        let target = Target::of(&resource).ok_or_else(|| malformed(prefix))?;
        self.invalidate_scope(InvalidationScope::Prefix(Prefix {
            scheme: scheme.map(|scheme| scheme.to_ascii_lowercase().as_bytes().into()),
            authority: Some(target.authority.into()),
            path: path.as_bytes().into(),
        }))
        .await
    }

    /// Removes every entry whose URL matches a glob pattern, in this process and in the shared store, and returns their
    /// number. `*` matches any sequence, `?` one byte, `\\` escapes the next byte.
    ///
    /// An administrative operation: it scans every entry, in Redis by `SCAN` in steps of 128, and does not stop a fetch
    /// under way from storing its response. In a program use [`tag`](Self::tag) or [`prefix`](Self::prefix).
    ///
    /// ```
    /// # async fn example(cache: tollgate::cache::CacheLayer) -> Result<(), tollgate::Error> {
    /// let removed = cache.invalidate().matching("https://*.example.com/prices/*?in=eur").await?;
    /// println!("{removed} entries removed");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the pattern matches no URL, such as `/prices/*`: begin it with a scheme or `*`. If the shared store is unavailable;
    /// entries in this process are removed in any case.
    pub async fn matching(&self, pattern: &str) -> Result<u64, Error> {
        if !glob::may_match_url(pattern) {
            return Err(Error::config(format!("pattern {pattern:?} matches no URL; begin it with https:// or *")));
        }
        self.core.store.sweep(pattern).await
    }

    /// Returns the number of entries in this process that an invalidation of a URL prefix, or of a tag, would concern, and that
    /// of all. Costs a look at each entry.
    ///
    /// # Errors
    /// If the tag or prefix is malformed.
    #[cfg(feature = "admin")]
    pub(crate) fn preview(&self, scope: &PurgeScope) -> Result<(u64, u64), Error> {
        let scope = self.purge_scope(scope)?;
        Ok(self
            .core
            .store
            .count(&|stored| scope.applies_to(stored.key(), stored.meta().map_or(&[], |meta| &meta.tags))))
    }

    /// Purges entries for an operator, or revokes a purge that made them stale.
    ///
    /// # Errors
    /// If the tag or path is malformed. If other processes cannot be reached.
    #[cfg(feature = "admin")]
    pub(crate) async fn purge(&self, scope: &PurgeScope, effect: InvalidationEffect) -> Result<(), Error> {
        self.core.invalidate(&Invalidation::with(self.purge_scope(scope)?, effect)).await
    }

    #[cfg(feature = "admin")]
    fn purge_scope(&self, scope: &PurgeScope) -> Result<InvalidationScope, Error> {
        Ok(match scope {
            PurgeScope::All => InvalidationScope::All,
            PurgeScope::Tag(tag) => Invalidation::tag(tag)?.scope,
            PurgeScope::Path(path) => self.path_scope(path)?,
            PurgeScope::Prefix(prefix) => Invalidation::prefix(prefix)?.scope,
        })
    }

    /// Returns the scope of a path with its query under any authority.
    fn path_scope(&self, path: &str) -> Result<InvalidationScope, Error> {
        let resource = self.resource("http", &format!("any{path}"), path)?;
        let target = Target::of(&resource).ok_or_else(|| malformed(path))?;
        Ok(InvalidationScope::Path([target.path, target.query].concat().into()))
    }

    /// Invalidates everything.
    ///
    /// # Errors
    /// If other processes cannot be reached.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// CacheLayer::in_memory(1 << 20).invalidate().all().await?;
    /// # Ok(()) }
    /// ```
    pub async fn all(&self) -> Result<(), Error> {
        self.invalidate_scope(InvalidationScope::All).await
    }

    /// Applies the invalidations of a stream until it ends: those of a message queue, or of a change feed. Spawn the future,
    /// or await it. An invalidation that other processes cannot receive yet is effective in this one, and reaches them when
    /// the store is back.
    ///
    /// ```
    /// use futures_util::stream;
    /// use tollgate::cache::{CacheLayer, Invalidation};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let cache = CacheLayer::in_memory(1 << 20);
    /// let messages = stream::iter([Invalidation::tag("prices")?, Invalidation::prefix("/articles/")?.soft()]);
    /// cache.invalidate().follow(messages).await;
    /// # Ok(()) }
    /// ```
    pub async fn follow(&self, stream: impl Stream<Item = Invalidation>) {
        let mut stream = pin!(stream);
        while let Some(mut invalidation) = stream.next().await {
            if self.soft {
                invalidation = invalidation.soft();
            }
            // The guard of the store reports an outage.
            let _ = self.core.invalidate(&invalidation).await;
        }
    }

    /// Returns the clock of the cache.
    #[cfg(feature = "webhook")]
    pub(super) fn clock(&self) -> &crate::base::clock::Clock {
        &self.core.clock
    }

    /// Whether [`key`](Self::key) and [`prefix`](Self::prefix) accept this URL.
    ///
    /// # Errors
    /// If it is malformed.
    #[cfg(feature = "webhook")]
    pub(super) fn check_url(&self, url: &str) -> Result<(), Error> {
        if url.starts_with('/') {
            return self.resource("http", &format!("any{url}"), url).map(drop);
        }
        let (scheme, rest) = split_scheme(url)?;
        self.resource(scheme.unwrap_or("http"), rest, url).map(drop)
    }

    /// Invalidates a resource, and removes the value under its key.
    async fn invalidate_resource(&self, resource: Box<[u8]>) -> Result<(), Error> {
        let key = CacheKey::from_bytes(&resource, resource.len());
        if self.soft {
            return self.invalidate_scope(InvalidationScope::Resource(resource)).await;
        }
        self.core.invalidate_and_remove(&key).await
    }

    async fn invalidate_scope(&self, scope: InvalidationScope) -> Result<(), Error> {
        self.core.invalidate(&Invalidation::new(scope, self.soft)).await
    }

    /// Encodes a resource as in the keys of the route's rule.
    fn resource(&self, scheme: &str, rest: &str, url: &str) -> Result<Box<[u8]>, Error> {
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let uri: Uri = target.parse().map_err(|_| malformed(url))?;
        let mut request = http::Request::new(());
        *request.uri_mut() = uri.clone();
        let matched = self.core.rules.find(&RequestHead::of(&request));
        let rule = self.core.rules.rule(&matched);
        let mut key = KeyBuilder::new();
        key.target(scheme, authority.as_bytes(), &uri, self.core.key_parts(rule))
            .and_then(|()| key.finish())
            .map(|key| key.resource().into())
            .map_err(|_| malformed(url))
    }
}

/// Splits a URL into its scheme, if it names one, and the rest.
///
/// # Errors
/// If it begins with neither a scheme nor a host: a path without its slash would be taken for a host, and invalidate nothing.
fn split_scheme(url: &str) -> Result<(Option<&str>, &str), Error> {
    if let Some((scheme, rest)) = url.split_once("://") {
        return Ok((Some(scheme), rest));
    }
    let host = url.split(['/', '?']).next().unwrap_or_default();
    match host.contains(['.', ':']) || host.eq_ignore_ascii_case("localhost") {
        true => Ok((None, url)),
        false => Err(malformed(url)),
    }
}

fn malformed(url: &str) -> Error {
    let message = format!("cannot invalidate {url:?}: begin a path with a slash, or name a host as https://host/path");
    Error::config(message)
}

impl fmt::Debug for Invalidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidate").field("soft", &self.soft).finish_non_exhaustive()
    }
}
