//! Shape of a value: a hash of the names of its fields and variants and the kinds of its parts.
//!
//! postcard writes values without names. A process whose type has another field, or the same in another order, may
//! decode such bytes into a value that was never written; but that value has another shape than the one written, and is
//! rejected. Changes of meaning under the same name, order and kind are not detected: raise the namespace's version for
//! those.
//!
//! Lists and maps have the shapes of their elements, regardless of order and number, since sets and maps are unordered.
//!
//! The same pass estimates the size of the value in memory. It does not see spare capacity, or fields that are not
//! serialized.

use std::fmt::{self, Display};

use serde::ser::{self, Serialize};

/// Returns the shape of this value and its size in memory; `None` if its `Serialize` fails.
pub(super) fn of<V: Serialize>(value: &V) -> Option<(u64, usize)> {
    let mut shape = Shape::default();
    value.serialize(&mut shape).ok()?;
    Some((shape.hash, shape.size.max(size_of::<V>())))
}

/// Size of a string, list or map beside its contents.
const CONTAINER_SIZE: usize = size_of::<String>();
/// Overhead of a map entry, assuming a third of the slots to be empty.
const MAP_ENTRY_OVERHEAD: usize = 16;
/// Size of an enum's discriminant.
const DISCRIMINANT_SIZE: usize = 8;

/// Shape of the parts visited so far.
struct Shape {
    /// FNV-1a over names and kinds: the same in every process.
    hash: u64,
    size: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, size: 0 }
    }
}

impl Shape {
    fn add(&mut self, text: &str) -> Result<(), SerializeError> {
        // A terminating zero separates adjacent names.
        for byte in text.bytes().chain([0]) {
            self.mix(u64::from(byte));
        }
        Ok(())
    }

    fn mix(&mut self, part: u64) {
        self.hash = (self.hash ^ part).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn sized(&mut self, kind: &str, size: usize) -> Result<(), SerializeError> {
        self.size += size;
        self.add(kind)
    }

    fn variant(&mut self, name: &str, kind: &str) -> Result<(), SerializeError> {
        self.sized(kind, DISCRIMINANT_SIZE)?;
        self.add(name)
    }

    /// Adds alignment of the fields.
    fn close(&mut self) -> Result<(), SerializeError> {
        self.size = self.size.next_multiple_of(DISCRIMINANT_SIZE);
        self.add("end")
    }
}

/// Elements of a list or map: the least and the greatest of their shapes, independent of order and number.
struct UnorderedShape<'a> {
    parent: &'a mut Shape,
    part: Shape,
    least: u64,
    greatest: u64,
}

impl<'a> UnorderedShape<'a> {
    fn new(parent: &'a mut Shape, kind: &str) -> Result<Self, SerializeError> {
        parent.sized(kind, CONTAINER_SIZE)?;
        Ok(Self { parent, part: Shape::default(), least: u64::MAX, greatest: 0 })
    }

    /// Completes an element.
    fn close(&mut self) {
        let Shape { hash, size } = std::mem::take(&mut self.part);
        (self.least, self.greatest) = (self.least.min(hash), self.greatest.max(hash));
        self.parent.size += size;
    }

    fn end(self) -> Result<(), SerializeError> {
        self.parent.mix(self.least);
        self.parent.mix(self.greatest);
        Ok(())
    }
}

/// Error of a value's own `Serialize`.
#[derive(Debug)]
struct SerializeError;

impl Display for SerializeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot be serialized")
    }
}

impl std::error::Error for SerializeError {}

impl ser::Error for SerializeError {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

macro_rules! plain {
    ($($name:ident($type:ty) = $kind:literal),*) => {$(
        fn $name(self, _: $type) -> Result<(), SerializeError> {
            self.sized($kind, size_of::<$type>())
        }
    )*};
}

impl<'a> ser::Serializer for &'a mut Shape {
    type Ok = ();
    type Error = SerializeError;
    type SerializeSeq = UnorderedShape<'a>;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = UnorderedShape<'a>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    plain! {
        serialize_bool(bool) = "bool",
        serialize_i8(i8) = "i8", serialize_i16(i16) = "i16", serialize_i32(i32) = "i32", serialize_i64(i64) = "i64",
        serialize_i128(i128) = "i128",
        serialize_u8(u8) = "u8", serialize_u16(u16) = "u16", serialize_u32(u32) = "u32", serialize_u64(u64) = "u64",
        serialize_u128(u128) = "u128",
        serialize_f32(f32) = "f32", serialize_f64(f64) = "f64", serialize_char(char) = "char"

    }

    fn serialize_str(self, text: &str) -> Result<(), SerializeError> {
        self.sized("str", CONTAINER_SIZE + text.len())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), SerializeError> {
        self.sized("bytes", CONTAINER_SIZE + bytes.len())
    }

    fn serialize_none(self) -> Result<(), SerializeError> {
        // The size of an absent value is unknown.
        self.sized("none", 2 * DISCRIMINANT_SIZE)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), SerializeError> {
        self.sized("some", DISCRIMINANT_SIZE)?;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), SerializeError> {
        self.add("unit")
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), SerializeError> {
        self.add("unit")
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<(), SerializeError> {
        self.variant(name, "variant")
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), SerializeError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        value: &T,
    ) -> Result<(), SerializeError> {
        self.variant(name, "variant of one")?;
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<UnorderedShape<'a>, SerializeError> {
        UnorderedShape::new(self, "list")
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, SerializeError> {
        self.add("tuple").map(|()| self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, SerializeError> {
        self.add("tuple").map(|()| self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Self, SerializeError> {
        self.variant(name, "variant of several").map(|()| self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<UnorderedShape<'a>, SerializeError> {
        UnorderedShape::new(self, "map")
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, SerializeError> {
        self.add("fields").map(|()| self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Self, SerializeError> {
        self.variant(name, "variant with fields").map(|()| self)
    }

    fn is_human_readable(&self) -> bool {
        // As postcard does.
        false
    }
}

macro_rules! parts {
    ($($kind:ident::$method:ident),*) => {$(
        impl ser::$kind for &mut Shape {
            type Ok = ();
            type Error = SerializeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerializeError> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), SerializeError> {
                self.close()
            }
        }
    )*};
}

parts! {
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
}

impl ser::SerializeSeq for UnorderedShape<'_> {
    type Ok = ();
    type Error = SerializeError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerializeError> {
        value.serialize(&mut self.part)?;
        self.close();
        Ok(())
    }

    fn end(self) -> Result<(), SerializeError> {
        UnorderedShape::end(self)
    }
}

impl ser::SerializeMap for UnorderedShape<'_> {
    type Ok = ();
    type Error = SerializeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), SerializeError> {
        key.serialize(&mut self.part)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerializeError> {
        value.serialize(&mut self.part)?;
        self.part.size += MAP_ENTRY_OVERHEAD;
        self.close();
        Ok(())
    }

    fn end(self) -> Result<(), SerializeError> {
        UnorderedShape::end(self)
    }
}

macro_rules! fields {
    ($($kind:ident),*) => {$(
        impl ser::$kind for &mut Shape {
            type Ok = ();
            type Error = SerializeError;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), SerializeError> {
                self.add(name)?;
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), SerializeError> {
                self.close()
            }
        }
    )*};
}

fields!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use super::*;

    fn of<V: Serialize>(value: &V) -> u64 {
        super::of(value).expect("it can be written").0
    }

    /// A type in two versions.
    mod versions {
        use serde::Serialize;

        #[derive(Serialize)]
        pub(super) struct One {
            pub(super) asked: u32,
            pub(super) bid: u32,
        }

        #[derive(Serialize)]
        pub(super) struct Reordered {
            pub(super) bid: u32,
            pub(super) asked: u32,
        }

        #[derive(Serialize)]
        pub(super) struct Widened {
            pub(super) asked: u64,
            pub(super) bid: u64,
        }

        #[derive(Serialize)]
        pub(super) enum Either {
            One(One),
            Other { asked: u32 },
            Neither,
        }
    }

    #[test]
    fn shape_depends_on_names_order_and_kinds() {
        use versions::{Either, One, Reordered, Widened};
        let one = of(&One { asked: 1, bid: 2 });
        assert_eq!(one, of(&One { asked: 3, bid: 4 }));
        assert_ne!(one, of(&Reordered { bid: 1, asked: 2 }));
        assert_ne!(one, of(&Widened { asked: 1, bid: 2 }));
        let shapes = [
            of(&Either::One(One { asked: 1, bid: 2 })),
            of(&Either::Other { asked: 1 }),
            of(&Either::Neither),
            of(&(1_u32, 2_u32)),
            of(&[1_u32, 2, 3]),
            of(&vec![1_u32, 2]),
            of(&vec![1_u64, 2]),
            of(&Vec::<u32>::new()),
            of(&Some(1_u32)),
            of(&None::<u32>),
            of(&""),
        ];
        for (n, shape) in shapes.iter().enumerate() {
            assert!(shapes[n + 1..].iter().all(|other| other != shape), "{n}");
        }
    }

    #[test]
    fn unordered_collections_have_one_shape() {
        use std::collections::{HashMap, HashSet};
        // Each map has its own iteration order.
        let map = || (0..100_u32).map(|n| (n.to_string(), (n % 3 == 0).then_some(n))).collect::<HashMap<_, _>>();
        let set = || (0..100_u32).map(|n| (n % 3 == 0).then_some(n)).collect::<HashSet<_>>();
        let shapes: HashSet<_> = (0..50).map(|_| of(&(map(), set()))).collect();
        assert_eq!(shapes.len(), 1);
    }

    #[test]
    fn memory_size_is_estimated() {
        use std::collections::HashMap;
        let size = |seen: Option<(u64, usize)>| seen.expect("it can be written").1;
        let pairs: Vec<(u8, u64)> = vec![(1, 1); 1_000];
        let names: Vec<String> = vec!["a name of thirty-two bytes......".to_owned(); 1_000];
        let perhaps: Vec<Option<u64>> = vec![None; 1_000];
        let map: HashMap<u64, u64> = (0..1_000).map(|n| (n, n)).collect();
        for (reckoned, real) in [
            (size(super::of(&pairs)), 24 + 16 * 1_000),
            (size(super::of(&vec![0_u64; 1_000])), 24 + 8 * 1_000),
            (size(super::of(&vec![0_u8; 1_000])), 24 + 1_000),
            (size(super::of(&names)), 24 + 1_000 * (24 + 32)),
            (size(super::of(&perhaps)), 24 + 16 * 1_000),
            (size(super::of(&map)), 48 + 17 * 2_048),
            (size(super::of(&[0_u64; 4])), 32),
            (size(super::of(&None::<[u64; 32]>)), size_of::<Option<[u64; 32]>>()),
        ] {
            assert!((real * 9 / 10..=real * 12 / 10).contains(&reckoned), "{reckoned} for {real}");
        }
    }
}
