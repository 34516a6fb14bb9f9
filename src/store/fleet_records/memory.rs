//! [`RecordMap`]: records of a process that shares none.

use std::collections::BTreeMap;

use super::port::{FleetRecord, FleetRecords};
use crate::base::clock::{Clock, Timestamp};
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;

/// Contents by kind and name, each until a time.
type RecordContents = BTreeMap<(&'static str, String), (Vec<u8>, Timestamp)>;

/// Records in memory.
#[derive(Debug)]
pub(crate) struct RecordMap {
    clock: Clock,
    records: Mutex<RecordContents>,
}

impl RecordMap {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, records: Mutex::default() }
    }

    fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut RecordContents, Timestamp) -> T,
    ) -> BoxFuture<Result<T, Error>> {
        let (mut records, now) = (self.records.lock(), self.clock.now());
        records.retain(|_, (_, until)| now < *until);
        let changed = change(&mut records, now);
        Box::pin(std::future::ready(Ok(changed)))
    }
}

impl FleetRecords for RecordMap {
    fn put(&self, kind: &'static str, record: FleetRecord) -> BoxFuture<Result<(), Error>> {
        self.change(|records, now| {
            records.insert((kind, record.name), (record.contents, now + record.left));
        })
    }

    fn replace(
        &self,
        kind: &'static str,
        record: FleetRecord,
        expected: Option<Vec<u8>>,
    ) -> BoxFuture<Result<bool, Error>> {
        self.change(|records, now| {
            let name = (kind, record.name);
            let is_expected = records.get(&name).map(|(contents, _)| contents) == expected.as_ref();
            if is_expected {
                records.insert(name, (record.contents, now + record.left));
            }
            is_expected
        })
    }

    fn remove(&self, kind: &'static str, name: &str) -> BoxFuture<Result<(), Error>> {
        self.change(|records, _| drop(records.remove(&(kind, name.to_owned()))))
    }

    fn list(&self, kind: &'static str) -> BoxFuture<Result<Vec<FleetRecord>, Error>> {
        self.change(|records, now| {
            let of_kind = records.iter().filter(|((of, _), _)| *of == kind);
            let record = |((_, name), (contents, until)): (&(_, String), &(Vec<u8>, Timestamp))| FleetRecord {
                name: name.clone(),
                contents: contents.clone(),
                left: until.since(now),
            };
            of_kind.map(record).collect()
        })
    }
}
