//! The identity that a limit counts by, extracted and hashed at most once a request.

use smallvec::SmallVec;

use super::{CompiledLimit, CompiledLimits};
use crate::base::request_head::RequestHead;
use crate::identity::{ExtractedKeys, KeyDigest, KeyExtractor};
use crate::limit::policy::limit::Subject;

/// Digests of one request's identities, as far as a limit has asked for them. A missing identity is asked for again.
#[derive(Default)]
pub(super) struct KnownDigests {
    user: Option<KeyDigest>,
    /// That of the client's address, which both the fallback and the address are where it is known.
    client: Option<KeyDigest>,
    fallback: Option<KeyDigest>,
    address: Option<KeyDigest>,
    /// Those of limits with an extractor of their own, by the first limit that has it.
    own: SmallVec<[(u16, KeyDigest); 2]>,
}

impl CompiledLimits {
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
    pub(super) fn shared_digest(
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
