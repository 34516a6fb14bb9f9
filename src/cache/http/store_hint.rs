//! [`StoreHint`]: overrides storability and lifetime from within a handler.

use std::time::Duration;

/// Response extension by which a handler controls whether and how long its response is stored.
///
/// The extension affects only this cache and is not sent. A `no-store` or `private` in the response takes precedence.
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
    pub(super) never: bool,
    pub(super) ttl: Option<Duration>,
    pub(super) tags: Vec<Box<str>>,
}

impl StoreHint {
    /// Creates a hint that leaves storability to header fields and the route's rule. Useful for adding tags.
    ///
    /// ```
    /// use tollgate::cache::StoreHint;
    ///
    /// let hint = StoreHint::from_headers().tag("prices");
    /// assert_ne!(hint, StoreHint::from_headers());
    /// ```
    #[must_use]
    pub fn from_headers() -> Self {
        Self::default()
    }

    /// Creates a hint that stores the response for `span`, regardless of its `max-age` or `Expires`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use tollgate::cache::StoreHint;
    ///
    /// let mut response = http::Response::new(());
    /// response.extensions_mut().insert(StoreHint::ttl(Duration::from_secs(15)));
    /// ```
    #[must_use]
    pub fn ttl(span: Duration) -> Self {
        Self { ttl: Some(span), ..Self::default() }
    }

    /// Creates a hint that prevents storing the response.
    ///
    /// ```
    /// use tollgate::cache::StoreHint;
    ///
    /// let mut response = http::Response::new(());
    /// response.extensions_mut().insert(StoreHint::never());
    /// ```
    #[must_use]
    pub fn never() -> Self {
        Self { never: true, ..Self::default() }
    }

    /// Adds a tag for invalidation: 1 to 256 visible ASCII characters without a comma. A response with a malformed tag
    /// is not stored ([`Reason::Tags`](crate::cache::Reason::Tags)).
    ///
    /// ```
    /// use tollgate::cache::StoreHint;
    ///
    /// let hint = StoreHint::from_headers().tag("prices").tag("symbol:ACME");
    /// # let _ = hint;
    /// ```
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Box<str>>) -> Self {
        self.tags.push(tag.into());
        self
    }
}
