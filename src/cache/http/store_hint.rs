//! [`StoreHint`]: the handler's own word on whether and how long its response is kept.

use std::time::Duration;

/// Left by a handler in the response's extensions, where it knows better than fields and rules.
///
/// It speaks to this cache alone: nothing of it is sent. A `no-store` or `private` in the response still wins.
///
/// ```
/// use std::time::Duration;
/// use tollgate::cache::StoreHint;
///
/// let mut response = http::Response::new("price");
/// response.extensions_mut().insert(StoreHint::ttl(Duration::from_secs(15)).tag("prices"));
/// # let mut other = http::Response::new("basket");
/// other.extensions_mut().insert(StoreHint::never());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreHint {
    pub(crate) never: bool,
    pub(crate) ttl: Option<Duration>,
    pub(crate) tags: Vec<Box<str>>,
}

impl StoreHint {
    /// Keep it as its fields and the route's rule say. For adding tags.
    #[must_use]
    pub fn from_headers() -> Self {
        Self::default()
    }

    /// Keep it this long, whatever its `max-age` or `Expires` says to others.
    #[must_use]
    pub fn ttl(span: Duration) -> Self {
        Self { ttl: Some(span), ..Self::default() }
    }

    /// Do not keep it.
    #[must_use]
    pub fn never() -> Self {
        Self { never: true, ..Self::default() }
    }

    /// Adds a tag to invalidate it by: 1 to 256 visible ASCII characters without a comma. A response with a malformed
    /// tag is not stored ([`Reason::Tags`](crate::cache::Reason::Tags)).
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Box<str>>) -> Self {
        self.tags.push(tag.into());
        self
    }
}
