//! What a cache was configured to do, as data.

use std::time::Duration;

use http::HeaderName;

use crate::base::budget::Budget;

/// RFC 9213: this crate's own targeted field, always obeyed and never passed on.
pub(crate) const TOLLGATE_CACHE_CONTROL: HeaderName = HeaderName::from_static("tollgate-cache-control");

/// Whose responses the cache keeps.
///
/// | | [`App`](Profile::App) | [`Shared`](Profile::Shared) |
/// |---|---|---|
/// | meant for | a service that caches its own responses | a gateway in front of somebody else's origin |
/// | requests with `Authorization` | pass by, unless identity is in the key or the rule says `same_for_everyone()` | RFC 9111 §3.5 |
/// | requests with `Cookie` | the same | as any other field |
/// | clients' `Cache-Control` | ignored: a client cannot bust the cache | obeyed |
/// | freshness | explicit only, or the rule's | heuristics too |
/// | statuses | 200, 203, 301, 308, 404, 410 | every final one |
/// | `Set-Cookie` | never stored | stored as the RFC says |
///
/// ```
/// use tollgate::cache::Profile;
///
/// assert_eq!(Profile::default(), Profile::App);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// Safe first: the cache sits inside the service that owns the data.
    #[default]
    App,
    /// All that RFC 9111 permits a shared cache.
    Shared,
}

/// The layer's configuration, checked.
#[derive(Debug)]
pub(crate) struct CacheSettings {
    pub(crate) profile: Profile,
    pub(crate) max_entry: u64,
    pub(crate) ignore_cookies: Vec<Box<str>>,
    pub(crate) key_fields: Vec<HeaderName>,
    pub(crate) targeted: Vec<HeaderName>,
    /// Whether targeted fields (other than our own) are passed on.
    pub(crate) forward_targeted: bool,
    pub(crate) default_scheme: &'static str,
    /// The name this cache goes by in `Cache-Status`, where it writes one.
    pub(crate) status_name: Option<Box<str>>,
    /// Whether `Cache-Status` names the resource.
    pub(crate) status_key: bool,
    pub(crate) wait: Duration,
    pub(crate) idle: Duration,
    pub(crate) hit_for_miss: Duration,
    /// The largest share of a lifetime that is taken off at random, in 0..1.
    pub(crate) jitter: f64,
    /// The share of a lifetime after which a hit refreshes the entry, in 0..=1.
    pub(crate) refresh_ahead: f64,
    /// What is left of the inner service's quota, where it has one.
    pub(crate) budget: Option<Budget>,
}
