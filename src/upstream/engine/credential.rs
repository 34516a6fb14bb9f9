//! [`Credential`]: adds the gate's own credential below the cache.
//!
//! A cache is bypassed by requests with `Authorization`, because their responses may belong to one user. The gate's
//! own credential identifies no user: it is the same for all requests. It is therefore added below the cache. A
//! request that already carries a user's credential is left unchanged and bypasses the cache as usual.
//!
//! A `private` response is private to the owner of the credential. With the gate's own credential that is the gate
//! itself, so the cache receives the other directives in an internal field, which is removed before the client. The
//! same field can make the cache follow its rules only, ignoring the upstream's freshness; `no-store` is always
//! obeyed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

/// Internal field that takes precedence in this crate's cache and is never forwarded.
const INTERNAL_CACHE_CONTROL: HeaderName = HeaderName::from_static("tollgate-cache-control");

/// Client whose requests carry the gate's credential. Made by [`UpstreamGate`](crate::UpstreamGate).
///
/// ```
/// use tollgate::Tollgate;
/// use tower::Layer;
///
/// let market = Tollgate::upstream("market").bearer("our-own-key").build()?;
/// let client = market.layer().layer("a client"); // with a `Credential` around it
/// # let _ = client;
/// # Ok::<(), tollgate::Error>(())
/// ```
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
        let mut directives_for_cache = None;
        if let Some((name, value)) = self.field.as_ref().filter(|(name, _)| !request.headers().contains_key(name)) {
            request.headers_mut().insert(name.clone(), value.clone());
            directives_for_cache = Some(CacheDirectives::Owner);
        }
        if self.rules_decide {
            directives_for_cache = Some(CacheDirectives::Rules);
        }
        Credited { future: self.inner.call(request), directives_for_cache }
    }
}

impl<S: fmt::Debug> fmt::Debug for Credential<S> {
    /// Never prints the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.field.as_ref().map(|(name, _)| name);
        f.debug_struct("Credential").field("inner", &self.inner).field("field", &name).finish()
    }
}

pin_project! {
    /// Response future of a [`Credential`] service.
    ///
    /// ```
    /// use tollgate::upstream::Credited;
    ///
    /// fn boxed<F>(call: Credited<F>) -> std::pin::Pin<Box<Credited<F>>> {
///     Box::pin(call)
/// }
/// # let _ = boxed::<std::future::Ready<()>>;
    /// ```
    #[derive(Debug)]
    pub struct Credited<F> {
        #[pin]
        future: F,
        directives_for_cache: Option<CacheDirectives>,
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
        if let (Ok(response), Some(directives_for_cache)) = (&mut answer, this.directives_for_cache) {
            directives_for_cache.make(response.headers_mut());
        }
        Poll::Ready(answer)
    }
}

/// Directives sent to this crate's cache in place of the upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CacheDirectives {
    /// The directives that apply to the gate as the owner of the credential.
    Owner,
    /// Only `no-store`; otherwise the cache's rules apply.
    Rules,
}

impl CacheDirectives {
    fn make(self, headers: &mut HeaderMap) {
        let lines = headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
        let directives: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
        let name = |directive: &str| directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        let has = |wanted: &str| directives.iter().any(|directive| name(directive) == wanted);
        if headers.contains_key(INTERNAL_CACHE_CONTROL) || self == Self::Owner && !has("private") {
            return;
        }
        let kept = |directive: &&&str| match (self, &*name(directive)) {
            // RFC 9111 §5.2.2: these apply to shared caches, max-age and the rest to all caches.
            (Self::Owner, name) => !matches!(name, "private" | "s-maxage" | "proxy-revalidate" | "public"),
            (Self::Rules, name) => name == "no-store",
        };
        let directives_sent: Vec<String> =
            directives.iter().filter(kept).map(|kept| kept.to_ascii_lowercase()).collect();
        // An empty value would not be a field: "public" has no effect here.
        let directives_sent = if directives_sent.is_empty() { "public".to_owned() } else { directives_sent.join(", ") };
        if let Ok(value) = HeaderValue::from_str(&directives_sent) {
            headers.insert(INTERNAL_CACHE_CONTROL, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_private_to_the_gate_may_be_stored_and_rules_may_decide() {
        for (directives_for_cache, directives_sent, expected) in [
            (CacheDirectives::Owner, "private, max-age=60, s-maxage=60", Some("max-age=60")),
            (CacheDirectives::Owner, "Private", Some("public")),
            (CacheDirectives::Owner, "private, no-store", Some("no-store")),
            (CacheDirectives::Owner, "max-age=60", None),
            (CacheDirectives::Owner, "public, max-age=60", None),
            (CacheDirectives::Rules, "private, max-age=0, must-revalidate", Some("public")),
            (CacheDirectives::Rules, "max-age=60, No-Store", Some("no-store")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(directives_sent));
            directives_for_cache.make(&mut headers);
            assert_eq!(
                headers.get(INTERNAL_CACHE_CONTROL).map(|value| value.to_str().expect("text")),
                expected,
                "{directives_sent}"
            );
            assert_eq!(headers[CACHE_CONTROL], directives_sent, "the client receives the field unchanged");
        }
    }
}
