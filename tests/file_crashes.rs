//! A file level whose process is killed, whose machine loses power, or whose files are damaged: never a wrong value, never
//! one that was removed, never a lost invalidation, and about a second of puts lost at most.
#![expect(clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test may fail, and measures")]

#[path = "support/crash_model.rs"]
mod crash_model;
#[path = "support/directory.rs"]
mod directory;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crash_model::{CrashModel, Operation, Random, perform};
use directory::TestDirectory;
use tollgate::store::file::{FileBytes, FileLevel};

const DIRECTORY: &str = "TOLLGATE_TEST_DIRECTORY";
const FIRST: &str = "TOLLGATE_TEST_FIRST";

/// Number of processes that are killed.
const KILLS: u64 = 200;
/// What was put this long before a kill is there: it is written after milliseconds, on a busy machine later.
const WRITTEN_AFTER: Duration = Duration::from_secs(2);
/// What was put this long before a loss of power is there: syncs are a second apart, and may take their time.
const SYNCED_AFTER: Duration = Duration::from_secs(4);

/// Writes until it is killed, and prints what was acknowledged. Run by the test below.
#[test]
#[ignore = "the process that is killed"]
fn writes_until_it_is_killed() {
    let directory = std::env::var(DIRECTORY).expect("a directory");
    let first: u64 = std::env::var(FIRST).expect("a number").parse().expect("a number");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let level = FileLevel::new(directory, directory::BOUND).deadline(Duration::from_secs(30));
        let bytes = FileBytes::open(level).expect("opened");
        assert!(bytes.has_lock(), "the lock of a killed process is free");
        for number in first.. {
            let operation = Operation::numbered(number);
            println!("@begin {number}");
            let position = perform(&bytes, &operation).await;
            println!("@end {number} {position}");
        }
    });
}

fn spawn(directory: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "writes_until_it_is_killed", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

/// Lets a process write for this long, and kills it; notes what it acknowledged.
fn write_and_kill(directory: &Path, model: &mut CrashModel, span: Duration) {
    let mut child = spawn(directory, model.next());
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let reader = std::thread::spawn(move || {
        let lines = lines.map_while(Result::ok).filter(|line| line.starts_with('@'));
        lines.map(|line| (Instant::now(), line)).collect::<Vec<_>>()
    });
    std::thread::sleep(span);
    child.kill().expect("killed");
    child.wait().expect("ended");
    for (at, line) in reader.join().expect("no panic") {
        let words: Vec<&str> = line.split(' ').collect();
        let number = words[1].parse().expect("a number");
        match words[0] {
            "@begin" => model.begun(number),
            _ => model.acknowledged(number, words[2].parse().expect("a position"), at),
        }
    }
    model.crashed(Instant::now(), WRITTEN_AFTER);
}

#[tokio::test]
async fn nothing_is_wrong_after_a_process_was_killed() {
    let (directory, mut model, mut random) = (TestDirectory::new(), CrashModel::default(), Random(7));
    for round in 0..KILLS {
        // Most are killed early, also while they open the directory; some after what they put was synced.
        let span = if round % 50 == 49 { 3_500 } else { 5 + random.below(90) };
        write_and_kill(directory.path(), &mut model, Duration::from_millis(span));
        // Not each time: a process also opens what the one before it left.
        if round % 3 == 0 || span > 1_000 {
            directory.released().await;
            let bytes = directory.open();
            assert!(bytes.has_lock(), "after kill {round}: the lock is held");
            model.verify(&bytes).await.unwrap_or_else(|wrong| panic!("after kill {round}: {wrong}"));
            drop(bytes);
            directory.released().await;
        }
    }
    assert!(model.next() > KILLS * 5, "only {} operations", model.next());
}

/// Truncates the files of a copy as a loss of power may: to any length that was synced or more.
fn lose_power(directory: &TestDirectory, random: &mut Random, to_synced: bool) {
    let Ok(checkpoint) = std::fs::read(directory.path().join("checkpoint")) else { return };
    let number = |at: usize| u64::from_be_bytes(checkpoint[at..at + 8].try_into().expect("eight bytes"));
    let (journal, segment) = (number(16), number(40));
    let mut truncate = |path: &Path, synced: u64| {
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("a file");
        let length = file.metadata().expect("a length").len();
        let kept = if to_synced { synced } else { synced + random.below((length + 1).saturating_sub(synced)) };
        file.set_len(kept.min(length)).expect("truncated");
    };
    truncate(&directory.path().join("journal"), journal);
    for path in directory.files("segment-") {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let id = u64::from_str_radix(name.trim_start_matches("segment-"), 16).expect("a number");
        match id.cmp(&(segment >> 32)) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => truncate(&path, segment & 0xFFFF_FFFF),
            std::cmp::Ordering::Greater => truncate(&path, 0),
        }
    }
}

#[tokio::test]
async fn nothing_is_wrong_after_a_loss_of_power() {
    let (directory, mut model, mut random) = (TestDirectory::new(), CrashModel::default(), Random(11));
    let bytes = directory.open();
    let begun = Instant::now();
    let mut copies = 0;
    while begun.elapsed() < Duration::from_secs(7) {
        for _ in 0..40 {
            let number = model.next();
            model.begun(number);
            let position = perform(&bytes, &Operation::numbered(number)).await;
            model.acknowledged(number, position, Instant::now());
        }
        let mut crashed = model.clone();
        crashed.crashed(Instant::now(), SYNCED_AFTER);
        let copy = directory.copy();
        lose_power(&copy, &mut random, copies % 3 == 0);
        crashed.verify(&copy.open()).await.unwrap_or_else(|wrong| panic!("after operation {}: {wrong}", model.next()));
        copies += 1;
    }
    assert!(copies > 10, "only {copies} copies");
}

#[tokio::test]
async fn nothing_is_wrong_after_a_file_was_damaged() {
    let mut random = Random(13);
    for is_running in [false, true] {
        let (directory, mut model) = (TestDirectory::new(), CrashModel::default());
        let mut bytes = Some(directory.open());
        for _ in 0..400 {
            let number = model.next();
            model.begun(number);
            let position = perform(bytes.as_ref().expect("open"), &Operation::numbered(number)).await;
            model.acknowledged(number, position, Instant::now());
        }
        if !is_running {
            bytes = None;
        }
        let mut kept = 0;
        for _ in 0..150 {
            let copy = directory.copy();
            let files = copy.files("");
            let path = &files[random.below(files.len() as u64) as usize];
            let mut contents = std::fs::read(path).expect("a file");
            if !contents.is_empty() {
                let at = random.below(contents.len() as u64) as usize;
                match random.below(3) {
                    0 => contents.truncate(at),
                    1 => contents[at] ^= 1 << random.below(8),
                    _ => contents[at..].fill(0),
                }
            }
            std::fs::write(path, contents).expect("damaged");
            let outcome = model.verify_damaged(&copy.open()).await;
            kept += outcome.unwrap_or_else(|wrong| panic!("{} was damaged: {wrong}", path.display()));
        }
        assert!(kept > 500, "hardly anything survives: {kept} values in 150 copies");
        drop(bytes);
    }
}
