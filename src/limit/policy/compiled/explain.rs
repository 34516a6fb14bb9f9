//! Explains misconfigurations: cause, value and remedy.

use std::sync::atomic::Ordering;

use super::{CompiledLimit, CompiledLimits};
use crate::base::request_head::RequestHead;
use crate::identity::KeyExtractor;
use crate::limit::policy::limit::Subject;

/// Longest part of a tier's name in a warning.
const LONGEST: usize = 40;

impl CompiledLimits {
    /// Returns the code and the text of the warning that a limit, counted from 1, found no identity in this request.
    pub(crate) fn explain_anonymous(&self, limit: u16, head: &RequestHead<'_>) -> Option<(&'static str, String)> {
        let rule = self.rule(usize::from(limit).checked_sub(1)?)?;
        let name = rule.name();
        let extractor = match &rule.subject {
            Subject::Own(extractor) => extractor,
            _ => &self.identify,
        };
        if extractor.client_ip().is_some() || matches!(rule.subject, Subject::Ip) {
            return Some((
                "unknown-peer",
                format!(
                    "limit {name:?}: the client's address is unknown, so such requests share one bucket: serve with \
                     into_make_service_with_connect_info::<SocketAddr>() and the feature `axum`, or leave a PeerAddr in \
                     the extensions; with axum 0.7, use by::peer_from(|info: &ConnectInfo<SocketAddr>| Some(info.0)); \
                     behind a proxy on a Unix socket, use TrustedProxies::hops(1)"
                ),
            ));
        }
        let (reads, route) = (extractor.describe(), self.route_name(head));
        Some((
            "unknown-identity",
            format!(
                "limit {name:?} counts by {reads}, which a request to {route:?} did not carry exactly once, so such \
                 requests share one bucket: add an alternative with .or(by::client_ip(…)), or exempt them"
            ),
        ))
    }

    /// Returns the text of the warning that a request was assigned a tier that does not exist.
    pub(crate) fn explain_unknown_tier(&self, head: &RequestHead<'_>) -> String {
        let unknown = self.rules.iter().find_map(|rule| {
            let assigned = rule.assign.as_ref().and_then(|assign| assign(head)).map(str::to_owned);
            let assigned = assigned.or_else(|| Some(rule.lookup.as_ref()?.known(head)?.to_string()))?;
            rule.tier_index(&assigned).1.then_some((rule, assigned))
        });
        let Some((rule, tier)) = unknown else { return "a tier was assigned that does not exist".to_owned() };
        let (name, tier): (_, String) = (rule.name(), tier.chars().take(LONGEST).collect());
        let known: Vec<&str> = rule.quotas.iter().map(|quota| &*quota.tier).collect();
        format!(
            "limit {name:?}: tier {tier:?} was assigned and does not exist, so such requests count as anonymous: add it \
             with .tier({tier:?}, …), or assign one of {known:?}"
        )
    }

    /// Returns the text of the warning that none of the declared routes matches an entry of a limit.
    pub(crate) fn explain_undeclared(&self) -> Option<String> {
        let mut undeclared = Vec::new();
        for rule in self.all_rules() {
            let routes = rule.routes.undeclared(&self.patterns);
            undeclared.extend(routes.map(|route| format!("{route:?} of limit {:?}", rule.name())));
        }
        if undeclared.is_empty() {
            return None;
        }
        Some(format!(
            "no declared route matches {}: check the spelling against .routes([…]), or declare the route",
            undeclared.join(", ")
        ))
    }

    /// Returns the names and routes of limits whose routes no request has matched.
    pub(crate) fn unmatched(&self) -> impl Iterator<Item = (&str, &str)> {
        let waiting = self.all_rules().filter(|rule| !rule.matched.load(Ordering::Relaxed));
        waiting.filter_map(|rule| Some((rule.name(), rule.routes.patterns(&self.patterns).next()?)))
    }

    /// Returns the text of the warning that a limit's route was matched by none of the first requests.
    pub(crate) fn explain_unmatched(&self, requests: u32) -> Option<String> {
        let unmatched: Vec<String> = self.unmatched().map(|(name, route)| format!("{name:?} on {route:?}")).collect();
        if unmatched.is_empty() {
            return None;
        }
        Some(format!(
            "no route of the first {requests} requests was that of limit {}: if it is used seldom, all is well; otherwise \
             check its spelling against the router's, or declare the service's routes with .routes([…])",
            unmatched.join(", ")
        ))
    }
}

impl CompiledLimit {
    pub(super) fn name(&self) -> &str {
        self.quotas.first().map_or("", |quota| &*quota.name)
    }
}
