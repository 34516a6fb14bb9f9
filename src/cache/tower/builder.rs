//! [`CacheBuilder`]: configuration, checked before the first request.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderName;

use super::layer::CacheLayer;
use super::live_rules::LiveRules;
use super::shared::CacheShared;
use super::stats::CacheCounters;
use crate::base::budget::Budget;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::Hook;
use crate::base::mode::SwitchCell;
use crate::base::route::Patterns;
use crate::cache::engine::background_slots::BackgroundSlots;
use crate::cache::engine::body_memory::BodyMemory;
use crate::cache::engine::coalesce::Coalescer;
use crate::cache::engine::engine_parts::{Engine, LevelOne, StorePlan};
use crate::cache::engine::store::CacheStore;
use crate::cache::http::credentials::Credentials;
use crate::cache::http::rules::{CompiledRules, Routing, Rules};
use crate::cache::http::settings::{CacheSettings, Profile, TOLLGATE_CACHE_CONTROL};
use crate::identity::{KeyExtractor, SharedExtractor};
use crate::store::memory::MemoryCache;

const MIB: u64 = 1 << 20;
/// How many fetches may outlive their clients, and how many refreshes may run.
const ORPHANS: u64 = 256;

/// Sets up a [`CacheLayer`].
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
    enabled: bool,
    memory: u64,
    max_entry: u64,
    profile: Profile,
    rules: Rules,
    identity: Option<SharedExtractor>,
    carriers: Vec<SharedExtractor>,
    routes: Vec<Box<str>>,
    outbound: bool,
    ignore_cookies: Vec<Box<str>>,
    key_fields: Vec<Box<str>>,
    targeted: Vec<Box<str>>,
    forward_targeted: bool,
    cache_status: bool,
    status_key: bool,
    status_name: Box<str>,
    wait: Duration,
    idle: Duration,
    hit_for_miss: Duration,
    jitter: f64,
    refresh_ahead: f64,
    budget: Option<Budget>,
    default_scheme: Box<str>,
    store: Option<Arc<dyn CacheStore>>,
    level_2: Option<Arc<dyn CacheStore>>,
    clock: Clock,
    hook: Option<Hook>,
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
            carriers: Vec::new(),
            routes: Vec::new(),
            outbound: false,
            ignore_cookies: Vec::new(),
            key_fields: Vec::new(),
            targeted: Vec::new(),
            forward_targeted: false,
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
            level_2: None,
            clock: Clock::System,
            hook: None,
        }
    }
}

impl CacheBuilder {
    /// How many bytes entries may take together, with their fields and keys. 64 MiB unless set.
    ///
    /// As much again may be held by bodies that are being read, by the cache or by slow clients. What would take more
    /// is
    /// neither shared nor stored: its client gets it as it comes.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// How many bytes one body may have to be stored. 1 MiB unless set.
    pub fn max_entry(mut self, bytes: u64) -> Self {
        self.max_entry = bytes;
        self
    }

    /// Whose responses are kept. [`Profile::App`] unless set.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// What is said about routes.
    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// How users are identified. Requests that carry such a credential bypass the cache, as those with `Authorization`
    /// or a
    /// `Cookie` do, unless their rule says [`same_for_everyone`](crate::cache::Rule::same_for_everyone), or
    /// [`per_identity`](crate::cache::Rule::per_identity): then the identity is part of the key. Inside a
    /// [`Tollgate`](crate::Tollgate) this is its [`identify`](crate::TollgateBuilder::identify), unless set here.
    ///
    /// The identity must have been verified: put an authentication layer outside this one.
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
        self.identity = Some(Arc::new(identity));
        self
    }

    /// How the layers around this one identify users: the gate's own extractor, and those of limits that have their
    /// own.
    pub(crate) fn identified_by(mut self, own: Option<SharedExtractor>, others: Vec<SharedExtractor>) -> Self {
        self.carriers = own.iter().cloned().chain(others).collect();
        self.identity = self.identity.or(own);
        self
    }

    /// Declares the routes of the service, in axum's syntax, for requests that no router of axum has matched: where the
    /// layer stands around the whole Router, in fallbacks, in `nest_service`, and around hyper and tonic services. Such
    /// requests find their rule by the declared route that matches their path, chosen as a router would.
    ///
    /// Without it they are matched by the rules' own patterns, and a rule whose pattern has parameters and that says
    /// `same_for_everyone()` does not cache them in profile `app`.
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

    /// Caches the answers to requests that go out: their routes are those of the upstream.
    pub(crate) fn outbound(mut self) -> Self {
        self.outbound = true;
        self
    }

    /// Cookies that no response depends on: a request with these alone counts as one without.
    pub fn ignore_cookies<N: Into<Box<str>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.ignore_cookies.extend(names.into_iter().map(Into::into));
        self
    }

    /// Makes a request field part of the key, so that `X-Forwarded-Host` and its like no longer make requests pass by.
    pub fn key_field(mut self, name: impl Into<Box<str>>) -> Self {
        self.key_fields.push(name.into());
        self
    }

    /// Adds a targeted field (RFC 9213) to obey before `Cache-Control`, such as `CDN-Cache-Control`; those added first
    /// win. `Tollgate-Cache-Control` is always the first, and never passed on.
    pub fn targeted_field(mut self, name: impl Into<Box<str>>) -> Self {
        self.targeted.push(name.into());
        self
    }

    /// Whether targeted fields other than `Tollgate-Cache-Control` are passed on to caches nearer to the client. Not
    /// unless set.
    pub fn forward_targeted(mut self, forward: bool) -> Self {
        self.forward_targeted = forward;
        self
    }

    /// Whether responses say how the cache handled them, in `Cache-Status` (RFC 9211). Not unless set.
    pub fn cache_status(mut self, write: bool) -> Self {
        self.cache_status = write;
        self
    }

    /// Whether `Cache-Status` also names the resource (RFC 9211 §2.7). For debugging; not unless set.
    pub fn cache_status_key(mut self, write: bool) -> Self {
        self.status_key = write;
        self
    }

    /// The name this cache goes by in `Cache-Status`: a token. `Tollgate` unless set.
    pub fn cache_status_name(mut self, name: impl Into<Box<str>>) -> Self {
        self.status_name = name.into();
        self
    }

    /// How long a request waits for somebody else's fetch before it goes alone. 3 s unless set.
    pub fn wait(mut self, deadline: Duration) -> Self {
        self.wait = deadline;
        self
    }

    /// How long the body of a fetch may make no progress before it is given up for those who share it; the client whose
    /// fetch it is waits on. A fetch whose client has left, and a refresh, is dropped then. 30 s unless set; the least
    /// is a
    /// second.
    ///
    /// A body that makes no progress for a second already takes no one else on: later requests fetch for themselves.
    pub fn idle_timeout(mut self, deadline: Duration) -> Self {
        self.idle = deadline;
        self
    }

    /// How long requests for a key are not made to wait after its answer was not cacheable. 10 s unless set.
    pub fn hit_for_miss(mut self, span: Duration) -> Self {
        self.hit_for_miss = span;
        self
    }

    /// The largest share of a lifetime that is taken off at random, so that entries made together do not expire
    /// together: 0 up to (not including) 1. None unless set.
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// Refreshes an entry in the background when it is hit after this share of its lifetime: more than 0, up to 1,
    /// which
    /// is the default and means never.
    pub fn refresh_ahead(mut self, share: f64) -> Self {
        self.refresh_ahead = share;
        self
    }

    /// What is left of the quota of the service behind, where that is somebody else's: as it runs low, responses are
    /// used
    /// past their freshness, and what is stale is served rather than refreshed. See [`Budget`] for the policy.
    ///
    /// The operator's word against the response's: responses that say `must-revalidate`, `no-cache` or `s-maxage`,
    /// requests
    /// that say `no-cache`, and what was invalidated go their usual way. `Age` stays true, and `Cache-Status` says
    /// `detail=budget`.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// The scheme of requests that do not say, `http` or `https`: part of the key. `http` unless set.
    pub fn default_scheme(mut self, scheme: impl Into<Box<str>>) -> Self {
        self.default_scheme = scheme.into();
        self
    }

    /// Keeps entries elsewhere than in this process. [`memory`](Self::memory) then bounds the bodies being read only.
    ///
    /// Where the store errs, panics, or has not answered within 250 ms, the request goes on without it.
    pub fn store(mut self, store: Arc<dyn CacheStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Puts a store that several processes share behind this one's memory: see [`Levels`](crate::cache::Levels). What
    /// it breaks, or keeps
    /// waiting for 250 ms, is a miss.
    pub fn level_2(mut self, store: Arc<dyn CacheStore>) -> Self {
        self.level_2 = Some(store);
        self
    }

    /// Where the time is read. The operating system's clocks unless set.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// What is called with every event.
    pub fn hook(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Whether the layer does anything at all. One line to switch it off without changing types.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Checks everything and builds the layer.
    ///
    /// # Errors
    /// Names the first value that is wrong: a malformed or conflicting route pattern, a tag that cannot be one, a TTL
    /// of zero, an entry bound over the memory bound, a name that is no field name, a share out of range.
    pub fn build(mut self) -> Result<CacheLayer, Error> {
        let refuse = |message: String| Err(Error::config(message));
        if self.memory == 0 || self.max_entry == 0 {
            return refuse(format!("cache: memory {} and max_entry {} must not be 0", self.memory, self.max_entry));
        }
        if self.max_entry > self.memory {
            return refuse(format!("cache: max_entry {} is over memory {}", self.max_entry, self.memory));
        }
        if !(0.0..1.0).contains(&self.jitter) {
            return refuse(format!("cache: jitter {} must be at least 0 and less than 1", self.jitter));
        }
        if !(self.refresh_ahead > 0.0 && self.refresh_ahead <= 1.0) {
            return refuse(format!("cache: refresh_ahead {} must be over 0 and at most 1", self.refresh_ahead));
        }
        if !matches!(&*self.default_scheme, "http" | "https") {
            return refuse(format!("cache: default_scheme {:?} must be \"http\" or \"https\"", self.default_scheme));
        }
        if !is_token(&self.status_name) {
            return refuse(format!("cache: cache_status_name {:?} must be a token", self.status_name));
        }
        if self.wait.is_zero() {
            return refuse("cache: wait 0s would make every concurrent miss call the inner service".to_owned());
        }
        if self.idle < Duration::from_secs(1) {
            return refuse(format!("cache: idle_timeout {:?} must be at least 1 s", self.idle));
        }
        let declared = if self.routes.is_empty() { None } else { Some(Arc::new(Patterns::of(&self.routes)?)) };
        let routing = Routing { declared, outbound: self.outbound, identifies: self.identity.is_some() };
        let rules = std::mem::take(&mut self.rules).compile(&routing)?;
        let key_fields = field_names("key_field", &self.key_fields)?;
        let mut targeted = field_names("targeted_field", &self.targeted)?;
        targeted.retain(|name| *name != TOLLGATE_CACHE_CONTROL);
        targeted.insert(0, TOLLGATE_CACHE_CONTROL);
        if let Some(identity) = &self.identity {
            identity.check()?;
        }
        Ok(CacheLayer::new(self.assemble(rules, routing, key_fields, targeted)))
    }

    pub(crate) fn assemble(
        self,
        rules: CompiledRules,
        routing: Routing,
        key_fields: Vec<HeaderName>,
        mut targeted: Vec<HeaderName>,
    ) -> CacheShared {
        if targeted.is_empty() {
            targeted.push(TOLLGATE_CACHE_CONTROL);
        }
        let settings = CacheSettings {
            profile: self.profile,
            max_entry: self.max_entry,
            ignore_cookies: self.ignore_cookies,
            key_fields,
            targeted,
            forward_targeted: self.forward_targeted,
            default_scheme: if &*self.default_scheme == "https" { "https" } else { "http" },
            status_name: self.cache_status.then_some(self.status_name),
            status_key: self.status_key,
            wait: self.wait,
            idle: self.idle,
            hit_for_miss: self.hit_for_miss,
            jitter: self.jitter,
            refresh_ahead: self.refresh_ahead,
            budget: self.budget,
        };
        let level_1 = match self.store {
            Some(store) => LevelOne::Custom(store),
            None => LevelOne::Memory(Arc::new(MemoryCache::new(self.memory))),
        };
        let places = StorePlan { level_1, level_2: self.level_2 };
        let Engine { store, barriers, clock, events, in_process } = Engine::new(places, self.clock, self.hook);
        CacheShared {
            enabled: self.enabled,
            switch: SwitchCell::default(),
            settings,
            counters: CacheCounters::default(),
            rules: LiveRules::new(rules),
            credentials: Credentials::new(self.identity.into_iter().chain(self.carriers)),
            routing,
            store,
            in_process,
            clock,
            events,
            fetches: Arc::new(Coalescer::default()),
            barriers,
            hit_for_miss: crate::cache::engine::hit_for_miss::HitForMiss::default(),
            min_uses: crate::cache::engine::min_uses::MinUses::default(),
            body_memory: BodyMemory::new(self.memory),
            orphans: BackgroundSlots::new(ORPHANS),
            refreshes: BackgroundSlots::new(ORPHANS),
            nonces: AtomicU64::new(0),
            data: OnceLock::new(),
        }
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

/// RFC 9110 §5.6.2; RFC 9651 §3.3.4 asks for a letter first.
fn is_token(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b))
}

fn field_names(setter: &str, names: &[Box<str>]) -> Result<Vec<HeaderName>, Error> {
    let parse = |name: &str| {
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Error::config(format!("cache: {setter} {name:?} is not a valid field name")))
    };
    names.iter().map(|name| parse(name)).collect()
}
