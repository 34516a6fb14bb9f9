//! What all services of one layer share, and the look-up that a hit is.
//!
//! ```text
//! head ── ask ──► Ask { key, rule, route } ── find ──► Found ── serve ──► Response
//!                   └─ a reason to pass by                └─ fetch.rs
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method};

use super::barrier::{About, Barriers, Validity};
use super::entry::{Entry, Stored, VaryIndex};
use super::facts::Facts;
use super::flight::Flights;
use super::key::{CacheKey, KeyBuilder, KeyParts};
use super::passing::Passing;
use super::policy::{self, Standing};
use super::reason::Reason;
use super::rules::{Rule, RuleBook};
use super::settings::Settings;
use super::stats::{CacheStats, Counters, RouteCounters, count};
use super::status::Forward;
use super::store::CacheStore;
use super::vary;
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
    pub(crate) identified: bool,
    pub(crate) key: CacheKey,
}

/// A look-up under way: this key was asked for.
pub(crate) struct Search {
    pub(crate) key: CacheKey,
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
    Done(CacheKey, Found),
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
            Ok((key, identified)) => {
                let head_only = head.method() == Method::HEAD;
                Ok(Ask { route, rule: index, facts, head_only, identified, key })
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
    ) -> Result<(CacheKey, bool), Reason> {
        let settings = &self.settings;
        policy::admit(head.method(), head.headers(), facts, has_body, settings, rule)?;
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
        Ok((key.finish()?, identity.is_some()))
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
        Search { key: key.clone(), answer: self.store.get(key, now) }
    }

    /// What the store's answer means for this request.
    pub(crate) fn step(
        &self,
        ask: &Ask,
        headers: &HeaderMap,
        asked: CacheKey,
        answer: Result<Option<Stored>, Error>,
        now: Timestamp,
    ) -> Step {
        let stored = answer.unwrap_or_else(|error| {
            self.store_failed(&error);
            None
        });
        let is_variant = asked != ask.key;
        let missed = if is_variant { Forward::VaryMiss } else { Forward::UriMiss };
        match stored {
            Some(stored) if *stored.key() != asked => {
                self.store_failed(&Error::store("the store answered for another key", "keys differ"));
                Step::Done(asked, Found::Nothing(missed))
            }
            Some(Stored::Entry(entry)) => {
                let standing = self.standing(ask, &entry, headers, is_variant, now);
                match standing {
                    Standing::Gone => Step::Done(asked, Found::Nothing(missed)),
                    standing => Step::Done(asked, Found::Entry(entry, standing)),
                }
            }
            Some(Stored::Vary(index)) if !is_variant => match self.select(&index, headers) {
                Selected::Variant(key) => Step::Next(self.search(&key, now)),
                Selected::None(key) => Step::Done(key, Found::Nothing(Forward::VaryMiss)),
            },
            _ => Step::Done(asked, Found::Nothing(missed)),
        }
    }

    fn standing(&self, ask: &Ask, entry: &Entry, headers: &HeaderMap, is_variant: bool, now: Timestamp) -> Standing {
        // A variant found by a class of codings must be one that this client can read.
        if is_variant && !vary::is_readable(&entry.meta.headers, headers) {
            return Standing::Gone;
        }
        match self.barriers.check(&ask.key, &entry.meta) {
            Validity::Void => Standing::Gone,
            Validity::Valid => policy::standing(&entry.meta.windows, now),
            Validity::Stale => match policy::standing(&entry.meta.windows, now) {
                // Marked stale: as if its freshness had just ended.
                Standing::Fresh if entry.meta.windows.revalidate_until > entry.meta.windows.fresh_until => {
                    Standing::StaleWhileRevalidate
                }
                Standing::Fresh => Standing::Stale { on_error: true },
                other => other,
            },
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
    pub(crate) fn ttl(fresh_until: Timestamp, now: Timestamp) -> i64 {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        if now < fresh_until { seconds(fresh_until.since(now)) } else { -seconds(now.since(fresh_until)) }
    }
}
