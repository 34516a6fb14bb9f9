//! Tollgate beside its peers, over the same service, the same requests, in one process and one run.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml` prints the tables and writes them, with plots, to
//! `benches/peers/results.md`, `peers.svg` and `scale.svg`. About four minutes; `-- --no-instructions` does without
//! valgrind's counts.

mod caches;
mod instructions;
mod limits;
mod measure;
mod plot;
mod report;

use limits::Cases;
use measure::Req;

#[global_allocator]
static COUNTING: measure::Counting = measure::Counting;

/// Cases that are compared with one another, the first being what the others are wrapped around.
pub struct Table {
    pub title: &'static str,
    cases: fn() -> Cases,
    request: fn(u64) -> Req,
    rounds: usize,
    batch: u64,
    /// Whether valgrind counts in time what these do.
    countable: bool,
}

const TABLES: [Table; 8] = [
    table("Accepting, no fields", limits::accepting_without_fields, limits::request),
    table("Accepting, three fields", limits::accepting_with_fields, limits::request),
    table("Refusing", limits::refusing, limits::request),
    table("Cache hit, 1 KiB", || caches::caches(1 << 10), caches::hit),
    Table {
        rounds: 24,
        batch: 8,
        countable: false,
        ..table("Cache hit, 1 MiB", || caches::caches(1 << 20), caches::hit)
    },
    Table { rounds: 24, ..table("Cache miss, 1 KiB", || caches::caches(1 << 10), caches::miss) },
    table("Revalidated, 304", || caches::caches(1 << 10), caches::revalidate),
    table(
        "Timing, and everything",
        || [limits::timing(), caches::stack(1 << 10)].into_iter().flatten().collect(),
        caches::hit,
    ),
];

const fn table(title: &'static str, cases: fn() -> Cases, request: fn(u64) -> Req) -> Table {
    Table { title, cases, request, rounds: 64, batch: 512, countable: true }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--count") {
        return instructions::run(&TABLES, &args[at + 1..]);
    }
    let count = !args.iter().any(|arg| arg == "--no-instructions");
    let mut report = report::Report::default();
    for (index, table) in TABLES.iter().enumerate() {
        let (names, mut runs): (Vec<_>, Vec<_>) = (table.cases)().into_iter().unzip();
        let costs = measure::all(&mut runs, table.request, table.rounds, table.batch);
        let counts = (0..names.len())
            .map(|row| if count && table.countable { instructions::count(&TABLES, index, row) } else { None });
        report.table(table.title, &names, &costs, &counts.collect::<Vec<_>>());
    }
    for keys in [1_000, 10_000, 100_000, 1_000_000, 10_000_000] {
        report.decisions(limits::decisions(keys));
    }
    report.hot_key(&limits::hot_key());
    for entries in [1_000, 10_000, 100_000, 1_000_000] {
        report.entries(entries, caches::hit_among(entries));
    }
    report.write(concat!(env!("CARGO_MANIFEST_DIR")))
}
