//! What all services of one layer share, and the look-up that a hit is.
//!
//! ```text
//! head ── ask ──► Ask { key, rule, route } ── find ──► Found ── serve ──► Response
//!                   └─ a reason to pass by                └─ fetch.rs
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::barrier::{About, Barriers, Validity};
use super::directive::RequestDirectives;
use super::entry::{Entry, Meta, Stored, VaryIndex};
use super::facts::Facts;
use super::flight::Flights;
use super::key::{CacheKey, KeyBuilder, KeyParts, Target};
use super::locate;
use super::passing::Passing;
use super::policy::{self, Standing};
use super::reason::Reason;
use super::rules::{Rule, RuleBook};
use super::settings::{Profile, Settings};
use super::stats::{CacheStats, Counters, RouteCounters, count};
use super::status::Forward;
use super::store::CacheStore;
use super::uses::Uses;
use super::{vary, wish};
use crate::answer::Answer;
use crate::clock::{Clock, Timestamp};
use crate::error::Error;
use crate::event::{Event, Events};
use crate::head::RequestHead;
use crate::key::{KeyExtractor, SharedExtractor};
use crate::route::UNMATCHED;

/// A rule that was of no use to this many requests is worth a warning.
const PATIENCE: u64 = 100;

/// The layer's state.
pub(crate) struct Core {
    pub(crate) enabled: bool,
    pub(crate) settings: Settings,
    pub(crate) rules: RuleBook,
    pub(crate) identity: Option<SharedExtractor>,
    pub(crate) store: Arc<dyn CacheStore>,
    pub(crate) clock: Clock,
    pub(crate) events: Events,
    pub(crate) flights: Arc<Flights>,
    pub(crate) barriers: Barriers,
    pub(crate) passing: Passing,
    pub(crate) uses: Uses,
    pub(crate) counters: Counters,
    /// Bytes held for bodies that are still being read.
    pub(crate) held: Arc<AtomicU64>,
    pub(crate) nonces: AtomicU64,
}

/// What a request asks for, owned.
pub(crate) struct Ask {
    pub(crate) route: Arc<RouteCounters>,
    pub(crate) rule: usize,
    pub(crate) facts: Facts,
    pub(crate) head_only: bool,
    /// A POST, whose answer may serve a later GET (profile `shared`).
    pub(crate) post: bool,
    pub(crate) identified: bool,
    /// The request's own `Cache-Control`, where it counts and says anything.
    pub(crate) wish: Option<Box<RequestDirectives>>,
    pub(crate) key: CacheKey,
}

impl Ask {
    /// Whether part of the representation is asked for.
    pub(crate) fn wants_part(&self) -> bool {
        self.facts.has(Facts::RANGE) && !self.head_only && !self.post
    }

    /// Whether this request may be answered by an entry with this head in place of a failure.
    pub(crate) fn accepts_instead_of(&self, failure: Option<StatusCode>, meta: &Meta, now: Timestamp) -> bool {
        let Some(until) = policy::stands_in_until(&meta.windows, failure) else { return false };
        match &self.wish {
            // It asked for what the inner service says now.
            Some(wish) if wish.no_cache => false,
            Some(wish) if !meta.strict => {
                let staleness = meta.staleness_at(now);
                now < until || wish.stale_if_error.is_some_and(|most| staleness <= most)
            }
            _ => now < until,
        }
    }
}

/// A look-up under way.
pub(crate) struct Search {
    /// The variant that was asked for; none for the primary key.
    pub(crate) variant: Option<Box<CacheKey>>,
    pub(crate) answer: Answer<Result<Option<Stored>, Error>>,
}

/// What a look-up found.
pub(crate) enum Found {
    /// An entry for this request.
    Entry(Arc<Entry>, Standing),
    /// None; and under which key requests like this one share a fetch.
    Nothing(Forward),
}

/// One step of a look-up.
pub(crate) enum Step {
    Next(Search),
    /// What was found, and the variant by which requests like this one share a fetch; none for the primary key.
    Done(Option<Box<CacheKey>>, Found),
}

/// Which variant answers a request.
enum Selected {
    /// The one under this key.
    Variant(CacheKey),
    /// None; requests like this one share a fetch by this key.
    None(CacheKey),
}

impl Core {
    /// Reads a request's head.
    ///
    /// # Errors
    /// The reason to pass it by, with the counters of its route.
    pub(crate) fn ask(&self, head: &RequestHead<'_>, has_body: bool) -> Result<Ask, (Reason, Arc<RouteCounters>)> {
        let index = self.rules.find(head);
        let rule = self.rules.rule(index);
        let name = head.matched_path().or_else(|| self.rules.pattern(index)).unwrap_or(UNMATCHED);
        let route = self.counters.route(name);
        count(&self.counters.rules[index].matched);
        let facts = Facts::scan(head.headers());
        match self.key(head, facts, has_body, rule) {
            Ok((key, identified, wish)) => {
                let (head_only, post) = (head.method() == Method::HEAD, head.method() == Method::POST);
                Ok(Ask { route, rule: index, facts, head_only, post, identified, wish, key })
            }
            Err(reason) => {
                route.bypass(reason);
                if reason != Reason::Method {
                    self.warn_if_useless(index, reason);
                }
                Err((reason, route))
            }
        }
    }

    fn key(
        &self,
        head: &RequestHead<'_>,
        facts: Facts,
        has_body: bool,
        rule: &Rule,
    ) -> Result<(CacheKey, bool, Option<Box<RequestDirectives>>), Reason> {
        let settings = &self.settings;
        let shared = settings.profile == Profile::Shared;
        let has_body = match *head.method() {
            Method::GET | Method::HEAD => has_body || facts.has(Facts::BODY),
            // RFC 9110 §9.3.3: the answer to a POST may be stored, for GET.
            Method::POST if shared && !facts.has(Facts::RANGE) => false,
            // RFC 9111 §2: caches commonly store responses to GET; HEAD is answered from them.
            _ => return Err(Reason::Method),
        };
        policy::admit(head.headers(), facts, has_body, settings, rule)?;
        let wish = (shared && facts.has(Facts::CACHE_CONTROL)).then(|| Box::new(RequestDirectives::of(head.headers())));
        // RFC 9111 §5.2.1.5: "MUST NOT store any part of either this request or any response to it".
        if wish.as_ref().is_some_and(|wish| wish.no_store) {
            return Err(Reason::RequestNoStore);
        }
        let mut key = KeyBuilder::for_request(head, self.key_parts(rule))?;
        if facts.has(Facts::FORWARDED) {
            key.field(head, &http::HeaderName::from_static("x-forwarded-proto"));
            key.field(head, &http::HeaderName::from_static("x-forwarded-port"));
        }
        for name in &settings.key_fields {
            key.field(head, name);
        }
        let identity = self.identity.as_ref().filter(|_| !rule.same_for_everyone).and_then(|who| who.extract(head));
        if let Some(identity) = &identity {
            key.identity(identity);
        }
        policy::admit_credentials(head.headers(), facts, identity.is_some(), settings, rule)?;
        Ok((key.finish()?, identity.is_some(), wish))
    }

    pub(crate) fn key_parts<'a>(&'a self, rule: &'a Rule) -> KeyParts<'a> {
        KeyParts {
            default_scheme: self.settings.default_scheme,
            ignore_query: &rule.ignore_query,
            without_query: rule.without_query,
        }
    }

    /// Begins a look-up.
    pub(crate) fn search(&self, key: &CacheKey, now: Timestamp) -> Search {
        Search { variant: None, answer: self.store.get(key, now) }
    }

    /// What the store's answer means for this request.
    pub(crate) fn step(
        &self,
        ask: &Ask,
        headers: &HeaderMap,
        variant: Option<Box<CacheKey>>,
        answer: Result<Option<Stored>, Error>,
        now: Timestamp,
    ) -> Step {
        let stored = answer.unwrap_or_else(|error| {
            self.store_failed(&error);
            None
        });
        let is_variant = variant.is_some();
        let missed = if is_variant { Forward::VaryMiss } else { Forward::UriMiss };
        match stored {
            Some(stored) if stored.key() != variant.as_deref().unwrap_or(&ask.key) => {
                self.store_failed(&Error::store("the store answered for another key", "keys differ"));
                Step::Done(variant, Found::Nothing(missed))
            }
            Some(Stored::Entry(entry)) => {
                let standing = self.standing(ask, &entry, headers, is_variant, now);
                match standing {
                    Standing::Gone => Step::Done(variant, Found::Nothing(missed)),
                    standing => Step::Done(variant, Found::Entry(entry, standing)),
                }
            }
            Some(Stored::Vary(index)) if !is_variant => match self.select(&index, headers) {
                Selected::Variant(key) => {
                    let answer = self.store.get(&key, now);
                    Step::Next(Search { variant: Some(Box::new(key)), answer })
                }
                Selected::None(key) => Step::Done(Some(Box::new(key)), Found::Nothing(Forward::VaryMiss)),
            },
            _ => Step::Done(variant, Found::Nothing(missed)),
        }
    }

    fn standing(&self, ask: &Ask, entry: &Entry, headers: &HeaderMap, is_variant: bool, now: Timestamp) -> Standing {
        // A variant found by a class of codings must be one that this client can read.
        if is_variant && !vary::is_readable(&entry.meta.headers, headers) {
            return Standing::Gone;
        }
        let standing = policy::standing(&entry.meta.windows, now);
        let standing = match self.barriers.check(&ask.key, &entry.meta) {
            Validity::Void => return Standing::Gone,
            Validity::Valid => standing,
            Validity::Stale => match standing {
                // Marked stale: as if its freshness had just ended.
                Standing::Fresh | Standing::FreshButOld
                    if entry.meta.windows.revalidate_until > entry.meta.windows.fresh_until =>
                {
                    Standing::StaleWhileRevalidate
                }
                Standing::Fresh | Standing::FreshButOld => Standing::Stale { on_error: true },
                other => return other,
            },
        };
        match &ask.wish {
            Some(wish) => wish::granted(standing, &entry.meta, wish, now),
            None => standing,
        }
    }

    /// The key of the variant that answers this request.
    fn select(&self, index: &VaryIndex, headers: &HeaderMap) -> Selected {
        // §4.1: "the cache MUST use the most recent one": the list is in that order.
        let mut last: Option<(&[http::HeaderName], Vec<u8>)> = None;
        for variant in &index.variants {
            let selection = match last.take() {
                Some((names, selection)) if *names == *variant.names => selection,
                _ => vary::selection(&variant.names, headers, self.settings.profile),
            };
            if *selection == *variant.selection {
                return Selected::Variant(variant.key.clone());
            }
            last = Some((&variant.names, selection));
        }
        for variant in &index.variants {
            if let Some(language) = &variant.language
                && vary::prefers(headers, &language.of)
                && *language.others == *vary::selection_without_language(&variant.names, headers, self.settings.profile)
            {
                return Selected::Variant(variant.key.clone());
            }
        }
        Selected::None(index.key.variant(&last.map_or_else(Vec::new, |(_, selection)| selection)))
    }

    /// Fetches in progress may not be joined once something they bring was invalidated.
    pub(crate) fn is_void(&self, key: &CacheKey, began: u64) -> bool {
        self.barriers.check_fetch(key, began) != Validity::Valid
    }

    /// The route's rule proved useful.
    pub(crate) fn useful(&self, rule: usize) {
        count(&self.counters.rules[rule].useful);
    }

    /// A rule that has only bypassed after 100 requests is probably not what its author meant.
    pub(crate) fn warn_if_useless(&self, rule: usize, reason: Reason) {
        let counters = &self.counters.rules[rule];
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
        self.events.emit(&Event::StoreFailed { store: "cache", error });
    }

    /// RFC 9111 §4.4: what a successful answer to an unsafe request invalidates.
    pub(crate) fn settle(&self, method: &Method, key: &CacheKey, status: StatusCode, answer: &HeaderMap) {
        if !policy::invalidates(method, status) {
            return;
        }
        self.invalidate_resource(key);
        // "A cache MAY invalidate other URIs … in particular, the URI(s) in the Location and Content-Location".
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let Some(uri) = answer.get(name).and_then(|value| self.located(key, value)) else { continue };
            if let Some(other) = self.key_at(key, &uri) {
                self.invalidate_resource(&other);
            }
        }
    }

    /// Whether an answer says that it is the current representation of the request's own target.
    pub(crate) fn is_at_home(&self, key: &CacheKey, answer: &HeaderMap) -> bool {
        let named = answer.get(header::CONTENT_LOCATION).and_then(|value| self.located(key, value));
        named.and_then(|uri| self.key_at(key, &uri)).is_some_and(|home| home.resource() == key.resource())
    }

    fn located(&self, key: &CacheKey, value: &HeaderValue) -> Option<http::Uri> {
        locate::same_origin(&Target::of(key.resource())?, value.to_str().ok()?)
    }

    /// The key of another resource of the same origin.
    fn key_at(&self, key: &CacheKey, uri: &http::Uri) -> Option<CacheKey> {
        let target = Target::of(key.resource())?;
        let (scheme, authority) =
            (std::str::from_utf8(target.scheme).ok()?, std::str::from_utf8(target.authority).ok()?);
        let mut request = http::Request::new(());
        *request.uri_mut() = uri.clone();
        let rule = self.rules.rule(self.rules.find(&RequestHead::of(&request)));
        KeyBuilder::for_target(scheme, authority, uri, self.key_parts(rule)).ok()?.finish().ok()
    }

    /// Voids a resource and forgets what lies under its key.
    pub(crate) fn invalidate_resource(&self, key: &CacheKey) {
        self.barriers.raise(About::Resource(key.resource().into()), false);
        self.forget(key);
    }

    /// Removes a key. The barrier has voided what lies there: this only frees its place.
    pub(crate) fn forget(&self, key: &CacheKey) {
        match self.store.remove(key) {
            Answer::Ready(Ok(())) => {}
            Answer::Ready(Err(error)) => self.store_failed(&error),
            Answer::Pending(removal) => {
                let events = self.events.clone();
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        if let Err(error) = removal.await {
                            events.emit(&Event::StoreFailed { store: "cache", error: &error });
                        }
                    });
                }
            }
        }
    }

    pub(crate) fn stats(&self) -> CacheStats {
        let mut stats = self.counters.snapshot();
        stats.levels = self.store.stats();
        stats.flights = self.flights.count();
        stats.in_flight_bytes = self.held.load(Ordering::Relaxed);
        let unmatched = |index: &usize| self.counters.rules[*index].matched.load(Ordering::Relaxed) == 0;
        let patterns = (0..self.rules.len()).filter(unmatched).filter_map(|index| self.rules.pattern(index));
        stats.unmatched_rules = patterns.map(str::to_owned).collect();
        stats
    }

    /// The seconds of freshness that are left, negative where they are over.
    pub(crate) fn ttl(meta: &Meta, now: Timestamp) -> i64 {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        let fresh_until = meta.windows.fresh_until;
        if now < fresh_until { seconds(fresh_until.since(now)) } else { -seconds(meta.staleness_at(now)) }
    }
}
