//! [`Invalidation`]: scope of an invalidation, encodable for other processes.

use super::barrier::{InvalidationEffect, InvalidationScope, Prefix};
use crate::base::codec::{Reader, Writer};

const TAG: u8 = 0;
const RESOURCE: u8 = 1;
const PATH: u8 = 2;
const PREFIX: u8 = 3;
const ALL: u8 = 4;
const SOFT: u8 = 0x80;
/// With [`SOFT`]: until revoked. Alone: the revocation.
const REVOCABLE: u8 = 0x40;

/// Invalidates entries by tag, URL or prefix, or all entries. A store shared by several processes distributes it: see
/// [`CacheStore::invalidate`](crate::cache::CacheStore::invalidate).
///
/// ```
/// use tollgate::cache::Invalidation;
///
/// let prices = Invalidation::tag("prices")?;
/// assert_eq!(Invalidation::from_bytes(&prices.to_bytes()), Some(prices));
/// assert_eq!(Invalidation::from_bytes(b"anything else"), None);
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalidation {
    pub(crate) scope: InvalidationScope,
    pub(super) effect: InvalidationEffect,
}

impl Invalidation {
    pub(crate) const fn new(scope: InvalidationScope, soft: bool) -> Self {
        let effect = if soft { InvalidationEffect::Stale } else { InvalidationEffect::Void };
        Self { scope, effect }
    }

    #[cfg(feature = "admin")]
    pub(crate) const fn with(scope: InvalidationScope, effect: InvalidationEffect) -> Self {
        Self { scope, effect }
    }

    /// Creates an invalidation of the entries with this tag.
    ///
    /// # Errors
    /// If the tag is malformed: a tag is 1 to 256 visible ASCII characters without a comma.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::Invalidation;
    ///
    /// assert!(Invalidation::tag("prices").is_ok());
    /// assert!(Invalidation::tag("two words").is_err());
    /// ```
    pub fn tag(tag: &str) -> Result<Self, crate::Error> {
        if !crate::cache::http::tag::is_valid(tag) {
            return Err(crate::Error::config(format!(
                "invalid tag {tag:?}; use 1 to 256 visible ASCII characters without a comma"
            )));
        }
        Ok(Self::new(InvalidationScope::Tag(tag.into()), false))
    }

    /// Creates an invalidation of this path and query under any authority: `/articles/7?full=1`.
    ///
    /// # Errors
    /// If it does not begin with a slash.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::Invalidation;
    ///
    /// assert!(Invalidation::path("/articles/7").is_ok());
    /// assert!(Invalidation::path("articles").is_err());
    /// ```
    pub fn path(path: &str) -> Result<Self, crate::Error> {
        Ok(Self::new(InvalidationScope::Path(absolute(path)?), false))
    }

    /// Creates an invalidation of everything whose path begins so, under any authority: `/articles/`.
    ///
    /// # Errors
    /// If it does not begin with a slash.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::Invalidation;
    ///
    /// assert!(Invalidation::prefix("/articles/").is_ok());
    /// ```
    pub fn prefix(prefix: &str) -> Result<Self, crate::Error> {
        let path = absolute(prefix)?;
        Ok(Self::new(InvalidationScope::Prefix(Prefix { scheme: None, authority: None, path }), false))
    }

    /// Makes entries stale instead of void: they are revalidated before they are served.
    ///
    /// ```
    /// use tollgate::cache::Invalidation;
    ///
    /// assert!(Invalidation::all().soft().is_soft());
    /// ```
    #[must_use]
    pub fn soft(mut self) -> Self {
        self.effect = InvalidationEffect::Stale;
        self
    }

    /// Creates an invalidation of everything.
    ///
    /// ```
    /// use tollgate::cache::Invalidation;
    ///
    /// assert!(!Invalidation::all().is_soft());
    /// ```
    #[must_use]
    pub const fn all() -> Self {
        Self::new(InvalidationScope::All, false)
    }

    /// Whether entries become stale instead of void.
    ///
    /// ```
    /// use tollgate::cache::Invalidation;
    ///
    /// assert!(!Invalidation::tag("prices")?.is_soft());
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub const fn is_soft(&self) -> bool {
        !matches!(self.effect, InvalidationEffect::Void)
    }

    /// Encodes the invalidation in a format that is stable across versions of this crate.
    ///
    /// ```
    /// use tollgate::cache::Invalidation;
    ///
    /// let bytes = Invalidation::all().to_bytes();
    /// assert_eq!(Invalidation::from_bytes(&bytes), Some(Invalidation::all()));
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        let effect = match self.effect {
            InvalidationEffect::Void => 0,
            InvalidationEffect::Stale => SOFT,
            InvalidationEffect::StaleUntilRevoked => SOFT | REVOCABLE,
            InvalidationEffect::Revoked => REVOCABLE,
        };
        match &self.scope {
            InvalidationScope::Tag(tag) => {
                out.u8(TAG | effect);
                out.bytes(tag.as_bytes());
            }
            InvalidationScope::Resource(resource) => {
                out.u8(RESOURCE | effect);
                out.bytes(resource);
            }
            InvalidationScope::Path(path) => {
                out.u8(PATH | effect);
                out.bytes(path);
            }
            InvalidationScope::Prefix(prefix) => {
                out.u8(PREFIX | effect);
                out.maybe(prefix.scheme.as_deref());
                out.maybe(prefix.authority.as_deref());
                out.bytes(&prefix.path);
            }
            InvalidationScope::All => out.u8(ALL | effect),
        }
        out.0
    }

    /// Decodes [`to_bytes`](Self::to_bytes); `None` for anything else.
    ///
    /// ```
    /// use tollgate::cache::Invalidation;
    ///
    /// assert_eq!(Invalidation::from_bytes(b"anything else"), None);
    /// ```
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let kind = reader.u8()?;
        let scope = match kind & !(SOFT | REVOCABLE) {
            TAG => InvalidationScope::Tag(reader.text()?.into()),
            RESOURCE => InvalidationScope::Resource(reader.bytes()?.into()),
            PATH => InvalidationScope::Path(reader.bytes()?.into()),
            PREFIX => {
                let (scheme, authority) = (reader.maybe()?.map(Box::from), reader.maybe()?.map(Box::from));
                InvalidationScope::Prefix(Prefix { scheme, authority, path: reader.bytes()?.into() })
            }
            ALL => InvalidationScope::All,
            _ => return None,
        };
        reader.end()?;
        let effect = match (kind & SOFT != 0, kind & REVOCABLE != 0) {
            (false, false) => InvalidationEffect::Void,
            (true, false) => InvalidationEffect::Stale,
            (true, true) => InvalidationEffect::StaleUntilRevoked,
            (false, true) => InvalidationEffect::Revoked,
        };
        Some(Self { scope, effect })
    }
}

fn absolute(path: &str) -> Result<Box<[u8]>, crate::Error> {
    match path.starts_with('/') {
        true => Ok(path.as_bytes().into()),
        false => Err(crate::Error::config(format!("invalid path {path:?}; begin it with a slash"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_scopes_round_trip_and_foreign_bytes_are_rejected() {
        let prefix = |scheme: Option<&[u8]>, authority: Option<&[u8]>| {
            InvalidationScope::Prefix(Prefix {
                scheme: scheme.map(Box::from),
                authority: authority.map(Box::from),
                path: b"/a"[..].into(),
            })
        };
        let abouts = [
            InvalidationScope::Tag("*".into()),
            InvalidationScope::Resource(b"\0\x01"[..].into()),
            InvalidationScope::Path(b"/a?b"[..].into()),
            prefix(None, None),
            prefix(Some(b"http"), Some(b"h")),
            InvalidationScope::All,
        ];
        use InvalidationEffect::{Revoked, Stale, StaleUntilRevoked, Void};
        let effects = [Void, Stale, StaleUntilRevoked, Revoked];
        for (scope, effect) in abouts.into_iter().flat_map(|scope| effects.map(|effect| (scope.clone(), effect))) {
            let sent = Invalidation { scope, effect };
            let bytes = sent.to_bytes();
            assert_eq!(Invalidation::from_bytes(&bytes), Some(sent));
            for length in 0..bytes.len() {
                assert_eq!(Invalidation::from_bytes(&bytes[..length]), None, "cut at {length}");
            }
            assert_eq!(Invalidation::from_bytes(&[&bytes[..], b"x"].concat()), None);
        }
    }
}
