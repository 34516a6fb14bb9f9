//! Encoding of typed keys.
//!
//! | part | written as |
//! |---|---|
//! | an integer of any width | sign and length, then its bytes: compared by value, `7_u8` equals `7_i64` |
//! | text, bytes | type, length, content: `1` differs from `"1"`, and `"ab", "c"` from `"a", "bc"` |
//! | `bool`, `char`, `Option` | type, then content |
//! | a tuple, a list | a begin marker, its parts, an end marker |
//!
//! The encoding is self-delimiting, so distinct keys have distinct encodings. A tuple without its end marker is a
//! prefix of exactly the tuples that begin with the same parts, which implements invalidation by prefix.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::codec::Writer;
use crate::cache::http::key::CacheKey;

/// Scheme of typed keys: no URL has it, so they differ from the keys of responses.
pub(super) const SCHEME: &[u8] = b"\0";
/// First byte of a namespace's authority: no URL's authority begins with it, and `invalidate().prefix("http://name")` does not
/// match it.
const NAMESPACE_MARKER: u8 = 0;

const BEGIN: u8 = 0x01;
const END: u8 = 0x02;
const TEXT: u8 = 0x03;
const BYTES: u8 = 0x04;
const NONE: u8 = 0x05;
const SOME: u8 = 0x06;
const FALSE: u8 = 0x07;
const TRUE: u8 = 0x08;
const CHAR: u8 = 0x09;
/// Plus the number of bytes that follow, 0 to 16. Never `/`: a prefix of paths covers no typed value.
const INTEGER: u8 = 0x40;
const NEGATIVE: u8 = 0x60;

/// Key of a [`Cached`](crate::cache::data::Cached), or a part of one.
///
/// Keys of different parts are different: `("a", "bc")` is not `("ab", "c")`, and `1` is not `"1"`. Integers are
/// compared by value whatever their width. Implement it for a type by writing its parts:
///
/// ```
/// use tollgate::cache::{KeyPart, KeyWriter};
///
/// struct Repository { owner: String, id: u64 }
///
/// impl KeyPart for Repository {
///     fn write(&self, key: &mut KeyWriter) {
///         (&self.owner, self.id).write(key);
///     }
/// }
/// ```
pub trait KeyPart {
    /// Writes the part to the key.
    fn write(&self, key: &mut KeyWriter);
}

/// Output of [`KeyPart::write`].
///
/// ```
/// use tollgate::cache::{KeyPart, KeyWriter};
///
/// struct UserId(u64);
///
/// impl KeyPart for UserId {
///     fn write(&self, key: &mut KeyWriter) {
///         self.0.write(key);
///     }
/// }
/// ```
#[derive(Debug)]
pub struct KeyWriter(Writer<SmallVec<[u8; 104]>>);

impl KeyWriter {
    fn length_prefixed(&mut self, kind: u8, bytes: &[u8]) {
        self.0.u8(kind);
        self.0.bytes(bytes);
    }

    fn integer(&mut self, kind: u8, magnitude: u128) {
        let skipped = magnitude.leading_zeros() as usize / 8;
        let bytes = &magnitude.to_be_bytes()[skipped..];
        // At most 16.
        self.0.u8(kind + bytes.len() as u8);
        self.0.raw(bytes);
    }
}

/// Returns the prefix of all keys of a namespace.
pub(super) fn namespace_prefix(namespace: &str) -> Box<[u8]> {
    let mut head = Writer(Vec::new());
    head.bytes(SCHEME);
    head.bytes(&authority(namespace));
    head.0.into()
}

/// Returns the part of a namespace's keys that corresponds to the authority of a URL.
pub(super) fn authority(namespace: &str) -> Box<[u8]> {
    [&[NAMESPACE_MARKER], namespace.as_bytes()].concat().into()
}

/// Returns the key of these parts in the namespace with this prefix.
#[inline]
pub(super) fn key<K: KeyPart + ?Sized>(namespace_prefix: &[u8], parts: &K) -> CacheKey {
    let mut key = KeyWriter(Writer(SmallVec::from_slice(namespace_prefix)));
    let at = key.0.0.len();
    key.0.u32(0);
    parts.write(&mut key);
    let length = u32::try_from(key.0.0.len() - at - 4).unwrap_or(u32::MAX);
    key.0.0[at..at + 4].copy_from_slice(&length.to_be_bytes());
    // In place of a query.
    key.0.u32(0);
    let resource = key.0.0.len();
    CacheKey::seal(key.0.0, resource)
}

/// Returns the prefix of all keys that begin with these parts. Tuples are left open, anything else is one complete key.
pub(super) fn prefix<K: KeyPart + ?Sized>(parts: &K) -> Box<[u8]> {
    let mut key = KeyWriter(Writer(SmallVec::new()));
    parts.write(&mut key);
    if key.0.0.last() == Some(&END) && key.0.0.first() == Some(&BEGIN) {
        key.0.0.pop();
    }
    key.0.0.to_vec().into()
}

macro_rules! integers {
    ($($unsigned:ty, $signed:ty);*) => {$(
        impl KeyPart for $unsigned {
            fn write(&self, key: &mut KeyWriter) {
                key.integer(INTEGER, *self as u128);
            }
        }

        impl KeyPart for $signed {
            fn write(&self, key: &mut KeyWriter) {
                let kind = if *self < 0 { NEGATIVE } else { INTEGER };
                key.integer(kind, self.unsigned_abs() as u128);
            }
        }
    )*};
}

integers!(u8, i8; u16, i16; u32, i32; u64, i64; u128, i128; usize, isize);

impl KeyPart for str {
    fn write(&self, key: &mut KeyWriter) {
        key.length_prefixed(TEXT, self.as_bytes());
    }
}

impl KeyPart for String {
    fn write(&self, key: &mut KeyWriter) {
        self.as_str().write(key);
    }
}

impl KeyPart for bytes::Bytes {
    fn write(&self, key: &mut KeyWriter) {
        key.length_prefixed(BYTES, self);
    }
}

impl KeyPart for bool {
    fn write(&self, key: &mut KeyWriter) {
        key.0.u8(if *self { TRUE } else { FALSE });
    }
}

impl KeyPart for char {
    fn write(&self, key: &mut KeyWriter) {
        key.0.u8(CHAR);
        key.0.u32(u32::from(*self));
    }
}

impl<K: KeyPart> KeyPart for Option<K> {
    fn write(&self, key: &mut KeyWriter) {
        match self {
            None => key.0.u8(NONE),
            Some(part) => {
                key.0.u8(SOME);
                part.write(key);
            }
        }
    }
}

impl<K: KeyPart> KeyPart for [K] {
    fn write(&self, key: &mut KeyWriter) {
        key.0.u8(BEGIN);
        self.iter().for_each(|part| part.write(key));
        key.0.u8(END);
    }
}

impl<K: KeyPart> KeyPart for Vec<K> {
    fn write(&self, key: &mut KeyWriter) {
        self.as_slice().write(key);
    }
}

impl<K: KeyPart, const N: usize> KeyPart for [K; N] {
    fn write(&self, key: &mut KeyWriter) {
        self.as_slice().write(key);
    }
}

macro_rules! pointers {
    ($($pointer:ty),*) => {$(
        impl<K: KeyPart + ?Sized> KeyPart for $pointer {
            #[inline]
            fn write(&self, key: &mut KeyWriter) {
                (**self).write(key);
            }
        }
    )*};
}

pointers!(&K, Box<K>, Arc<K>, Rc<K>);

impl<K: KeyPart + ToOwned + ?Sized> KeyPart for Cow<'_, K> {
    fn write(&self, key: &mut KeyWriter) {
        (**self).write(key);
    }
}

macro_rules! tuples {
    ($(($($part:ident $at:tt),+);)*) => {$(
        impl<$($part: KeyPart),+> KeyPart for ($($part,)+) {
            #[inline]
            fn write(&self, key: &mut KeyWriter) {
                key.0.u8(BEGIN);
                $(self.$at.write(key);)+
                key.0.u8(END);
            }
        }
    )*};
}

tuples! {
    (A 0);
    (A 0, B 1);
    (A 0, B 1, C 2);
    (A 0, B 1, C 2, D 3);
    (A 0, B 1, C 2, D 3, E 4);
    (A 0, B 1, C 2, D 3, E 4, F 5);
}

#[cfg(test)]
mod tests;
