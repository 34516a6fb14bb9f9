//! What a file level has acknowledged, and what it may hold after a crash.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tollgate::cache::{ByteLog, ByteStore};
use tollgate::store::file::FileBytes;

const NAMES: u64 = 40;

/// Reproducible random numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound.max(1)
    }
}

/// Operation of a test; its number decides everything.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Put { name: u64, number: u64 },
    Remove { name: u64 },
    Invalidate { number: u64 },
}

impl Operation {
    pub(crate) fn numbered(number: u64) -> Self {
        let name = Random(number.wrapping_mul(31) + 5).below(NAMES);
        match number % 16 {
            3 => Self::Remove { name },
            11 => Self::Invalidate { number },
            _ => Self::Put { name, number },
        }
    }
}

/// The value that an operation puts: it says which.
fn value(name: u64, number: u64) -> Bytes {
    let length = Random(number + 1).below(4_000) as usize;
    let mut value = format!("value {number} of {name}: ").into_bytes();
    value.resize(value.len() + length, number as u8);
    value.into()
}

fn record(number: u64) -> Bytes {
    format!("invalidation {number}").into()
}

/// Performs an operation; returns the position of an invalidation, else 0.
pub(crate) async fn perform(bytes: &FileBytes, operation: &Operation) -> u64 {
    match operation {
        Operation::Put { name, number } => {
            let lifetime = Duration::from_secs(3_600);
            assert!(bytes.put(format!("name {name}"), value(*name, *number), lifetime).await.expect("put"));
            0
        }
        Operation::Remove { name } => {
            bytes.remove(vec![format!("name {name}")]).await.expect("removed");
            0
        }
        Operation::Invalidate { number } => bytes.append("first".into(), record(*number)).await.expect("appended"),
    }
}

/// Operations of one name, by number.
#[derive(Clone, Debug, Default)]
struct History {
    puts: BTreeMap<u64, Option<Instant>>,
    /// The last removal that was acknowledged.
    removed: u64,
    /// The last removal that has begun.
    removing: u64,
}

/// Everything that was begun and acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct CrashModel {
    names: BTreeMap<u64, History>,
    log: BTreeMap<u64, Bytes>,
    begun: u64,
    crashed: Option<Instant>,
}

impl CrashModel {
    /// The number of the next operation. Numbers begin with 1.
    pub(crate) fn next(&self) -> u64 {
        self.begun + 1
    }

    pub(crate) fn begun(&mut self, number: u64) {
        self.begun = number;
        match Operation::numbered(number) {
            Operation::Put { name, number } => {
                self.names.entry(name).or_default().puts.insert(number, None);
            }
            Operation::Remove { name } => self.names.entry(name).or_default().removing = number,
            Operation::Invalidate { .. } => {}
        }
    }

    pub(crate) fn acknowledged(&mut self, number: u64, position: u64, at: Instant) {
        match Operation::numbered(number) {
            Operation::Put { name, number } => {
                self.names.entry(name).or_default().puts.insert(number, Some(at));
            }
            Operation::Remove { name } => self.names.entry(name).or_default().removed = number,
            Operation::Invalidate { number } => drop(self.log.insert(position, record(number))),
        }
    }

    /// Notes a crash, in which what was put in the last `lost` may be lost for good.
    pub(crate) fn crashed(&mut self, at: Instant, lost: Duration) {
        if let Some(before) = at.checked_sub(lost) {
            for history in self.names.values_mut() {
                history.puts.values_mut().for_each(|put| *put = put.filter(|put| *put <= before));
            }
        }
        self.crashed = Some(at);
    }

    /// Checks what is there after a crash.
    pub(crate) async fn verify(&self, bytes: &FileBytes) -> Result<(), String> {
        let log: BTreeMap<u64, Bytes> = bytes.read(None).await.expect("read").into_iter().collect();
        for (position, record) in &self.log {
            if log.get(position) != Some(record) {
                return Err(format!("{record:?} at {position} is {:?}", log.get(position)));
            }
        }
        for (name, history) in &self.names {
            let found = self.found(bytes, *name, history).await?;
            let removed = history.removed.max(history.removing);
            let synced = history.puts.range(removed + 1..).rfind(|(_, put)| put.is_some());
            if let Some((synced, _)) = synced
                && found.is_none_or(|found| found < *synced)
            {
                return Err(format!("name {name}: put {synced} was synced, and {found:?} is there"));
            }
        }
        Ok(())
    }

    /// Checks what is there after a file was damaged: less, but nothing wrong. Returns the number of values.
    pub(crate) async fn verify_damaged(&self, bytes: &FileBytes) -> Result<usize, String> {
        let log: BTreeMap<u64, Bytes> = bytes.read(None).await.expect("read").into_iter().collect();
        let is_log_whole = self.log.iter().all(|(position, record)| log.get(position) == Some(record));
        let mut values = 0;
        for (name, history) in &self.names {
            if let Some(found) = self.found(bytes, *name, history).await? {
                values += 1;
                if !is_log_whole {
                    return Err(format!("name {name}: put {found} is there, and invalidations are lost"));
                }
            }
        }
        Ok(values)
    }

    /// Returns the number of the put whose value is there.
    async fn found(&self, bytes: &FileBytes, name: u64, history: &History) -> Result<Option<u64>, String> {
        let found = bytes.get_many(vec![format!("name {name}")]).await.expect("get").remove(0);
        let Some(found) = found else { return Ok(None) };
        let number = history.puts.keys().copied().find(|number| value(name, *number) == found);
        match number {
            None => Err(format!("name {name}: a value that was never put, of {} bytes", found.len())),
            Some(number) if number < history.removed => {
                Err(format!("name {name}: put {number} is there, and was removed by {}", history.removed))
            }
            number => Ok(number),
        }
    }
}
