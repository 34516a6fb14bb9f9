//! Changes that a proxy makes to forwarded messages (RFC 9110 §7.6, RFC 9112 §3.2).

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, MAX_FORWARDS, TE, TRANSFER_ENCODING, UPGRADE, VIA};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// RFC 9110 §7.6.1: fields that concern one connection, besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Converts a request for the origin.
pub(crate) fn request(head: &mut http::request::Parts, upstream: &Authority, peer: Option<IpAddr>) {
    remove_hop_by_hop(&mut head.headers);
    // RFC 9112 §3.2.2: the target's own authority, if present, overrides `Host`. HTTP/2 has nothing else.
    let authority = head.uri.authority().and_then(|host| HeaderValue::from_str(strip_userinfo(host.as_str())).ok());
    if let Some(host) = authority {
        head.headers.insert(HOST, host);
    }
    via(&mut head.headers, head.version);
    if let Some(peer) = peer {
        join(&mut head.headers, X_FORWARDED_FOR, &peer.to_canonical().to_string());
    }
    head.uri = target(&head.uri, upstream);
    head.version = Version::HTTP_11;
}

/// Converts a response of the origin.
pub(crate) fn response(head: &mut http::response::Parts) {
    // RFC 9112 §6.3: `Transfer-Encoding` overrides `Content-Length`, which "MUST" be removed "prior to forwarding".
    if head.headers.contains_key(TRANSFER_ENCODING) {
        head.headers.remove(CONTENT_LENGTH);
    }
    remove_hop_by_hop(&mut head.headers);
    via(&mut head.headers, head.version);
    head.version = Version::HTTP_11;
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // §7.6.1: `Connection` must not name what is meant for all recipients, such as `Host`.
    for name in named.iter().filter(|name| **name != HOST).chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Adds `Via` (RFC 9110 §7.6.3): the version of the message, and a pseudonym.
fn via(headers: &mut HeaderMap, version: Version) {
    let version = match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    };
    join(headers, VIA, &format!("{version} tollgate"));
}

/// Appends an element to a list of one line, or as a line of its own if another line is not text.
fn join(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let lines: Result<Vec<&str>, _> = headers.get_all(&name).iter().map(HeaderValue::to_str).collect();
    let joined = lines.map(|lines| lines.into_iter().chain([element]).collect::<Vec<_>>().join(", "));
    match joined.map(|list| HeaderValue::from_str(&list)) {
        Ok(Ok(value)) => drop(headers.insert(name, value)),
        _ => {
            if let Ok(value) = HeaderValue::from_str(element) {
                headers.append(name, value);
            }
        }
    }
}

/// Whether this is the last recipient of a TRACE or OPTIONS request; counts `Max-Forwards` down otherwise (RFC 9110
/// §7.6.2).
pub(crate) fn is_last_recipient(head: &mut http::request::Parts) -> bool {
    if !matches!(head.method, Method::TRACE | Method::OPTIONS) {
        return false;
    }
    let value = head.headers.get(MAX_FORWARDS).and_then(|value| value.to_str().ok());
    match value.filter(|value| value.bytes().all(|byte| byte.is_ascii_digit())).map(str::parse::<u64>) {
        Some(Ok(0)) => true,
        Some(Ok(left)) => {
            head.headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
            false
        }
        // Not a number, or a larger one than any chain is long.
        _ => false,
    }
}

fn target(uri: &Uri, upstream: &Authority) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(upstream.clone());
    parts.path_and_query = Some(uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or_default()
}

fn strip_userinfo(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}
