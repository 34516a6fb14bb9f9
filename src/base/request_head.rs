//! [`RequestHead`]: a borrowed view of a request's head, on which decisions are based.
//!
//! A [`RequestHead`] never holds `&Request<B>`: a body need not be `Sync`, and a future that kept such a borrow would
//! not be `Send`. Building one copies five references.

use std::net::SocketAddr;

use http::header::AsHeaderName;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Uri, Version};

/// Borrowed view of a request without its body.
///
/// ```
/// use tollgate::RequestHead;
///
/// let request = http::Request::get("/prices/ACME").header("x-plan", "pro").body(()).unwrap();
/// let head = RequestHead::of(&request);
/// assert_eq!(head.uri().path(), "/prices/ACME");
/// assert_eq!(head.header("x-plan").unwrap(), "pro");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    router: Option<RouterExtensions<'a>>,
    /// The route, if an outer layer of the same gate has determined it.
    route: Option<RouteKind>,
}

/// Source of a request's route, as layers that declare the same routes share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteKind {
    /// The declared route with this index.
    Declared(u32),
    /// The route that a router matched.
    Routed,
    Unknown,
}

/// Extensions of a router, looked up once.
#[derive(Clone, Copy, Debug)]
struct RouterExtensions<'a> {
    matched_path: Option<&'a str>,
    original_uri: Option<&'a Uri>,
}

impl<'a> RequestHead<'a> {
    /// Borrows the head of a request.
    #[inline]
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self::routed(request, None)
    }

    /// Borrows the head of a request, with the route that an outer layer of the same gate has determined for it.
    #[inline]
    pub(crate) fn routed<B>(request: &'a Request<B>, route: Option<RouteKind>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
            router: None,
            route,
        }
    }

    /// Returns the route, if it is known.
    #[inline]
    pub(crate) const fn route(&self) -> Option<RouteKind> {
        self.route
    }

    /// Looks up once what several decisions ask for: the extensions of a router.
    #[must_use]
    #[inline]
    pub(crate) fn with_router_extensions(self) -> Self {
        let matched_path = if self.route == Some(RouteKind::Unknown) { None } else { matched_path(&self) };
        let router = RouterExtensions { matched_path, original_uri: original_uri(&self) };
        Self { router: Some(router), ..self }
    }

    /// Returns the method.
    #[must_use]
    pub const fn method(&self) -> &'a Method {
        self.method
    }

    /// Returns the request target.
    ///
    /// ```
    /// use tollgate::RequestHead;
    ///
    /// let request = http::Request::get("/prices?currency=EUR").header("x-plan", "pro").body(()).unwrap();
    /// let head = RequestHead::of(&request);
    /// assert_eq!(head.uri().query(), Some("currency=EUR"));
    /// ```
    #[must_use]
    pub const fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// Returns the request target as sent by the client: axum's `OriginalUri` (feature `axum`) if a nested router
    /// stripped a prefix, else the target.
    #[must_use]
    pub fn original_uri(&self) -> &'a Uri {
        self.stripped_from().unwrap_or(self.uri)
    }

    /// Returns the request target as sent by the client, if a router has left it in the extensions.
    #[inline]
    pub(crate) fn stripped_from(&self) -> Option<&'a Uri> {
        self.router.map_or_else(|| original_uri(self), |router| router.original_uri)
    }

    /// Returns the HTTP version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Returns all header fields.
    #[must_use]
    pub const fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the first value of a header field.
    ///
    /// ```
    /// use tollgate::RequestHead;
    ///
    /// let request = http::Request::get("/prices?currency=EUR").header("x-plan", "pro").body(()).unwrap();
    /// let head = RequestHead::of(&request);
    /// assert_eq!(head.header("x-plan").unwrap(), "pro");
    /// ```
    pub fn header(&self, name: impl AsHeaderName) -> Option<&'a HeaderValue> {
        self.headers.get(name)
    }

    /// Returns all extensions.
    pub(crate) const fn extensions(&self) -> &'a Extensions {
        self.extensions
    }

    /// Returns the request extension of this type.
    ///
    /// ```
    /// use tollgate::RequestHead;
    ///
    /// let mut request = http::Request::new(());
    /// request.extensions_mut().insert(7_u64);
    /// assert_eq!(RequestHead::of(&request).extension::<u64>(), Some(&7));
    /// ```
    #[must_use]
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&'a T> {
        self.extensions.get::<T>()
    }

    /// Returns the socket peer: axum's `ConnectInfo<SocketAddr>` (feature `axum`), else a [`PeerAddr`] from the
    /// extensions.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer_ref().copied()
    }

    /// Borrows the [`peer`](Self::peer).
    #[inline]
    pub(crate) fn peer_ref(&self) -> Option<&'a SocketAddr> {
        connect_info(self)
            .or_else(|| self.extension::<PeerAddr>().map(|peer| &peer.0))
            .or_else(|| mock_connect_info(self))
    }

    /// Returns the pattern of the route that axum matched (feature `axum`), such as `/prices/{symbol}`.
    #[must_use]
    pub fn matched_path(&self) -> Option<&'a str> {
        self.router.map_or_else(|| matched_path(self), |router| router.matched_path)
    }
}

/// Address of the socket peer, inserted into the request's extensions by servers other than axum's.
///
/// ```
/// use tollgate::{PeerAddr, RequestHead};
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(PeerAddr("192.0.2.1:5000".parse().unwrap()));
/// assert_eq!(RequestHead::of(&request).peer().unwrap().port(), 5000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

#[cfg(feature = "axum")]
fn connect_info<'a>(head: &RequestHead<'a>) -> Option<&'a SocketAddr> {
    head.extension::<axum::extract::ConnectInfo<SocketAddr>>().map(|info| &info.0)
}

#[cfg(feature = "axum")]
fn mock_connect_info<'a>(head: &RequestHead<'a>) -> Option<&'a SocketAddr> {
    head.extension::<axum::extract::connect_info::MockConnectInfo<SocketAddr>>().map(|info| &info.0)
}

#[cfg(not(feature = "axum"))]
fn mock_connect_info<'a>(_head: &RequestHead<'a>) -> Option<&'a SocketAddr> {
    None
}

#[cfg(not(feature = "axum"))]
fn connect_info<'a>(_head: &RequestHead<'a>) -> Option<&'a SocketAddr> {
    None
}

#[cfg(feature = "axum")]
fn matched_path<'a>(head: &RequestHead<'a>) -> Option<&'a str> {
    head.extension::<axum::extract::MatchedPath>().map(|matched| matched.as_str())
}

#[cfg(not(feature = "axum"))]
fn matched_path<'a>(_head: &RequestHead<'a>) -> Option<&'a str> {
    None
}

#[cfg(feature = "axum")]
fn original_uri<'a>(head: &RequestHead<'a>) -> Option<&'a Uri> {
    head.extension::<axum::extract::OriginalUri>().map(|original| &original.0)
}

#[cfg(not(feature = "axum"))]
fn original_uri<'a>(_head: &RequestHead<'a>) -> Option<&'a Uri> {
    None
}
