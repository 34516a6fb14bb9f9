//! [`Credential`]: our own key to the upstream, put on below the cache.
//!
//! A request with `Authorization` passes a cache by, since its answer may be one user's. Our own key says nothing of
//! any
//! user: it is the same for all. So it is added after the cache has looked, and a request that carries one already, a
//! user's, is left as it is and passes by as ever.
//!
//! An answer that is `private` is so for whose key was used. Where that is ours, we are the one it is meant for: the
//! cache
//! is told what else it says, in a field of our own that goes no further. In the same way the cache can be told to go
//! by its
//! rules alone, whatever the upstream says of freshness; but `no-store` is always obeyed.

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
    rules_decide: bool,
}

impl<S> Credential<S> {
    pub(crate) const fn new(inner: S, field: Option<(HeaderName, HeaderValue)>, rules_decide: bool) -> Self {
        Self { inner, field, rules_decide }
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
        let mut claim = None;
        if let Some((name, value)) = self.field.as_ref().filter(|(name, _)| !request.headers().contains_key(name)) {
            request.headers_mut().insert(name.clone(), value.clone());
            claim = Some(Claim::Ours);
        }
        if self.rules_decide {
            claim = Some(Claim::Rules);
        }
        Credited { future: self.inner.call(request), claim }
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
        claim: Option<Claim>,
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
        if let (Ok(response), Some(claim)) = (&mut answer, this.claim) {
            claim.make(response.headers_mut());
        }
        Poll::Ready(answer)
    }
}

/// What is said to our cache in the upstream's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// What the answer says to who asked: us.
    Ours,
    /// Nothing but `no-store`: the rules decide.
    Rules,
}

impl Claim {
    fn make(self, headers: &mut HeaderMap) {
        let lines = headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
        let directives: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
        let name = |directive: &str| directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        let has = |wanted: &str| directives.iter().any(|directive| name(directive) == wanted);
        if headers.contains_key(OURS) || self == Self::Ours && !has("private") {
            return;
        }
        let kept = |directive: &&&str| match (self, &*name(directive)) {
            // RFC 9111 §5.2.2: these speak to shared caches, max-age and the rest to everybody.
            (Self::Ours, name) => !matches!(name, "private" | "s-maxage" | "proxy-revalidate" | "public"),
            (Self::Rules, name) => name == "no-store",
        };
        let said: Vec<String> = directives.iter().filter(kept).map(|kept| kept.to_ascii_lowercase()).collect();
        // A field without a value would not be one: "public" adds nothing here.
        let said = if said.is_empty() { "public".to_owned() } else { said.join(", ") };
        if let Ok(value) = HeaderValue::from_str(&said) {
            headers.insert(OURS, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_private_to_us_may_be_kept_by_us_and_rules_may_decide() {
        for (claim, said, heard) in [
            (Claim::Ours, "private, max-age=60, s-maxage=60", Some("max-age=60")),
            (Claim::Ours, "Private", Some("public")),
            (Claim::Ours, "private, no-store", Some("no-store")),
            (Claim::Ours, "max-age=60", None),
            (Claim::Ours, "public, max-age=60", None),
            (Claim::Rules, "private, max-age=0, must-revalidate", Some("public")),
            (Claim::Rules, "max-age=60, No-Store", Some("no-store")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(said));
            claim.make(&mut headers);
            assert_eq!(headers.get(OURS).map(|value| value.to_str().expect("text")), heard, "{said}");
            assert_eq!(headers[CACHE_CONTROL], said, "what users are sent is unchanged");
        }
    }
}
