//! State shared by all services of a layer, and the evaluation of requests.
//!
//! ```text
//! head ── params ──► CacheRequest { key, rule, route } ── look-up ──► LookupResult ── serve ──► Response
//! └─ a reason to bypass                           └─ fetch.rs
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, Request, StatusCode};

use super::empty_body::EmptyBody;
use super::fetch_progress::FetchProgress;
use super::live_rules::{LiveRules, MatchedRule, RuleSet};
use super::stats::{CacheCounters, CacheStats, RouteCounters, count};
use crate::base::clock::{Clock, Timestamp};
use crate::base::detached_context::{self, CacheNote};
use crate::base::error::Error;
use crate::base::event::{Events, Once};
use crate::base::mode::{Mode, ModeCell};
use crate::base::request_head::RequestHead;
use crate::base::route::{UNMATCHED, has_parameters};
use crate::cache::data::DataCache;
use crate::cache::engine::barrier::Barriers;
use crate::cache::engine::body_memory::BodyMemory;
use crate::cache::engine::cache_engine::Engine;
use crate::cache::engine::cache_engine::emit_store_error;
use crate::cache::engine::coalesce::table::Coalescer;
use crate::cache::engine::fetch_bounds::FetchBounds;
use crate::cache::engine::fetch_permit::MissLease;
use crate::cache::engine::hit_for_miss::HitForMiss;
use crate::cache::engine::min_uses::MinUses;
use crate::cache::engine::storable_routes::StorableRoutes;
use crate::cache::engine::store::CacheStore;
use crate::cache::engine::stored_keys::StoredKeys;
use crate::cache::http::credentials::{self, Credentials, Sharing};
use crate::cache::http::directives::RequestDirectives;
use crate::cache::http::key::CacheKey;
use crate::cache::http::key_builder::{KeyBuilder, KeyParts};
use crate::cache::http::policy;
use crate::cache::http::reason::Reason;
use crate::cache::http::record_meta::LogPosition;
use crate::cache::http::request_flags::{self, HostField, RequestFlags};
use crate::cache::http::rule::Rule;
use crate::cache::http::rules::Routing;
use crate::cache::http::settings::{CacheSettings, Profile};
use crate::cache::http::stored_head::StoredHead;
use crate::context::RequestContext;
use crate::identity::{ExtractedKeys, UNRESOLVED, UNRESOLVED_TEXT};
use crate::resilience::outage_switch::StoreSwitch;

/// Number of requests after which a rule that never served is reported.
const USELESS_AFTER: u64 = 100;

/// State of a cache layer.
pub(super) struct CacheShared {
    pub(super) enabled: bool,
    pub(super) mode: ModeCell,
    pub(super) settings: CacheSettings,
    pub(super) rules: LiveRules,
    pub(super) routing: Routing,
    pub(super) credentials: Credentials,
    pub(super) store: Arc<dyn CacheStore>,
    /// Whether no other process reads the store.
    pub(super) in_process: bool,
    pub(super) clock: Clock,
    pub(super) events: Events,
    pub(super) fetches: Arc<Coalescer<FetchProgress>>,
    pub(super) barriers: Arc<Barriers>,
    pub(super) hit_for_miss: HitForMiss,
    pub(super) storable_routes: StorableRoutes,
    pub(super) stored_keys: StoredKeys,
    /// Whether a resource was stored under a key with more parts, such as forwarding fields: its URL alone does not name it.
    pub(super) has_divided: AtomicBool,
    pub(super) min_uses: MinUses,
    pub(super) counters: CacheCounters,
    /// Memory of bodies outside the store.
    pub(super) body_memory: Arc<BodyMemory>,
    pub(super) bounds: Arc<FetchBounds>,
    /// Tells this process's leases from those of others.
    pub(super) token: u64,
    /// Makes an empty request body, for completions.
    pub(super) empty_body: Option<EmptyBody>,
    pub(super) nonces: AtomicU64,
    /// Whether an identity that was not resolved has been reported.
    pub(super) unresolved: Once,
    /// Switches of the levels' servers.
    pub(super) switches: Vec<StoreSwitch>,
    /// Typed values that share the store, created on first use.
    pub(super) data: OnceLock<DataCache>,
}

/// A request's cache parameters, owned.
pub(super) struct CacheRequest {
    pub(super) route: Arc<RouteCounters>,
    pub(super) rule: MatchedRule,
    pub(super) flags: RequestFlags,
    pub(super) head_only: bool,
    /// A POST, whose response may be stored for GET (profile `shared`).
    pub(super) post: bool,
    /// Whether the key includes an identity.
    pub(super) keyed: bool,
    /// The request's `Cache-Control`, if obeyed and present.
    pub(super) directives: Option<Box<RequestDirectives>>,
    pub(super) key: CacheKey,
}

/// Why a request does not use the cache, or not yet.
pub(super) enum Unusable {
    Bypass(Reason),
    /// Its identity is pending.
    Pending,
}

impl CacheRequest {
    /// Whether a part of the representation is requested.
    pub(super) fn wants_part(&self) -> bool {
        self.flags.has(RequestFlags::RANGE) && !self.head_only && !self.post
    }

    /// Whether an entry with this head may replace a failure for this request.
    pub(super) fn may_serve_stale_for(&self, failure: Option<StatusCode>, meta: &StoredHead, now: Timestamp) -> bool {
        let Some(until) = policy::stale_if_error_until(&meta.deadlines, failure) else { return false };
        match &self.directives {
            // The request demands validation.
            Some(directives) if directives.no_cache => false,
            Some(directives) if !meta.strict => {
                let staleness = meta.staleness_at(now);
                now < until || directives.stale_if_error.is_some_and(|most| staleness <= most)
            }
            _ => now < until,
        }
    }
}

impl CacheShared {
    /// Evaluates a request's head.
    ///
    /// # Errors
    /// The reason to bypass the cache, or that the identity is pending.
    pub(super) fn evaluate_request(
        &self,
        head: &RequestHead<'_>,
        keys: &mut ExtractedKeys,
        has_body: bool,
    ) -> Result<CacheRequest, Unusable> {
        let matched = self.rules.find(head);
        let rule = self.rules.rule(&matched);
        let (mut flags, host) = RequestFlags::scan(head.headers());
        if self.credentials.carried(head) {
            flags = flags.and(RequestFlags::IDENTITY);
        }
        let declared = self.check_declared_route(&matched, rule);
        match declared.and_then(|()| self.key(head, keys, (flags, host), has_body, rule)) {
            Ok((key, keyed, directives)) => {
                let route = self.count_match(&matched, head);
                let (head_only, post) = (head.method() == Method::HEAD, head.method() == Method::POST);
                Ok(CacheRequest { route, rule: matched, flags, head_only, post, keyed, directives, key })
            }
            // Nothing is counted before the identity is known.
            Err(_) if keys.is_pending() => Err(Unusable::Pending),
            Err(reason) => {
                self.count_match(&matched, head).bypass(reason);
                detached_context::note(|notes| notes.cache = Some(CacheNote::Pass));
                if reason != Reason::Method {
                    self.warn_of_unused_rule(&matched, reason);
                }
                Err(Unusable::Bypass(reason))
            }
        }
    }

    /// Counts a request for its rule, and returns the counters of its route.
    #[inline(always)]
    fn count_match(&self, matched: &MatchedRule, head: &RequestHead<'_>) -> Arc<RouteCounters> {
        let counters = self.rules.counters(matched);
        let pattern = self.rules.pattern(matched);
        let own_name = if matched.has_own_name { self.rules.own_name(matched, head) } else { None };
        count(&counters.matched);
        if pattern.is_none() && counters.matched.load(Ordering::Relaxed) == USELESS_AFTER {
            self.warn_of_unmatched_rules(&counters.warned);
        }
        match own_name {
            Some(route) if Some(route) != pattern => self.counters.route(route),
            _ => counters.route.get_or_init(|| self.counters.route(pattern.unwrap_or(UNMATCHED))).clone(),
        }
    }

    /// Checks that a `same_for_everyone()` rule applies to the right route. A pattern with parameters matched by path
    /// alone might cover the private page of another route.
    ///
    /// # Errors
    /// [`Reason::UndeclaredRoutes`], with a warning the first time.
    fn check_declared_route(&self, matched: &MatchedRule, rule: &Rule) -> Result<(), Reason> {
        let is_guess = matched.is_guess && rule.same_for_everyone && self.settings.profile == Profile::App;
        let Some(pattern) = self.rules.pattern(matched).filter(|pattern| is_guess && has_parameters(pattern)) else {
            return Ok(());
        };
        let reason = Reason::UndeclaredRoutes;
        let message = format!(
            "the cache rule for {pattern:?} says same_for_everyone(), but no router of axum matched the request, and the \
             service may have another route for its path: not cached. {}",
            reason.remedy()
        );
        self.events.warn_once(&self.rules.counters(matched).undeclared, "undeclared-routes", &message);
        Err(reason)
    }

    #[inline(always)]
    pub(super) fn key(
        &self,
        head: &RequestHead<'_>,
        keys: &mut ExtractedKeys,
        (flags, host): (RequestFlags, HostField<'_>),
        has_body: bool,
        rule: &Rule,
    ) -> Result<(CacheKey, bool, Option<Box<RequestDirectives>>), Reason> {
        let settings = &self.settings;
        let shared = settings.profile == Profile::Shared;
        let has_body = match *head.method() {
            Method::GET | Method::HEAD => has_body || flags.has(RequestFlags::BODY),
            // RFC 9110 §9.3.3: the response to a POST may be stored, for GET.
            Method::POST if shared && !flags.has(RequestFlags::RANGE) => false,
            // RFC 9111 §2: caches commonly store responses to GET; HEAD is served from them.
            _ => return Err(Reason::Method),
        };
        policy::admit(head.headers(), flags, has_body, settings, rule)?;
        let directives =
            (shared && flags.has(RequestFlags::CACHE_CONTROL)).then(|| Box::new(RequestDirectives::of(head.headers())));
        // RFC 9111 §5.2.1.5: "MUST NOT store any part of either this request or any response to it".
        if directives.as_ref().is_some_and(|directives| directives.no_store) {
            return Err(Reason::RequestNoStore);
        }
        let mut key = KeyBuilder::new();
        key.request(head, host, self.key_parts(rule))?;
        if flags.has(RequestFlags::FORWARDED) {
            key.field(head, &http::HeaderName::from_static("x-forwarded-proto"));
            key.field(head, &http::HeaderName::from_static("x-forwarded-port"));
            key.scheme(&request_flags::forwarded_schemes(head.headers()));
        }
        for name in &settings.key_fields {
            key.field(head, name);
        }
        let sharing = credentials::sharing(&self.credentials, head, keys, flags, settings, rule)?;
        if let Sharing::Identity(identity) = &sharing {
            key.identity(identity);
        }
        Ok((key.finish()?, matches!(sharing, Sharing::Identity(_)), directives))
    }

    /// Returns the lease of a request whose rule has one.
    pub(super) fn miss_lease(&self, params: &CacheRequest) -> Option<Arc<MissLease>> {
        let ttl = self.rules.rule(&params.rule).lease_ttl.filter(|_| !params.head_only)?;
        Some(MissLease::new(self.engine().lease(&params.key, ttl)))
    }

    pub(super) fn key_parts<'a>(&'a self, rule: &'a Rule) -> KeyParts<'a> {
        KeyParts {
            default_scheme: self.settings.default_scheme,
            ignore_query: &rule.ignore_query,
            without_query: rule.without_query,
        }
    }

    /// Returns the engine for caches of typed values.
    pub(super) fn engine(&self) -> Engine {
        let (store, barriers) = (self.store.clone(), self.barriers.clone());
        let (clock, events) = (self.clock.clone(), self.events.clone());
        let (in_process, token, bounds) = (self.in_process, self.token, self.bounds.clone());
        Engine { store, barriers, clock, events, in_process, token, bounds }
    }

    /// Returns the log position to record at the start of a fetch.
    pub(super) fn log_position(&self) -> LogPosition {
        LogPosition { local: self.barriers.generation(), fleet: self.store.generation() }
    }

    /// Borrows the head of a request, with its route and what a router left in its extensions.
    #[inline(always)]
    pub(super) fn head<'a, B>(&self, request: &'a Request<B>, context: &mut RequestContext) -> RequestHead<'a> {
        context.routed_head(request, self.rules.built_patterns()).with_router_extensions()
    }

    /// Warns once that an identity was not resolved in time.
    pub(super) fn warn_of_unresolved(&self, keys: &ExtractedKeys) {
        if keys.has_failed() {
            self.events.warn_once(&self.unresolved, UNRESOLVED, UNRESOLVED_TEXT);
        }
    }

    /// Marks the route's rule as having served.
    pub(super) fn mark_useful(&self, rule: &MatchedRule) {
        count(&self.rules.counters(rule).mark_useful);
    }

    /// Warns about a rule that has bypassed 100 requests and served none.
    pub(super) fn warn_of_unused_rule(&self, rule: &MatchedRule, reason: Reason) {
        let counters = self.rules.counters(rule);
        let tried = counters.matched.load(Ordering::Relaxed);
        let (Some(pattern), false) = (self.rules.pattern(rule), self.rules.rule(rule).never) else { return };
        if tried >= USELESS_AFTER && counters.mark_useful.load(Ordering::Relaxed) == 0 {
            let remedy = reason.remedy();
            let message =
                format!("the cache rule for {pattern:?} has cached nothing in {tried} requests: {reason}. {remedy}");
            self.events.warn_once(&counters.warned, "useless-cache-rule", &message);
        }
    }

    /// Warns about rules that no request has matched, once 100 requests have matched none.
    #[cold]
    fn warn_of_unmatched_rules(&self, once: &Once) {
        let unmatched = self.rules.with_current(RuleSet::unmatched);
        if !unmatched.is_empty() {
            let message = format!(
                "no request has matched the cache rules for {}, and {USELESS_AFTER} have matched none: if those routes are \
                 used seldom, all is well; otherwise check their spelling against the router's, or declare the \
                 service's routes with .routes([…])",
                unmatched.join(", ")
            );
            self.events.warn_once(once, "unmatched-cache-rule", &message);
        }
    }

    pub(super) fn store_failed(&self, error: &Error) {
        emit_store_error(&self.events, error);
    }

    pub(super) fn stats(&self) -> CacheStats {
        let mut stats = self.counters.snapshot();
        stats.levels = self.store.stats();
        stats.data = self.data.get().map(DataCache::stats).unwrap_or_default();
        stats.fetches_in_flight = self.fetches.count();
        stats.in_flight_bytes = self.body_memory.used();
        stats.background_fetches = self.bounds.detached.in_use() + self.bounds.refreshes.in_use();
        stats.unmatched_rules = self.rules.with_current(RuleSet::unmatched);
        stats.mode = if self.enabled { self.mode.get() } else { Mode::Off };
        stats
    }

    /// Returns the remaining freshness in seconds, negative if stale.
    pub(super) fn ttl(meta: &StoredHead, now: Timestamp) -> i64 {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        let fresh_until = meta.deadlines.fresh_until;
        if now < fresh_until { seconds(fresh_until.since(now)) } else { -seconds(meta.staleness_at(now)) }
    }
}
