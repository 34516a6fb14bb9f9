use proptest::prelude::*;

use super::*;
use crate::cache::http::key::Target;

/// Arbitrary key, as a tree.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Number(i128),
    Text(String),
    Bytes(Vec<u8>),
    Flag(bool),
    Letter(char),
    Perhaps(Option<Box<Tree>>),
    List(Vec<Tree>),
}

impl KeyPart for Tree {
    fn write(&self, key: &mut KeyWriter) {
        match self {
            Self::Number(number) => number.write(key),
            Self::Text(text) => text.write(key),
            Self::Bytes(bytes) => bytes::Bytes::copy_from_slice(bytes).write(key),
            Self::Flag(flag) => flag.write(key),
            Self::Letter(letter) => letter.write(key),
            Self::Perhaps(part) => part.write(key),
            Self::List(parts) => parts.write(key),
        }
    }
}

/// A small alphabet and small numbers, so that similar trees are generated.
fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        (-3_i128..300).prop_map(Tree::Number),
        any::<i128>().prop_map(Tree::Number),
        "[\\x00-\\x09a]{0,4}".prop_map(Tree::Text),
        proptest::collection::vec(0_u8..10, 0..4).prop_map(Tree::Bytes),
        any::<bool>().prop_map(Tree::Flag),
        "[a\\x01]".prop_map(|text| Tree::Letter(text.chars().next().unwrap_or('a'))),
        Just(Tree::Perhaps(None)),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|part| Tree::Perhaps(Some(Box::new(part)))),
            proptest::collection::vec(inner, 0..4).prop_map(Tree::List),
        ]
    })
}

fn bytes(parts: &impl KeyPart) -> Vec<u8> {
    key(&namespace_prefix("space"), parts).as_bytes().to_vec()
}

fn begins_with(whole: &Tree, start: &Tree) -> bool {
    match (whole, start) {
        (Tree::List(whole), Tree::List(start)) => whole.starts_with(start),
        _ => whole == start,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn equal_parts_have_equal_keys(a in tree(), b in tree()) {
        prop_assert_eq!(bytes(&a) == bytes(&b), a == b);
    }

    #[test]
    fn prefixes_cover_exactly_their_extensions(a in tree(), b in tree(), cut in 0_usize..4) {
        // Also a key with that prefix.
        let start = match &a {
            Tree::List(parts) => Tree::List(parts[..cut.min(parts.len())].to_vec()),
            other => other.clone(),
        };
        for start in [start, b] {
            let key = key(&namespace_prefix("space"), &a);
            let path = Target::of(key.resource()).expect("a target").path;
            prop_assert_eq!(path.starts_with(&prefix(&start)), begins_with(&a, &start), "{:?} {:?}", a, start);
        }
    }
}

#[test]
fn parts_are_delimited() {
    let different = [
        bytes(&("ab", "c")),
        bytes(&("a", "bc")),
        bytes(&("a", "b", "c")),
        bytes(&(("a", "b"), "c")),
        bytes(&"abc"),
        bytes(&("abc",)),
        bytes(&1_u32),
        bytes(&"1"),
        bytes(&true),
        bytes(&'1'),
        bytes(&-1),
        bytes(&Some(1)),
        bytes(&None::<u8>),
        bytes(&Vec::<u8>::new()),
        bytes(&bytes::Bytes::from_static(b"1")),
    ];
    for (n, a) in different.iter().enumerate() {
        assert!(different[n + 1..].iter().all(|b| a != b), "{n}");
    }
    assert_ne!(key(&namespace_prefix("a"), &1), key(&namespace_prefix("b"), &1), "namespaces are apart");
}

#[test]
fn integers_are_compared_by_value() {
    assert_eq!(bytes(&7_u8), bytes(&7_i128));
    assert_eq!(bytes(&-7_i8), bytes(&-7_isize));
    assert_ne!(bytes(&7), bytes(&-7));
    assert_ne!(bytes(&i128::MIN), bytes(&u128::MAX));
}

#[test]
fn response_and_value_keys_differ() {
    use crate::cache::http::key_builder::{KeyBuilder, KeyParts};

    let typed = key(&namespace_prefix("h"), &"/a");
    assert!(typed.resource().starts_with(&[0, 0, 0, 1]));
    let uri: http::Uri = "http://h/a".parse().expect("a uri");
    let parts = KeyParts { default_scheme: "http", ignore_query: &[], without_query: false };
    let mut response = KeyBuilder::new();
    response.target("http", b"h", &uri, parts).expect("a key");
    assert!(!response.finish().expect("short").resource().starts_with(&[0, 0, 0, 1]));
    let target = Target::of(typed.resource()).expect("a target");
    assert_eq!((target.scheme, target.authority, target.query), (SCHEME, &b"\0h"[..], &b""[..]));
    assert!(!target.path.starts_with(b"/"));
}
