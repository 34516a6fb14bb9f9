//! Model checking of coalescing: the same sources as in the crate, under a scheduler that explores interleavings at every
//! lock and every `await`, against a slow and obvious model.
//!
//! `TOLLGATE_MODEL_CASES=100000 cargo test --release --test interleavings` explores more.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::redundant_pub_crate,
    reason = "sources of the crate, of which the model uses a part; a test may fail"
)]

#[path = "../src/cache/engine/coalesce/background_slots.rs"]
mod background_slots;
#[path = "../src/cache/engine/body_buffer.rs"]
mod body_buffer;
#[path = "../src/cache/engine/body_memory.rs"]
mod body_memory;
#[path = "../src/cache/engine/body_pump.rs"]
mod body_pump;
#[path = "../src/cache/engine/body_reader.rs"]
mod body_reader;
#[path = "../src/cache/engine/coalesce/caller.rs"]
mod caller;
#[path = "support/interleavings/deadlines.rs"]
mod deadlines;
#[path = "../src/cache/engine/coalesce/slow_start.rs"]
mod slow_start;
#[path = "../src/cache/engine/coalesce/table.rs"]
mod table;
#[path = "../src/cache/engine/tee.rs"]
mod tee;

#[path = "support/interleavings/bodies.rs"]
mod bodies;
#[path = "support/interleavings/fetches.rs"]
mod fetches;

/// Stand-ins for what the sources import.
mod base {
    pub(crate) mod lock {
        use std::ops::{Deref, DerefMut};

        /// Guard after whose release the scheduler may switch to another task, too.
        pub(crate) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

        impl<T> Deref for MutexGuard<'_, T> {
            type Target = T;

            fn deref(&self) -> &T {
                self.0.as_ref().expect("held until it is dropped")
            }
        }

        impl<T> DerefMut for MutexGuard<'_, T> {
            fn deref_mut(&mut self) -> &mut T {
                self.0.as_mut().expect("held until it is dropped")
            }
        }

        impl<T> Drop for MutexGuard<'_, T> {
            fn drop(&mut self) {
                self.0 = None;
                if !std::thread::panicking() {
                    shuttle::thread::yield_now();
                }
            }
        }

        /// The lock of the scheduler: it may switch to another task before each acquisition.
        #[derive(Default)]
        pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

        impl<T> Mutex<T> {
            pub(crate) fn new(value: T) -> Self {
                Self(shuttle::sync::Mutex::new(value))
            }

            pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
                MutexGuard(Some(self.0.lock().expect("not poisoned")))
            }
        }
    }

    pub(crate) mod clock {
        pub(crate) use crate::deadlines::runtime_now;
    }

    pub(crate) mod body {
        use std::pin::Pin;

        pub(crate) type Stream =
            Pin<Box<dyn http_body::Body<Data = bytes::Bytes, Error = super::error::BoxError> + Send + 'static>>;
    }

    pub(crate) mod error {
        pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
    }

    pub(crate) mod maybe_ready {
        pub(crate) type BoxFuture<T> = futures_util::future::BoxFuture<'static, T>;
    }
}

mod cache {
    pub(crate) mod http {
        pub(crate) mod key {
            #[derive(Clone, Debug, PartialEq, Eq, Hash)]
            pub(crate) struct CacheKey(pub u64);

            impl CacheKey {
                pub(crate) const fn hash64(&self) -> u64 {
                    self.0
                }
            }
        }

        pub(crate) mod reason {
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub(crate) enum Reason {
                FetchFailed,
                WaitedTooLong,
                SoftTimeout,
                HitForMiss,
            }
        }
    }
}

mod coalesce {
    pub(crate) use crate::background_slots;
}

mod record {
    use std::sync::Arc;

    use bytes::Bytes;

    use crate::body_memory::{BodyMemory, StoredBlocks};

    pub(crate) struct StoredBody {
        pub bytes: Vec<u8>,
        _blocks: Arc<StoredBlocks>,
    }

    impl StoredBody {
        pub(crate) fn from_blocks(blocks: &[Bytes], memory: &Arc<BodyMemory>) -> Self {
            Self { bytes: blocks.concat(), _blocks: StoredBlocks::new(memory, blocks) }
        }
    }
}

/// Explores schedules at random, and with few switches of tasks, which finds other faults.
fn explore(case: fn()) {
    let cases = std::env::var("TOLLGATE_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000);
    shuttle::check_random(case, cases);
    shuttle::check_pct(case, cases, 4);
}
