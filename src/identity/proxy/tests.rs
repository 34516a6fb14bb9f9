use super::*;
use crate::identity::forwarded::parse_address;

fn client(proxies: &TrustedProxies, peer: &str, lines: &[(&str, &str)]) -> String {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, value.parse().expect("a value"));
    }
    proxies.client(peer.parse().expect("an address"), &headers).to_string()
}

#[test]
fn an_attackers_leftmost_entries_are_never_reached() {
    let proxies = TrustedProxies::cidrs(["10.0.0.0/8"]);
    let xff = "x-forwarded-for";
    for (lines, expected) in [
        (vec![(xff, "6.6.6.6, 203.0.113.9")], "203.0.113.9"),
        (vec![(xff, "6.6.6.6"), (xff, "203.0.113.9")], "203.0.113.9"),
        (vec![(xff, "6.6.6.6, 203.0.113.9, 10.0.0.7")], "203.0.113.9"),
        (vec![(xff, "6.6.6.6, 203.0.113.9"), (xff, "10.0.0.7")], "203.0.113.9"),
        (vec![(xff, "6.6.6.6, nonsense, 10.0.0.7")], "10.0.0.7"),
        (vec![(xff, "6.6.6.6, nonsense")], "10.0.0.1"),
        (vec![(xff, "")], "10.0.0.1"),
        (vec![(xff, "203.0.113.9,")], "203.0.113.9"),
        (vec![(xff, "203.0.113.9"), (xff, "")], "203.0.113.9"),
        (vec![(xff, "203.0.113.9, ,\t,, 10.0.0.7 ,")], "203.0.113.9"),
        (vec![(xff, ", ,")], "10.0.0.1"),
        (vec![(xff, "203.0.113.9:70000")], "203.0.113.9"),
        (vec![(xff, "[2001:db8::1]:70000")], "2001:db8::1"),
        (vec![], "10.0.0.1"),
        (vec![(xff, "10.0.0.9")], "10.0.0.9"),
    ] {
        assert_eq!(client(&proxies, "10.0.0.1", &lines), expected, "{lines:?}");
    }
}

#[test]
fn a_direct_clients_forwarding_fields_are_ignored() {
    let lines = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6"), ("x-real-ip", "6.6.6.6")];
    assert_eq!(client(&TrustedProxies::none(), "203.0.113.9", &lines), "203.0.113.9");
    assert_eq!(client(&TrustedProxies::cidrs(["10.0.0.0/8"]), "203.0.113.9", &lines), "203.0.113.9");
}

#[test]
fn exactly_one_field_is_read() {
    let lines = [("x-real-ip", "6.6.6.6"), ("cf-connecting-ip", "6.6.6.6"), ("x-forwarded-for", "203.0.113.9")];
    assert_eq!(client(&TrustedProxies::cidrs(["10.0.0.1"]), "10.0.0.1", &lines), "203.0.113.9");
    let named = TrustedProxies::hops(1).header("cf-connecting-ip");
    assert_eq!(client(&named, "10.0.0.1", &lines), "6.6.6.6");
}

#[test]
fn forwarded_is_walked_like_any_other() {
    let proxies = TrustedProxies::cidrs(["10.0.0.0/8"]).header("forwarded");
    for (value, expected) in [
        ("for=6.6.6.6, for=203.0.113.9", "203.0.113.9"),
        ("for=\"[2001:db8::1]:80\"", "2001:db8::1"),
        ("For=203.0.113.9;proto=http;by=10.0.0.1", "203.0.113.9"),
        ("proto=http; for=203.0.113.9:4711", "203.0.113.9"),
        ("for=6.6.6.6, for=unknown", "10.0.0.1"),
        ("for=6.6.6.6, for=_obf", "10.0.0.1"),
        ("for=6.6.6.6, proto=http", "10.0.0.1"),
        ("for=203.0.113.9, for=10.0.0.3;ext=\"a,for=6.6.6.6\"", "203.0.113.9"),
        ("for=203.0.113.9;ext=\"a\\\", for=6.6.6.6\"", "203.0.113.9"),
        // A client's unbalanced quote does not swallow what the proxy appended.
        ("for=\"6.6.6.6, for=203.0.113.9", "203.0.113.9"),
        ("for=6.6.6.6;for=203.0.113.9", "10.0.0.1"),
        ("for=203.0.113.9;", "203.0.113.9"),
        (";; for=203.0.113.9 ; ;proto=http", "203.0.113.9"),
        ("for=203.0.113.9,", "203.0.113.9"),
        ("for=\"203.0.113.9:_p\"", "203.0.113.9"),
        ("for=\"203.0.113.9:70000\"", "203.0.113.9"),
        ("for=\"[2001:db8::1]:_p-1\"", "2001:db8::1"),
        ("for=\"203.0.113.9:x y\"", "10.0.0.1"),
        ("for=6.6.6.6, ;", "10.0.0.1"),
    ] {
        assert_eq!(client(&proxies, "10.0.0.1", &[("forwarded", value)]), expected, "{value}");
    }
}

#[test]
fn hops_are_counted_from_the_right() {
    let lines = [("x-forwarded-for", "6.6.6.6, 203.0.113.9, 198.51.100.1")];
    for (hops, expected) in [(0, "192.0.2.1"), (1, "198.51.100.1"), (2, "203.0.113.9"), (9, "6.6.6.6")] {
        assert_eq!(client(&TrustedProxies::hops(hops), "192.0.2.1", &lines), expected, "{hops} hops");
    }
}

#[test]
fn a_hop_without_an_address_is_a_hop() {
    let behind = |proxies: &TrustedProxies, value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", value.parse().expect("a value"));
        proxies.client_behind_hops(&headers).map(|client| client.to_string())
    };
    for (hops, value, expected) in [
        (1, "6.6.6.6, 203.0.113.9", Some("203.0.113.9")),
        (2, "6.6.6.6, 203.0.113.9, 198.51.100.1", Some("203.0.113.9")),
        (1, "6.6.6.6, unknown", None),
        (1, "", None),
        (0, "203.0.113.9", None),
    ] {
        assert_eq!(behind(&TrustedProxies::hops(hops), value).as_deref(), expected, "{hops} hops: {value}");
    }
    assert_eq!(behind(&TrustedProxies::cidrs(["0.0.0.0/0"]), "203.0.113.9"), None, "which proxy it is, is unknown");
}

#[test]
fn addresses_are_read_as_proxies_write_them() {
    for (text, expected) in [
        ("1.2.3.4", "1.2.3.4"),
        (" \t1.2.3.4 ", "1.2.3.4"),
        ("1.2.3.4:4711", "1.2.3.4"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]:80", "fe80::1"),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
    ] {
        assert_eq!(parse_address(text).map(|ip| ip.to_string()).as_deref(), Some(expected), "{text}");
    }
    for text in ["", "unknown", "_obf", "1.2.3", "1.2.3.4.5", "[::1", "[::1]x", "1.2.3.4%eth0", "::1]"] {
        assert_eq!(parse_address(text), None, "{text}");
    }
}

#[test]
fn mapped_addresses_match_ipv4_networks() {
    let lines = [("x-forwarded-for", "203.0.113.9, ::ffff:10.0.0.2")];
    for network in ["10.0.0.0/8", "::ffff:10.0.0.0/104"] {
        assert_eq!(client(&TrustedProxies::cidrs([network]), "10.0.0.1", &lines), "203.0.113.9", "{network}");
    }
}

#[test]
fn mistakes_are_named_when_built() {
    let bad = TrustedProxies::cidrs(["10.0.0.0/8", "10.0.0.0/99"]).check().expect_err("a bad CIDR");
    assert!(bad.to_string().contains("10.0.0.0/99"), "{bad}");
    let bad = TrustedProxies::none().header("x forwarded").check().expect_err("a bad name");
    assert!(bad.to_string().contains("x forwarded"), "{bad}");
}

proptest::proptest! {
    /// Whatever a client writes to the left, what the nearest trusted proxy appended decides.
    #[test]
    fn nothing_a_client_writes_moves_the_answer(junk in "[ -~]{0,60}", named in proptest::bool::ANY) {
        let (field, value) = if named {
            ("forwarded", format!("{junk}, for=203.0.113.9"))
        } else {
            ("x-forwarded-for", format!("{junk}, 203.0.113.9"))
        };
        let proxies = TrustedProxies::cidrs(["10.0.0.0/8"]).header(field);
        proptest::prop_assert_eq!(client(&proxies, "10.0.0.1", &[(field, value.as_str())]), "203.0.113.9");
    }
}
