//! The same for a file level whose disk fails.
//!
//! These rows mount file systems of their own, so the bench runs itself again in a name space where it may.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};

use super::gate::Gate;
use super::{Kind, back, load_while, tell};

/// Set in the process that may mount.
const INSIDE: &str = "TOLLGATE_BENCH_MOUNTS";
/// Of the level; the disk has a little more.
const BOUND: u64 = 32 << 20;
const PROMISE: &str = "p99 0.1; back 5000";

struct Row {
    name: &'static str,
    hurt: fn(&Path),
    heal: fn(&Path),
}

fn rows() -> [Row; 4] {
    [
        Row { name: "file: nothing fails", hurt: |_| {}, heal: |_| {} },
        Row {
            name: "file: full disk",
            hurt: |disk| {
                let mut file = std::fs::File::create(disk.join("ballast")).expect("created");
                while std::io::Write::write_all(&mut file, &[0; 4_096]).is_ok() {}
            },
            heal: |disk| std::fs::remove_file(disk.join("ballast")).expect("deleted"),
        },
        Row { name: "file: writes fail", hurt: |_| limit_files("0"), heal: |_| limit_files("unlimited") },
        Row {
            name: "file: directory deleted",
            hurt: |disk| {
                std::fs::remove_dir_all(disk.join("level")).expect("deleted");
                std::fs::write(disk.join("level"), "no directory").expect("written");
            },
            heal: |disk| std::fs::remove_file(disk.join("level")).expect("deleted"),
        },
    ]
}

/// Lets every write that makes a file longer than this fail, in this process.
fn limit_files(bytes: &str) {
    let process = std::process::id().to_string();
    let limited = Command::new("prlimit").arg(format!("--fsize={bytes}:unlimited")).args(["--pid", &process]).status();
    assert!(limited.expect("prlimit is installed").success());
}

/// Prints the rows whose names contain `only`, by a process that may mount and that outlives a write which is too long.
pub(super) async fn run_all(only: &str) {
    if std::env::var_os(INSIDE).is_some() {
        for row in rows().iter().filter(|row| row.name.contains(only)) {
            run(row).await;
        }
    } else if rows().iter().any(|row| row.name.contains(only)) {
        let this = std::env::current_exe().expect("this program");
        let mut inside = Command::new("unshare");
        inside.args(["--map-root-user", "--mount", "sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
        inside.arg(this).args(["--bench", only]).env(INSIDE, "1");
        assert!(inside.status().expect("unshare is installed").success(), "the rows of the file level");
    }
}

/// Whether this process runs these rows only.
pub(super) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

async fn run(row: &Row) {
    let number = Arc::new(AtomicUsize::new(0));
    let disk = std::env::temp_dir().join(format!("tollgate-disk-{}", std::process::id()));
    std::fs::create_dir_all(&disk).expect("created");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(&disk).status();
    assert!(mounted.expect("mount is installed").success());
    let rules = Rules::new().otherwise(Rule::ttl(Duration::from_secs(60)).same_for_everyone());
    let node = Gate::build(Tollgate::builder().cache(rules).file(disk.join("level"), BOUND));
    back(&node, Kind::Cache, &number).await;
    let (hurt, broken) = (row.hurt, disk.clone());
    let took = load_while(&node, &number, move || hurt(&broken)).await;
    (row.heal)(&disk);
    let recovery = back(&node, Kind::Cache, &number).await;
    tell(row.name, Kind::Cache, &took, recovery, if row.name.ends_with("nothing fails") { "-" } else { PROMISE });
    drop(node);
    let _ = Command::new("umount").arg("--lazy").arg(&disk).status();
    let _ = std::fs::remove_dir(&disk);
}
