//! What all services of one layer share, and the look-up that a hit is.
//!
//! ```text
//! head ── ask ──► Ask { key, rule, route } ── find ──► Found ── serve ──► Response
//!                   └─ a reason to pass by                └─ fetch.rs
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, StatusCode};

use super::live_rules::{LiveRules, MatchedRule, RuleSet};
use super::stats::{CacheCounters, CacheStats, RouteCounters, count};
use crate::base::clock::{Clock, Timestamp};
use crate::base::detached_context::{self, CacheNote};
use crate::base::error::Error;
use crate::base::event::Events;
use crate::base::mode::{Switch, SwitchCell};
use crate::base::request_head::RequestHead;
use crate::base::route::{UNMATCHED, has_parameters};
use crate::cache::data::DataCache;
use crate::cache::engine::background_slots::BackgroundSlots;
use crate::cache::engine::barrier::Barriers;
use crate::cache::engine::body_memory::BodyMemory;
use crate::cache::engine::coalesce::Coalescer;
use crate::cache::engine::engine_parts::Engine;
use crate::cache::engine::engine_parts::emit_store_error;
use crate::cache::engine::hit_for_miss::HitForMiss;
use crate::cache::engine::min_uses::MinUses;
use crate::cache::engine::store::CacheStore;
use crate::cache::http::credentials::{self, Credentials, Sharing};
use crate::cache::http::directives::RequestDirectives;
use crate::cache::http::key::CacheKey;
use crate::cache::http::key_builder::{KeyBuilder, KeyParts};
use crate::cache::http::policy;
use crate::cache::http::reason::Reason;
use crate::cache::http::request_flags::RequestFlags;
use crate::cache::http::rules::{Routing, Rule};
use crate::cache::http::settings::{CacheSettings, Profile};
use crate::cache::http::stored_head::{LogPosition, StoredHead};

/// A rule that was of no use to this many requests is worth a warning.
const PATIENCE: u64 = 100;

/// The layer's state.
pub(crate) struct CacheShared {
    pub(crate) enabled: bool,
    pub(crate) switch: SwitchCell,
    pub(crate) settings: CacheSettings,
    pub(crate) rules: LiveRules,
    pub(crate) routing: Routing,
    pub(crate) credentials: Credentials,
    pub(crate) store: Arc<dyn CacheStore>,
    /// Whether no other process ever reads what is stored.
    pub(crate) in_process: bool,
    pub(crate) clock: Clock,
    pub(crate) events: Events,
    pub(crate) fetches: Arc<Coalescer>,
    pub(crate) barriers: Arc<Barriers>,
    pub(crate) hit_for_miss: HitForMiss,
    pub(crate) min_uses: MinUses,
    pub(crate) counters: CacheCounters,
    /// The memory of bodies outside the store.
    pub(crate) body_memory: Arc<BodyMemory>,
    /// Fetches that outlive their clients.
    pub(crate) orphans: Arc<BackgroundSlots>,
    /// Background refreshes.
    pub(crate) refreshes: Arc<BackgroundSlots>,
    pub(crate) nonces: AtomicU64,
    /// The typed values that share the store, once there are any.
    pub(crate) data: OnceLock<DataCache>,
}

/// What a request asks for, owned.
pub(crate) struct CacheRequest {
    pub(crate) route: Arc<RouteCounters>,
    pub(crate) rule: MatchedRule,
    pub(crate) flags: RequestFlags,
    pub(crate) head_only: bool,
    /// A POST, whose answer may serve a later GET (profile `shared`).
    pub(crate) post: bool,
    /// Whether the key tells identities apart.
    pub(crate) keyed: bool,
    /// The request's own `Cache-Control`, where it counts and says anything.
    pub(crate) directives: Option<Box<RequestDirectives>>,
    pub(crate) key: CacheKey,
}

impl CacheRequest {
    /// Whether part of the representation is asked for.
    pub(crate) fn wants_part(&self) -> bool {
        self.flags.has(RequestFlags::RANGE) && !self.head_only && !self.post
    }

    /// Whether this request may be answered by an entry with this head in place of a failure.
    pub(crate) fn accepts_instead_of(&self, failure: Option<StatusCode>, meta: &StoredHead, now: Timestamp) -> bool {
        let Some(until) = policy::stale_if_error_until(&meta.deadlines, failure) else { return false };
        match &self.directives {
            // It asked for what the inner service says now.
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
    /// Reads a request's head.
    ///
    /// # Errors
    /// The reason to pass it by, with the counters of its route.
    pub(crate) fn ask(
        &self,
        head: &RequestHead<'_>,
        has_body: bool,
    ) -> Result<CacheRequest, (Reason, Arc<RouteCounters>)> {
        let ruling = self.rules.find(head);
        let rule = self.rules.rule(&ruling);
        let name = self.rules.name(&ruling, head).unwrap_or(UNMATCHED);
        let route = self.counters.route(name);
        count(&self.rules.counters(&ruling).matched);
        let mut flags = RequestFlags::scan(head.headers());
        if self.credentials.carried(head) {
            flags = flags.and(RequestFlags::IDENTITY);
        }
        match self.guarded(&ruling, rule).and_then(|()| self.key(head, flags, has_body, rule)) {
            Ok((key, keyed, directives)) => {
                let (head_only, post) = (head.method() == Method::HEAD, head.method() == Method::POST);
                Ok(CacheRequest { route, rule: ruling, flags, head_only, post, keyed, directives, key })
            }
            Err(reason) => {
                route.bypass(reason);
                detached_context::note(|notes| notes.cache = Some(CacheNote::Pass));
                if reason != Reason::Method {
                    self.warn_if_useless(&ruling, reason);
                }
                Err((reason, route))
            }
        }
    }

    /// A rule that shares with everyone must be sure of its routes: a pattern that stands for many paths, and that
    /// nothing
    /// but a path speaks for, may name another route's private page.
    ///
    /// # Errors
    /// [`Reason::UndeclaredRoutes`], with one warning.
    fn guarded(&self, ruling: &MatchedRule, rule: &Rule) -> Result<(), Reason> {
        let is_guess = ruling.is_guess && rule.same_for_everyone && self.settings.profile == Profile::App;
        let Some(pattern) = self.rules.pattern(ruling).filter(|pattern| is_guess && has_parameters(pattern)) else {
            return Ok(());
        };
        let reason = Reason::UndeclaredRoutes;
        let message = format!(
            "the cache rule for {pattern:?} says same_for_everyone(), but no router of axum matched the request, and the \
             service may have another route for its path: not cached. {}",
            reason.remedy()
        );
        self.events.warn_once(&self.rules.counters(ruling).undeclared, "undeclared-routes", &message);
        Err(reason)
    }

    fn key(
        &self,
        head: &RequestHead<'_>,
        flags: RequestFlags,
        has_body: bool,
        rule: &Rule,
    ) -> Result<(CacheKey, bool, Option<Box<RequestDirectives>>), Reason> {
        let settings = &self.settings;
        let shared = settings.profile == Profile::Shared;
        let has_body = match *head.method() {
            Method::GET | Method::HEAD => has_body || flags.has(RequestFlags::BODY),
            // RFC 9110 §9.3.3: the answer to a POST may be stored, for GET.
            Method::POST if shared && !flags.has(RequestFlags::RANGE) => false,
            // RFC 9111 §2: caches commonly store responses to GET; HEAD is answered from them.
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
        key.request(head, self.key_parts(rule))?;
        if flags.has(RequestFlags::FORWARDED) {
            key.field(head, &http::HeaderName::from_static("x-forwarded-proto"));
            key.field(head, &http::HeaderName::from_static("x-forwarded-port"));
        }
        for name in &settings.key_fields {
            key.field(head, name);
        }
        let sharing = credentials::sharing(&self.credentials, head, flags, settings, rule)?;
        if let Sharing::Identity(identity) = &sharing {
            key.identity(identity);
        }
        Ok((key.finish()?, matches!(sharing, Sharing::Identity(_)), directives))
    }

    pub(crate) fn key_parts<'a>(&'a self, rule: &'a Rule) -> KeyParts<'a> {
        KeyParts {
            default_scheme: self.settings.default_scheme,
            ignore_query: &rule.ignore_query,
            without_query: rule.without_query,
        }
    }

    /// What caches of typed values may share with this one.
    pub(crate) fn engine(&self) -> Engine {
        let (store, barriers) = (self.store.clone(), self.barriers.clone());
        let (clock, events) = (self.clock.clone(), self.events.clone());
        Engine { store, barriers, clock, events, in_process: self.in_process }
    }

    /// What a fetch that begins now remembers.
    pub(crate) fn begin(&self) -> LogPosition {
        LogPosition { local: self.barriers.generation(), fleet: self.store.generation() }
    }

    /// The route's rule proved useful.
    pub(crate) fn useful(&self, rule: &MatchedRule) {
        count(&self.rules.counters(rule).useful);
    }

    /// A rule that has only bypassed after 100 requests is probably not what its author meant.
    pub(crate) fn warn_if_useless(&self, rule: &MatchedRule, reason: Reason) {
        let counters = self.rules.counters(rule);
        let tried = counters.matched.load(Ordering::Relaxed);
        let (Some(pattern), false) = (self.rules.pattern(rule), self.rules.rule(rule).never) else { return };
        if tried >= PATIENCE && counters.useful.load(Ordering::Relaxed) == 0 {
            let remedy = reason.remedy();
            let message =
                format!("the cache rule for {pattern:?} has cached nothing in {tried} requests: {reason}. {remedy}");
            self.events.warn_once(&counters.warned, "useless-cache-rule", &message);
        }
    }

    pub(crate) fn store_failed(&self, error: &Error) {
        emit_store_error(&self.events, error);
    }

    pub(crate) fn stats(&self) -> CacheStats {
        let mut stats = self.counters.snapshot();
        stats.levels = self.store.stats();
        stats.data = self.data.get().map(DataCache::stats).unwrap_or_default();
        stats.fetches_in_flight = self.fetches.count();
        stats.in_flight_bytes = self.body_memory.used();
        stats.orphans = self.orphans.in_use() + self.refreshes.in_use();
        stats.unmatched_rules = self.rules.look(RuleSet::unmatched);
        stats.switch = if self.enabled { self.switch.get() } else { Switch::Off };
        stats
    }

    /// The seconds of freshness that are left, negative where they are over.
    pub(crate) fn ttl(meta: &StoredHead, now: Timestamp) -> i64 {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        let fresh_until = meta.deadlines.fresh_until;
        if now < fresh_until { seconds(fresh_until.since(now)) } else { -seconds(meta.staleness_at(now)) }
    }
}
