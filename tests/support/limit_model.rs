//! What limits decide, computed slowly: a list of charges, searched anew for every request.
#![allow(dead_code, unreachable_pub, reason = "a part of the tests of pairs")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tollgate::limit::{ConcurrencyLimit, Count, Limit, Tiers};
use tollgate::{Tollgate, TollgateBuilder};

/// Period of every quota, in seconds.
const PERIOD: u64 = 60;
/// Step of the clock in seconds: no charge is as old as a period, and none is in the sub-bucket after it.
pub const TICK: u64 = 7;
/// Duration of grants and overrides.
pub const SPAN: u64 = 1_000 * TICK;
/// Time for which the override switches the layer off.
pub const OFF: u64 = 4 * TICK;
/// Duration of a ban.
const BAN: u64 = 3 * TICK;
/// Clients; the last one is on the deny list.
pub const CLIENTS: [&str; 3] = ["192.0.2.1", "192.0.2.2", "203.0.113.9"];
const DENIED: usize = 2;
/// Client that is granted a quota and has the better tier.
pub const PREFERRED: usize = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    Count,
    Concurrency,
    DenyList,
    Ban,
    Grant,
    Reset,
    Shadow,
    Off,
    Quota,
    Tiers,
    Matcher,
    PerRoute,
    Cost,
    Exempt,
}

pub const FEATURES: [Feature; 14] = [
    Feature::Count,
    Feature::Concurrency,
    Feature::DenyList,
    Feature::Ban,
    Feature::Grant,
    Feature::Reset,
    Feature::Shadow,
    Feature::Off,
    Feature::Quota,
    Feature::Tiers,
    Feature::Matcher,
    Feature::PerRoute,
    Feature::Cost,
    Feature::Exempt,
];

impl Feature {
    /// Adds the feature to a gate that has the limit `base`; those of operators are added while it runs.
    pub fn configure(self, gate: TollgateBuilder) -> TollgateBuilder {
        match self {
            Self::Count => gate.limit(Limit::per_ip("2/min").named("failures").count(Count::failures())),
            Self::Concurrency => gate.limit(ConcurrencyLimit::per_ip(2).named("places")),
            Self::DenyList => gate.limits_with(|limits| limits.deny_ips([CLIENTS[DENIED]])),
            Self::Ban => gate.limit(Limit::per_ip("4/min").named("strict").ban_after(2, Duration::from_secs(BAN))),
            Self::Tiers => {
                gate.limit(Tiers::new("3/min").tier("pro", "4/min").assign(|head| head.header("x-tier")?.to_str().ok()))
            }
            Self::Matcher => gate.limit(Limit::per_ip("2/min").named("matched").on(["POST /a", "/b"]).except("GET /b")),
            Self::PerRoute => gate.limit(Limit::per_ip("3/min").named("each").per_route()),
            Self::Cost => gate.limit(Limit::per_ip("7/min").named("costly").cost(2)),
            Self::Exempt => gate.limits_with(|limits| limits.exempt(|head| head.headers().contains_key("x-exempt"))),
            Self::Grant | Self::Reset | Self::Shadow | Self::Off | Self::Quota => gate,
        }
    }
}

/// Returns a gate with these features.
pub fn gate(features: &[Feature]) -> TollgateBuilder {
    let base = Tollgate::builder().routes(["/a", "/b"]).limit(Limit::per_ip("5/min").named("base"));
    features.iter().fold(base, |gate, feature| feature.configure(gate))
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub client: usize,
    pub method: &'static str,
    pub route: &'static str,
    pub fails: bool,
    pub exempt: bool,
    pub held: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Admitted without being counted.
    Passed,
    /// Admitted; then so many requests remain, unless no limit is enforced.
    Admitted {
        remaining: Option<u32>,
    },
    /// Refused by these limits.
    Refused {
        limits: Vec<&'static str>,
    },
    Denied,
}

struct Charge {
    limit: &'static str,
    key: (usize, &'static str),
    at: u64,
    units: u32,
}

/// A limit that applies to a request.
struct Applied {
    /// Name of the limit, or of its tier.
    name: &'static str,
    /// Name under which it keeps its charges: tiers share them.
    limit: &'static str,
    key: (usize, &'static str),
    quota: u32,
    cost: u32,
    enforced: bool,
}

/// Numbers of requests that a limit has admitted, refused, and would have refused.
pub type Counts = [u64; 3];

#[derive(Default)]
pub struct Model {
    features: Vec<Feature>,
    pub now: u64,
    charges: Vec<Charge>,
    refusals: Vec<(usize, u64)>,
    banned_until: [u64; CLIENTS.len()],
    in_progress: [u32; CLIENTS.len()],
    /// Until when the operator's grants and overrides are in force.
    operated_until: u64,
    off_until: u64,
    pub admitted: u64,
    pub refused: u64,
    pub denied: u64,
    pub counts: BTreeMap<&'static str, Counts>,
    /// Features without which a decision had been another.
    pub effective: BTreeSet<Feature>,
}

impl Model {
    pub fn new(features: &[Feature]) -> Self {
        Self { features: features.to_vec(), ..Self::default() }
    }

    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    pub fn operate(&mut self) {
        self.operated_until = self.now + SPAN;
        self.off_until = if self.has(Feature::Off) { self.now + OFF } else { 0 };
    }

    pub fn reset(&mut self, client: usize, route: &'static str) {
        let before = self.charges.len();
        self.charges.retain(|charge| charge.key.0 != client || (charge.limit == "each" && charge.key.1 != route));
        self.refusals.retain(|(refused, _)| *refused != client);
        self.banned_until[client] = 0;
        if self.charges.len() < before {
            self.effective.insert(Feature::Reset);
        }
    }

    pub fn release(&mut self, client: usize) {
        self.in_progress[client] -= 1;
    }

    pub fn decide(&mut self, asked: &Asked) -> Expected {
        let is_off = self.now < self.off_until;
        if is_off || (asked.exempt && self.has(Feature::Exempt)) {
            self.effective.insert(if is_off { Feature::Off } else { Feature::Exempt });
            return Expected::Passed;
        }
        let is_listed = self.has(Feature::DenyList) && asked.client == DENIED;
        if is_listed || self.now < self.banned_until[asked.client] {
            self.effective.insert(if is_listed { Feature::DenyList } else { Feature::Ban });
            (self.denied, self.refused) = (self.denied + 1, self.refused + 1);
            return Expected::Denied;
        }
        if self.has(Feature::Concurrency) && self.in_progress[asked.client] == 2 {
            self.effective.insert(Feature::Concurrency);
            self.refused += 1;
            self.counts.entry("places").or_default()[1] += 1;
            return Expected::Refused { limits: vec!["places"] };
        }
        let applied = self.applied(asked);
        let (fitting, beyond): (Vec<_>, Vec<_>) =
            applied.iter().partition(|limit| self.used(limit) + limit.cost <= limit.quota);
        for limit in &beyond {
            self.counts.entry(limit.name).or_default()[if limit.enforced { 1 } else { 2 }] += 1;
            self.note(limit, asked);
        }
        let limits: Vec<_> = beyond.iter().filter(|limit| limit.enforced).map(|limit| limit.name).collect();
        if !limits.is_empty() {
            self.refused += 1;
            if limits.contains(&"strict") {
                self.count_towards_ban(asked.client);
            }
            return Expected::Refused { limits };
        }
        self.charge(&applied, &fitting, asked)
    }

    /// Charges the limits that admit a request.
    fn charge(&mut self, applied: &[Applied], fitting: &[&Applied], asked: &Asked) -> Expected {
        self.admitted += 1;
        self.in_progress[asked.client] += u32::from(asked.held && self.has(Feature::Concurrency));
        for limit in fitting {
            self.counts.entry(limit.name).or_default()[0] += 1;
            self.charges.push(Charge { limit: limit.limit, key: limit.key, at: self.now, units: limit.cost });
        }
        let enforced = applied.iter().filter(|limit| limit.enforced);
        let remaining = enforced.map(|limit| limit.quota.saturating_sub(self.used(limit)) / limit.cost).min();
        // A good response is not counted.
        let is_refund = |charge: &Charge| charge.limit == "failures" && charge.key.0 == asked.client;
        if let Some(at) = self.charges.iter().rposition(is_refund).filter(|_| !asked.fails && self.has(Feature::Count))
        {
            self.charges.remove(at);
            self.effective.insert(Feature::Count);
        }
        Expected::Admitted { remaining }
    }

    /// Two refusals within a period, and the client is banned.
    fn count_towards_ban(&mut self, client: usize) {
        self.refusals.push((client, self.now));
        let recent = |(refused, at): &&(usize, u64)| *refused == client && self.now - at < PERIOD;
        if self.refusals.iter().filter(recent).count() == 2 {
            self.refusals.retain(|(refused, _)| *refused != client);
            self.banned_until[client] = self.now + BAN;
        }
    }

    fn used(&self, limit: &Applied) -> u32 {
        let of_limit = |charge: &&Charge| charge.limit == limit.limit && charge.key == limit.key;
        let recent = self.charges.iter().filter(of_limit).filter(|charge| self.now - charge.at < PERIOD);
        recent.map(|charge| charge.units).sum()
    }

    /// Returns the limits that apply to a request.
    fn applied(&self, asked: &Asked) -> Vec<Applied> {
        let (is_preferred, key) = (asked.client == PREFERRED, (asked.client, ""));
        let is_operated = |feature| self.has(feature) && self.now < self.operated_until;
        let limit = |name, quota, cost| Applied { name, limit: name, key, quota, cost, enforced: true };
        let quota = match () {
            () if is_preferred && is_operated(Feature::Grant) => 8,
            () if is_operated(Feature::Quota) => 3,
            () => 5,
        };
        let mut applied = vec![Applied { enforced: !is_operated(Feature::Shadow), ..limit("base", quota, 1) }];
        for feature in &self.features {
            applied.extend(match feature {
                Feature::Count => Some(limit("failures", 2, 1)),
                Feature::Ban => Some(limit("strict", 4, 1)),
                Feature::Tiers if is_preferred => Some(Applied { limit: "tiers", ..limit("pro", 4, 1) }),
                Feature::Tiers => Some(Applied { limit: "tiers", ..limit("anonymous", 3, 1) }),
                Feature::Matcher if asked.method == "POST" => Some(limit("matched", 2, 1)),
                Feature::PerRoute => Some(Applied { key: (asked.client, asked.route), ..limit("each", 3, 1) }),
                Feature::Cost => Some(limit("costly", 7, 2)),
                _ => None,
            });
        }
        applied
    }

    /// Notes which features decided a limit that does not admit a request.
    fn note(&mut self, limit: &Applied, asked: &Asked) {
        let used = self.used(limit);
        self.effective.extend(match limit.name {
            "base" if !limit.enforced => Some(Feature::Shadow),
            "base" if limit.quota == 8 => Some(Feature::Grant),
            "base" if limit.quota == 3 && used < 5 => Some(Feature::Quota),
            "pro" => Some(Feature::Tiers),
            "matched" if asked.route == "/b" => Some(Feature::Matcher),
            "each" => Some(Feature::PerRoute),
            "costly" => Some(Feature::Cost),
            _ => None,
        });
    }
}
