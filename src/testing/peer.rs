//! [`FakePeer`]: requests that come from any address, without a socket.

use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::base::request_head::PeerAddr;

/// An address to come from: a layer for a whole service, or a mark on one request.
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
    /// A peer at this address, on port 4711.
    ///
    /// # Panics
    /// Where the text is not an address: a mistake in the test.
    #[must_use]
    #[track_caller]
    #[expect(clippy::panic, reason = "documented: a test's own mistake, found at once")]
    pub fn at(address: &str) -> Self {
        match address.parse::<IpAddr>() {
            Ok(ip) => Self(SocketAddr::new(ip, 4711)),
            Err(_) => panic!("{address:?} is not an IP address"),
        }
    }

    /// The request as if it came from this peer.
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

/// A service all of whose requests come from a [`FakePeer`].
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
