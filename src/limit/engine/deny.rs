//! Deny list and temporary bans.
//!
//! | refused because | until | |
//! |---|---|---|
//! | its address or key is on the deny list | – | of this layer |
//! | a limit has refused it too often | the ban's end | fleet-wide, if the store is shared; each node counts the refusals that it makes |
//! | an operator has banned it | the ban's end, or a reset | the same |

use std::sync::Arc;
use std::time::Duration;

use super::limiter::{LimitStep, Limiter};
use super::overrides::LimitOverride;
use super::refusals::RefusalRecord;
use crate::base::clock::Timestamp;
use crate::base::detached_context::{self, LimitNote};
use crate::base::event::Event;
use crate::base::maybe_ready::MaybeReady;
use crate::base::mode::Mode;
use crate::base::request_head::RequestHead;
use crate::context::RequestContext;
use crate::identity::KeyHash;
use crate::limit::algorithm::check::Check;
use crate::limit::algorithm::quota::Quota;
use crate::limit::policy::decision::{Decision, LimitLabel};
use crate::limit::policy::reference::Reference;

/// Name of the deny list in events.
const DENY_LIST: &str = "deny-list";
/// Name of bans in events.
const BAN: &str = "ban";

impl Limiter {
    /// Refuses a request that is on the deny list or banned.
    #[cold]
    pub(super) fn deny(self: &Arc<Self>, head: &RequestHead<'_>, context: &mut RequestContext) -> Option<LimitStep> {
        if self.reloaded.mode() == Mode::Shadow {
            return None;
        }
        let at = context.now(&self.clock);
        let is_listed = self.denied.iter().any(|denied| denied(head, &mut context.keys));
        let banned = if self.overrides.any() && !is_listed {
            let keys = self.limits.ban_keys(head, &mut context.keys);
            self.overrides.banned(&keys, at)
        } else {
            None
        };
        if context.keys.is_pending() && !is_listed {
            return Some(self.wait_for_identity());
        }
        if !is_listed && banned.is_none() {
            return None;
        }
        let route = self.limits.route_name(head);
        let (key, left) = banned.map_or((None, None), |(key, until)| (Some(key), Some(until.since(at))));
        let reference = self.report_denial(route, key, left, at);
        detached_context::note(|notes| notes.limit = Some(LimitNote::Refused));
        let decision = Decision { reference: Some(reference), denied: Some(left), ..Decision::admission() };
        Some(LimitStep::Reject(Box::new(self.denial(head, route, &decision))))
    }

    fn report_denial(&self, route: &str, key: Option<u64>, left: Option<Duration>, at: Timestamp) -> Reference {
        self.counters.count(false, false);
        self.counters.count_denial();
        self.counters.count_route(route);
        let reference = self.refusals.reference(key.unwrap_or_default());
        let record = RefusalRecord {
            reference,
            keys: key.into_iter().collect(),
            shown: key.map(KeyHash::from_bits),
            at,
            route: String::new(),
            labels: smallvec::SmallVec::new(),
            retry_after: left.unwrap_or_default(),
        };
        self.refusals.keep(record, route);
        let event = Event::Refused {
            route,
            limit: if left.is_some() { BAN } else { DENY_LIST },
            tier: "",
            key,
            reference: reference.as_str(),
            retry_after: left.unwrap_or_default(),
        };
        if self.warnings.logged.admits(at) {
            self.events.emit(&event)
        } else {
            self.events.emit_unlogged(&event)
        }
        reference
    }

    /// Counts a refusal by a limit that bans; bans the subject after too many.
    pub(super) fn count_towards_ban(&self, label: LimitLabel, check: &Check, at: Timestamp) {
        let (Some(policy), Some(counts)) = (self.limits.ban_policy(label.rule), &self.ban_counts) else { return };
        let counted = Check::new(check.key, Quota::new(policy.refusals, check.quota.period()));
        let verdict = counts.decide_one(&counted, at);
        if verdict.is_none_or(|verdict| verdict.admits() && verdict.remaining() > 0) {
            return;
        }
        // A ban that is over begins with no refusals.
        drop(counts.reset(&[counted]));
        let (local, fleet) = (check.key.to_bits(), check.fleet().map(|key| key.to_bits()));
        let keys = std::iter::once(local).chain(fleet);
        if self.overrides.add(keys, LimitOverride::Ban, at + policy.span, at).is_err() {
            return;
        }
        self.reloaded.take_slow_path();
        let limit = &*self.limits.quota(label).name;
        self.events.emit(&Event::Banned { limit, key: fleet.unwrap_or(local), span: policy.span });
        if let (Some(fleet), Some(_)) = (fleet, &self.fallback) {
            let published = self.store.publish(fleet, &LimitOverride::Ban.encode(), policy.span);
            let overrides = self.overrides.clone();
            super::limiter::settle(MaybeReady::Pending(Box::pin(async move {
                published.await.map(|()| overrides.confirm(&[local, fleet]))
            })));
        }
    }
}
