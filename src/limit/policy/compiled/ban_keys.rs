//! Keys under which subjects are banned.
//!
//! A ban by a limit is kept under the key by which the limit counts; one by an operator under a key of its own, for the layer's
//! identity or for an address.

use super::{BanKeys, CompiledLimits, fnv1a};
use crate::base::request_head::RequestHead;
use crate::identity::{ExtractedKeys, Key, KeyExtractor};
use crate::limit::policy::limit::BanPolicy;
use crate::limit::policy::named_subject::NamedSubject;

impl CompiledLimits {
    /// Returns when the named limit bans a subject, and for how long.
    pub(crate) fn ban_policy(&self, rule: u16) -> Option<BanPolicy> {
        self.rules.get(usize::from(rule))?.ban
    }

    /// Whether any limit bans.
    pub(crate) fn bans(&self) -> bool {
        self.rules.iter().any(|rule| rule.ban.is_some())
    }

    /// Returns the keys under which a request may be banned.
    pub(crate) fn ban_keys(&self, head: &RequestHead<'_>, keys: &mut ExtractedKeys) -> BanKeys {
        let mut all = BanKeys::new();
        for rule in self.rules.iter().filter(|rule| rule.ban.is_some()) {
            if let Some(key) = self.identity(rule, head, keys) {
                self.put_ban_keys(rule.id, &key, &mut all);
            }
        }
        if let Some(key) = self.identify.extract_once(head, keys) {
            self.put_ban_keys(operator_id(), &key, &mut all);
        }
        if let Some(key) = self.address_key(head, keys) {
            self.put_ban_keys(operator_id(), &key, &mut all);
        }
        all
    }

    /// Returns the keys under which an operator bans a subject.
    pub(crate) fn named_ban_keys(&self, subject: &NamedSubject) -> BanKeys {
        let mut all = BanKeys::new();
        self.put_ban_keys(operator_id(), &self.counted_key(subject), &mut all);
        all
    }

    /// Returns all keys under which a subject may be banned.
    pub(crate) fn named_keys_to_unban(&self, subject: &NamedSubject) -> BanKeys {
        let mut all = self.named_ban_keys(subject);
        for rule in self.rules.iter().filter(|rule| rule.ban.is_some()) {
            if let Some(key) = self.named_key(rule, subject) {
                self.put_ban_keys(rule.id, &key, &mut all);
            }
        }
        all
    }

    /// The key of the fleet, which comes second, is that by which a shared store knows the ban.
    fn put_ban_keys(&self, id: u64, key: &Key<'_>, all: &mut BanKeys) {
        all.push(self.hasher.digest(key).of(self.hasher.salt(id)).to_bits());
        all.extend(self.secret.as_ref().and_then(|secret| secret.hash(id, key)).map(|key| key.to_bits()));
    }

    fn address_key<'h>(&self, head: &RequestHead<'h>, keys: &mut ExtractedKeys) -> Option<Key<'h>> {
        let named = self.identify.fallback(head, keys).filter(|key| key.as_ip().is_some());
        named.or_else(|| self.peer.extract(head))
    }
}

fn operator_id() -> u64 {
    fnv1a("tollgate: banned by an operator")
}
