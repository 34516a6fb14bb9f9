//! [`FakePeer`]: sets the peer address of requests, without a socket.

use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::base::request_head::PeerAddr;

/// Fake peer address: a layer for a whole service, or a mark on one request.
///
/// ```
/// use tollgate::RequestHead;
/// use tollgate::testing::FakePeer;
///
/// let request = FakePeer::at("2001:db8::1").mark(http::Request::new(()));
/// assert_eq!(RequestHead::of(&request).peer().unwrap().ip().to_string(), "2001:db8::1");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FakePeer(SocketAddr);

impl FakePeer {
    /// Creates a peer with this IP address, on port 4711.
    ///
    /// # Panics
    /// If the text is not an IP address.
    ///
    /// # Examples
    /// ```
    /// use tollgate::testing::FakePeer;
    ///
    /// let peer = FakePeer::at("192.0.2.1");
    /// # let _ = peer;
    /// ```
    #[must_use]
    #[track_caller]
    #[expect(clippy::panic, reason = "documented: a test's own mistake, found at once")]
    pub fn at(address: &str) -> Self {
        match address.parse::<IpAddr>() {
            Ok(ip) => Self(SocketAddr::new(ip, 4711)),
            Err(_) => panic!("{address:?} is not an IP address"),
        }
    }

    /// Sets the peer address of a request.
    ///
    /// ```
    /// use tollgate::testing::FakePeer;
    ///
    /// let request = FakePeer::at("192.0.2.1").mark(http::Request::new(()));
    /// # let _ = request;
    /// ```
    #[must_use]
    pub fn mark<B>(self, mut request: Request<B>) -> Request<B> {
        request.extensions_mut().insert(PeerAddr(self.0));
        request
    }
}

impl<S> Layer<S> for FakePeer {
    type Service = FromPeer<S>;

    fn layer(&self, inner: S) -> FromPeer<S> {
        FromPeer { inner, peer: *self }
    }
}

/// Service that sets the peer address of every request to that of a [`FakePeer`].
///
/// ```
/// use tollgate::testing::{FakePeer, FromPeer};
/// use tower::Layer;
///
/// let service: FromPeer<&str> = FakePeer::at("192.0.2.1").layer("the inner service");
/// # let _ = service;
/// ```
#[derive(Clone, Debug)]
pub struct FromPeer<S> {
    inner: S,
    peer: FakePeer,
}

impl<S, B> Service<Request<B>> for FromPeer<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        self.inner.call(self.peer.mark(request))
    }
}
