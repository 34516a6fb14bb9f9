//! A server that keeps bytes, whose faults are switched and whose clock is turned by hand.
#![allow(dead_code, clippy::expect_used, reason = "each test uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tollgate::cache::{ByteLog, ByteStore, GetOrClaim, Lease, LeaseState, LogMessage};
use tollgate::testing::MemoryBytes;
use tollgate::{BoxFuture, Clock, Error, ManualClock};

type Answer<T> = BoxFuture<Result<T, Error>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Refuse,
    Hang,
    /// A bit of every value is flipped.
    Garble,
    /// Every value is that of another name.
    Swap,
}

/// Clones share the server.
#[derive(Clone)]
pub(crate) struct FaultyBytes {
    pub(crate) bytes: MemoryBytes,
    fault: Arc<AtomicU8>,
    clock: ManualClock,
}

impl FaultyBytes {
    pub(crate) fn over(bytes: MemoryBytes, clock: ManualClock) -> Self {
        Self { bytes, fault: Arc::default(), clock }
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }

    pub(crate) fn fault(&self) -> Fault {
        let all = [Fault::None, Fault::Refuse, Fault::Hang, Fault::Garble, Fault::Swap];
        all[usize::from(self.fault.load(Ordering::SeqCst))]
    }

    fn call<T: Send + 'static>(&self, call: impl FnOnce(&MemoryBytes) -> Answer<T>) -> Answer<T> {
        match self.fault() {
            Fault::Refuse => Box::pin(async { Err(Error::store("refused", "a fault")) }),
            Fault::Hang => Box::pin(std::future::pending()),
            Fault::None | Fault::Garble | Fault::Swap => call(&self.bytes),
        }
    }

    /// What a fault makes of a value.
    fn spoiled(&self, value: Option<Bytes>) -> Option<Bytes> {
        match self.fault() {
            Fault::Garble => value.map(|value| {
                let mut value = value.to_vec();
                let at = value.len() * 2 / 3;
                value[at] ^= 4;
                value.into()
            }),
            Fault::Swap => self.bytes.names().last().and_then(|name| self.bytes.value(name)),
            _ => value,
        }
    }
}

impl ByteStore for FaultyBytes {
    fn get_many(&self, names: Vec<String>) -> Answer<Vec<Option<Bytes>>> {
        let (this, found) = (self.clone(), self.call(|bytes| bytes.get_many(names)));
        Box::pin(async move { Ok(found.await?.into_iter().map(|value| this.spoiled(value)).collect()) })
    }

    fn put(&self, name: String, value: Bytes, ttl: Duration) -> Answer<bool> {
        self.call(|bytes| bytes.put(name, value, ttl))
    }

    fn remove(&self, names: Vec<String>) -> Answer<u64> {
        self.call(|bytes| bytes.remove(names))
    }

    fn claim(&self, lease: Lease<String>) -> Answer<LeaseState> {
        self.call(|bytes| bytes.claim(lease))
    }

    fn release(&self, lease: Lease<String>, uncacheable: Option<Duration>) -> Answer<()> {
        self.call(|bytes| bytes.release(lease, uncacheable))
    }

    fn get_or_claim(&self, name: String, lease: Lease<String>) -> Answer<GetOrClaim<Bytes>> {
        let (this, found) = (self.clone(), self.call(|bytes| bytes.get_or_claim(name, lease)));
        Box::pin(async move {
            Ok(match found.await? {
                GetOrClaim::Found(value) => this.spoiled(Some(value)).into(),
                missing => missing,
            })
        })
    }

    fn log(&self) -> Option<&dyn ByteLog> {
        self.bytes.log().map(|_| self as &dyn ByteLog)
    }
}

impl FaultyBytes {
    fn call_log<T: Send + 'static>(&self, call: impl FnOnce(&dyn ByteLog) -> Answer<T>) -> Answer<T> {
        self.call(|bytes| call(bytes.log().expect("a log")))
    }
}

impl ByteLog for FaultyBytes {
    fn now(&self) -> Answer<u64> {
        let since = Clock::Manual(self.clock.clone()).wall().duration_since(UNIX_EPOCH).expect("after 1970");
        self.call(move |_| Box::pin(async move { Ok(u64::try_from(since.as_nanos()).expect("before 2554")) }))
    }

    fn agree(&self, proposed: String) -> Answer<String> {
        self.call_log(|log| log.agree(proposed))
    }

    fn append(&self, first: Bytes, record: Bytes) -> Answer<u64> {
        self.call_log(|log| log.append(first, record))
    }

    fn read(&self, from: Option<u64>) -> Answer<Vec<(u64, Bytes)>> {
        self.call_log(|log| log.read(from))
    }

    fn restart(&self, first: Bytes, known: u64) -> Answer<()> {
        self.call_log(|log| log.restart(first, known))
    }

    fn publish_removal(&self, key: Bytes) -> Answer<()> {
        self.call_log(|log| log.publish_removal(key))
    }

    fn subscribe(&self) -> Answer<BoxStream<'static, LogMessage>> {
        self.call_log(|log| log.subscribe())
    }
}
