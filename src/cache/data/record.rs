//! A typed value as bytes: what lies where a response has its body.
//!
//! ```text
//! format │ version │ type │ weight │ shape │ the value, in postcard's format
//! ```
//!
//! *Version* is the operator's word, *type* a hash of the Rust type's name, *weight* what the value takes in memory,
//! for
//! processes that hold it before they have read it, and [*shape*](super::shape) a hash of its fields' names and kinds.
//! What
//! does not fit is a miss, never a wrong value and never a panic, not even one of the type's own `Deserialize`.

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
const HEAD: usize = 25;

/// What two processes must agree on to read each other's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SchemaStamp {
    pub(crate) version: u32,
    kind: u64,
}

impl SchemaStamp {
    /// Of values of this type, in this version.
    pub(crate) fn of<V>(version: u32) -> Self {
        // FNV-1a: the same in every process.
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self { version, kind: type_name::<V>().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, hash) }
    }
}

/// The value, of this weight and shape, as bytes.
///
/// # Errors
/// Where its `Serialize` fails: a list of unknown length, for instance.
pub(crate) fn seal<V: Serialize>(
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
    let mut sealed = postcard::to_extend(value, out.0)?;
    sealed.shrink_to_fit();
    Ok(sealed.into())
}

/// The value that these bytes are, where they are one of this stamp and nothing else.
pub(crate) fn open<V: Serialize + DeserializeOwned>(sealed: &[u8], stamp: SchemaStamp) -> Option<V> {
    let mut reader = Reader(sealed);
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

/// What the value under this key weighs once it is read; nothing where it is no typed value.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "read by remote stores"))]
pub(crate) fn weight_of(key: &CacheKey, sealed: &[u8]) -> u32 {
    let weight = || Reader(sealed.get(HEAD - 12..)?).u32();
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

    fn sealed<V: Serialize>(value: &V, stamp: SchemaStamp, weight: u32) -> Option<Bytes> {
        seal(value, stamp, weight, shape::of(value)?.0).ok()
    }

    fn price() -> Price {
        Price { symbol: "ACME".into(), cents: Some(7), tags: vec!["a".into(), String::new()] }
    }

    #[test]
    fn a_value_survives_the_journey_and_its_weight_is_known_before_it_is_read() {
        let stamp = SchemaStamp::of::<Price>(3);
        let sealed = sealed(&price(), stamp, 77).expect("bytes");
        assert_eq!(open::<Price>(&sealed, stamp), Some(price()));
        assert_eq!(weight_of(&key::key(&key::beginning("n"), &1), &sealed), 77);
        assert_eq!(weight_of(&CacheKey::from_bytes(b"any other", 9), &sealed), 0);
        assert_eq!(sealed[HEAD..], postcard::to_allocvec(&price()).expect("bytes"));
    }

    #[test]
    fn another_version_another_type_and_anything_odd_is_no_value() {
        let stamp = SchemaStamp::of::<Price>(3);
        let sealed = sealed(&price(), stamp, 0).expect("bytes");
        assert_eq!(open::<Price>(&sealed, SchemaStamp::of::<Price>(4)), None);
        // The same shape, another name.
        assert_eq!(
            open::<(String, Option<u64>, Vec<String>)>(
                &sealed,
                SchemaStamp::of::<(String, Option<u64>, Vec<String>)>(3)
            ),
            None
        );
        for length in 0..sealed.len() {
            assert_eq!(open::<Price>(&sealed[..length], stamp), None, "cut at {length}");
        }
        assert_eq!(open::<Price>(&[&sealed[..], b"x"].concat(), stamp), None, "and more");
    }

    #[test]
    fn a_field_that_moved_is_no_value_though_its_bytes_can_be_read() {
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
        let sealed = sealed(&Span { start: 1, end: 2 }, stamp, 0).expect("bytes");
        assert!(open::<Span>(&sealed, stamp).is_some());
        // As if the type had kept its name.
        assert_eq!(open::<newer::Span>(&sealed, stamp), None);
    }

    #[test]
    fn a_type_that_panics_when_it_is_read_is_a_miss() {
        #[derive(Debug, Serialize)]
        struct Explosive;

        impl<'de> Deserialize<'de> for Explosive {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                panic!("a bug of the type's own")
            }
        }

        let stamp = SchemaStamp::of::<Explosive>(0);
        let sealed = sealed(&Explosive, stamp, 0).expect("bytes");
        assert!(open::<Explosive>(&sealed, stamp).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0_usize..64, to in any::<u8>()) {
            let stamp = SchemaStamp::of::<Price>(3);
            let _ = open::<Price>(&bytes, stamp);
            let mut sealed = sealed(&price(), stamp, 0).expect("bytes").to_vec();
            let place = at % sealed.len();
            sealed[place] = to;
            let _ = open::<Price>(&sealed, stamp);
        }
    }
}
