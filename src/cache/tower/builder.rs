//! [`CacheBuilder`]: configures a cache layer; `build.rs` validates it.

mod storage;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::base::budget::Budget;
use crate::base::clock::Clock;
use crate::base::event::{Hook, both_hooks};
use crate::cache::engine::store::CacheStore;
use crate::cache::http::rules::Rules;
use crate::cache::http::settings::Profile;
use crate::cache::tower::empty_body::EmptyBody;
use crate::identity::{KeyExtractor, SharedExtractor};
use crate::store::levels::level_list::LevelList;

const MIB: u64 = 1 << 20;

/// Builder for [`CacheLayer`](crate::cache::CacheLayer).
///
/// ```
/// use std::time::Duration;
/// use tollgate::cache::{CacheLayer, Profile, Rule, Rules};
///
/// let layer = CacheLayer::builder()
///     .memory(256 << 20)
///     .max_entry(8 << 20)
///     .profile(Profile::App)
///     .rules(Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15)).tag("prices")))
///     .jitter(0.1)
///     .cache_status(true)
///     .build()?;
/// # let _ = layer;
///
/// let error = CacheLayer::builder().memory(1000).max_entry(2000).build().unwrap_err();
/// assert!(error.to_string().contains("2000"));
/// # Ok::<(), tollgate::Error>(())
/// ```
#[must_use]
pub struct CacheBuilder {
    pub(super) enabled: bool,
    pub(super) memory: u64,
    pub(super) max_entry: u64,
    pub(super) profile: Profile,
    pub(super) rules: Rules,
    pub(super) identity: Option<SharedExtractor>,
    pub(super) other_extractors: Vec<SharedExtractor>,
    pub(super) identified_twice: bool,
    pub(super) routes: Vec<Box<str>>,
    pub(super) outbound: bool,
    pub(super) ignore_cookies: Vec<Box<str>>,
    pub(super) key_fields: Vec<Box<str>>,
    pub(super) targeted: Vec<Box<str>>,
    pub(super) forward_targeted: bool,
    pub(super) empty_body: Option<EmptyBody>,
    pub(super) cache_status: bool,
    pub(super) status_key: bool,
    pub(super) status_name: Box<str>,
    pub(super) wait: Duration,
    pub(super) idle: Duration,
    pub(super) hit_for_miss: Duration,
    pub(super) jitter: f64,
    pub(super) refresh_ahead: f64,
    pub(super) budget: Option<Budget>,
    pub(super) default_scheme: Box<str>,
    pub(super) store: Option<Arc<dyn CacheStore>>,
    pub(super) levels: LevelList,
    pub(super) clock: Clock,
    pub(super) hook: Option<Hook>,
}

impl Default for CacheBuilder {
    fn default() -> Self {
        Self {
            enabled: true,
            memory: 64 * MIB,
            max_entry: MIB,
            profile: Profile::App,
            rules: Rules::new(),
            identity: None,
            other_extractors: Vec::new(),
            identified_twice: false,
            routes: Vec::new(),
            outbound: false,
            ignore_cookies: Vec::new(),
            key_fields: Vec::new(),
            targeted: Vec::new(),
            forward_targeted: true,
            empty_body: None,
            cache_status: false,
            status_key: false,
            status_name: "Tollgate".into(),
            wait: Duration::from_secs(3),
            idle: Duration::from_secs(30),
            hit_for_miss: Duration::from_secs(10),
            jitter: 0.0,
            refresh_ahead: 1.0,
            budget: None,
            default_scheme: "http".into(),
            store: None,
            levels: LevelList::default(),
            clock: Clock::System,
            hook: None,
        }
    }
}

impl CacheBuilder {
    /// Sets the capacity in bytes, including fields and keys. Defaults to 64 MiB.
    ///
    /// Bodies being read, by the cache or by slow clients, may use as much again. Beyond that, a body is neither shared
    /// nor stored: its client gets it as it arrives.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// let layer = CacheLayer::builder().memory(256 << 20).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Sets the maximum body length of a stored response, in bytes. Defaults to 1 MiB.
    pub fn max_entry(mut self, bytes: u64) -> Self {
        self.max_entry = bytes;
        self
    }

    /// Sets the policy profile. Defaults to [`Profile::App`].
    ///
    /// ```
    /// use tollgate::cache::{CacheLayer, Profile};
    ///
    /// let layer = CacheLayer::builder().profile(Profile::Shared).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Sets the caching rules by route, instead of those set before. Defaults to [`Rules::new`].
    ///
    /// ```
    /// use tollgate::cache::{CacheLayer, Rule, Rules};
    ///
    /// let layer = CacheLayer::builder().rules(Rules::new().route("/me", Rule::never())).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Adds rules to those set before.
    pub(crate) fn more_rules(mut self, rules: Rules) -> Self {
        self.rules = std::mem::take(&mut self.rules).and(rules);
        self
    }

    /// Sets the extractor of user identities. Requests with a credential that it reads bypass the cache, like those
    /// with `Authorization` or a `Cookie`, unless their rule says
    /// [`same_for_everyone`](crate::cache::Rule::same_for_everyone) or
    /// [`per_identity`](crate::cache::Rule::per_identity); the latter makes the identity part of the key. Inside a
    /// [`Tollgate`](crate::Tollgate) it defaults to [`identify`](crate::TollgateBuilder::identify).
    ///
    /// Verify identities first: put an authentication layer outside this one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::cache::{CacheLayer, Rule, Rules};
    /// use tollgate::identity::by;
    ///
    /// let rules = Rules::new()
    ///     .route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15)).same_for_everyone())
    ///     .route("/me", Rule::ttl(Duration::from_secs(5)).per_identity());
    /// let layer = CacheLayer::builder().identity(by::header("x-api-key")).rules(rules).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn identity(mut self, identity: impl KeyExtractor) -> Self {
        self.identified_twice |= self.identity.is_some();
        self.identity = Some(Arc::new(identity));
        self
    }

    /// Sets the extractors of the surrounding layers: the gate's own, and those of individual limits.
    pub(crate) fn identified_by(mut self, own: Option<SharedExtractor>, others: Vec<SharedExtractor>) -> Self {
        self.other_extractors = own.iter().cloned().chain(others).collect();
        self.identity = self.identity.or(own);
        self
    }

    /// Returns the declared routes.
    pub(crate) fn declared_routes(&self) -> &[Box<str>] {
        &self.routes
    }

    /// Returns the clock.
    pub(crate) const fn own_clock(&self) -> &Clock {
        &self.clock
    }

    /// Replaces the declared routes.
    pub(crate) fn declare(mut self, routes: Vec<Box<str>>) -> Self {
        self.routes = routes;
        self
    }

    /// Declares the routes of the service, in axum's syntax, for requests that no axum router has matched. Those are
    /// requests to a layer around the whole Router, in fallbacks, in `nest_service`, and around hyper and tonic
    /// services. Such requests get the rule of the declared route that matches their path, selected as a router does.
    ///
    /// Without declared routes, requests match the rules' own patterns, and a `same_for_everyone()` rule whose pattern
    /// has parameters does not cache them in profile `app`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::cache::{CacheLayer, Rule, Rules};
    ///
    /// let rules = Rules::new().route("/users/{name}", Rule::ttl(Duration::from_secs(60)).same_for_everyone());
    /// let layer = CacheLayer::builder().rules(rules).routes(["/users/{name}", "/users/me"]).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn routes(mut self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.routes.extend(patterns.into_iter().map(|pattern| pattern.as_ref().into()));
        self
    }

    /// Configures the layer for outbound requests, whose routes are those of the upstream.
    pub(crate) fn outbound(mut self) -> Self {
        self.outbound = true;
        self
    }

    /// Ignores cookies that no response depends on: a request with only these counts as one without.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// let layer = CacheLayer::builder().ignore_cookies(["_ga", "theme"]).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn ignore_cookies<N: Into<Box<str>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.ignore_cookies.extend(names.into_iter().map(Into::into));
        self
    }

    /// Makes a request field part of the key, so that fields such as `X-Forwarded-Host` no longer cause a bypass.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// let layer = CacheLayer::builder().key_field("x-forwarded-host").build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn key_field(mut self, name: impl Into<Box<str>>) -> Self {
        self.key_fields.push(name.into());
        self
    }

    /// Adds a targeted field (RFC 9213) that takes precedence over `Cache-Control`, such as `CDN-Cache-Control`; those
    /// added first take precedence. `Tollgate-Cache-Control` is always the first, and never forwarded.
    pub fn targeted_field(mut self, name: impl Into<Box<str>>) -> Self {
        self.targeted.push(name.into());
        self
    }

    /// Forwards targeted fields other than `Tollgate-Cache-Control` to the caches in front, which may be targets too (RFC
    /// 9213 §3). On by default.
    pub fn forward_targeted(mut self, forward: bool) -> Self {
        self.forward_targeted = forward;
        self
    }

    /// Adds `Cache-Status` (RFC 9211) to responses. Off by default.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// let layer = CacheLayer::builder().cache_status(true).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn cache_status(mut self, write: bool) -> Self {
        self.cache_status = write;
        self
    }

    /// Adds the resource to `Cache-Status` (RFC 9211 §2.7). For debugging; off by default.
    pub fn cache_status_key(mut self, write: bool) -> Self {
        self.status_key = write;
        self
    }

    /// Sets the name of this cache in `Cache-Status`, a token. Defaults to `Tollgate`.
    pub fn cache_status_name(mut self, name: impl Into<Box<str>>) -> Self {
        self.status_name = name.into();
        self
    }

    /// Sets how long a request waits for a coalesced fetch before it fetches without sharing. Defaults to 3 s.
    pub fn wait(mut self, deadline: Duration) -> Self {
        self.wait = deadline;
        self
    }

    /// Lets the cache complete a stored part of a response (profile `shared`): it asks for the rest, and if that fails sends
    /// a plain request, for which it needs an empty body. Known without it for `axum::body::Body` (feature `axum`),
    /// `Full<Bytes>` and `Empty<Bytes>`; other requests go to the service whole.
    ///
    /// ```
    /// use tollgate::cache::{CacheLayer, Profile};
    ///
    /// let layer = CacheLayer::builder().profile(Profile::Shared).empty_body(String::new).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn empty_body<B: 'static>(mut self, make: fn() -> B) -> Self {
        self.empty_body = Some(Arc::new(make));
        self
    }

    /// Sets how long the body of a fetch may make no progress before its followers get an error. The client that
    /// triggered the fetch continues to wait. A refresh, or a fetch whose client has left, is aborted then. Defaults to
    /// 30 s; at least 1 s.
    ///
    /// A body without progress for a second takes no more followers: later requests share a new fetch.
    pub fn idle_timeout(mut self, deadline: Duration) -> Self {
        self.idle = deadline;
        self
    }

    /// Sets how long requests for a key are not coalesced after an uncacheable response. Defaults to 10 s.
    pub fn hit_for_miss(mut self, span: Duration) -> Self {
        self.hit_for_miss = span;
        self
    }

    /// Sets the largest share of a lifetime subtracted at random. Entries stored together then do not expire together.
    /// Accepts at least 0, less than 1. Defaults to 0.
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// Refreshes an entry in the background when it is hit after this share of its lifetime. Accepts more than 0, up to
    /// 1. Defaults to 1, which disables refreshing ahead.
    pub fn refresh_ahead(mut self, share: f64) -> Self {
        self.refresh_ahead = share;
        self
    }

    /// Sets the remaining quota of the inner service. As it runs low, responses are used past their freshness, and
    /// stale ones are served instead of revalidated. See [`Budget`] for the policy.
    ///
    /// The budget does not apply to responses that say `must-revalidate`, `no-cache` or `s-maxage`, to requests that
    /// say `no-cache`, or to invalidated entries. `Age` remains correct, and `Cache-Status` says `detail=budget`.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Sets the scheme of requests without one, `http` or `https`: part of the key. Defaults to `http`.
    pub fn default_scheme(mut self, scheme: impl Into<Box<str>>) -> Self {
        self.default_scheme = scheme.into();
        self
    }

    /// Sets the clock. Defaults to the operating system's clocks.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Adds a hook that is called with every event.
    pub fn hook(mut self, hook: Hook) -> Self {
        self.hook = Some(both_hooks(self.hook, hook));
        self
    }

    /// Enables the layer. With `false` it forwards everything, without a change of types. Defaults to `true`.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// let layer = CacheLayer::builder().enabled(false).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }
}

impl fmt::Debug for CacheBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("memory", &self.memory)
            .field("max_entry", &self.max_entry)
            .field("profile", &self.profile)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}
