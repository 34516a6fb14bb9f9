//! [`Credential`]: our own key to the upstream, put on below the cache.
//!
//! A request with `Authorization` passes a cache by, since its answer may be one user's. Our own key says nothing of any
//! user: it is the same for all. So it is added after the cache has looked, and a request that carries one already, a
//! user's, is left as it is and passes by as ever.
//!
//! An answer that is `private` is so for whose key was used. Where that is ours, we are the one it is meant for: the cache
//! is told what else it says, in a field of our own that goes no further.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

/// What a cache of this crate obeys before all else, and never passes on.
const OURS: HeaderName = HeaderName::from_static("tollgate-cache-control");

/// A client whose requests carry our key. Made by [`UpstreamGate`](crate::UpstreamGate).
#[derive(Clone)]
pub struct Credential<S> {
    inner: S,
    field: Option<(HeaderName, HeaderValue)>,
}

impl<S> Credential<S> {
    pub(crate) const fn new(inner: S, field: Option<(HeaderName, HeaderValue)>) -> Self {
        Self { inner, field }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Credential<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Credited<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let ours = match &self.field {
            Some((name, value)) if !request.headers().contains_key(name) => {
                request.headers_mut().insert(name.clone(), value.clone());
                true
            }
            _ => false,
        };
        Credited { future: self.inner.call(request), ours }
    }
}

impl<S: fmt::Debug> fmt::Debug for Credential<S> {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.field.as_ref().map(|(name, _)| name);
        f.debug_struct("Credential").field("inner", &self.inner).field("field", &name).finish()
    }
}

pin_project! {
    /// The response of a [`Credential`] service.
    #[derive(Debug)]
    pub struct Credited<F> {
        #[pin]
        future: F,
        ours: bool,
    }
}

impl<F, B, E> Future for Credited<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.future.poll(cx));
        if let (Ok(response), true) = (&mut answer, *this.ours) {
            claim(response.headers_mut());
        }
        Poll::Ready(answer)
    }
}

/// Says for our cache what an answer says to who asked: us.
fn claim(headers: &mut HeaderMap) {
    let lines = headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    let directives: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    let name = |directive: &str| directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
    if headers.contains_key(OURS) || !directives.iter().any(|directive| name(directive) == "private") {
        return;
    }
    // RFC 9111 §5.2.2: s-maxage, proxy-revalidate and private speak to shared caches, max-age and the rest to everybody.
    let spoken =
        directives.iter().filter(|d| !matches!(&*name(d), "private" | "s-maxage" | "proxy-revalidate" | "public"));
    let said = spoken.map(|directive| directive.to_ascii_lowercase()).collect::<Vec<_>>().join(", ");
    // A field without a value would not be one: "public" adds nothing here.
    let said = if said.is_empty() { "public".to_owned() } else { said };
    if let Ok(value) = HeaderValue::from_str(&said) {
        headers.insert(OURS, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_private_to_us_may_be_kept_by_us() {
        for (said, heard) in [
            ("private, max-age=60, s-maxage=60", Some("max-age=60")),
            ("Private", Some("public")),
            ("private, no-store", Some("no-store")),
            ("max-age=60", None),
            ("public, max-age=60", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(said));
            claim(&mut headers);
            assert_eq!(headers.get(OURS).map(|value| value.to_str().expect("text")), heard, "{said}");
            assert_eq!(headers[CACHE_CONTROL], said, "what users are sent is unchanged");
        }
    }
}
