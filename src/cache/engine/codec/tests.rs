use proptest::prelude::*;

use super::*;
use crate::cache::engine::body_memory::BodyMemory;

const NOW: Timestamp = Timestamp::from_nanos(86_400_000_000_000);
/// Fleet clock, one hour into 1970.
const CLOCK: FleetClock = FleetClock { offset: 3_600_000_000_000 };

fn at(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

fn key() -> CacheKey {
    CacheKey::from_bytes(b"a resource, and more", 10)
}

fn entry(body: StoredBody, length: u64, fields: &[(&'static str, Vec<u8>)], tags: &[&str]) -> Entry {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_bytes(value).expect("a value"));
    }
    let deadlines = Deadlines {
        fresh_until: at(10),
        initial_staleness: Duration::from_secs(1),
        refresh_from: at(9),
        revalidate_until: at(20),
        error_until: at(30),
        unreachable_until: at(40),
        retain_until: Timestamp::MAX,
    };
    let record = RecordMeta {
        stored_at: NOW,
        requested_at: NOW,
        deadlines,
        strict: true,
        tags: tags.iter().map(|tag| Box::from(*tag)).collect(),
        took: Duration::from_millis(7),
        began: LogPosition { local: 5, fleet: 77 },
        checked: AtomicU64::new(5),
        copied_at: AtomicU64::new(0),
    };
    let meta = StoredHead { record, status: StatusCode::OK, headers, age: Duration::from_secs(3), immutable: false };
    Entry { key: key(), meta: Arc::new(meta), body, length, partial: None }
}

fn simple() -> Stored {
    let fields = [("etag", b"\"1\"".to_vec()), ("x-a", vec![0xff, b'1']), ("x-a", b"2".to_vec())];
    Stored::Entry(Arc::new(entry(StoredBody::one(Bytes::from_static(b"hello")), 5, &fields, &["a", "b"])))
}

fn index() -> Stored {
    let variant = |language: Option<&[u8]>| Variant {
        names: vec![HeaderName::from_static("accept"), HeaderName::from_static("foo")].into(),
        selection: b"\0\x01sel"[..].into(),
        language: language.map(|tag| Language { tag: tag.into(), other_selection: b"o"[..].into() }),
        key: key().variant(b"v"),
    };
    Stored::Vary(Arc::new(VaryIndex { key: key(), nonce: 9, variants: vec![variant(None), variant(Some(b"en"))] }))
}

fn decoded(encoded: Vec<u8>) -> Result<Stored, DecodeError> {
    decode(&Bytes::from(encoded), &key(), CLOCK, 8)
}

#[test]
fn entries_round_trip() {
    let Ok(Stored::Entry(found)) = decoded(encode(&simple(), CLOCK, 7, usize::MAX)) else { panic!("an entry") };
    let Stored::Entry(sent) = simple() else { panic!("an entry") };
    assert_eq!((&found.key, found.length, found.partial), (&sent.key, 5, None));
    assert_eq!(found.body.chunks().concat(), b"hello");
    assert_eq!(found.meta.headers, sent.meta.headers);
    assert_eq!((found.meta.status, found.meta.deadlines), (sent.meta.status, sent.meta.deadlines));
    assert_eq!((found.meta.age, found.meta.stored_at, found.meta.took), (sent.meta.age, NOW, sent.meta.took));
    assert_eq!((found.meta.strict, found.meta.immutable, &found.meta.tags), (true, false, &sent.meta.tags));
    assert_eq!(found.meta.began, LogPosition { local: 8, fleet: 77 }, "what this process has seen is its own");
}

#[test]
fn keys_are_read_from_the_beginning() {
    let encoded = encode(&simple(), CLOCK, 7, usize::MAX);
    assert_eq!(decode_key(&encoded), Some(key()));
    assert_eq!((decode_key(&encoded[..20]), decode_key(b"something else")), (None, None));
}

#[test]
fn variant_indexes_round_trip() {
    let Ok(Stored::Vary(found)) = decoded(encode(&index(), CLOCK, 7, usize::MAX)) else { panic!("an index") };
    let Stored::Vary(sent) = index() else { panic!("an index") };
    assert_eq!(format!("{found:?}"), format!("{sent:?}"));
}

#[test]
fn parts_and_bodies_in_blocks_round_trip() {
    let pieces =
        StoredBody::from_blocks(&[Bytes::from_static(b"he"), Bytes::from_static(b"llo")], &BodyMemory::new(1024));
    let mut sent = entry(pieces, 5, &[], &[]);
    sent.partial = Some(ContentRange { span: ByteSpan { start: 2, end: 7 }, total: 9 });
    let Ok(Stored::Entry(found)) = decoded(encode(&Stored::Entry(Arc::new(sent)), CLOCK, 7, usize::MAX)) else {
        panic!("an entry")
    };
    assert_eq!(found.partial, Some(ContentRange { span: ByteSpan { start: 2, end: 7 }, total: 9 }));
    assert_eq!(found.body.chunks().concat(), b"hello");
}

#[test]
fn entries_older_than_the_reader_keep_their_age() {
    let encoded = encode(&simple(), CLOCK, 7, usize::MAX).into();
    // This process's clock began four seconds after the entry was stored, a minute before now.
    let clock = FleetClock::reading(Timestamp::from_nanos(60_000_000_000), CLOCK.fleet(at(64)));
    let Ok(Stored::Entry(found)) = decode(&encoded, &key(), clock, 0) else { panic!("an entry") };
    let now = Timestamp::from_nanos(60_000_000_000);
    assert_eq!(found.meta.age_at(now), Duration::from_secs(3 + 64));
    assert_eq!(found.meta.staleness_at(now), Duration::from_secs(1 + 54));
    assert_eq!(found.meta.deadlines.retain_until, Timestamp::MAX);
    // The same for one that ended before the clock began.
    let clock = FleetClock::reading(Timestamp::from_nanos(60_000_000_000), CLOCK.fleet(at(164)));
    let Ok(Stored::Entry(found)) = decode(&encoded, &key(), clock, 0) else { panic!("an entry") };
    assert_eq!(found.meta.age_at(now), Duration::from_secs(3 + 164));
    assert_eq!(found.meta.staleness_at(now), Duration::from_secs(1 + 154));
}

#[test]
fn decode_errors_are_distinguished() {
    let encoded = encode(&simple(), CLOCK, 7, usize::MAX);
    let with = |at: usize, byte: u8| [&encoded[..at], &[byte], &encoded[at + 1..]].concat();
    assert_eq!(decoded(b"{}".to_vec()).err(), Some(DecodeError::Foreign));
    assert_eq!(decoded(with(0, b'X')).err(), Some(DecodeError::Foreign));
    assert_eq!(decoded(with(3, 1)).err(), Some(DecodeError::Version));
    assert_eq!(decoded(with(20, encoded[20] ^ 1)).err(), Some(DecodeError::Corrupt));
    let other = CacheKey::from_bytes(b"another resource, and more", 10);
    assert_eq!(decode(&encoded.into(), &other, CLOCK, 0).err(), Some(DecodeError::KeyMismatch));
}

#[test]
fn truncated_and_corrupt_values_are_rejected() {
    for encoded in [encode(&simple(), CLOCK, 7, usize::MAX), encode(&index(), CLOCK, 7, usize::MAX)] {
        for length in 0..encoded.len() {
            assert!(decoded(encoded[..length].to_vec()).is_err(), "cut at {length}");
        }
        for (at, bit) in (0..encoded.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = encoded.clone();
            flipped[at] ^= 1 << bit;
            assert!(decoded(flipped).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn malformed_records_with_a_valid_checksum_are_rejected() {
    let encoded = encode(&simple(), CLOCK, 7, usize::MAX);
    for at in CHECKSUM_END..encoded.len() {
        for byte in [0, 0x7f, 0xff] {
            let mut forged = encoded.clone();
            forged[at] = byte;
            let checksum = crc32fast::hash(&forged[CHECKSUM_END..]).to_be_bytes();
            forged[CHECKSUM_END - 4..CHECKSUM_END].copy_from_slice(&checksum);
            // Decoding must not panic, and a decoded value must have the right key.
            if let Ok(found) = decoded(forged) {
                assert_eq!(found.key(), &key());
            }
        }
    }
}

#[cfg(feature = "lz4")]
#[test]
fn large_records_are_compressed_and_round_trip() {
    let body = Bytes::from(vec![b'a'; 100_000]);
    let sent = Stored::Entry(Arc::new(entry(StoredBody::one(body.clone()), 100_000, &[], &[])));
    let encoded = encode(&sent, CLOCK, 7, 1024);
    assert!(encoded.len() < 2_000, "{}", encoded.len());
    let Ok(Stored::Entry(found)) = decoded(encoded.clone()) else { panic!("an entry") };
    assert_eq!(found.body.chunks().concat(), body);
    for length in 0..encoded.len() {
        assert!(decoded(encoded[..length].to_vec()).is_err(), "cut at {length}");
    }
}

proptest! {
    #[test]
    fn arbitrary_entries_round_trip(
        body in proptest::collection::vec(any::<u8>(), 0..300),
        values in proptest::collection::vec("[ -~]{0,20}", 0..5),
        tags in proptest::collection::vec("[a-z*]{1,8}", 0..4),
        compress_over in prop_oneof![Just(0_usize), Just(usize::MAX)],
    ) {
        let fields: Vec<_> = values.iter().map(|value| ("x-a", value.trim().as_bytes().to_vec())).collect();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        let length = body.len() as u64;
        let sent = entry(StoredBody::one(body.into()), length, &fields, &tags);
        let encoded = encode(&Stored::Entry(Arc::new(sent.clone())), CLOCK, 7, compress_over);
        let Ok(Stored::Entry(found)) = decoded(encoded) else { panic!("an entry") };
        prop_assert_eq!(found.body.chunks().concat(), sent.body.chunks().concat());
        prop_assert_eq!(&found.meta.headers, &sent.meta.headers);
        prop_assert_eq!(&found.meta.tags, &sent.meta.tags);
    }

    #[test]
    fn foreign_bytes_are_rejected(bytes in proptest::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
        let bytes = if head { [&MAGIC[..], &bytes].concat() } else { bytes };
        prop_assert!(decoded(bytes).is_err());
    }
}
