//! The identity that a limit counts by, extracted and hashed at most once a request.

use smallvec::SmallVec;

use super::{Checks, CompiledLimit, CompiledLimits};
use crate::base::request_head::RequestHead;
use crate::identity::{ExtractedKeys, KeyDigest, KeyExtractor};
use crate::limit::policy::limit::Subject;

/// Digests of one request's identities, as far as a limit has asked for them. A missing identity is asked for again.
#[derive(Default)]
struct KnownDigests {
    user: Option<KeyDigest>,
    /// That of the client's address, which both the fallback and the address are where it is known.
    client: Option<KeyDigest>,
    fallback: Option<KeyDigest>,
    address: Option<KeyDigest>,
    /// Those of limits with an extractor of their own, by the first limit that has it.
    own: SmallVec<[(u16, KeyDigest); 2]>,
}

impl CompiledLimits {
    /// Returns the checks of all limits that apply to the request. An identity that several of them count by is extracted
    /// and hashed once.
    pub(crate) fn checks(&self, head: &RequestHead<'_>, keys: &mut ExtractedKeys) -> Checks {
        let (route, mut checks, mut known) = (self.route(head), Checks::default(), KnownDigests::default());
        for (index, rule) in self.rules.iter().enumerate() {
            let digest = |tiered| self.shared_digest(rule, head, keys, tiered, &mut known);
            if let Some((check, label)) = self.check(index, rule, head, route, &mut checks.seen, digest) {
                checks.list.push(check);
                checks.labels.push(label);
            }
        }
        checks
    }

    /// Returns the digest of the counted identity; `None` if the limit is global or the identity is unknown. `tiered` says
    /// whether the request has a tier; without one, the identity is unverified.
    #[inline(always)]
    pub(super) fn digest(
        &self,
        rule: &CompiledLimit,
        head: &RequestHead<'_>,
        keys: &mut ExtractedKeys,
        tiered: bool,
    ) -> Option<KeyDigest> {
        let key = match &rule.subject {
            Subject::Everybody | Subject::Node => return None,
            Subject::Ip => return self.address(head, keys),
            Subject::User if !tiered => return self.fallback(head, keys),
            Subject::Own(extractor) => extractor.extract_once(head, keys),
            Subject::User => self.identify.extract_once(head, keys),
        };
        key.as_ref().map(|key| self.hasher.digest(key))
    }

    /// As [`digest`](Self::digest), unless it is known.
    fn shared_digest(
        &self,
        rule: &CompiledLimit,
        head: &RequestHead<'_>,
        keys: &mut ExtractedKeys,
        tiered: bool,
        known: &mut KnownDigests,
    ) -> Option<KeyDigest> {
        let by_client = matches!(rule.subject, Subject::Ip) || matches!(rule.subject, Subject::User) && !tiered;
        if by_client && known.client.is_none() {
            known.client = self.client(head);
        }
        let digest = match &rule.subject {
            Subject::Everybody | Subject::Node => return None,
            Subject::Ip => known.client.or(known.address),
            Subject::User if !tiered => known.client.or(known.fallback),
            Subject::User => known.user,
            Subject::Own(_) => {
                known.own.iter().find(|(rule_of, _)| *rule_of == rule.same_as).map(|(_, digest)| *digest)
            }
        };
        if digest.is_some() {
            return digest;
        }
        let digest = self.digest(rule, head, keys, tiered)?;
        match &rule.subject {
            Subject::Everybody | Subject::Node => {}
            Subject::Ip => known.address = Some(digest),
            Subject::User if !tiered => known.fallback = Some(digest),
            Subject::User => known.user = Some(digest),
            Subject::Own(_) => known.own.push((rule.same_as, digest)),
        }
        Some(digest)
    }

    /// Returns that of the client's address, where an alternative of the identity is one.
    #[inline]
    fn client(&self, head: &RequestHead<'_>) -> Option<KeyDigest> {
        self.client_ip.as_ref().and_then(|extractor| extractor.digest(head, &self.hasher))
    }

    /// Returns that of the identity's last alternative, usually the client's address, which is hashed directly.
    #[inline]
    fn fallback(&self, head: &RequestHead<'_>, keys: &mut ExtractedKeys) -> Option<KeyDigest> {
        self.client(head).or_else(|| self.identify.fallback(head, keys).map(|key| self.hasher.digest(&key)))
    }

    /// Returns that of the address from the identity, else of the socket peer's.
    #[inline]
    fn address(&self, head: &RequestHead<'_>, keys: &mut ExtractedKeys) -> Option<KeyDigest> {
        self.client(head).or_else(|| self.peer(head, keys))
    }

    #[cold]
    fn peer(&self, head: &RequestHead<'_>, keys: &mut ExtractedKeys) -> Option<KeyDigest> {
        let key = self.identify.fallback(head, keys).filter(|key| key.as_ip().is_some());
        key.map(|key| self.hasher.digest(&key)).or_else(|| self.peer.digest(head, &self.hasher))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::PeerAddr;
    use crate::identity::{DIGESTS, KeyExtractor, SharedExtractor, TrustedProxies, by};
    use crate::limit::policy::limit::Limit;
    use crate::limit::{Quota, Tiers};

    /// The checks of one request, and how many keys were hashed for them.
    fn decided(identify: impl KeyExtractor, limits: &[Limit]) -> (Checks, u64) {
        let identify: SharedExtractor = Arc::new(identify);
        let start = |_: &_| panic!("no limit looks anything up");
        let compiled = CompiledLimits::new(limits, identify, None, None, start).expect("limits");
        let mut request = http::Request::builder().header("x-key", "alice").body(()).expect("a request");
        request.extensions_mut().insert(PeerAddr("192.0.2.1:80".parse().expect("an address")));
        let before = DIGESTS.get();
        let checks = compiled.checks(&RequestHead::of(&request), &mut ExtractedKeys::default());
        (checks, DIGESTS.get() - before)
    }

    fn quota(n: u32) -> Quota {
        Quota::per_minute(n)
    }

    #[test]
    fn limits_by_one_identity_hash_it_once() {
        let user = || Limit::per_user(quota(1));
        let address = || Limit::per_ip(quota(1));
        let own = Limit::by(by::header("x-key"), quota(1));
        let tiers = || Limit::from(Tiers::default()); // without a tier: counted by the last alternative
        let who = || by::header("x-key").or(by::client_ip(TrustedProxies::none()));
        for (limits, hashed) in [
            (vec![user().named("a"), user().named("b"), user().named("c").per_route()], 1),
            (vec![address().named("a"), address().named("b"), tiers().named("c")], 1),
            (vec![own.clone().named("a"), own.clone().named("b"), own.named("c")], 1),
            (vec![user().named("a"), address().named("b"), user().named("c"), address().named("d")], 2),
            (vec![Limit::global(quota(1)).named("a"), user().named("b")], 1),
        ] {
            let (checks, digests) = decided(who(), &limits);
            assert_eq!((checks.list.len(), digests), (limits.len(), hashed));
            for (i, check) in checks.list.iter().enumerate() {
                assert!(checks.list[..i].iter().all(|other| other.key != check.key), "limits never share a slot");
            }
        }
        let (checks, digests) = decided(by::header("x-key"), &[tiers().named("a"), tiers().named("b")]);
        assert_eq!((checks.list.len(), digests), (2, 1), "an identity without an address");
    }
}
