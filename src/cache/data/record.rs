//! Encoding of typed values, in place of a response body.
//!
//! ```text
//! format │ version │ type │ weight │ shape │ the value, in postcard's format
//! ```
//!
//! *Version* is configured, *type* is a hash of the Rust type's name, *weight* the size of the value in memory, for
//! processes that hold it before decoding, and [*shape*](super::shape) a hash of its fields' names and kinds. A
//! mismatch is a miss, never a wrong value and never a panic, not even one of the type's own `Deserialize`.

use std::any::type_name;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{key, shape};
use crate::base::codec::{Reader, Writer};
use crate::cache::http::key::CacheKey;

const FORMAT: u8 = 1;
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "read by remote stores"))]
const HEADER_LEN: usize = 25;

/// Schema that two processes must share to read each other's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SchemaStamp {
    pub(super) version: u32,
    kind: u64,
}

impl SchemaStamp {
    /// Creates the stamp of values of this type and version.
    pub(super) fn of<V>(version: u32) -> Self {
        // FNV-1a: the same in every process.
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self { version, kind: type_name::<V>().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, hash) }
    }
}

/// Encodes the value with its weight and shape.
///
/// # Errors
/// If its `Serialize` fails, for instance for a list of unknown length.
pub(super) fn encode<V: Serialize>(
    value: &V,
    stamp: SchemaStamp,
    weight: u32,
    shape: u64,
) -> Result<Bytes, postcard::Error> {
    let mut out = Writer(Vec::with_capacity(128));
    out.u8(FORMAT);
    out.u32(stamp.version);
    out.u64(stamp.kind);
    out.u32(weight);
    out.u64(shape);
    let mut encoded = postcard::to_extend(value, out.0)?;
    encoded.shrink_to_fit();
    Ok(encoded.into())
}

/// Decodes a value of this stamp; `None` for anything else.
pub(crate) fn decode<V: Serialize + DeserializeOwned>(encoded: &[u8], stamp: SchemaStamp) -> Option<V> {
    let mut reader = Reader(encoded);
    let (format, version, kind) = (reader.u8()?, reader.u32()?, reader.u64()?);
    let (_, shape) = (reader.u32()?, reader.u64()?);
    if format != FORMAT || (SchemaStamp { version, kind }) != stamp {
        return None;
    }
    let read = || {
        let (value, rest) = postcard::take_from_bytes::<V>(reader.0).ok()?;
        (rest.is_empty() && shape::of(&value).is_some_and(|(seen, _)| seen == shape)).then_some(value)
    };
    catch_unwind(AssertUnwindSafe(read)).ok()?
}

/// Returns the decoded size of the value under this key; zero if it is not a typed value.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "read by remote stores"))]
pub(crate) fn weight_of(key: &CacheKey, encoded: &[u8]) -> u32 {
    let weight = || Reader(encoded.get(HEADER_LEN - 12..)?).u32();
    if key::is_typed(key) { weight().unwrap_or_default() } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Price {
        symbol: String,
        cents: Option<u64>,
        tags: Vec<String>,
    }

    fn encoded<V: Serialize>(value: &V, stamp: SchemaStamp, weight: u32) -> Option<Bytes> {
        encode(value, stamp, weight, shape::of(value)?.0).ok()
    }

    fn price() -> Price {
        Price { symbol: "ACME".into(), cents: Some(7), tags: vec!["a".into(), String::new()] }
    }

    #[test]
    fn values_round_trip_and_expose_their_weight() {
        let stamp = SchemaStamp::of::<Price>(3);
        let encoded = encoded(&price(), stamp, 77).expect("bytes");
        assert_eq!(decode::<Price>(&encoded, stamp), Some(price()));
        assert_eq!(weight_of(&key::key(&key::namespace_prefix("n"), &1), &encoded), 77);
        assert_eq!(weight_of(&CacheKey::from_bytes(b"any other", 9), &encoded), 0);
        assert_eq!(encoded[HEADER_LEN..], postcard::to_allocvec(&price()).expect("bytes"));
    }

    #[test]
    fn foreign_values_are_rejected() {
        let stamp = SchemaStamp::of::<Price>(3);
        let encoded = encoded(&price(), stamp, 0).expect("bytes");
        assert_eq!(decode::<Price>(&encoded, SchemaStamp::of::<Price>(4)), None);
        // The same shape under another name.
        assert_eq!(
            decode::<(String, Option<u64>, Vec<String>)>(
                &encoded,
                SchemaStamp::of::<(String, Option<u64>, Vec<String>)>(3)
            ),
            None
        );
        for length in 0..encoded.len() {
            assert_eq!(decode::<Price>(&encoded[..length], stamp), None, "cut at {length}");
        }
        assert_eq!(decode::<Price>(&[&encoded[..], b"x"].concat(), stamp), None, "and more");
    }

    #[test]
    fn moved_fields_are_rejected() {
        mod newer {
            #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
            pub(super) struct Span {
                pub(super) end: u32,
                pub(super) start: u32,
            }
        }
        #[derive(Serialize, Deserialize)]
        struct Span {
            start: u32,
            end: u32,
        }

        let stamp = SchemaStamp::of::<Span>(0);
        let encoded = encoded(&Span { start: 1, end: 2 }, stamp, 0).expect("bytes");
        assert!(decode::<Span>(&encoded, stamp).is_some());
        // As if the type had kept its name.
        assert_eq!(decode::<newer::Span>(&encoded, stamp), None);
    }

    #[test]
    fn panicking_deserialize_is_a_miss() {
        #[derive(Debug, Serialize)]
        struct Explosive;

        impl<'de> Deserialize<'de> for Explosive {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                panic!("a bug of the type's own")
            }
        }

        let stamp = SchemaStamp::of::<Explosive>(0);
        let encoded = encoded(&Explosive, stamp, 0).expect("bytes");
        assert!(decode::<Explosive>(&encoded, stamp).is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0_usize..64, to in any::<u8>()) {
            let stamp = SchemaStamp::of::<Price>(3);
            let _ = decode::<Price>(&bytes, stamp);
            let mut encoded = encoded(&price(), stamp, 0).expect("bytes").to_vec();
            let index = at % encoded.len();
            encoded[index] = to;
            let _ = decode::<Price>(&encoded, stamp);
        }
    }
}
