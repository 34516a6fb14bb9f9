//! [`ClientIp`]: the client's masked address, with checks for misconfigured proxies.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::extract::KeyExtractor;
use super::extracted_keys::ExtractedKeys;
use super::key::{Key, KeyDigest, KeyHasher};
use super::proxy::{FORWARDING_FIELDS, TrustedProxies};
use crate::base::error::Error;
use crate::base::request_head::RequestHead;

type PeerFn = Arc<dyn for<'a> Fn(&RequestHead<'a>) -> Option<SocketAddr> + Send + Sync>;

/// Identifies a client by its address. Made by [`by::client_ip`](crate::identity::by::client_ip).
///
/// 1. The socket peer is taken. Unknown peer (a Unix socket has no address): the forwarding field is read if
///    [`hops`](TrustedProxies::hops) are trusted, else there is no answer.
/// 2. Where the peer is a trusted proxy, the one configured forwarding field is walked from the right.
/// 3. IPv4-mapped IPv6 becomes IPv4 (`to_canonical`), then IPv6 is masked to its prefix, so that a client rotating
///    through its own /64 stays one client.
///
/// ```
/// use tollgate::identity::{ClientIp, TrustedProxies, by};
///
/// let client: ClientIp = by::client_ip(TrustedProxies::cidrs(["10.0.0.0/8"]));
/// # let _ = client;
/// ```
#[derive(Clone)]
pub struct ClientIp {
    peer: Option<PeerFn>,
    proxies: TrustedProxies,
    ipv6_prefix: u8,
}

impl ClientIp {
    pub(super) fn new(proxies: TrustedProxies) -> Self {
        Self { peer: None, proxies, ipv6_prefix: 64 }
    }

    pub(super) fn with_peer(
        mut self,
        f: impl for<'a> Fn(&RequestHead<'a>) -> Option<SocketAddr> + Send + Sync + 'static,
    ) -> Self {
        self.peer = Some(Arc::new(f));
        self
    }

    /// Trusts these proxies to name the client's address.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use tollgate::identity::{TrustedProxies, by};
    ///
    /// #[derive(Clone)]
    /// struct TlsPeer(SocketAddr);
    /// let who = by::peer_from(|peer: &TlsPeer| Some(peer.0)).behind(TrustedProxies::cidrs(["10.0.0.0/8"]));
    /// # let _ = who;
    /// ```
    #[must_use]
    pub fn behind(mut self, proxies: TrustedProxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Sets the prefix length by which IPv6 addresses are counted. Defaults to 64; use 48 or 56 for an aggregate limit. More
    /// than 128 bits fail when the layer is built.
    ///
    /// ```
    /// use tollgate::identity::{TrustedProxies, by};
    /// use tollgate::limit::{Limit, Quota};
    ///
    /// let site = by::client_ip(TrustedProxies::none()).ipv6_prefix(48);
    /// let aggregate = Limit::by(site, Quota::per_minute(10_000)).named("site");
    /// # let _ = aggregate;
    /// ```
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits;
        self
    }

    /// Returns the client's masked address; `None` if the socket peer is unknown.
    ///
    /// ```
    /// use tollgate::{PeerAddr, RequestHead};
    /// use tollgate::identity::{TrustedProxies, by};
    ///
    /// let mut request = http::Request::new(());
    /// request.extensions_mut().insert(PeerAddr("192.0.2.1:5000".parse().unwrap()));
    /// let address = by::client_ip(TrustedProxies::none()).address(&RequestHead::of(&request));
    /// assert_eq!(address, Some("192.0.2.1".parse().unwrap()));
    /// ```
    #[must_use]
    pub fn address(&self, head: &RequestHead<'_>) -> Option<IpAddr> {
        Some(mask(self.unmasked(head)?, self.ipv6_prefix))
    }

    /// Returns an address as it is counted: in its canonical form, masked to its prefix.
    pub(crate) fn masked(&self, address: IpAddr) -> IpAddr {
        mask(address.to_canonical(), self.ipv6_prefix)
    }

    /// Returns the client's whole address, in its canonical form.
    pub(crate) fn unmasked(&self, head: &RequestHead<'_>) -> Option<IpAddr> {
        let client = match self.peer(head) {
            Some(peer) => self.proxies.client(peer, head.headers()),
            // A Unix socket has no address; hops are trusted whatever their address is.
            None => self.proxies.client_behind_hops(head.headers())?,
        };
        Some(client.to_canonical())
    }

    /// The address's digest. An IPv4 peer that is no proxy, as most are, is hashed where it
    /// lies.
    #[inline]
    pub(crate) fn digest(&self, head: &RequestHead<'_>, hasher: &KeyHasher) -> Option<KeyDigest> {
        if self.peer.is_none()
            && self.proxies.trusts_nobody()
            && let SocketAddr::V4(peer) = head.peer_ref()?
        {
            return Some(hasher.digest_v4(*peer.ip()));
        }
        self.address(head).map(|address| hasher.digest(&Key::ip(address)))
    }

    fn peer(&self, head: &RequestHead<'_>) -> Option<IpAddr> {
        let peer = self.peer.as_ref().map_or_else(|| head.peer(), |find| find(head))?;
        Some(peer.ip().to_canonical())
    }
}

impl KeyExtractor for ClientIp {
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        self.address(head).map(Key::ip)
    }

    fn client_ip(&self) -> Option<&ClientIp> {
        Some(self)
    }

    /// Never: an address is no credential.
    fn carries(&self, _head: &RequestHead<'_>) -> bool {
        false
    }

    fn extract_once<'a>(&self, head: &RequestHead<'a>, _keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        self.extract(head)
    }

    /// The whole address: neighbours in one network share a limit, not their answers.
    fn credential<'a>(&self, head: &RequestHead<'a>, _keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        self.unmasked(head).map(Key::ip)
    }

    fn check(&self) -> Result<(), Error> {
        if self.ipv6_prefix > 128 {
            return Err(Error::config(format!("IPv6 prefix /{} is longer than 128 bits", self.ipv6_prefix)));
        }
        self.proxies.check()
    }

    fn describe(&self) -> String {
        "the client's address".to_owned()
    }

    fn inspect(&self, head: &RequestHead<'_>, report: &mut dyn FnMut(&'static str, &str)) {
        if self.proxies.trusts_everybody() {
            report("everybody-trusted", "the trusted proxies cover every address: any client can claim any address");
        }
        if self.ipv6_prefix > 64 {
            report("unmasked-ipv6", "IPv6 prefixes longer than /64 let one client use 2^64 addresses: use 64 or less");
        }
        self.inspect_fields(head, report);
        let Some(peer) = self.peer(head) else { return };
        if is_private(peer)
            && !self.proxies.trusts(peer)
            && FORWARDING_FIELDS.iter().any(|f| head.headers().contains_key(*f))
        {
            report(
                "untrusted-proxy",
                "a private peer sends forwarding fields but is not trusted: everybody behind it shares one bucket. \
                 If it is your proxy, use by::client_ip(TrustedProxies::cidrs([..]))",
            );
        }
    }
}

impl ClientIp {
    /// Reports a trusted proxy that sends another forwarding field than the one that is read.
    fn inspect_fields(&self, head: &RequestHead<'_>, report: &mut dyn FnMut(&'static str, &str)) {
        let field = self.proxies.field();
        let trusted = self.peer(head).map_or(self.proxies.trusts_hops(), |peer| self.proxies.trusts(peer));
        if !trusted || head.headers().contains_key(field) {
            return;
        }
        if let Some(sent) = FORWARDING_FIELDS.iter().find(|sent| head.headers().contains_key(**sent)) {
            report(
                "other-forwarding-field",
                &format!(
                    "a trusted proxy sends {sent:?} and not {:?}, which is read: everybody behind it shares one bucket. \
                     If the proxy sets or removes {sent:?} itself, read that: TrustedProxies::….header({sent:?})",
                    field.as_str()
                ),
            );
        }
    }
}

impl fmt::Debug for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIp")
            .field("proxies", &self.proxies)
            .field("ipv6_prefix", &self.ipv6_prefix)
            .finish_non_exhaustive()
    }
}

fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => {
            let kept = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & kept))
        }
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PeerAddr;

    #[test]
    fn an_address_has_one_hash_however_it_was_read() {
        let hasher = KeyHasher::random();
        let plain = ClientIp::new(TrustedProxies::none());
        let trusting = ClientIp::new(TrustedProxies::cidrs(["10.0.0.0/8"]));
        for peer in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
            let mut request = http::Request::new(());
            request.extensions_mut().insert(PeerAddr(SocketAddr::new(peer.parse().expect("an address"), 1)));
            let head = RequestHead::of(&request);
            let key = Key::ip(plain.address(&head).expect("a peer"));
            for who in [&plain, &trusting] {
                assert_eq!(who.digest(&head, &hasher), Some(hasher.digest(&key)), "{peer}");
            }
        }
    }

    fn seen(who: &ClientIp, peer: &str) -> String {
        let mut request = http::Request::new(());
        let ip: IpAddr = peer.parse().expect("an address");
        request.extensions_mut().insert(PeerAddr(SocketAddr::new(ip, 1)));
        who.address(&RequestHead::of(&request)).expect("a peer").to_string()
    }

    #[test]
    fn ipv4_mapped_addresses_are_ipv4_before_any_mask() {
        let who = ClientIp::new(TrustedProxies::none()).ipv6_prefix(56);
        assert_eq!(seen(&who, "::ffff:192.0.2.1"), "192.0.2.1");
        assert_ne!(seen(&who, "::ffff:192.0.2.1"), seen(&who, "::ffff:192.0.2.2"));
    }

    #[test]
    fn one_slash_64_is_one_client_and_an_aggregate_is_wider() {
        let who = ClientIp::new(TrustedProxies::none());
        assert_eq!(seen(&who, "2001:db8:1:2:3::1"), seen(&who, "2001:db8:1:2:ffff::9"));
        assert_ne!(seen(&who, "2001:db8:1:2::1"), seen(&who, "2001:db8:1:3::1"));
        let wide = who.ipv6_prefix(48);
        assert_eq!(seen(&wide, "2001:db8:1:2::1"), seen(&wide, "2001:db8:1:3::1"));
        assert_eq!(seen(&wide.ipv6_prefix(0), "2001:db8:1:2::1"), "::");
    }

    #[test]
    fn a_prefix_over_128_bits_is_refused_by_value() {
        let error = ClientIp::new(TrustedProxies::none()).ipv6_prefix(129).check().expect_err("too long");
        assert!(error.to_string().contains("/129"));
    }

    #[test]
    fn suspicious_set_ups_are_reported() {
        let mut request =
            http::Request::builder().header("x-forwarded-for", "203.0.113.9").body(()).expect("a request");
        request.extensions_mut().insert(PeerAddr("10.0.0.2:80".parse().expect("an address")));
        let codes = |who: ClientIp| {
            let mut codes = Vec::new();
            who.inspect(&RequestHead::of(&request), &mut |code, _| codes.push(code));
            codes
        };
        assert_eq!(codes(ClientIp::new(TrustedProxies::none())), ["untrusted-proxy"]);
        assert_eq!(codes(ClientIp::new(TrustedProxies::cidrs(["10.0.0.0/8"]))), [""; 0]);
        let other = TrustedProxies::cidrs(["10.0.0.0/8"]).header("forwarded");
        assert_eq!(codes(ClientIp::new(other)), ["other-forwarding-field"]);
        assert_eq!(codes(ClientIp::new(TrustedProxies::cidrs(["0.0.0.0/0"]))), ["everybody-trusted"]);
        assert_eq!(codes(ClientIp::new(TrustedProxies::cidrs(["10.0.0.0/8"])).ipv6_prefix(128)), ["unmasked-ipv6"]);
    }
}
