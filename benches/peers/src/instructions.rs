//! Instructions per request, counted by valgrind: the same however busy the machine is.

use std::process::Command;

use crate::Table;

/// Sends that many requests through one case of one table: `[table, row, requests]`.
pub fn run(tables: &[Table], args: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [table, row, requests] = args else { return Err("table, row, requests".into()) };
    let table = &tables[table.parse::<usize>()?];
    let mut run = (table.cases)().swap_remove(row.parse()?).1;
    // Until caches and tables are filled, and what runs once has run.
    run((0..64).map(table.request).collect());
    counted(&mut run, table.request, requests.parse()?);
    Ok(())
}

/// What valgrind counts.
#[inline(never)]
fn counted(run: &mut crate::measure::Run, request: fn(u64) -> crate::measure::Req, requests: u64) {
    for n in 0..requests {
        run(vec![request(64 + n)]);
    }
}

/// What one request takes; `None` without valgrind.
pub fn count(tables: &[Table], table: usize, row: usize) -> Option<u64> {
    let requests = tables[table].batch;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*instructions*counted*"])
        .arg(std::env::current_exe().ok()?)
        .args(["--count", &table.to_string(), &row.to_string(), &requests.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let total: u64 = text.lines().find(|line| line.contains("Collected"))?.rsplit(' ').next()?.parse().ok()?;
    Some(total / requests)
}
