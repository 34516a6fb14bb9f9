//! What the cache would do with a request, without sending or counting it.

use std::time::Duration;

use super::lookup::{LookupResult, LookupStep};
use super::shared::{CacheRequest, CacheShared};
use crate::base::mode::Mode;
use crate::base::request_head::RequestHead;
use crate::cache::http::policy::Freshness;
use crate::cache::http::reason::Reason;
use crate::cache::http::request_flags::RequestFlags;
use crate::identity::ExtractedKeys;

/// What the cache would do with a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheExplanation {
    /// Pattern of the rule that covers it.
    pub(crate) rule: Option<String>,
    /// Mode of the layer, with that of the rule.
    pub(crate) mode: Mode,
    /// Reason to bypass the cache.
    pub(crate) bypass: Option<Reason>,
    /// Whether the key contains an identity.
    pub(crate) is_per_identity: bool,
    /// State: `fresh`, `stale`, `invalidated`, `missing`, `bypassed`, `off`, or `unknown` without the identity.
    pub(crate) state: &'static str,
    pub(crate) entry: Option<EntryExplanation>,
}

/// Stored response.
#[derive(Clone, Debug)]
pub(crate) struct EntryExplanation {
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) tags: Vec<String>,
    pub(crate) age: Duration,
    /// Time for which it is fresh; zero if it is stale.
    pub(crate) fresh_for: Duration,
}

impl CacheShared {
    pub(super) async fn explain(&self, head: &RequestHead<'_>) -> CacheExplanation {
        let matched = self.rules.find(head);
        let rule = self.rules.rule(&matched);
        let mode = if self.enabled { matched.mode.within(self.mode.get()) } else { Mode::Off };
        let pattern = self.rules.pattern(&matched).map(str::to_owned);
        let mut explanation = CacheExplanation { rule: pattern, mode, state: "off", ..CacheExplanation::default() };
        if mode == Mode::Off {
            return explanation;
        }
        let (mut flags, host) = RequestFlags::scan(head.headers());
        if self.credentials.carried(head) {
            flags = flags.and(RequestFlags::IDENTITY);
        }
        let mut keys = ExtractedKeys::default();
        let key = self.key(head, &mut keys, (flags, host), false, rule);
        let (key, keyed, directives) = match key {
            Ok(key) => key,
            // The identity may be known only to the application's own layers.
            Err(Reason::Identity | Reason::Authorization | Reason::Cookie) if rule.is_per_identity() => {
                (explanation.is_per_identity, explanation.state) = (true, "unknown");
                return explanation;
            }
            Err(reason) => {
                (explanation.bypass, explanation.state) = (Some(reason), "bypassed");
                return explanation;
            }
        };
        explanation.is_per_identity = keyed;
        let route = self.counters.route(self.rules.pattern(&matched).unwrap_or(crate::UNMATCHED));
        let (head_only, post) = (false, false);
        let params = CacheRequest { route, rule: matched, flags, head_only, post, keyed, directives, key };
        let found = self.find_entry(&params, head).await;
        let now = self.clock.now();
        let stored = match found {
            LookupResult::Miss(_) => "missing",
            LookupResult::Invalidated(_) => "invalidated",
            LookupResult::Entry(ref entry, freshness) => {
                let is_fresh = matches!(freshness, Freshness::Fresh | Freshness::RefreshAhead);
                let fresh_until = entry.meta.deadlines.fresh_until;
                explanation.entry = Some(EntryExplanation {
                    status: entry.status().as_u16(),
                    bytes: entry.length(),
                    tags: entry.tags().map(str::to_owned).collect(),
                    age: entry.meta.age_at(now),
                    fresh_for: if is_fresh { fresh_until.since(now) } else { Duration::ZERO },
                });
                if is_fresh { "fresh" } else { "stale" }
            }
        };
        explanation.state = stored;
        explanation
    }

    async fn find_entry(&self, params: &CacheRequest, head: &RequestHead<'_>) -> LookupResult {
        let mut lookup = self.primary_lookup(params);
        loop {
            let result = lookup.result.await;
            match self.step(params, head.headers(), lookup.read, result, self.clock.now()) {
                LookupStep::Next(next) => lookup = next,
                LookupStep::Done(_, found) => return found,
            }
        }
    }
}
