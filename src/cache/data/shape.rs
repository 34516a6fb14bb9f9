//! The shape of a value: its fields' and variants' names, and what kinds of things it is made of, as one number.
//!
//! postcard writes values without their names. A process whose type has another field, or the same in another order,
//! may
//! read such bytes as a value that was never written; but then the value it has read is of another shape than the one
//! that
//! was written, and it is not used. What is equal in name, order and kind, and differs in meaning alone, is not
//! noticed:
//! that is what a namespace's version is for.
//!
//! Lists and maps are of the shapes of what they hold, in whatever order and number: sets and maps have no order to
//! keep.
//!
//! On the same way it is reckoned what the value takes in memory, part by part: what a list has room for beyond its
//! parts,
//! and what a value keeps that is not written, is not seen.

use std::fmt::{self, Display};

use serde::ser::{self, Serialize};

/// The shape of this value, and what it takes in memory; `None` where its `Serialize` fails.
pub(crate) fn of<V: Serialize>(value: &V) -> Option<(u64, usize)> {
    let mut shape = Shape::default();
    value.serialize(&mut shape).ok()?;
    Some((shape.hash, shape.size.max(size_of::<V>())))
}

/// What text, a list and a map take beside what is in them.
const HANDLE: usize = size_of::<String>();
/// What a map takes for each of its entries, a third of its places being empty, beside what is in them.
const PLACE: usize = 16;
/// What says which variant it is.
const TAG: usize = 8;

/// What was seen so far.
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
    fn add(&mut self, text: &str) -> Result<(), Unseen> {
        // A zero after each, so that names do not run together.
        for byte in text.bytes().chain([0]) {
            self.mix(u64::from(byte));
        }
        Ok(())
    }

    fn mix(&mut self, part: u64) {
        self.hash = (self.hash ^ part).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn sized(&mut self, kind: &str, size: usize) -> Result<(), Unseen> {
        self.size += size;
        self.add(kind)
    }

    fn variant(&mut self, name: &str, kind: &str) -> Result<(), Unseen> {
        self.sized(kind, TAG)?;
        self.add(name)
    }

    /// Fields lie side by side, and are aligned.
    fn close(&mut self) -> Result<(), Unseen> {
        self.size = self.size.next_multiple_of(TAG);
        self.add("end")
    }
}

/// A list's or a map's parts: the least and the greatest of their shapes, which depend neither on order nor on number.
struct Many<'a> {
    whole: &'a mut Shape,
    part: Shape,
    least: u64,
    greatest: u64,
}

impl<'a> Many<'a> {
    fn new(whole: &'a mut Shape, kind: &str) -> Result<Self, Unseen> {
        whole.sized(kind, HANDLE)?;
        Ok(Self { whole, part: Shape::default(), least: u64::MAX, greatest: 0 })
    }

    /// A part is seen to its end.
    fn close(&mut self) {
        let Shape { hash, size } = std::mem::take(&mut self.part);
        (self.least, self.greatest) = (self.least.min(hash), self.greatest.max(hash));
        self.whole.size += size;
    }

    fn end(self) -> Result<(), Unseen> {
        self.whole.mix(self.least);
        self.whole.mix(self.greatest);
        Ok(())
    }
}

/// A value's own `Serialize` has failed.
#[derive(Debug)]
struct Unseen;

impl Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot be written")
    }
}

impl std::error::Error for Unseen {}

impl ser::Error for Unseen {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

macro_rules! plain {
    ($($name:ident($type:ty) = $kind:literal),*) => {$(
        fn $name(self, _: $type) -> Result<(), Unseen> {
            self.sized($kind, size_of::<$type>())
        }
    )*};
}

impl<'a> ser::Serializer for &'a mut Shape {
    type Ok = ();
    type Error = Unseen;
    type SerializeSeq = Many<'a>;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Many<'a>;
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

    fn serialize_str(self, text: &str) -> Result<(), Unseen> {
        self.sized("str", HANDLE + text.len())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Unseen> {
        self.sized("bytes", HANDLE + bytes.len())
    }

    fn serialize_none(self) -> Result<(), Unseen> {
        // What there would be is not there to be seen.
        self.sized("none", 2 * TAG)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unseen> {
        self.sized("some", TAG)?;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Unseen> {
        self.add("unit")
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unseen> {
        self.add("unit")
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<(), Unseen> {
        self.variant(name, "variant")
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Unseen> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        value: &T,
    ) -> Result<(), Unseen> {
        self.variant(name, "variant of one")?;
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Many<'a>, Unseen> {
        Many::new(self, "list")
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Unseen> {
        self.add("tuple").map(|()| self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Unseen> {
        self.add("tuple").map(|()| self)
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, name: &'static str, _: usize) -> Result<Self, Unseen> {
        self.variant(name, "variant of several").map(|()| self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Many<'a>, Unseen> {
        Many::new(self, "map")
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Unseen> {
        self.add("fields").map(|()| self)
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, name: &'static str, _: usize) -> Result<Self, Unseen> {
        self.variant(name, "variant with fields").map(|()| self)
    }

    fn is_human_readable(&self) -> bool {
        // As for postcard: what is written is what is looked at.
        false
    }
}

macro_rules! parts {
    ($($kind:ident::$method:ident),*) => {$(
        impl ser::$kind for &mut Shape {
            type Ok = ();
            type Error = Unseen;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unseen> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), Unseen> {
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

impl ser::SerializeSeq for Many<'_> {
    type Ok = ();
    type Error = Unseen;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unseen> {
        value.serialize(&mut self.part)?;
        self.close();
        Ok(())
    }

    fn end(self) -> Result<(), Unseen> {
        Many::end(self)
    }
}

impl ser::SerializeMap for Many<'_> {
    type Ok = ();
    type Error = Unseen;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unseen> {
        key.serialize(&mut self.part)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unseen> {
        value.serialize(&mut self.part)?;
        self.part.size += PLACE;
        self.close();
        Ok(())
    }

    fn end(self) -> Result<(), Unseen> {
        Many::end(self)
    }
}

macro_rules! fields {
    ($($kind:ident),*) => {$(
        impl ser::$kind for &mut Shape {
            type Ok = ();
            type Error = Unseen;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Unseen> {
                self.add(name)?;
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), Unseen> {
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

    /// A type, and what became of it.
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
    fn names_order_and_kinds_make_the_shape_and_values_do_not() {
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
    fn what_has_no_order_has_one_shape_in_every_process() {
        use std::collections::{HashMap, HashSet};
        // Each map has its own order.
        let map = || (0..100_u32).map(|n| (n.to_string(), (n % 3 == 0).then_some(n))).collect::<HashMap<_, _>>();
        let set = || (0..100_u32).map(|n| (n % 3 == 0).then_some(n)).collect::<HashSet<_>>();
        let shapes: HashSet<_> = (0..50).map(|_| of(&(map(), set()))).collect();
        assert_eq!(shapes.len(), 1);
    }

    #[test]
    fn what_a_value_takes_in_memory_is_reckoned_within_reason() {
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
