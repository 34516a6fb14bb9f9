//! What a file level costs, beside bare files and redb on the same data: `cargo bench --bench levels`.
//!
//! Compare rows of one run only. A put of the engine appends to memory, a get reads at a position; the level adds the
//! runtime's blocking threads, encoding, checksum, deadline and circuit breaker. Values are 1 KiB, in an order that is none.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench may fail, prints, and measures"
)]

use std::fs::File;
use std::hint::black_box;
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

const ENTRIES: u64 = 100_000;
const VALUE: usize = 1_024;
const HOUR: Duration = Duration::from_secs(3_600);
const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");
/// A transaction of redb takes some tenths of a millisecond: its puts are fewer.
const REDB_PUTS: u64 = 20_000;

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    println!("{ENTRIES} values of {VALUE} bytes; microseconds\n");
    println!("{:<44}{:>9}{:>9}{:>9}{:>9}", "", "put p50", "p99", "get p50", "p99");
    bare();
    engine(&runtime);
    level(&runtime);
    redb();
    println!();
    reopen(100_000, VALUE);
    reopen(1_000_000, 200);
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

/// Durations of one operation.
#[derive(Default)]
struct Spans(Vec<u64>);

impl Spans {
    fn time<T>(&mut self, operation: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = black_box(operation());
        self.0.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        result
    }

    fn micros(&mut self, percent: usize) -> f64 {
        self.0.sort_unstable();
        let at = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(at).map_or(f64::NAN, |nanos| *nanos as f64 / 1_000.0)
    }
}

fn row(name: &str, puts: Option<Spans>, mut gets: Spans) {
    let puts = puts.map_or_else(
        || format!("{:>9}{:>9}", "", ""),
        |mut puts| format!("{:>9.2}{:>9.2}", puts.micros(50), puts.micros(99)),
    );
    println!("{name:<44}{puts}{:>9.2}{:>9.2}", gets.micros(50), gets.micros(99));
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
        for n in (0..ENTRIES).map(shuffled) {
            let names = vec![name(n)];
            let begun = Instant::now();
            drop(black_box(bytes.get_many(names).await.expect("read")));
            pooled.0.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
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
        let (mut puts, mut gets) = (Spans::default(), Spans::default());
        for n in 0..ENTRIES {
            let value = "x".repeat(VALUE);
            let begun = Instant::now();
            values.put(n, value).await.expect("stored");
            puts.0.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        let mut missing = 0;
        for n in (0..ENTRIES).map(shuffled) {
            let begun = Instant::now();
            missing += u64::from(values.get(n).await.is_none());
            gets.0.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        row("level: typed values through RemoteStore", Some(puts), gets);
        println!("    {missing} values missing");
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
fn reopen(entries: u64, length: usize) {
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
