//! Ready-made identities, read as "limit *by* client IP".
//!
//! | identity | answers when | trust it | the request carries a credential when |
//! |---|---|---|---|
//! | [`client_ip`] | the socket peer is known | always; behind a proxy, with [`TrustedProxies`] | never |
//! | [`peer_from`] | a server's own connection type is in the extensions | as above | never |
//! | [`extension`], [`extension_with`] | an earlier layer left a value | as much as that layer | the extension is there |
//! | [`bearer`], [`header`] | the request shows exactly one | only if something verifies it: unverified tokens can be forged | the field is there, even twice or malformed |
//! | [`verify`] | your closure verifies the credential, once for a time | as much as your closure | the credential says so |
//! | [`resolve`] | your closure says so, at once or later | as much as your closure | [`carried_where`](super::Resolve::carried_where) says so; always, without it |
//! | [`func`] | your closure says so | as much as your closure | [`carried_where`](super::Func::carried_where) says so; always, without it |

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::client::ClientIp;
use super::extract::{Func, Identity, KeyExtractor};
use super::extracted_keys::ExtractedKeys;
use super::key::Key;
use super::proxy::TrustedProxies;
use super::resolve::Resolve;
use super::verify::Verify;
use crate::base::maybe_ready::MaybeReady;
use crate::base::request_head::RequestHead;

/// The client's address: the socket peer, or what trusted proxies say of it. IPv6 counts by /64.
///
/// The peer is axum's `ConnectInfo<SocketAddr>` (serve with `into_make_service_with_connect_info`) or a
/// [`PeerAddr`](crate::PeerAddr). If it is missing, the layer warns once and such requests share one bucket.
///
/// ```
/// use tollgate::identity::{TrustedProxies, by};
///
/// let direct = by::client_ip(TrustedProxies::none());
/// let behind_nginx = by::client_ip(TrustedProxies::cidrs(["10.0.0.0/8"]));
/// # let _ = (direct, behind_nginx);
/// ```
#[must_use]
pub fn client_ip(proxies: TrustedProxies) -> ClientIp {
    ClientIp::new(proxies)
}

/// The client's address, with the socket peer read from an extension, such as tonic's `TcpConnectInfo`.
/// Add [`ClientIp::behind`] for proxies.
///
/// ```
/// use std::net::SocketAddr;
/// use tollgate::identity::by;
///
/// #[derive(Clone)]
/// struct TlsPeer { addr: SocketAddr }
/// let who = by::peer_from(|peer: &TlsPeer| Some(peer.addr));
/// # let _ = who;
/// ```
pub fn peer_from<T, F>(f: F) -> ClientIp
where
    T: Send + Sync + 'static,
    F: Fn(&T) -> Option<SocketAddr> + Send + Sync + 'static,
{
    ClientIp::new(TrustedProxies::none()).with_peer(move |head| head.extension::<T>().and_then(&f))
}

/// The `Authorization: Bearer …` token. Two `Authorization` lines, or another scheme, are no answer.
///
/// Unverified tokens can be forged: put an authentication layer outside and use [`extension`], or let
/// [`Tiers::assign`](crate::limit::Tiers::assign) return `None` for unknown tokens, so that they fall back to the client's
/// address. RFC 6750 §2.1.
///
/// ```
/// use tollgate::identity::{KeyExtractor, TrustedProxies, by};
///
/// let who = by::bearer().or(by::client_ip(TrustedProxies::none()));
/// # let _ = who;
/// ```
#[must_use]
pub fn bearer() -> Bearer {
    Bearer(())
}

/// Made by [`bearer`].
///
/// ```
/// use tollgate::identity::by;
///
/// let token: by::Bearer = by::bearer();
/// # let _ = token;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Bearer(());

impl KeyExtractor for Bearer {
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        let value = only(head, &AUTHORIZATION)?;
        let (scheme, token) = value.split_at_checked(7)?;
        let token = token.trim_ascii();
        (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then(|| Key::bytes("bearer", token))
    }

    fn extract_once<'a>(&self, head: &RequestHead<'a>, _keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        self.extract(head)
    }

    fn carries(&self, head: &RequestHead<'_>) -> bool {
        head.headers().contains_key(AUTHORIZATION)
    }

    fn describe(&self) -> String {
        "the bearer token".to_owned()
    }
}

/// The value of this header field, such as an API key; no answer if it is missing or sent twice.
///
/// ```
/// use tollgate::identity::by;
///
/// let who = by::header("x-api-key");
/// # let _ = who;
/// ```
///
/// # Panics
/// If `name` is not a lower-case field name: a mistake in the program, found when it starts.
#[must_use]
pub fn header(name: &'static str) -> Header {
    Header(HeaderName::from_static(name), name)
}

/// Made by [`header`].
///
/// ```
/// use tollgate::identity::by;
///
/// let key: by::Header = by::header("x-api-key");
/// # let _ = key;
/// ```
#[derive(Clone, Debug)]
pub struct Header(HeaderName, &'static str);

impl KeyExtractor for Header {
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        Some(Key::field(self.1, only(head, &self.0)?))
    }

    fn extract_once<'a>(&self, head: &RequestHead<'a>, _keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        self.extract(head)
    }

    fn carries(&self, head: &RequestHead<'_>) -> bool {
        head.headers().contains_key(&self.0)
    }

    fn describe(&self) -> String {
        format!("header {:?}", self.1)
    }
}

/// The field's value where it came exactly once: two credentials are no credential.
fn only<'a>(head: &RequestHead<'a>, name: &HeaderName) -> Option<&'a [u8]> {
    let mut lines = head.headers().get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

/// Value that an earlier layer inserted into the request's extensions, such as the verified user.
///
/// ```
/// use tollgate::identity::{Identity, Key, TrustedProxies, by};
/// use tollgate::identity::KeyExtractor;
///
/// #[derive(Clone)]
/// struct UserId(u64);
/// impl Identity for UserId {
///     fn key(&self) -> Key<'_> {
///         Key::number("user", self.0)
///     }
/// }
/// let who = by::extension::<UserId>().or(by::client_ip(TrustedProxies::none()));
/// # let _ = who;
/// ```
#[must_use]
pub fn extension<T: Identity>() -> Extension<T> {
    Extension(PhantomData)
}

/// Made by [`extension`].
///
/// ```
/// use tollgate::identity::by;
///
/// let user: by::Extension<u64> = by::extension();
/// # let _ = user;
/// ```
pub struct Extension<T>(PhantomData<fn() -> T>);

impl<T: Identity> KeyExtractor for Extension<T> {
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        head.extension::<T>().map(Identity::key)
    }

    fn extract_once<'a>(&self, head: &RequestHead<'a>, _keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        self.extract(head)
    }

    fn carries(&self, head: &RequestHead<'_>) -> bool {
        head.extension::<T>().is_some()
    }

    fn describe(&self) -> String {
        format!("extension {:?}", std::any::type_name::<T>())
    }
}

impl<T> Clone for Extension<T> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<T> fmt::Debug for Extension<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Extension(..)")
    }
}

/// Value that an earlier layer inserted into the extensions, turned into a key by a closure.
///
/// ```
/// use tollgate::identity::{Key, by};
///
/// #[derive(Clone)]
/// struct Session { tenant: String }
/// let who = by::extension_with(|session: &Session| Some(Key::text("tenant", session.tenant.clone())));
/// # let _ = who;
/// ```
pub fn extension_with<T, F>(f: F) -> Func<impl for<'a> Fn(&RequestHead<'a>) -> Option<Key<'a>> + Send + Sync + 'static>
where
    T: Send + Sync + 'static,
    F: Fn(&T) -> Option<Key<'static>> + Send + Sync + 'static,
{
    func(move |head| head.extension::<T>().and_then(&f)).carried_where(|head| head.extension::<T>().is_some())
}

/// The result of a closure, which returns `None` for requests without an identity.
///
/// ```
/// use tollgate::identity::{Key, by};
///
/// let who = by::func(|head| Some(Key::bytes("tenant", head.header("x-tenant")?.as_bytes())));
/// # let _ = who;
/// ```
pub fn func<F>(f: F) -> Func<F>
where
    F: for<'a> Fn(&RequestHead<'a>) -> Option<Key<'a>> + Send + Sync + 'static,
{
    Func::new(f)
}

/// The result of a closure that may have to wait for it, such as a look-up of a session in a database.
///
/// A request waits for a pending key at most for the [`deadline`](Resolve::deadline). A key that does not come, because the
/// future returns `None`, is late or panics, is no answer: limits ask the next alternative, and the cache bypasses. The closure
/// runs once a request, also behind a [`Tollgate`](crate::Tollgate) whose limits and cache both ask for the identity, and only
/// if one of them does. A key that is [`Ready`](MaybeReady::Ready) costs neither a box nor a wait.
///
/// ```
/// use std::time::Duration;
/// use tollgate::MaybeReady;
/// use tollgate::identity::{Key, KeyExtractor, TrustedProxies, by};
///
/// # #[derive(Clone)] struct Sessions;
/// # impl Sessions {
/// #     fn cached(&self, _: &str) -> Option<u64> { None }
/// #     async fn load(&self, _: String) -> Option<u64> { Some(7) }
/// # }
/// # let sessions = Sessions;
/// let session = by::resolve(move |head| {
///     let Some(id) = head.header("x-session").and_then(|id| id.to_str().ok()) else {
///         return MaybeReady::Ready(None);
///     };
///     if let Some(user) = sessions.cached(id) {
///         return MaybeReady::Ready(Some(Key::number("user", user)));
///     }
///     let (sessions, id) = (sessions.clone(), id.to_owned());
///     MaybeReady::Pending(Box::pin(async move { Some(Key::number("user", sessions.load(id).await?)) }))
/// });
/// let who = session
///     .deadline(Duration::from_millis(50))
///     .carried_where(|head| head.headers().contains_key("x-session"))
///     .or(by::client_ip(TrustedProxies::none()));
/// # let _ = who;
/// ```
pub fn resolve<F>(f: F) -> Resolve<F>
where
    F: for<'a> Fn(&RequestHead<'a>) -> MaybeReady<Option<Key<'static>>> + Send + Sync + 'static,
{
    Resolve::new(f)
}

/// The user whose credential is verified by a closure, such as one that asks a database.
///
/// The closure runs once a credential: its `Ok(Some(user))` is remembered for the [`ttl`](Verify::ttl), its `Ok(None)` for the
/// [`negative_ttl`](Verify::negative_ttl), an error not at all. Requests of one credential that arrive meanwhile wait for the same
/// run, at most for the [`deadline`](Verify::deadline); without a user, limits ask the next alternative.
///
/// Around the limits of a layer or gate, every request is verified before they decide, and what was found is left in its
/// extensions: for [`Tiers::assign`](crate::limit::Tiers::assign) and for handlers. The user does not pass
/// through a layer without limits.
///
/// ```
/// use std::convert::Infallible;
/// use tollgate::identity::{Identity, Key, KeyExtractor, TrustedProxies, by};
/// use tollgate::{Tollgate, limit::Tiers};
///
/// #[derive(Clone)]
/// struct User { id: u64, plan: &'static str }
/// impl Identity for User {
///     fn key(&self) -> Key<'_> { Key::number("user", self.id) }
/// }
/// # async fn load(token: &str) -> Option<User> { (token == "secret").then_some(User { id: 7, plan: "pro" }) }
/// let user = by::verify(by::bearer(), |token: String| async move { Ok::<Option<User>, Infallible>(load(&token).await) });
/// let gate = Tollgate::builder()
///     .identify(user.or(by::client_ip(TrustedProxies::none())))
///     .limit(Tiers::default().assign(|head| head.extension::<User>().map(|user| user.plan)))
///     .build()?;
/// # let _ = gate;
/// # Ok::<(), tollgate::Error>(())
/// ```
pub fn verify<X, F, Fut, T, E>(credential: X, verify: F) -> Verify<X>
where
    X: KeyExtractor,
    F: Fn(String) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<T>, E>> + Send + 'static,
    T: Identity + Clone,
{
    Verify::new(credential, verify)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extracted(who: &impl KeyExtractor, lines: &[(&str, &[u8])]) -> bool {
        let mut request = http::Request::new(());
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            request.headers_mut().append(name, http::HeaderValue::from_bytes(value).expect("a value"));
        }
        who.extract(&RequestHead::of(&request)).is_some()
    }

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        assert!(extracted(&bearer(), &[("authorization", b"Bearer abc")]));
        assert!(extracted(&bearer(), &[("authorization", b"bEARER  abc ")]));
        assert!(extracted(&bearer(), &[("authorization", b"Bearer \xff\xfe")]));
    }

    #[test]
    fn no_token_other_schemes_and_two_credentials_are_anonymous() {
        for value in [&b"Bearer "[..], b"Bearer", b"Basic abc", b"", b"Bearerabc"] {
            assert!(!extracted(&bearer(), &[("authorization", value)]), "{value:?}");
        }
        assert!(!extracted(&bearer(), &[("authorization", b"Bearer a"), ("authorization", b"Bearer b")]));
        assert!(!extracted(&header("x-api-key"), &[("x-api-key", b"a"), ("x-api-key", b"a")]));
    }

    #[test]
    fn an_api_key_may_be_empty_long_or_not_utf8() {
        let long = vec![b'k'; 64 * 1024];
        for value in [&b""[..], b"\xff", &long] {
            assert!(extracted(&header("x-api-key"), &[("x-api-key", value)]));
        }
    }
}
