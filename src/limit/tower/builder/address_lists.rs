//! Lists of addresses and identities, and tests whether a request is from one of some networks.

use std::sync::Arc;

use super::{RateLimitBuilder, socket_peer};
use crate::base::error::Error;
use crate::identity::{Key, KeyExtractor, TrustedProxies, by, network};
use crate::limit::engine::limiter::Exempt;

impl RateLimitBuilder {
    /// Exempts client addresses, as found by the identity: addresses or CIDRs. They are compared with the whole address,
    /// not with the prefix by which IPv6 is counted. An invalid one fails when the layer is built.
    ///
    /// ```
    /// use tollgate::limit::{Limit, Quota, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .limit(Limit::per_ip(Quota::per_minute(20)))
    ///     .allow_ips(["192.0.2.0/24", "2001:db8::1"])
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn allow_ips<I>(mut self, networks: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.allowed.extend(networks.into_iter().map(Into::into));
        self
    }

    /// Refuses client addresses, whatever the limits say: addresses or CIDRs, compared as those of
    /// [`allow_ips`](Self::allow_ips). Such requests get a 403.
    ///
    /// ```
    /// use tollgate::limit::{Limit, RateLimitLayer};
    ///
    /// let layer =
    ///     RateLimitLayer::builder().limit(Limit::per_ip("20/min")).deny_ips(["203.0.113.0/24"]).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn deny_ips<I>(mut self, networks: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.denied.extend(networks.into_iter().map(Into::into));
        self
    }

    /// Refuses identities, whatever the limits say: keys as the layer's [`identify`](Self::identify) extracts them. While the
    /// service runs, [`LimitSubject::ban`](crate::limit::LimitSubject::ban) does.
    ///
    /// ```
    /// use tollgate::identity::{Identity, Key, by};
    /// use tollgate::limit::{Limit, RateLimitLayer};
    ///
    /// let layer = RateLimitLayer::builder()
    ///     .identify(by::extension::<u64>())
    ///     .limit(Limit::per_user("20/min"))
    ///     .deny_keys([42_u64.key(), 43_u64.key()])
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn deny_keys<'k>(mut self, keys: impl IntoIterator<Item = Key<'k>>) -> Self {
        self.denied_keys.extend(keys.into_iter().map(Key::keep));
        self
    }

    /// Returns the test whether a request is of one of these networks, if there are any.
    pub(super) fn within(&self, list: &str, networks: &[String]) -> Result<Option<Exempt>, Error> {
        if networks.is_empty() {
            return Ok(None);
        }
        let parse =
            |text: &String| network(text).map_err(|reason| Error::config(format!("{list} address {text:?} {reason}")));
        let networks = networks.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let (who, peer) = (self.identify.clone().unwrap_or_else(socket_peer), by::client_ip(TrustedProxies::none()));
        Ok(Some(Arc::new(move |head, keys| {
            // The whole address, not the prefix by which it is counted.
            let named = || who.fallback(head, keys).and_then(|key| key.as_ip());
            let address = who.client_ip().map_or_else(named, |client| client.unmasked(head));
            let address = address.or_else(|| peer.unmasked(head));
            address.is_some_and(|address| networks.iter().any(|network| network.contains(&address.to_canonical())))
        })))
    }

    /// Returns the tests whether a request is on the deny list.
    pub(super) fn denials(&self) -> Result<Vec<Exempt>, Error> {
        let mut denied: Vec<Exempt> = self.within("denied", &self.denied)?.into_iter().collect();
        if !self.denied_keys.is_empty() {
            let (who, keys) = (self.identify.clone().unwrap_or_else(socket_peer), self.denied_keys.clone());
            denied.push(Arc::new(move |head, extracted| {
                who.extract_once(head, extracted).is_some_and(|key| keys.contains(&key))
            }));
        }
        Ok(denied)
    }
}
