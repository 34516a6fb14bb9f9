//! The file level, beside bare files and redb on the same data.
//!
//! A put of the engine appends to memory, a get reads at a position; the level adds the runtime's blocking threads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use redb::{Database, Durability, TableDefinition};
use tollgate::cache::{ByteStore, Cached, DataCache};
use tollgate::store::RemoteStore;
use tollgate::store::file::{FileBytes, FileLevel};

use super::{HOUR, Spans, VALUE, row, timed};

const ENTRIES: u64 = 100_000;
const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");
/// A transaction of redb takes some tenths of a millisecond: its puts are fewer.
const REDB_PUTS: u64 = 20_000;

pub(super) fn run(runtime: &tokio::runtime::Runtime) {
    println!("file, {ENTRIES} values in no order");
    bare();
    engine(runtime);
    level(runtime);
    redb();
}

/// A directory that is deleted at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tollgate-bench-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).expect("created");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Numbers in no order.
fn shuffled(n: u64) -> u64 {
    n.wrapping_mul(0x2545_F491_4F6C_DD1D) % ENTRIES
}

fn name(n: u64) -> String {
    format!("tollgate:entry:{:016x}{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15), n)
}

fn value(n: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(n | 1) >> 3) as u8).collect()
}

fn bytes_on_disk(path: &Path) -> u64 {
    let files = std::fs::read_dir(path).expect("a directory");
    files.map(|file| file.expect("a file").metadata().map_or(0, |file| file.len())).sum()
}

/// The floor: appends to one file, and reads at positions.
fn bare() {
    let directory = Directory::new("bare");
    let path = directory.0.join("values");
    let file = File::options().read(true).write(true).create_new(true).open(path).expect("created");
    let (mut puts, mut gets) = (Spans::default(), Spans::default());
    for n in 0..ENTRIES {
        let value = value(n, VALUE);
        puts.time(|| file.write_all_at(&value, n * VALUE as u64)).expect("written");
    }
    for n in (0..ENTRIES).map(shuffled) {
        let read = gets.time(|| {
            let mut buffer = vec![0; VALUE];
            file.read_exact_at(&mut buffer, n * VALUE as u64).map(|()| buffer)
        });
        assert_eq!(read.expect("read")[1], value(n, VALUE)[1]);
    }
    row("bare loop of pwrite and pread", Some(puts), gets);
}

fn engine(runtime: &tokio::runtime::Runtime) {
    let directory = Directory::new("engine");
    let bytes = FileBytes::open(FileLevel::new(&directory.0, 2 << 30)).expect("opened");
    let (mut puts, mut gets, mut pooled) = (Spans::default(), Spans::default(), Spans::default());
    for n in 0..ENTRIES {
        let (name, value) = (name(n), Bytes::from(value(n, VALUE)));
        puts.time(|| bytes.put(name, value, HOUR).now_or_never()).expect("at once").expect("stored");
    }
    // The writer writes the rest of the tail.
    std::thread::sleep(Duration::from_millis(500));
    let mut missing = 0;
    for n in (0..ENTRIES).map(shuffled) {
        let name = name(n);
        missing += u64::from(gets.time(|| bytes.value(&name)).expect("read").is_none());
    }
    runtime.block_on(async {
        pooled = timed(ENTRIES, |n| bytes.get_many(vec![name(shuffled(n))])).await;
    });
    row("engine", Some(puts), gets);
    row("engine, read on the blocking threads", None, pooled);
    println!("    {missing} values missing, {} bytes on disk an entry", bytes_on_disk(&directory.0) / ENTRIES);
    drop(bytes);
    let store = RemoteStore::file(FileLevel::new(&directory.0, 2 << 30)).expect("settings");
    runtime.block_on(async {
        let data = DataCache::builder().level_2(Arc::new(store)).build();
        while data.levels()[1].entries == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let level = data.levels().remove(1);
        println!("    {:.1} bytes of memory an entry", level.memory_bytes as f64 / level.entries as f64);
    });
}

/// Typed values through the whole level; the memory in front holds none.
fn level(runtime: &tokio::runtime::Runtime) {
    let directory = Directory::new("level");
    runtime.block_on(async {
        let store = RemoteStore::file(FileLevel::new(&directory.0, 2 << 30)).expect("settings");
        let data = DataCache::builder().memory(1).level_2(Arc::new(store)).build();
        while !data.levels()[1].up {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let values: Cached<String> = data.cached("bench").ttl(HOUR).build().expect("a namespace");
        let (values, value) = (&values, "x".repeat(VALUE));
        let puts = timed(ENTRIES, |n| values.put(n, value.clone())).await;
        let gets = timed(ENTRIES, |n| async move { assert!(values.get(shuffled(n)).await.is_some()) }).await;
        row("level: typed values through RemoteStore", Some(puts), gets);
    });
}

fn redb() {
    let directory = Directory::new("redb");
    let database = Database::create(directory.0.join("values.redb")).expect("created");
    let (mut puts, mut gets) = (Spans::default(), Spans::default());
    for n in 0..REDB_PUTS {
        let (name, value) = (name(n), value(n, VALUE));
        puts.time(|| {
            let mut write = database.begin_write().expect("a transaction");
            write.set_durability(Durability::Eventual);
            write.open_table(TABLE).expect("a table").insert(&*name, &*value).expect("inserted");
            write.commit().expect("committed");
        });
    }
    let write = database.begin_write().expect("a transaction");
    {
        let mut table = write.open_table(TABLE).expect("a table");
        for n in REDB_PUTS..ENTRIES {
            table.insert(&*name(n), &*value(n, VALUE)).expect("inserted");
        }
    }
    write.commit().expect("committed");
    for n in (0..ENTRIES).map(shuffled) {
        let name = name(n);
        let found = gets.time(|| {
            let read = database.begin_read().expect("a transaction");
            let table = read.open_table(TABLE).expect("a table");
            let found = table.get(&*name).expect("read");
            found.map(|found| Bytes::copy_from_slice(found.value()))
        });
        assert!(found.is_some());
    }
    row("redb 2.6, a transaction each, eventual", Some(puts), gets);
    println!("    {} bytes on disk an entry", bytes_on_disk(&directory.0) / ENTRIES);
}

/// How long it takes to open a directory, closed well and left behind by a killed process.
pub(super) fn reopen(entries: u64, length: usize) {
    let directory = Directory::new("reopen");
    let level = FileLevel::new(&directory.0, 4 << 30);
    let bytes = FileBytes::open(level.clone()).expect("opened");
    for n in 0..entries {
        bytes.put(name(n), value(n, length).into(), HOUR).now_or_never().expect("at once").expect("stored");
        if n % 5_000 == 0 {
            // The writer keeps up.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    std::thread::sleep(Duration::from_millis(1_500));
    let killed = Directory::new("killed");
    for file in std::fs::read_dir(&directory.0).expect("a directory") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), killed.0.join(file.file_name())).expect("copied");
    }
    drop(bytes);
    let mut millis = Vec::new();
    for path in [&directory.0, &killed.0] {
        let begun = Instant::now();
        let bytes = FileBytes::open(FileLevel::new(path, 4 << 30)).expect("opened");
        millis.push(begun.elapsed().as_millis());
        assert!(bytes.value(&name(entries - 1)).expect("read").is_some());
    }
    println!("opening {entries} entries of {length} bytes: {} ms; after a kill {} ms", millis[0], millis[1]);
}
