//! Look-up: finds the stored response that matches a request.
//!
//! A response that does not vary is stored under the primary key. Otherwise an index is stored there, which leads to a
//! secondary key, so a look-up takes one or two steps. The entry is checked against the requested key, later
//! invalidations, the client's directives, and the time.

use std::sync::Arc;

use http::HeaderMap;

use super::shared::{CacheRequest, CacheShared};
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::entry_freshness;
use crate::cache::engine::fetch_permit::MissLease;
use crate::cache::engine::record::{Entry, Stored, VaryIndex};
use crate::cache::http::cache_status::Forward;
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::{self, Freshness};
use crate::cache::http::stored_head::StoredHead;
use crate::cache::http::{client_directives, vary};

/// A look-up under way.
pub(super) struct Lookup {
    pub(super) read: PendingRead,
    pub(super) result: MaybeReady<Result<Option<Stored>, Error>>,
    /// Lease that is asked for if nothing is stored.
    pub(super) asked: Option<Arc<MissLease>>,
}

/// Pending read of the store.
pub(super) enum PendingRead {
    /// The value under the primary key.
    Primary,
    /// The entry of a variant.
    Variant(Box<CacheKey>),
    /// The shared value under the primary key, since the local index has no matching variant. Requests that select the
    /// same variant coalesce by this key if there is none elsewhere.
    SharedIndex(Box<CacheKey>),
}

/// Result of a look-up.
pub(super) enum LookupResult {
    /// A matching entry.
    Entry(Arc<Entry>, Freshness),
    /// A miss.
    Miss(Forward),
    /// A miss: what is stored was invalidated.
    Invalidated(Forward),
}

/// Step of a look-up.
pub(super) enum LookupStep {
    Next(Lookup),
    /// The result, and the variant key by which requests coalesce; `None` for the primary key.
    Done(Option<Box<CacheKey>>, LookupResult),
}

/// Variant selected by a request.
enum Selected {
    /// The variant under this key.
    Variant(CacheKey),
    /// No stored variant; matching requests coalesce by this key.
    None(CacheKey),
}

impl CacheShared {
    /// Starts a look-up.
    pub(super) fn start_lookup(&self, params: &CacheRequest, now: Timestamp) -> Lookup {
        let asked = if self.in_process { None } else { self.miss_lease(params) };
        let result = match &asked {
            Some(lease) => lease.get_or_claim(&self.engine(), &params.key, now),
            None => self.store.get(&params.key, now),
        };
        Lookup { read: PendingRead::Primary, result, asked }
    }

    /// Starts a look-up that asks for no lease.
    pub(super) fn primary_lookup(&self, params: &CacheRequest) -> Lookup {
        let result = self.store.get(&params.key, self.clock.now());
        Lookup { read: PendingRead::Primary, result, asked: None }
    }

    /// Looks up as long as the store answers without waiting.
    ///
    /// # Errors
    /// The pending look-up, if the store needs time.
    #[inline]
    pub(super) fn lookup_ready(
        &self,
        params: &CacheRequest,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<(Option<Box<CacheKey>>, LookupResult), Lookup> {
        let mut search = self.start_lookup(params, now);
        loop {
            let Lookup { read, result: MaybeReady::Ready(result), .. } = search else { return Err(search) };
            match self.step(params, headers, read, result, now) {
                LookupStep::Next(next) => search = next,
                LookupStep::Done(variant, found) => return Ok((variant, found)),
            }
        }
    }

    /// Returns a fresh entry stored after this request's look-up, by a fetch that completed meanwhile.
    pub(super) fn completed_meanwhile(&self, params: &CacheRequest, headers: &HeaderMap) -> Option<Arc<Entry>> {
        if self.was_never_stored(&params.key) {
            return None;
        }
        match self.lookup_ready(params, headers, self.clock.now()) {
            Ok((_, LookupResult::Entry(entry, Freshness::Fresh | Freshness::RefreshAhead))) => Some(entry),
            _ => None,
        }
    }

    /// Evaluates the store's answer for this request.
    pub(super) fn step(
        &self,
        params: &CacheRequest,
        headers: &HeaderMap,
        read: PendingRead,
        result: Result<Option<Stored>, Error>,
        now: Timestamp,
    ) -> LookupStep {
        let stored = result.unwrap_or_else(|error| {
            self.store_failed(&error);
            None
        });
        let (key, variant, elsewhere) = match read {
            PendingRead::Primary => (&params.key, None, None),
            PendingRead::Variant(key) => (&*key.clone(), Some(key), None),
            PendingRead::SharedIndex(key) => (&params.key, None, Some(key)),
        };
        let is_variant = variant.is_some();
        let missed = if is_variant || elsewhere.is_some() { Forward::VaryMiss } else { Forward::UriMiss };
        match stored {
            Some(stored) if stored.key() != key => {
                self.store_failed(&Error::store("store returned the entry of another key", "keys differ"));
                LookupStep::Done(variant, LookupResult::Miss(missed))
            }
            Some(Stored::Entry(entry)) => {
                let freshness = self.freshness(params, &entry, headers, is_variant, now);
                match freshness {
                    Freshness::Unusable if self.barriers.check(&params.key, &entry.meta) == Validity::Void => {
                        LookupStep::Done(variant, LookupResult::Invalidated(missed))
                    }
                    Freshness::Unusable => LookupStep::Done(variant, LookupResult::Miss(missed)),
                    freshness => LookupStep::Done(variant, LookupResult::Entry(entry, freshness)),
                }
            }
            Some(Stored::Vary(index)) if !is_variant => match self.select(&index, headers) {
                Selected::Variant(key) => {
                    let result = self.store.get(&key, now);
                    LookupStep::Next(Lookup { read: PendingRead::Variant(Box::new(key)), result, asked: None })
                }
                Selected::None(key) if elsewhere.is_some() => {
                    LookupStep::Done(Some(Box::new(key)), LookupResult::Miss(Forward::VaryMiss))
                }
                Selected::None(key) => {
                    let result = self.store.get_shared(&params.key, now);
                    LookupStep::Next(Lookup { read: PendingRead::SharedIndex(Box::new(key)), result, asked: None })
                }
            },
            _ => LookupStep::Done(variant.or(elsewhere), LookupResult::Miss(missed)),
        }
    }

    fn freshness(
        &self,
        params: &CacheRequest,
        entry: &Entry,
        headers: &HeaderMap,
        is_variant: bool,
        now: Timestamp,
    ) -> Freshness {
        // A variant selected by a class of codings must have a coding that the client accepts.
        if is_variant && !vary::is_readable(&entry.meta.headers, headers) {
            return Freshness::Unusable;
        }
        if entry.meta.status.is_client_error() && self.may_differ_with_credential(params, &entry.meta) {
            return Freshness::Unusable;
        }
        let freshness = self.entry_freshness(&params.key, entry, now);
        if freshness == Freshness::Unusable {
            return freshness;
        }
        match &params.directives {
            Some(directives) => client_directives::apply_client_directives(freshness, &entry.meta, directives, now),
            None => freshness,
        }
    }

    #[inline]
    pub(super) fn entry_freshness(&self, key: &CacheKey, entry: &Entry, now: Timestamp) -> Freshness {
        entry_freshness::freshness(&self.barriers, key, &entry.meta, self.settings.budget.as_ref(), now)
    }

    /// Whether the stored response is an error that this request's credential may avert.
    pub(super) fn may_differ_with_credential(&self, params: &CacheRequest, meta: &StoredHead) -> bool {
        policy::may_differ_with_credential(meta.status, params.flags, params.keyed, self.rules.rule(&params.rule))
    }

    /// Selects the variant for this request.
    fn select(&self, index: &VaryIndex, headers: &HeaderMap) -> Selected {
        // §4.1: "the cache MUST use the most recent one": the index has that order.
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

    /// Whether an invalidation since `began` rules out joining a fetch under way.
    pub(super) fn is_invalidated(&self, key: &CacheKey, began: u64) -> bool {
        self.barriers.check_fetch(key, began) != Validity::Valid
    }
}
