//! Compiles limits, and computes the checks of a request.
//!
//! Pure except for user-supplied closures: no clock, no store.

mod ban_keys;
mod changes;
mod concurrency;
mod explain;
mod naming;
mod subject_checks;
mod subject_digest;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use super::compiled_quota::CompiledQuota;
use super::concurrency::check_concurrency;
use super::count::Count;
use super::decision::{LimitLabel, Outcome};
use super::limit::{BanPolicy, ConcurrencyPolicy, Limit, LimitCost, Quotas, Subject};
use super::tier_lookup::{ResolveTier, TierLookup};
use super::tiers::AssignTier;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::request_head::RequestHead;
use crate::base::route::Patterns;
use crate::base::route_matcher::CompiledMatcher;
use crate::identity::{
    ClientIp, ExtractedKeys, FleetSecret, Key, KeyDigest, KeyExtractor, KeyHash, KeyHasher, LimitSalt, SharedExtractor,
    TrustedProxies, by,
};
use crate::limit::algorithm::check::{Check, Settlement};
use crate::limit::algorithm::quota::Quota;

/// Limits of a layer, compiled for requests.
pub(crate) struct CompiledLimits {
    rules: Vec<CompiledLimit>,
    /// Limits on requests in progress.
    concurrency: Vec<(CompiledLimit, ConcurrencyPolicy)>,
    identify: SharedExtractor,
    /// The client-address extractor within `identify`, if it has one.
    client_ip: Option<ClientIp>,
    /// Socket peer's address, used if `identify` yields no address.
    peer: ClientIp,
    hasher: KeyHasher,
    /// Secret under which a fleet hashes keys.
    secret: Option<FleetSecret>,
    patterns: Patterns,
}

struct CompiledLimit {
    /// Name that was given to it, before those of its tiers.
    given_name: Option<Box<str>>,
    id: u64,
    salt: LimitSalt,
    /// Key shared by all requests of a global limit, and by requests without an identity.
    anonymous: KeyHash,
    subject: Subject,
    /// Index of the first limit that counts by the very same extractor of its own.
    same_as: u16,
    quotas: Vec<Arc<CompiledQuota>>,
    assign: Option<AssignTier>,
    lookup: Option<Box<dyn ResolveTier>>,
    routes: CompiledMatcher,
    /// Whether it applies to some requests only.
    is_routed: bool,
    /// Whether a request has matched its routes.
    matched: AtomicBool,
    per_route: bool,
    cost: LimitCost,
    enforced: bool,
    reserve: bool,
    hit_cost: Option<u32>,
    count: Option<Count>,
    ban: Option<BanPolicy>,
    /// Whether a charge may be settled later.
    settles: bool,
}

/// Checks of one request.
#[derive(Default)]
pub(crate) struct Checks {
    pub(crate) list: SmallVec<[Check; 2]>,
    pub(crate) labels: SmallVec<[LimitLabel; 2]>,
    pub(crate) seen: RequestSubject,
}

impl Checks {
    pub(crate) fn one(check: Check, label: LimitLabel, seen: RequestSubject) -> Self {
        Self { list: smallvec::smallvec![check], labels: smallvec::smallvec![label], seen }
    }
}

/// Observations made while the checks were computed.
#[derive(Clone, Copy, Default)]
pub(crate) struct RequestSubject {
    /// The limit that found no identity, from 1: the request counts in its shared bucket. 0 if all found one.
    pub(crate) anonymous: u16,
    /// Whether the assigned tier does not exist.
    pub(crate) unknown_tier: bool,
    /// Whether a limit makes a reservation, counts outcomes, or refunds a cache hit.
    pub(crate) reserves: bool,
    /// Whether the request has waited for unsettled charges as long as it may.
    pub(crate) has_waited: bool,
}

/// Keys under which a request or subject may be banned: of this process, and of the fleet if its secret is known.
pub(crate) type BanKeys = SmallVec<[u64; 8]>;

/// Starts a tier resolver; supplied by the engine.
pub(crate) type StartLookup = fn(&TierLookup) -> Box<dyn ResolveTier>;

impl CompiledLimits {
    /// Compiles `limits`.
    ///
    /// # Errors
    /// Returns an error that names the invalid limit, quota, pattern or network.
    pub(crate) fn new(
        limits: &[Limit],
        identify: SharedExtractor,
        secret: Option<FleetSecret>,
        routes: Option<Arc<Patterns>>,
        start: StartLookup,
    ) -> Result<Self, Error> {
        identify.check()?;
        let (mut patterns, hasher) = (Patterns::default(), KeyHasher::random());
        let (mut rules, mut concurrency) = (Vec::new(), Vec::new());
        for limit in limits {
            let rule = CompiledLimit::new(limit, &hasher, &mut patterns, start)?;
            if let Some(policy) = limit.concurrency {
                concurrency.push((rule, policy));
                continue;
            }
            let same = rules.iter().position(|known: &CompiledLimit| known.subject.is_same(&rule.subject));
            rules.push(CompiledLimit { same_as: same.unwrap_or(rules.len()) as u16, ..rule });
        }
        if let Some(routes) = routes {
            patterns.declare(routes);
        }
        let in_progress = concurrency.iter_mut().map(|(rule, _)| rule);
        rules.iter_mut().chain(in_progress).for_each(|rule| rule.routes.extend_catch_alls(&patterns));
        let peer = by::client_ip(TrustedProxies::none());
        let client_ip = identify.client_ip().cloned();
        let compiled = Self { rules, concurrency, identify, client_ip, peer, hasher, secret, patterns };
        let mut names: Vec<&str> =
            compiled.all_rules().flat_map(|rule| rule.quotas.iter().map(|quota| &*quota.name)).collect();
        names.sort_unstable();
        if compiled.rules.iter().filter(|rule| matches!(rule.subject, Subject::Node)).count() > 1 {
            return Err(Error::config("more than one per-node ceiling; keep one"));
        }
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::config(format!("duplicate limit name {:?}; rename one with `.named()`", pair[0]))),
            None => Ok(compiled),
        }
    }

    /// Returns the only check, if there is one limit and it applies.
    #[inline(always)]
    pub(crate) fn only(
        &self,
        head: &RequestHead<'_>,
        keys: &mut ExtractedKeys,
        seen: &mut RequestSubject,
    ) -> Option<(Check, LimitLabel)> {
        let [rule] = &*self.rules else { return None };
        let route = if rule.is_routed { self.route(head) } else { None };
        self.check(0, rule, head, route, seen, |tiered| self.digest(rule, head, keys, tiered))
    }

    /// Returns the check of one limit, if it applies to the request. `digest` returns that of its subject; the argument says
    /// whether the request has a tier.
    #[inline(always)]
    fn check(
        &self,
        index: usize,
        rule: &CompiledLimit,
        head: &RequestHead<'_>,
        route: Option<usize>,
        seen: &mut RequestSubject,
        digest: impl FnOnce(bool) -> Option<KeyDigest>,
    ) -> Option<(Check, LimitLabel)> {
        let other_route = rule.is_routed && !rule.routes.matches(route, head);
        if other_route || matches!(rule.subject, Subject::Node) {
            return None;
        }
        if rule.is_routed && !rule.matched.load(Ordering::Relaxed) {
            rule.matched.store(true, Ordering::Relaxed);
        }
        let (tier, unknown) = rule.tier(head);
        let is_global = matches!(rule.subject, Subject::Everybody);
        let digest = if is_global { None } else { digest(tier.is_some()) };
        seen.unknown_tier |= unknown;
        if digest.is_none() && !is_global {
            seen.anonymous = index as u16 + 1;
        }
        seen.reserves |= rule.settles;
        let salt = if rule.per_route { self.route_salt(rule, head) } else { rule.salt };
        let key = match digest {
            Some(digest) => digest.of(salt),
            None if rule.per_route => self.hasher.digest(&anonymous()).of(salt),
            None => rule.anonymous,
        };
        let tier = tier.unwrap_or(0);
        let check = Check::new(key, rule.quotas[tier].quota).cost(rule.cost(head));
        let check = Check { enforced: rule.enforced, settles: rule.count.is_some(), ..check };
        Some((check, LimitLabel { rule: index as u16, tier: tier as u16 }))
    }

    /// Returns the salt of a limit that counts each route apart.
    fn route_salt(&self, rule: &CompiledLimit, head: &RequestHead<'_>) -> LimitSalt {
        self.hasher.salt(rule.id ^ fnv1a(self.patterns.name(head)))
    }

    /// Whether all requests that are not exempt are counted by one quota.
    pub(crate) fn is_single(&self) -> bool {
        matches!(&*self.rules, [rule] if rule.quotas.len() == 1 && !rule.is_routed)
    }

    /// Returns whether any limit looks up tiers.
    pub(crate) fn has_lookups(&self) -> bool {
        self.rules.iter().any(|rule| rule.lookup.is_some())
    }

    /// Returns the look-ups that the request's tiers depend on.
    pub(crate) fn lookups(&self, head: &RequestHead<'_>) -> impl Iterator<Item = &dyn ResolveTier> {
        let unassigned = |rule: &&CompiledLimit| rule.assign.as_ref().is_none_or(|assign| assign(head).is_none());
        self.rules
            .iter()
            .filter(|rule| rule.lookup.is_some())
            .filter(unassigned)
            .filter_map(|rule| rule.lookup.as_deref())
    }

    pub(crate) fn quota(&self, label: LimitLabel) -> &Arc<CompiledQuota> {
        let index = label.rule as usize;
        let rule = self.rules.get(index).unwrap_or_else(|| &self.concurrency[index - self.rules.len()].0);
        &rule.quotas[label.tier as usize]
    }

    /// Iterates over all limits and tiers, in configuration order.
    pub(crate) fn quotas(&self) -> impl Iterator<Item = (LimitLabel, &Arc<CompiledQuota>)> {
        self.rules.iter().enumerate().flat_map(|(rule, compiled)| {
            let label = move |tier| LimitLabel { rule: rule as u16, tier: tier as u16 };
            compiled.quotas.iter().enumerate().map(move |(tier, quota)| (label(tier), quota))
        })
    }

    /// Returns the charges of reserving limits, without those that a limit in shadow would have rejected.
    /// The flag says whether a cache hit would refund the charge too.
    pub(crate) fn reserving(&self, outcome: &Outcome<'_>) -> SmallVec<[(Check, bool); 2]> {
        let decided = outcome.checks.iter().zip(outcome.labels).zip(outcome.verdicts);
        let charged =
            decided.filter(|((_, label), verdict)| self.rules[label.rule as usize].reserve && verdict.admits());
        charged.map(|((check, label), _)| (*check, self.rules[label.rule as usize].hit_cost.is_some())).collect()
    }

    /// Returns the charges of limits that count outcomes.
    pub(crate) fn counting(&self, outcome: &Outcome<'_>) -> SmallVec<[(Check, Count); 1]> {
        let decided = outcome.checks.iter().zip(outcome.labels).zip(outcome.verdicts);
        let charged = decided.filter(|(_, verdict)| verdict.admits());
        charged
            .filter_map(|((check, label), _)| Some((*check, self.rules[label.rule as usize].count.clone()?)))
            .collect()
    }

    /// Returns the settlements to make if the cache answers. The flag says whether the charge is reserved too.
    pub(crate) fn discounts(&self, outcome: &Outcome<'_>, at: Timestamp) -> SmallVec<[(Settlement, bool); 2]> {
        let decided = outcome.checks.iter().zip(outcome.labels).zip(outcome.verdicts);
        let charged = decided.filter(|(_, verdict)| verdict.admits());
        let discount = |(check, label): (&Check, &LimitLabel)| {
            let rule = &self.rules[label.rule as usize];
            let cost = rule.hit_cost?;
            Some((Settlement::new(*check, at, cost.min(check.cost)), rule.reserve))
        };
        charged.filter_map(|(pair, _)| discount(pair)).collect()
    }

    /// Returns the per-node ceiling: its label, quota and cost.
    pub(crate) fn node(&self) -> Option<(LimitLabel, Quota, u32)> {
        let rule = self.rules.iter().position(|rule| matches!(rule.subject, Subject::Node))?;
        let cost = if let LimitCost::Fixed(units) = self.rules[rule].cost { units } else { 1 };
        Some((LimitLabel { rule: rule as u16, tier: 0 }, self.rules[rule].quotas[0].quota, cost))
    }

    /// Returns the index of the pattern that matches the request.
    #[inline]
    fn route(&self, head: &RequestHead<'_>) -> Option<usize> {
        self.patterns.find(head).map(|found| found.place)
    }

    /// Returns the name of the matched route; unmatched requests share one name.
    pub(crate) fn route_name<'a>(&'a self, head: &RequestHead<'a>) -> &'a str {
        self.patterns.name(head)
    }

    pub(crate) const fn patterns(&self) -> &Patterns {
        &self.patterns
    }

    pub(crate) fn identify(&self) -> &SharedExtractor {
        &self.identify
    }
}

impl CompiledLimit {
    fn new(limit: &Limit, hasher: &KeyHasher, patterns: &mut Patterns, start: StartLookup) -> Result<Self, Error> {
        if let Some(mistake) = &limit.mistake {
            let name = limit.name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
            return Err(Error::config(format!("limit{name}: {mistake}")));
        }
        let (quotas, assign, lookup) = match &limit.quotas {
            Quotas::One(quota) => {
                let name = limit.name.clone().unwrap_or_else(|| default_name(limit, *quota));
                (vec![CompiledQuota::new(&name, "", *quota, limit)?], None, None)
            }
            Quotas::Tiers(tiers) => {
                tiers.check()?;
                let compile = |(name, quota): &(String, Quota)| {
                    let full = limit.name.as_ref().map_or_else(|| name.clone(), |prefix| format!("{prefix}-{name}"));
                    CompiledQuota::new(&full, name, *quota, limit)
                };
                let lookup = tiers.lookup.as_ref().map(start);
                (tiers.tiers.iter().map(compile).collect::<Result<_, _>>()?, tiers.assign.clone(), lookup)
            }
        };
        check_subject(limit, &quotas[0].name)?;
        if let (LimitCost::Fixed(cost), Some(hit)) = (&limit.cost, limit.hit_cost)
            && hit > *cost
        {
            let name = &quotas[0].name;
            return Err(Error::config(format!("limit {name:?}: a cache hit that costs {hit} costs more than {cost}")));
        }
        if limit.count.is_some() && (limit.reserve || limit.hit_cost.is_some()) {
            let name = &quotas[0].name;
            return Err(Error::config(format!(
                "limit {name:?}: count() settles the charge by the response; remove reserve() and hit_cost()"
            )));
        }
        check_ban(limit, &quotas[0].name)?;
        check_concurrency(limit, &quotas[0].name)?;
        let routes = limit.routes.compile(patterns)?;
        let id = fnv1a(&quotas[0].name);
        let salt = hasher.salt(id);
        Ok(Self {
            given_name: limit.name.as_deref().map(Into::into),
            id,
            salt,
            anonymous: hasher.digest(&anonymous()).of(salt),
            subject: limit.subject.clone(),
            same_as: 0,
            quotas,
            assign,
            lookup,
            is_routed: !routes.is_all(),
            routes,
            matched: AtomicBool::new(false),
            per_route: limit.per_route,
            cost: limit.cost.clone(),
            enforced: limit.enforced,
            reserve: limit.reserve,
            hit_cost: limit.hit_cost,
            count: limit.count.clone(),
            ban: limit.ban,
            settles: limit.reserve || limit.hit_cost.is_some() || limit.count.is_some(),
        })
    }

    /// Returns the assigned tier, and whether the assigned name is unknown.
    fn tier(&self, head: &RequestHead<'_>) -> (Option<usize>, bool) {
        let Some(assign) = &self.assign else { return self.cached_tier(head) };
        let Some(name) = assign(head) else { return self.cached_tier(head) };
        self.tier_index(name)
    }

    #[inline]
    fn cached_tier(&self, head: &RequestHead<'_>) -> (Option<usize>, bool) {
        match &self.lookup {
            Some(lookup) => lookup.known(head).map_or((None, false), |name| self.tier_index(&name)),
            None if self.assign.is_none() && self.quotas.len() == 1 => (Some(0), false),
            None => (None, false),
        }
    }

    fn tier_index(&self, name: &str) -> (Option<usize>, bool) {
        let tier = self.quotas.iter().position(|quota| *quota.tier == *name);
        (tier, tier.is_none())
    }

    fn cost(&self, head: &RequestHead<'_>) -> u32 {
        match &self.cost {
            LimitCost::Fixed(units) => *units,
            LimitCost::By(f) => f(head),
        }
    }
}

fn check_subject(limit: &Limit, name: &str) -> Result<(), Error> {
    match &limit.subject {
        Subject::Own(extractor) => extractor.check(),
        Subject::Node if !limit.enforced || !limit.routes.is_all() || limit.per_route => {
            Err(Error::config(format!("limit {name:?}: a per-node ceiling supports neither shadow() nor routes")))
        }
        Subject::Node if matches!(limit.cost, LimitCost::By(_)) || limit.reserve || limit.count.is_some() => {
            Err(Error::config(format!("limit {name:?}: a per-node ceiling has a fixed cost and nothing to settle")))
        }
        _ => Ok(()),
    }
}

fn check_ban(limit: &Limit, name: &str) -> Result<(), Error> {
    let Some(ban) = limit.ban else { return Ok(()) };
    if ban.refusals == 0 || ban.span.is_zero() {
        return Err(Error::config(format!("limit {name:?}: ban_after needs at least one refusal and a time over 0")));
    }
    if limit.per_route || matches!(limit.subject, Subject::Everybody | Subject::Node) {
        let message = format!("limit {name:?}: ban_after bans a subject; it needs a limit per user, address or key");
        return Err(Error::config(message));
    }
    Ok(())
}

/// Returns the key of global limits and of requests without an identity.
fn anonymous() -> Key<'static> {
    Key::text("anonymous", "")
}

fn default_name(limit: &Limit, quota: Quota) -> String {
    let extractor = match &limit.subject {
        Subject::User => "user",
        Subject::Ip => "ip",
        Subject::Everybody => "global",
        Subject::Node => "node",
        Subject::Own(_) => "key",
    };
    let text = quota.to_string();
    let period = text.split(['/', ' ']).nth(1).unwrap_or_default();
    let unit = if limit.concurrency.is_some() { "in-progress".to_owned() } else { format!("per-{period}") };
    let entries = limit.routes.entries();
    let route = entries.first().map(|first| format!(" {}", first.trim_start())).unwrap_or_default();
    let more = if entries.len() > 1 { format!(" +{}", entries.len() - 1) } else { String::new() };
    format!("{extractor}-{unit}{}{route}{more}", if limit.per_route { "-per-route" } else { "" })
}

/// FNV-1a hash of a limit's name, equal on every node. Not secret; the key's hash is.
const fn fnv1a(text: &str) -> u64 {
    let (bytes, mut hash, mut i) = (text.as_bytes(), 0xcbf2_9ce4_8422_2325_u64, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}
