//! [`KeyExtractor`]: extracts an identity from a request, and its combinators.

use std::fmt;
use std::sync::Arc;

use super::client::ClientIp;
use super::extracted_keys::ExtractedKeys;
use super::key::Key;
use crate::base::error::Error;
use crate::base::request_head::RequestHead;

/// Extracts the identity of a request.
///
/// Any closure `Fn(&RequestHead<'a>) -> Option<Key<'a>>` is one, through [`by::func`](crate::identity::by::func). `None`
/// means that the request has no such identity: the next alternative is asked.
///
/// ```
/// use tollgate::RequestHead;
/// use tollgate::identity::{Key, KeyExtractor, by};
///
/// let who = by::header("x-tenant").or(by::func(|_| Some(Key::text("everybody", ""))));
/// let request = http::Request::get("/").body(()).unwrap();
/// assert_eq!(who.extract(&RequestHead::of(&request)), Some(Key::text("everybody", "")));
/// ```
pub trait KeyExtractor: Send + Sync + 'static {
    /// Returns the identity of this request, if it has one.
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>>;

    /// Whether the request carries a credential of the kind this extractor reads, be it valid, doubled, malformed or
    /// rejected. A cache shares no answer to such a request, unless a rule says how
    /// ([`same_for_everyone`](crate::cache::Rule::same_for_everyone), [`per_identity`](crate::cache::Rule::per_identity)).
    ///
    /// Extraction does not decide this: a credential that is sent twice identifies no one here, and may well identify
    /// somebody to the service. Unless an extractor says otherwise, every request carries one.
    fn carries(&self, head: &RequestHead<'_>) -> bool {
        let _ = head;
        true
    }

    /// Checks the configuration, once, when a layer is built.
    ///
    /// # Errors
    /// Names the value that is wrong.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Describes what it reads, for warnings: `header "x-api-key"`. Defaults to "its identity".
    fn describe(&self) -> String {
        "its identity".to_owned()
    }

    /// Reports misconfigurations that a request reveals, as a stable code and a message. Called for the first requests only;
    /// each code is warned about once.
    fn inspect(&self, head: &RequestHead<'_>, report: &mut dyn FnMut(&'static str, &str)) {
        let _ = (head, report);
    }

    /// Asks `other` if this one has no answer.
    ///
    /// ```
    /// use tollgate::identity::{KeyExtractor, TrustedProxies, by};
    ///
    /// let who = by::header("x-api-key").or(by::client_ip(TrustedProxies::none()));
    /// # let _ = who;
    /// ```
    fn or<O: KeyExtractor>(self, other: O) -> Or<Self, O>
    where
        Self: Sized,
    {
        Or { first: self, second: other }
    }

    /// Combines both identities into one key, such as a user at an address; `None` if either is missing.
    ///
    /// ```
    /// use tollgate::identity::{KeyExtractor, TrustedProxies, by};
    ///
    /// let who = by::header("x-api-key").and(by::client_ip(TrustedProxies::none()));
    /// # let _ = who;
    /// ```
    fn and<O: KeyExtractor>(self, other: O) -> And<Self, O>
    where
        Self: Sized,
    {
        And { first: self, second: other }
    }

    /// [`extract`](Self::extract), at most once a request if it finds a key. For this crate's layers: `keys` belong to the
    /// request of `head`.
    #[doc(hidden)]
    fn extract_once<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        if let Some(known) = keys.known(self) {
            return known;
        }
        let key = self.extract(head)?.keep();
        keys.insert(self, key.clone());
        Some(key)
    }

    /// The identity to count by if the first one has no tier: the last alternative, usually the client's address.
    #[doc(hidden)]
    fn fallback<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        self.extract_once(head, keys)
    }

    /// The identity by which a cache may keep answers apart: [`extract`](Self::extract), but nothing where a credential is
    /// carried that yields no identity, or several are.
    #[doc(hidden)]
    fn credential<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        self.extract_once(head, keys)
    }

    /// Whether it leaves a verified identity in the request's extensions: it is then asked for every request.
    #[doc(hidden)]
    fn verifies(&self) -> bool {
        false
    }

    /// The extractor behind [`fallback`](Self::fallback) if that is a client's address. Affects speed only.
    #[doc(hidden)]
    fn client_ip(&self) -> Option<&ClientIp> {
        None
    }
}

/// Type that is itself an identity: implement it for what your authentication layer inserts into the extensions, and use
/// [`by::extension`](crate::identity::by::extension).
///
/// ```
/// use tollgate::identity::{Identity, Key};
///
/// #[derive(Clone)]
/// struct User { id: u64 }
///
/// impl Identity for User {
///     fn key(&self) -> Key<'_> {
///         Key::number("user", self.id)
///     }
/// }
///
/// assert_eq!(User { id: 7 }.key(), Key::number("user", 7));
/// ```
pub trait Identity: Send + Sync + 'static {
    /// This value as a key.
    fn key(&self) -> Key<'_>;
}

impl Identity for String {
    fn key(&self) -> Key<'_> {
        Key::text("user", self.as_str())
    }
}

impl Identity for u64 {
    fn key(&self) -> Key<'_> {
        Key::number("user", *self)
    }
}

/// Text of the error where a builder is given two identities.
pub(crate) const IDENTIFIED_TWICE: &str = "the identity is set twice; combine both with .or(…) or .and(…)";

/// An extractor of any type, shared.
pub(crate) type SharedExtractor = Arc<dyn KeyExtractor>;

impl<E: KeyExtractor + ?Sized> KeyExtractor for Arc<E> {
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        (**self).extract(head)
    }

    fn extract_once<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        (**self).extract_once(head, keys)
    }

    fn fallback<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        (**self).fallback(head, keys)
    }

    fn client_ip(&self) -> Option<&ClientIp> {
        (**self).client_ip()
    }

    fn verifies(&self) -> bool {
        (**self).verifies()
    }

    fn carries(&self, head: &RequestHead<'_>) -> bool {
        (**self).carries(head)
    }

    fn credential<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        (**self).credential(head, keys)
    }

    fn check(&self) -> Result<(), Error> {
        (**self).check()
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    fn inspect(&self, head: &RequestHead<'_>, report: &mut dyn FnMut(&'static str, &str)) {
        (**self).inspect(head, report);
    }
}

/// The first extractor that answers. Made by [`KeyExtractor::or`].
///
/// ```
/// use tollgate::identity::{KeyExtractor, TrustedProxies, by};
///
/// let either = by::bearer().or(by::client_ip(TrustedProxies::none()));
/// # let _ = either;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Or<A, B> {
    first: A,
    second: B,
}

impl<A: KeyExtractor, B: KeyExtractor> KeyExtractor for Or<A, B> {
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        self.first.extract(head).or_else(|| self.second.extract(head))
    }

    fn extract_once<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        self.first.extract_once(head, keys).or_else(|| self.second.extract_once(head, keys))
    }

    fn fallback<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        self.second.fallback(head, keys).or_else(|| self.first.fallback(head, keys))
    }

    fn client_ip(&self) -> Option<&ClientIp> {
        self.second.client_ip()
    }

    fn verifies(&self) -> bool {
        self.first.verifies() || self.second.verifies()
    }

    fn carries(&self, head: &RequestHead<'_>) -> bool {
        self.first.carries(head) || self.second.carries(head)
    }

    fn credential<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        match (self.first.carries(head), self.second.carries(head)) {
            // Which of the two the service believes is not known here.
            (true, true) => None,
            (true, false) => self.first.credential(head, keys),
            (false, _) => self.second.credential(head, keys),
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.first.check()?;
        self.second.check()
    }

    fn describe(&self) -> String {
        format!("{} or {}", self.first.describe(), self.second.describe())
    }

    fn inspect(&self, head: &RequestHead<'_>, report: &mut dyn FnMut(&'static str, &str)) {
        self.first.inspect(head, report);
        self.second.inspect(head, report);
    }
}

/// Both identities at once. Made by [`KeyExtractor::and`].
///
/// ```
/// use tollgate::identity::{KeyExtractor, TrustedProxies, by};
///
/// let both = by::header("x-api-key").and(by::client_ip(TrustedProxies::none()));
/// # let _ = both;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct And<A, B> {
    first: A,
    second: B,
}

impl<A: KeyExtractor, B: KeyExtractor> KeyExtractor for And<A, B> {
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        Some(self.first.extract(head)?.pair(self.second.extract(head)?))
    }

    fn verifies(&self) -> bool {
        self.first.verifies() || self.second.verifies()
    }

    fn carries(&self, head: &RequestHead<'_>) -> bool {
        self.first.carries(head) || self.second.carries(head)
    }

    fn extract_once<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        let first = self.first.extract_once(head, keys)?;
        Some(first.pair(self.second.extract_once(head, keys)?))
    }

    fn credential<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        let first = self.first.credential(head, keys)?;
        Some(first.pair(self.second.credential(head, keys)?))
    }

    fn check(&self) -> Result<(), Error> {
        self.first.check()?;
        self.second.check()
    }

    fn describe(&self) -> String {
        format!("{} and {}", self.first.describe(), self.second.describe())
    }

    fn inspect(&self, head: &RequestHead<'_>, report: &mut dyn FnMut(&'static str, &str)) {
        self.first.inspect(head, report);
        self.second.inspect(head, report);
    }
}

/// A closure as an extractor. Made by [`by::func`](crate::identity::by::func).
///
/// ```
/// use tollgate::identity::{Key, by};
///
/// let tenant = by::func(|head| Some(Key::text("tenant", head.uri().path().to_owned())));
/// # let _ = tenant;
/// ```
#[derive(Clone)]
pub struct Func<F> {
    extract: F,
    carries: Option<Carries>,
}

pub(super) type Carries = Arc<dyn for<'a> Fn(&RequestHead<'a>) -> bool + Send + Sync>;

impl<F> Func<F> {
    pub(super) const fn new(extract: F) -> Self {
        Self { extract, carries: None }
    }

    /// Declares which requests carry the credential that the closure reads, also a malformed or a rejected one: see
    /// [`KeyExtractor::carries`]. Without it, all do, and a cache shares none of their answers.
    ///
    /// ```
    /// use tollgate::identity::{Key, by};
    ///
    /// let tenant = by::func(|head| Some(Key::bytes("tenant", head.header("x-tenant")?.as_bytes())))
    ///     .carried_where(|head| head.headers().contains_key("x-tenant"));
    /// let country = by::func(|head| Some(Key::bytes("country", head.header("cf-ipcountry")?.as_bytes())))
    ///     .carried_where(|_| false); // no credential: anyone may be in that country
    /// # let _ = (tenant, country);
    /// ```
    #[must_use]
    pub fn carried_where<C>(mut self, carries: C) -> Self
    where
        C: for<'a> Fn(&RequestHead<'a>) -> bool + Send + Sync + 'static,
    {
        self.carries = Some(Arc::new(carries));
        self
    }
}

impl<F> KeyExtractor for Func<F>
where
    F: for<'a> Fn(&RequestHead<'a>) -> Option<Key<'a>> + Send + Sync + 'static,
{
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        (self.extract)(head)
    }

    fn carries(&self, head: &RequestHead<'_>) -> bool {
        self.carries.as_ref().is_none_or(|carries| carries(head))
    }
}

impl<F> fmt::Debug for Func<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Func(..)")
    }
}
