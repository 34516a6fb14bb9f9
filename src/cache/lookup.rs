//! Looking up: from a key to an entry that answers this request, or to none.
//!
//! A response that does not vary lies under the primary key. Where responses vary, an index lies there, and leads to a
//! second key; so a look-up takes one step or two. What is found is compared with the key that was asked for, with the
//! invalidations since, with the client's own wishes, and with the time.

use std::sync::Arc;

use http::HeaderMap;

use super::barrier::Validity;
use super::core::{Ask, Core};
use super::entry::{Entry, Meta, Stored, VaryIndex};
use super::key::CacheKey;
use super::policy::{self, Standing};
use super::status::Forward;
use super::{vary, wish};
use crate::answer::Answer;
use crate::clock::Timestamp;
use crate::error::Error;

/// A look-up under way.
pub(crate) struct Search {
    pub(crate) asked: Asked,
    pub(crate) answer: Answer<Result<Option<Stored>, Error>>,
}

/// What a look-up has asked the store for.
pub(crate) enum Asked {
    /// What lies under the primary key.
    Primary,
    /// A variant.
    Variant(Box<CacheKey>),
    /// What other processes know under the primary key, since the index found here knows no variant for this request.
    /// Those that ask like it share a fetch by this key, where there is none elsewhere either.
    Elsewhere(Box<CacheKey>),
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
    /// Begins a look-up.
    pub(crate) fn search(&self, key: &CacheKey, now: Timestamp) -> Search {
        Search { asked: Asked::Primary, answer: self.store.get(key, now) }
    }

    /// Looks up as far as the store answers at once; else what is to be waited for.
    ///
    /// # Errors
    /// The look-up, where it takes time.
    #[inline]
    pub(crate) fn look_at_hand(
        &self,
        ask: &Ask,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<(Option<Box<CacheKey>>, Found), Search> {
        let mut search = self.search(&ask.key, now);
        loop {
            let Search { asked, answer: Answer::Ready(answer) } = search else { return Err(search) };
            match self.step(ask, headers, asked, answer, now) {
                Step::Next(next) => search = next,
                Step::Done(variant, found) => return Ok((variant, found)),
            }
        }
    }

    /// A fresh entry that came to lie here since the request was looked up: a flight has landed before it could be joined.
    pub(crate) fn landed(&self, ask: &Ask, headers: &HeaderMap) -> Option<Arc<Entry>> {
        match self.look_at_hand(ask, headers, self.clock.now()) {
            Ok((_, Found::Entry(entry, Standing::Fresh | Standing::FreshButOld))) => Some(entry),
            _ => None,
        }
    }

    /// What the store's answer means for this request.
    pub(crate) fn step(
        &self,
        ask: &Ask,
        headers: &HeaderMap,
        asked: Asked,
        answer: Result<Option<Stored>, Error>,
        now: Timestamp,
    ) -> Step {
        let stored = answer.unwrap_or_else(|error| {
            self.store_failed(&error);
            None
        });
        let (key, variant, elsewhere) = match asked {
            Asked::Primary => (&ask.key, None, None),
            Asked::Variant(key) => (&*key.clone(), Some(key), None),
            Asked::Elsewhere(key) => (&ask.key, None, Some(key)),
        };
        let is_variant = variant.is_some();
        let missed = if is_variant || elsewhere.is_some() { Forward::VaryMiss } else { Forward::UriMiss };
        match stored {
            Some(stored) if stored.key() != key => {
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
                    Step::Next(Search { asked: Asked::Variant(Box::new(key)), answer })
                }
                Selected::None(key) if elsewhere.is_some() => {
                    Step::Done(Some(Box::new(key)), Found::Nothing(Forward::VaryMiss))
                }
                Selected::None(key) => {
                    let answer = self.store.get_shared(&ask.key, now);
                    Step::Next(Search { asked: Asked::Elsewhere(Box::new(key)), answer })
                }
            },
            _ => Step::Done(variant.or(elsewhere), Found::Nothing(missed)),
        }
    }

    fn standing(&self, ask: &Ask, entry: &Entry, headers: &HeaderMap, is_variant: bool, now: Timestamp) -> Standing {
        // A variant found by a class of codings must be one that this client can read.
        if is_variant && !vary::is_readable(&entry.meta.headers, headers) {
            return Standing::Gone;
        }
        if self.is_lifted(ask, &entry.meta) {
            return Standing::Gone;
        }
        let standing = policy::standing(&entry.meta.windows, now);
        let standing = match self.barriers.check(&ask.key, &entry.meta) {
            Validity::Void => return Standing::Gone,
            Validity::Valid => self.spared(standing, entry, now),
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

    /// Whether an answer is an error that this request's credential may lift.
    pub(crate) fn is_lifted(&self, ask: &Ask, meta: &Meta) -> bool {
        policy::is_lifted_by_credential(meta.status, ask.facts, ask.keyed, self.rules.rule(&ask.rule))
    }

    /// What a low budget makes of this standing. A fresh entry does not ask.
    fn spared(&self, standing: Standing, entry: &Entry, now: Timestamp) -> Standing {
        match &self.settings.budget {
            Some(budget) if standing != Standing::Fresh && !entry.meta.strict => {
                policy::spared(standing, &entry.meta.windows, entry.meta.stored_at, budget.thrift(now), now)
            }
            _ => standing,
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
}
