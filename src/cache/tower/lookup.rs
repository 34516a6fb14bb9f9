//! Looking up: from a key to an entry that answers this request, or to none.
//!
//! A response that does not vary lies under the primary key. Where responses vary, an index lies there, and leads to a
//! second key; so a look-up takes one step or two. What is found is compared with the key that was asked for, with the
//! invalidations since, with the client's own wishes, and with the time.

use std::sync::Arc;

use http::HeaderMap;

use super::shared::{CacheRequest, CacheShared};
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::record::{Entry, Stored, VaryIndex};
use crate::cache::http::cache_status::Forward;
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::{self, Freshness};
use crate::cache::http::stored_head::StoredHead;
use crate::cache::http::{client_directives, vary};

/// A look-up under way.
pub(crate) struct Lookup {
    pub(crate) asked: PendingRead,
    pub(crate) answer: MaybeReady<Result<Option<Stored>, Error>>,
}

/// What a look-up has asked the store for.
pub(crate) enum PendingRead {
    /// What lies under the primary key.
    Primary,
    /// A variant.
    Variant(Box<CacheKey>),
    /// What other processes know under the primary key, since the index found here knows no variant for this request.
    /// Those that ask like it share a fetch by this key, where there is none elsewhere either.
    Elsewhere(Box<CacheKey>),
}

/// What a look-up found.
pub(crate) enum LookupResult {
    /// An entry for this request.
    Entry(Arc<Entry>, Freshness),
    /// None; and under which key requests like this one share a fetch.
    Nothing(Forward),
}

/// One step of a look-up.
pub(crate) enum LookupStep {
    Next(Lookup),
    /// What was found, and the variant by which requests like this one share a fetch; none for the primary key.
    Done(Option<Box<CacheKey>>, LookupResult),
}

/// Which variant answers a request.
enum Selected {
    /// The one under this key.
    Variant(CacheKey),
    /// None; requests like this one share a fetch by this key.
    None(CacheKey),
}

impl CacheShared {
    /// Begins a look-up.
    pub(crate) fn search(&self, key: &CacheKey, now: Timestamp) -> Lookup {
        Lookup { asked: PendingRead::Primary, answer: self.store.get(key, now) }
    }

    /// Looks up as far as the store answers at once; else what is to be waited for.
    ///
    /// # Errors
    /// The look-up, where it takes time.
    #[inline]
    pub(crate) fn look_at_hand(
        &self,
        ask: &CacheRequest,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<(Option<Box<CacheKey>>, LookupResult), Lookup> {
        let mut search = self.search(&ask.key, now);
        loop {
            let Lookup { asked, answer: MaybeReady::Ready(answer) } = search else { return Err(search) };
            match self.step(ask, headers, asked, answer, now) {
                LookupStep::Next(next) => search = next,
                LookupStep::Done(variant, found) => return Ok((variant, found)),
            }
        }
    }

    /// A fresh entry that came to lie here since the request was looked up: a flight has landed before it could be joined.
    pub(crate) fn landed(&self, ask: &CacheRequest, headers: &HeaderMap) -> Option<Arc<Entry>> {
        match self.look_at_hand(ask, headers, self.clock.now()) {
            Ok((_, LookupResult::Entry(entry, Freshness::Fresh | Freshness::RefreshAhead))) => Some(entry),
            _ => None,
        }
    }

    /// What the store's answer means for this request.
    pub(crate) fn step(
        &self,
        ask: &CacheRequest,
        headers: &HeaderMap,
        asked: PendingRead,
        answer: Result<Option<Stored>, Error>,
        now: Timestamp,
    ) -> LookupStep {
        let stored = answer.unwrap_or_else(|error| {
            self.store_failed(&error);
            None
        });
        let (key, variant, elsewhere) = match asked {
            PendingRead::Primary => (&ask.key, None, None),
            PendingRead::Variant(key) => (&*key.clone(), Some(key), None),
            PendingRead::Elsewhere(key) => (&ask.key, None, Some(key)),
        };
        let is_variant = variant.is_some();
        let missed = if is_variant || elsewhere.is_some() { Forward::VaryMiss } else { Forward::UriMiss };
        match stored {
            Some(stored) if stored.key() != key => {
                self.store_failed(&Error::store("the store answered for another key", "keys differ"));
                LookupStep::Done(variant, LookupResult::Nothing(missed))
            }
            Some(Stored::Entry(entry)) => {
                let freshness = self.freshness(ask, &entry, headers, is_variant, now);
                match freshness {
                    Freshness::Unusable => LookupStep::Done(variant, LookupResult::Nothing(missed)),
                    freshness => LookupStep::Done(variant, LookupResult::Entry(entry, freshness)),
                }
            }
            Some(Stored::Vary(index)) if !is_variant => match self.select(&index, headers) {
                Selected::Variant(key) => {
                    let answer = self.store.get(&key, now);
                    LookupStep::Next(Lookup { asked: PendingRead::Variant(Box::new(key)), answer })
                }
                Selected::None(key) if elsewhere.is_some() => {
                    LookupStep::Done(Some(Box::new(key)), LookupResult::Nothing(Forward::VaryMiss))
                }
                Selected::None(key) => {
                    let answer = self.store.get_shared(&ask.key, now);
                    LookupStep::Next(Lookup { asked: PendingRead::Elsewhere(Box::new(key)), answer })
                }
            },
            _ => LookupStep::Done(variant.or(elsewhere), LookupResult::Nothing(missed)),
        }
    }

    fn freshness(
        &self,
        ask: &CacheRequest,
        entry: &Entry,
        headers: &HeaderMap,
        is_variant: bool,
        now: Timestamp,
    ) -> Freshness {
        // A variant found by a class of codings must be one that this client can read.
        if is_variant && !vary::is_readable(&entry.meta.headers, headers) {
            return Freshness::Unusable;
        }
        if self.is_lifted(ask, &entry.meta) {
            return Freshness::Unusable;
        }
        let freshness = policy::freshness(&entry.meta.deadlines, now);
        let freshness = match self.barriers.check(&ask.key, &entry.meta) {
            Validity::Void => return Freshness::Unusable,
            Validity::Valid => self.stretched_freshness(freshness, entry, now),
            Validity::Stale => match freshness {
                // Marked stale: as if its freshness had just ended.
                Freshness::Fresh | Freshness::RefreshAhead
                    if entry.meta.deadlines.revalidate_until > entry.meta.deadlines.fresh_until =>
                {
                    Freshness::StaleWhileRevalidate
                }
                Freshness::Fresh | Freshness::RefreshAhead => Freshness::Stale { on_error: true },
                other => return other,
            },
        };
        match &ask.directives {
            Some(directives) => client_directives::apply_client_directives(freshness, &entry.meta, directives, now),
            None => freshness,
        }
    }

    /// Whether an answer is an error that this request's credential may lift.
    pub(crate) fn is_lifted(&self, ask: &CacheRequest, meta: &StoredHead) -> bool {
        policy::may_differ_with_credential(meta.status, ask.flags, ask.keyed, self.rules.rule(&ask.rule))
    }

    /// What a low budget makes of this standing. A fresh entry does not ask.
    fn stretched_freshness(&self, freshness: Freshness, entry: &Entry, now: Timestamp) -> Freshness {
        match &self.settings.budget {
            Some(budget) if freshness != Freshness::Fresh && !entry.meta.strict => policy::stretched_freshness(
                freshness,
                &entry.meta.deadlines,
                entry.meta.stored_at,
                budget.effect(now),
                now,
            ),
            _ => freshness,
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
                && vary::prefers(headers, &language.tag)
                && *language.other_selection
                    == *vary::selection_without_language(&variant.names, headers, self.settings.profile)
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
}
