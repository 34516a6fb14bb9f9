//! gRPC rejections: HTTP 200 without a body, with the status and its details in fields.
//!
//! The "Trailers-Only" response form of gRPC carries `grpc-status` in the header block; `google.rpc.RetryInfo` is
//! sent in `grpc-status-details-bin` as an unpadded base64 `google.rpc.Status`. The three small messages are encoded
//! by hand.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::base::headers;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const RETRY_INFO: &[u8] = b"type.googleapis.com/google.rpc.RetryInfo";

/// gRPC status codes of rejections.
#[derive(Clone, Copy)]
pub(crate) enum Code {
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unavailable = 14,
}

impl Code {
    const fn message(self) -> &'static str {
        match self {
            Self::PermissionDenied => "denied",
            Self::ResourceExhausted => "rate limit exceeded",
            Self::Unavailable => "server is at capacity",
        }
    }
}

/// Returns whether a request is gRPC. grpc-web is excluded: its clients read trailers from the body.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return false };
    let kind = kind.as_bytes();
    let Some((start, rest)) = kind.split_at_checked(16) else { return false };
    start.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Builds the rejection, asking for a retry after `wait`; the message ends with its reference.
pub(super) fn refusal(code: Code, wait: Duration, reference: Option<&str>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.reserve(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, headers::number(code as u64));
    let message = reference.map(|reference| format!("{}; reference {reference}", code.message()));
    let message = message.and_then(|message| HeaderValue::try_from(message).ok());
    headers.insert(GRPC_MESSAGE, message.unwrap_or_else(|| HeaderValue::from_static(code.message())));
    if let Ok(details) = HeaderValue::try_from(base64(&status(code, wait))) {
        headers.insert(GRPC_STATUS_DETAILS, details);
    }
    response
}

/// Encodes `google.rpc.Status { code = 1, message = 2, details = 3: [Any { type_url = 1, value = 2 }] }`.
fn status(code: Code, wait: Duration) -> Vec<u8> {
    let (mut delay, mut retry, mut any, mut out) = (Vec::new(), Vec::new(), Vec::new(), Vec::with_capacity(96));
    put_varint_field(&mut delay, 1, wait.as_secs());
    put_varint_field(&mut delay, 2, u64::from(wait.subsec_nanos()));
    put_bytes_field(&mut retry, 1, &delay);
    put_bytes_field(&mut any, 1, RETRY_INFO);
    put_bytes_field(&mut any, 2, &retry);
    put_varint_field(&mut out, 1, code as u64);
    put_bytes_field(&mut out, 2, code.message().as_bytes());
    put_bytes_field(&mut out, 3, &any);
    out
}

fn put_varint_field(out: &mut Vec<u8>, field: u8, value: u64) {
    if value > 0 {
        out.push(field << 3);
        put_varint(out, value);
    }
}

fn put_bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Encodes RFC 4648 §4 base64 without padding, as gRPC sends binary metadata.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let wide = chunk.iter().fold(0_u32, |wide, byte| wide << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(wide >> (18 - 6 * place)) as usize & 63]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_rfc_without_its_padding() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn only_grpc_proper_is_grpc() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC;charset=x", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, kind.parse().expect("a value"));
            assert_eq!(is_grpc(&headers), grpc, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    /// Expected: the encoding of the same message by a protobuf library.
    #[test]
    fn the_details_are_protobuf() {
        #[derive(Clone, PartialEq, prost::Message)]
        struct Span {
            #[prost(int64, tag = "1")]
            seconds: i64,
            #[prost(int32, tag = "2")]
            nanos: i32,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        struct RetryInfo {
            #[prost(message, tag = "1")]
            retry_delay: Option<Span>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        struct Any {
            #[prost(string, tag = "1")]
            type_url: String,
            #[prost(bytes = "vec", tag = "2")]
            value: Vec<u8>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        struct Status {
            #[prost(int32, tag = "1")]
            code: i32,
            #[prost(string, tag = "2")]
            message: String,
            #[prost(message, repeated, tag = "3")]
            details: Vec<Any>,
        }
        use prost::Message;
        let wait = Duration::from_millis(59_900);
        let span = Span { seconds: 59, nanos: 900_000_000 };
        let value = RetryInfo { retry_delay: Some(span) }.encode_to_vec();
        let any = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value };
        let expected = Status { code: 8, message: "rate limit exceeded".into(), details: vec![any] };
        assert_eq!(status(Code::ResourceExhausted, wait), expected.encode_to_vec());
    }
}
