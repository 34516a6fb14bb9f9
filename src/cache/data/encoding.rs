//! Encoding of typed values for other processes.
//!
//! ```text
//! format │ version │ type │ the value, in MessagePack with named fields
//! ```
//!
//! *Version* is configured, *type* is a hash of the Rust type's name. A mismatch is a miss, never a panic, not even one
//! of the type's own `Deserialize`.
//!
//! The format names fields and variants, and describes itself. So all of serde's attributes work (`flatten`,
//! `untagged`, `tag`, `skip_serializing_if`), fields may be added with a default, removed or moved, and a type that
//! renames a field misses what was written before.

use std::any::type_name;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::codec::{Reader, Writer};

const FORMAT: u8 = 2;

/// Schema that two processes must share to read each other's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SchemaStamp {
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

/// Encodes the value with its stamp.
///
/// # Errors
/// If its `Serialize` fails.
pub(super) fn encode<V: Serialize>(value: &V, stamp: SchemaStamp) -> Result<Bytes, rmp_serde::encode::Error> {
    let mut out = Writer(Vec::with_capacity(128));
    out.u8(FORMAT);
    out.u32(stamp.version);
    out.u64(stamp.kind);
    rmp_serde::encode::write_named(&mut out.0, value)?;
    out.0.shrink_to_fit();
    Ok(out.0.into())
}

/// Decodes a value of this stamp; `None` for anything else.
pub(super) fn decode<V: DeserializeOwned>(encoded: &[u8], stamp: SchemaStamp) -> Option<V> {
    let mut reader = Reader(encoded);
    let (format, version, kind) = (reader.u8()?, reader.u32()?, reader.u64()?);
    if format != FORMAT || (SchemaStamp { version, kind }) != stamp {
        return None;
    }
    let mut rest = reader.0;
    let value = catch_unwind(AssertUnwindSafe(|| rmp_serde::from_read(&mut rest).ok())).ok()??;
    rest.is_empty().then_some(value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Price {
        symbol: String,
        cents: Option<u64>,
        tags: Vec<String>,
    }

    fn price() -> Price {
        Price { symbol: "ACME".into(), cents: Some(7), tags: vec!["a".into(), String::new()] }
    }

    fn round_trip<V: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: V) {
        let stamp = SchemaStamp::of::<V>(3);
        let encoded = encode(&value, stamp).expect("bytes");
        assert_eq!(decode::<V>(&encoded, stamp), Some(value));
    }

    #[test]
    fn every_attribute_of_serde_round_trips() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Flat {
            #[serde(flatten)]
            price: Price,
            #[serde(flatten)]
            more: BTreeMap<String, serde_json::Value>,
            #[serde(skip_serializing_if = "Option::is_none", default)]
            note: Option<String>,
            last: u8,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(untagged)]
        enum Untagged {
            Number(i64),
            Text(String),
            Price(Price),
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        enum Tagged {
            Quote(Price),
            Halted { reason: String },
            Closed,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "t", content = "c")]
        enum Adjacent {
            One(u8),
            Two(u8, u8),
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        enum Plain {
            Unit,
            One(u8),
            Two(u8, String),
            Fields { a: Option<Box<Plain>> },
        }

        let json = serde_json::json!({"a": [1, -2, 0.5, null, true, {"b": "c"}], "big": u64::MAX});
        round_trip(price());
        for note in [None, Some("late".to_owned())] {
            let more = [("x".to_owned(), json.clone())].into();
            round_trip(Flat { price: price(), more, note, last: 9 });
        }
        round_trip(vec![Untagged::Number(-5), Untagged::Text("5".into()), Untagged::Price(price())]);
        round_trip(vec![Tagged::Quote(price()), Tagged::Halted { reason: "news".into() }, Tagged::Closed]);
        round_trip(vec![Adjacent::One(1), Adjacent::Two(1, 2)]);
        let nested = Plain::Fields { a: Some(Box::new(Plain::Fields { a: None })) };
        round_trip(vec![Plain::Unit, Plain::One(1), Plain::Two(1, "b".into()), nested]);
        round_trip(json);
        round_trip((i128::MIN, u128::MAX, f64::MIN_POSITIVE, 'ß', (), [1_u8; 3], Some(Some(1_u8))));
        round_trip(BTreeMap::from([((1_u8, "a".to_owned()), vec![0_u8, 255])]));
        round_trip((std::time::Duration::from_nanos(1), std::net::IpAddr::from([192, 0, 2, 1])));
    }

    #[test]
    fn foreign_values_are_rejected() {
        let stamp = SchemaStamp::of::<Price>(3);
        let encoded = encode(&price(), stamp).expect("bytes");
        assert_eq!(decode::<Price>(&encoded, SchemaStamp::of::<Price>(4)), None);
        // The same fields under another type's name.
        assert_eq!(decode::<Price>(&encoded, SchemaStamp::of::<(String, Option<u64>, Vec<String>)>(3)), None);
        for length in 0..encoded.len() {
            assert_eq!(decode::<Price>(&encoded[..length], stamp), None, "cut at {length}");
        }
        assert_eq!(decode::<Price>(&[&encoded[..], b"x"].concat(), stamp), None, "and more");
    }

    #[test]
    fn fields_may_be_moved_and_added_but_not_renamed() {
        mod newer {
            #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
            pub(super) struct Span {
                pub(super) end: u32,
                pub(super) start: u32,
                #[serde(default)]
                pub(super) step: u32,
            }

            #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
            pub(super) struct Renamed {
                pub(super) begin: u32,
                pub(super) end: u32,
            }
        }
        #[derive(Serialize, Deserialize)]
        struct Span {
            start: u32,
            end: u32,
        }

        let stamp = SchemaStamp::of::<Span>(0);
        let encoded = encode(&Span { start: 1, end: 2 }, stamp).expect("bytes");
        // As if the types had kept their name.
        let moved = newer::Span { end: 2, start: 1, step: 0 };
        assert_eq!(decode::<newer::Span>(&encoded, stamp), Some(moved));
        assert_eq!(decode::<newer::Renamed>(&encoded, stamp), None);
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
        let encoded = encode(&Explosive, stamp).expect("bytes");
        assert!(decode::<Explosive>(&encoded, stamp).is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0_usize..64, to in any::<u8>()) {
            let stamp = SchemaStamp::of::<Price>(3);
            let _ = decode::<Price>(&bytes, stamp);
            let mut encoded = encode(&price(), stamp).expect("bytes").to_vec();
            let index = at % encoded.len();
            encoded[index] = to;
            let _ = decode::<Price>(&encoded, stamp);
        }
    }
}
