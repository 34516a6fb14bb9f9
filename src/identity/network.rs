//! Networks as configured, in the form in which addresses are compared with them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Bits before the IPv4 address in an IPv4-mapped one (RFC 4291 §2.5.5.2).
const MAPPED: u8 = 96;

/// Parses an address or a CIDR. IPv4-mapped IPv6 becomes IPv4, as in [`IpAddr::to_canonical`].
///
/// # Errors
/// Returns the reason if the text is neither, or if no address can be within the network.
pub(crate) fn network(text: &str) -> Result<IpNet, &'static str> {
    let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network = parsed.map_err(|_| "is not an address or CIDR")?;
    let IpNet::V6(v6) = network else { return Ok(network) };
    let IpAddr::V4(v4) = IpAddr::V6(v6.addr()).to_canonical() else { return Ok(network) };
    let bits =
        v6.prefix_len().checked_sub(MAPPED).ok_or("is wider than all IPv4-mapped addresses; write it as IPv4")?;
    Ipv4Net::new(v4, bits).map(IpNet::V4).map_err(|_| "is not an address or CIDR")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_compared_in_the_form_of_addresses() {
        for (text, wanted) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.0.0.1", Some("10.0.0.1/32")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:10.0.0.1", Some("10.0.0.1/32")),
            ("::ffff:0:0/96", Some("0.0.0.0/0")),
            ("::1", Some("::1/128")),
            ("::/0", Some("::/0")),
            ("::ffff:10.0.0.0/90", None),
            ("10.0.0.0/33", None),
            ("fe80::1%eth0", None),
            ("", None),
        ] {
            assert_eq!(network(text).ok().map(|network| network.to_string()).as_deref(), wanted, "{text}");
        }
    }
}
