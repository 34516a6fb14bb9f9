//! Estimates the size of a value in memory, in one pass of its `Serialize`.
//!
//! Spare capacity, and fields that are not serialized, are not seen:
//! [`weigher`](crate::cache::CachedBuilder::weigher) is for values that hold more than they serialize.

use std::fmt::{self, Display};

use serde::ser::{self, Serialize};

/// Returns the size of this value in memory, in bytes; its type's size if its `Serialize` fails.
pub(super) fn of<V: Serialize>(value: &V) -> usize {
    let mut sum = SizeSum(0);
    let seen = value.serialize(&mut sum).map_or(0, |()| sum.0);
    seen.max(size_of::<V>())
}

/// Size of a string, list or map beside its contents.
const CONTAINER_SIZE: usize = size_of::<String>();
/// Overhead of a map entry, assuming a third of the slots to be empty.
const MAP_ENTRY_OVERHEAD: usize = 16;
/// Size of an enum's discriminant.
const DISCRIMINANT_SIZE: usize = 8;

/// Bytes of the parts visited so far.
struct SizeSum(usize);

impl SizeSum {
    const fn add(&mut self, size: usize) -> Result<(), SerializeError> {
        self.0 = self.0.saturating_add(size);
        Ok(())
    }

    /// Adds the padding behind the fields.
    const fn align(&mut self) -> Result<(), SerializeError> {
        self.0 = self.0.next_multiple_of(DISCRIMINANT_SIZE);
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
    ($($name:ident($type:ty)),*) => {$(
        fn $name(self, _: $type) -> Result<(), SerializeError> {
            self.add(size_of::<$type>())
        }
    )*};
}

/// Opens a part, whose contents are added by the same sum.
macro_rules! open {
    ($($name:ident($($argument:ty),*) + $size:expr),*) => {$(
        fn $name(self, $(_: $argument),*) -> Result<Self, SerializeError> {
            self.add($size).map(|()| self)
        }
    )*};
}

impl ser::Serializer for &mut SizeSum {
    type Ok = ();
    type Error = SerializeError;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    plain! {
        serialize_bool(bool), serialize_char(char), serialize_f32(f32), serialize_f64(f64),
        serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64), serialize_i128(i128),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_u128(u128)
    }

    open! {
        serialize_seq(Option<usize>) + CONTAINER_SIZE,
        serialize_map(Option<usize>) + CONTAINER_SIZE,
        serialize_tuple(usize) + 0,
        serialize_tuple_struct(&'static str, usize) + 0,
        serialize_struct(&'static str, usize) + 0,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) + DISCRIMINANT_SIZE,
        serialize_struct_variant(&'static str, u32, &'static str, usize) + DISCRIMINANT_SIZE
    }

    fn serialize_str(self, text: &str) -> Result<(), SerializeError> {
        self.add(CONTAINER_SIZE + text.len())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), SerializeError> {
        self.add(CONTAINER_SIZE + bytes.len())
    }

    fn serialize_none(self) -> Result<(), SerializeError> {
        // The size of an absent value is unknown.
        self.add(2 * DISCRIMINANT_SIZE)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), SerializeError> {
        self.add(DISCRIMINANT_SIZE)?;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), SerializeError> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), SerializeError> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), SerializeError> {
        self.add(DISCRIMINANT_SIZE)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), SerializeError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), SerializeError> {
        self.add(DISCRIMINANT_SIZE)?;
        value.serialize(self)
    }

    fn is_human_readable(&self) -> bool {
        // As MessagePack.
        false
    }
}

macro_rules! parts {
    ($($kind:ident::$method:ident($($name:ty)?)),*) => {$(
        impl ser::$kind for &mut SizeSum {
            type Ok = ();
            type Error = SerializeError;

            fn $method<T: Serialize + ?Sized>(&mut self, $(_: $name,)? value: &T) -> Result<(), SerializeError> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), SerializeError> {
                self.align()
            }
        }
    )*};
}

parts! {
    SerializeTuple::serialize_element(),
    SerializeTupleStruct::serialize_field(),
    SerializeTupleVariant::serialize_field(),
    SerializeStruct::serialize_field(&'static str),
    SerializeStructVariant::serialize_field(&'static str)
}

impl ser::SerializeSeq for &mut SizeSum {
    type Ok = ();
    type Error = SerializeError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerializeError> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), SerializeError> {
        Ok(())
    }
}

impl ser::SerializeMap for &mut SizeSum {
    type Ok = ();
    type Error = SerializeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), SerializeError> {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerializeError> {
        value.serialize(&mut **self)?;
        self.add(MAP_ENTRY_OVERHEAD)
    }

    fn end(self) -> Result<(), SerializeError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_size_is_estimated() {
        use std::collections::HashMap;
        let pairs: Vec<(u8, u64)> = vec![(1, 1); 1_000];
        let names: Vec<String> = vec!["a name of thirty-two bytes......".to_owned(); 1_000];
        let perhaps: Vec<Option<u64>> = vec![None; 1_000];
        let map: HashMap<u64, u64> = (0..1_000).map(|n| (n, n)).collect();
        for (estimated, real) in [
            (of(&pairs), 24 + 16 * 1_000),
            (of(&vec![0_u64; 1_000]), 24 + 8 * 1_000),
            (of(&vec![0_u8; 1_000]), 24 + 1_000),
            (of(&names), 24 + 1_000 * (24 + 32)),
            (of(&perhaps), 24 + 16 * 1_000),
            (of(&map), 48 + 17 * 2_048),
            (of(&[0_u64; 4]), 32),
            (of(&None::<[u64; 32]>), size_of::<Option<[u64; 32]>>()),
        ] {
            assert!((real * 9 / 10..=real * 12 / 10).contains(&estimated), "{estimated} for {real}");
        }
    }
}
