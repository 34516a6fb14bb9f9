//! The tables: printed, and written as Markdown.

use std::fmt::Write as _;
use std::path::Path;

use crate::limits::Decision;
use crate::measure::Cost;
use crate::plot::{self, Bar, Line};

#[derive(Default)]
pub struct Report {
    text: String,
    bars: Vec<(&'static str, Vec<Bar>)>,
    decisions: Vec<Decision>,
    entries: Vec<(u64, f64)>,
}

impl Report {
    fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// What each case costs over the bare service, the first.
    pub fn table(&mut self, title: &'static str, names: &[&'static str], costs: &[Cost], counts: &[Option<u64>]) {
        self.line(&format!("\n## {title}\n"));
        self.line("| | ns over the bare service | instructions | allocations |\n|---|--:|--:|--:|");
        let (mut bare, mut bars) = (0, Vec::new());
        for (row, ((name, cost), count)) in names.iter().zip(costs).zip(counts).enumerate() {
            if *name == "bare service" {
                bare = row;
                self.line(&format!(
                    "| bare service, itself | {:.0} | {} | {:.0} |",
                    cost.nanos,
                    shown(*count),
                    cost.allocations
                ));
                continue;
            }
            let over = cost.nanos - costs[bare].nanos;
            let count = count.zip(counts[bare]).map(|(mine, bare)| mine as i64 - bare as i64);
            let allocations = cost.allocations - costs[bare].allocations;
            self.line(&format!(
                "| {name} | {over:+.0} | {} | {allocations:+.0} |",
                count.map_or("–".into(), |n| format!("{n:+}"))
            ));
            bars.push(Bar { name, value: over });
        }
        self.bars.push((title, bars));
    }

    pub fn decisions(&mut self, rows: Vec<Decision>) {
        if self.decisions.is_empty() {
            self.line("\n## The decision alone, by keys held\n");
            self.line("Each reads its clock. New keys include the growth of the table.\n");
            self.line("| | keys | ns, a known key | ns, a new key | bytes per key |\n|---|--:|--:|--:|--:|");
        }
        for row in &rows {
            self.line(&format!(
                "| {} | {} | {:.0} | {:.0} | {:.0} |",
                row.name, row.keys, row.known, row.new, row.bytes
            ));
        }
        self.decisions.extend(rows);
    }

    pub fn hot_key(&mut self, rows: &[(&'static str, [f64; 2])]) {
        self.line("\n## One hot key\n\n| | ns per decision, one thread | two threads together |\n|---|--:|--:|");
        for (name, [one, two]) in rows {
            self.line(&format!("| {name} | {one:.0} | {two:.0} |"));
        }
    }

    /// What a hit costs among that many entries.
    pub fn entries(&mut self, entries: u64, nanos: f64) {
        if self.entries.is_empty() {
            self.line("\n## A cache hit, by entries held\n\n| entries | ns over the bare service |\n|--:|--:|");
        }
        self.line(&format!("| {entries} | {nanos:+.0} |"));
        self.entries.push((entries, nanos));
    }

    pub fn write(self, folder: &str) -> Result<(), Box<dyn std::error::Error>> {
        let mut text = String::from(
            "# Tollgate beside its peers\n\nWritten by `cargo run --release --manifest-path benches/peers/Cargo.toml`, in one run; the least mean of many\n\
             interleaved rounds. Compare within a run.\n",
        );
        text.push_str(&self.text);
        let folder = Path::new(folder);
        std::fs::write(folder.join("results.md"), text)?;
        std::fs::write(folder.join("peers.svg"), plot::bars(&self.bars))?;
        let mut lines: Vec<Line> = Vec::new();
        for row in &self.decisions {
            match lines.iter_mut().find(|line| line.name == row.name) {
                Some(line) => line.points.push((row.keys, row.known)),
                None => lines.push(Line { name: row.name, points: vec![(row.keys, row.known)] }),
            }
        }
        lines.push(Line { name: "**tollgate**, cache hit by entries", points: self.entries });
        std::fs::write(folder.join("scale.svg"), plot::lines(&lines))?;
        Ok(())
    }
}

fn shown(count: Option<u64>) -> String {
    let mut text = String::new();
    let _ = match count {
        Some(count) => write!(text, "{count}"),
        None => write!(text, "–"),
    };
    text
}
