//! Configuration of a cache, after validation.

use std::time::Duration;

use http::HeaderName;

use crate::base::budget::Budget;

/// RFC 9213: targeted field of this crate, always obeyed and never forwarded.
pub(crate) const TOLLGATE_CACHE_CONTROL: HeaderName = HeaderName::from_static("tollgate-cache-control");

/// Policy profile: which requests may use the cache and which responses are stored.
///
/// | | [`App`](Profile::App) | [`Shared`](Profile::Shared) |
/// |---|---|---|
/// | meant for | a service that caches its own responses | a gateway in front of an origin it does not control |
/// | requests with `Authorization` | bypass, unless identity is in the key or the rule says `same_for_everyone()` | RFC 9111 §3.5 |
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
    /// Conservative policy, for a cache inside the service that owns the data.
    #[default]
    App,
    /// Policy of RFC 9111 for a shared cache.
    Shared,
}

/// Validated configuration of the layer.
#[derive(Debug)]
pub(crate) struct CacheSettings {
    pub(crate) profile: Profile,
    pub(crate) max_entry: u64,
    pub(crate) ignore_cookies: Vec<Box<str>>,
    pub(crate) key_fields: Vec<HeaderName>,
    pub(crate) targeted: Vec<HeaderName>,
    /// Whether targeted fields other than `Tollgate-Cache-Control` are forwarded.
    pub(crate) forward_targeted: bool,
    pub(crate) default_scheme: &'static str,
    /// Name of this cache in `Cache-Status`; `None` disables the field.
    pub(crate) status_name: Option<Box<str>>,
    /// Whether `Cache-Status` names the resource.
    pub(crate) status_key: bool,
    pub(crate) wait: Duration,
    pub(crate) idle: Duration,
    pub(crate) hit_for_miss: Duration,
    /// Largest share of a lifetime subtracted at random, in 0..1.
    pub(crate) jitter: f64,
    /// Share of a lifetime after which a hit refreshes the entry, in 0..=1.
    pub(crate) refresh_ahead: f64,
    /// Remaining quota of the inner service, if one is configured.
    pub(crate) budget: Option<Budget>,
}
