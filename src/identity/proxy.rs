//! [`TrustedProxies`]: the proxies whose forwarding field names the client's address.
//!
//! Exactly one forwarding field is read, from the **right**: the rightmost entry was written by the nearest proxy, the one
//! before it by the proxy behind that. The walk
//!
//! 1. starts at the socket peer; an untrusted peer *is* the client, and its fields are ignored;
//! 2. moves left while the current address is trusted (or hops remain), with all lines of the field joined;
//! 3. stops at the first untrusted address, or at the last trusted one if an entry does not parse (`unknown`, `_obf`).
//!
//! Empty entries are skipped (RFC 9110 §5.6.1.2), and so are empty parameters (RFC 7239 §4). Ports do not matter.
//!
//! Reading from the right also means that an unbalanced quote written by a client cannot hide what a proxy appended.

use std::fmt;
use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::forwarded;
use super::network::network;
use crate::base::error::Error;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Fields whose presence suggests a proxy.
pub(super) const FORWARDING_FIELDS: [&str; 4] = ["x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip"];

/// Trusted proxies, and the one field they write.
///
/// ```
/// use tollgate::identity::TrustedProxies;
///
/// let nginx = TrustedProxies::cidrs(["10.0.0.0/8", "fd00::/8"]);                 // X-Forwarded-For
/// let haproxy = TrustedProxies::cidrs(["10.1.0.0/16"]).header("forwarded");      // RFC 7239
/// let cloudflare = TrustedProxies::hops(1).header("cf-connecting-ip");
/// # let _ = (nginx, haproxy, cloudflare);
/// ```
#[derive(Clone)]
pub struct TrustedProxies {
    trust: Trust,
    field: HeaderName,
    mistake: Option<String>,
}

#[derive(Clone)]
enum Trust {
    Networks(Vec<IpNet>),
    Hops(usize),
}

impl TrustedProxies {
    /// Trusts no proxy: the socket peer is the client.
    ///
    /// ```
    /// use tollgate::identity::{TrustedProxies, by};
    ///
    /// let direct = by::client_ip(TrustedProxies::none());
    /// # let _ = direct;
    /// ```
    #[must_use]
    pub fn none() -> Self {
        Self::with(Trust::Networks(Vec::new()))
    }

    /// Whether the peer is always the client.
    pub(super) const fn trusts_nobody(&self) -> bool {
        matches!(&self.trust, Trust::Networks(networks) if networks.is_empty())
    }

    /// Trusts proxies in these networks, such as `10.0.0.0/8`; a bare address is one host, and an IPv4-mapped one is IPv4.
    /// A network that does not parse, or that no address can be within, fails when the layer is built.
    ///
    /// ```
    /// use tollgate::identity::{TrustedProxies, by};
    ///
    /// let behind_nginx = by::client_ip(TrustedProxies::cidrs(["10.0.0.0/8", "192.0.2.7"]));
    /// # let _ = behind_nginx;
    /// ```
    pub fn cidrs<I>(networks: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut mistake = None;
        let mut parse = |text: &str| {
            network(text).map_err(|reason| mistake = Some(format!("trusted proxy {text:?} {reason}"))).ok()
        };
        let networks = networks.into_iter().filter_map(|text| parse(text.as_ref())).collect();
        Self { mistake, ..Self::with(Trust::Networks(networks)) }
    }

    /// Trusts that many proxies in a row, whatever their addresses; the nearest is the socket peer. Use it only if no client
    /// can reach the service without passing all of them. The nearest may be on a Unix socket, which has no address.
    ///
    /// ```
    /// use tollgate::identity::{TrustedProxies, by};
    ///
    /// let behind_two = by::client_ip(TrustedProxies::hops(2));
    /// # let _ = behind_two;
    /// ```
    #[must_use]
    pub fn hops(count: usize) -> Self {
        Self::with(Trust::Hops(count))
    }

    /// Sets the one field to read: `x-forwarded-for` (the default), `forwarded` (RFC 7239), or a proxy's own, such as
    /// `cf-connecting-ip`. No other field is read. A malformed name fails when the layer is built.
    ///
    /// ```
    /// use tollgate::identity::{TrustedProxies, by};
    ///
    /// let behind_cloudflare = by::client_ip(TrustedProxies::hops(1).header("cf-connecting-ip"));
    /// # let _ = behind_cloudflare;
    /// ```
    #[must_use]
    pub fn header(mut self, name: &str) -> Self {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(field) => self.field = field,
            Err(_) => self.mistake = Some(format!("forwarding header {name:?} is not a field name")),
        }
        self
    }

    const fn with(trust: Trust) -> Self {
        Self { trust, field: X_FORWARDED_FOR, mistake: None }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        self.mistake.as_ref().map_or(Ok(()), |mistake| Err(Error::config(mistake.clone())))
    }

    /// Returns the client's address: the last one that a trusted proxy names.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let mut hops = match &self.trust {
            Trust::Networks(_) => usize::MAX,
            Trust::Hops(count) => *count,
        };
        let mut at = peer;
        let mut entries = forwarded::parse_forwarding_field(headers, &self.field, self.field == FORWARDED);
        while hops > 0 && self.trusts(at) {
            let Some(next) = entries.next().flatten() else { break };
            at = next.to_canonical();
            hops -= 1;
        }
        at
    }

    /// Returns the client's address if the nearest proxy has none: one of a number of trusted hops on a Unix socket.
    pub(super) fn client_behind_hops(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let Trust::Hops(hops) = self.trust else { return None };
        let entries = forwarded::parse_forwarding_field(headers, &self.field, self.field == FORWARDED);
        entries.take(hops).map_while(|entry| entry).last()
    }

    pub(super) const fn field(&self) -> &HeaderName {
        &self.field
    }

    pub(super) const fn trusts_hops(&self) -> bool {
        matches!(self.trust, Trust::Hops(count) if count > 0)
    }

    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        match &self.trust {
            Trust::Networks(networks) => networks.iter().any(|network| network.contains(&address)),
            Trust::Hops(count) => *count > 0,
        }
    }

    pub(super) fn trusts_everybody(&self) -> bool {
        match &self.trust {
            Trust::Networks(networks) => networks.iter().any(|network| network.prefix_len() == 0),
            Trust::Hops(_) => false,
        }
    }
}

impl fmt::Debug for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("TrustedProxies");
        match &self.trust {
            Trust::Networks(networks) => out.field("networks", networks),
            Trust::Hops(count) => out.field("hops", count),
        };
        out.field("header", &self.field).finish()
    }
}

#[cfg(test)]
mod tests;
