//! Engine in a directory: cached responses and values that survive a restart, without a server.
//!
//! [`FileLevel`] holds directory and bound; [`CacheBuilder::file`](crate::cache::CacheBuilder::file) and its siblings take
//! just these. An append-only log of segments, with an index in memory:
//!
//! | file | contents |
//! |---|---|
//! | `segment-…` | values and removals, each with a checksum; at the end an index of the segment |
//! | `journal` | removals and invalidations, on disk before they are acknowledged |
//! | `journal-…` | the same, of a process without the lock |
//! | `checkpoint` | how much of the others is on disk |
//! | `secret` | the secret of the names |
//! | `lock` | held by the process that uses the directory |
//!
//! | question | answer |
//! |---|---|
//! | how large | the bound, and one segment (a thirty-second part of it) more for a moment; the oldest segment is deleted, and what was hit in it is appended again, up to a quarter of a segment |
//! | memory | 28 to 57 bytes an entry, 38 on average, and at most 16 MiB that wait to be written |
//! | killed | what was put in the last few milliseconds is lost |
//! | loss of power | what was put in the last second is lost; removals and invalidations that were acknowledged are not |
//! | a disk that fails | the level is off, and opened again every 5 s |
//! | a damaged file | a damaged value is a miss; where removals may be lost, what they could concern is discarded |
//! | two processes | the second runs without the level, and takes it over when the first ends; what it removes and invalidates meanwhile is applied by the first within a second |
//!
//! Costs in microseconds, of 100 000 values of 1 KiB, in one run of `cargo bench --bench levels` on two cores of a small
//! virtual machine; a hit of the level includes the hop to a thread that may block, the checks and the decoding:
//!
//! | | put p50, p99 | get p50, p99 | bytes on disk, of memory |
//! |---|--:|--:|--:|
//! | bare loop of writes and reads | 0.9, 5.4 | 1.2, 1.8 | 1 024, – |
//! | the engine | 0.4, 2.6 | 1.8, 3.0 | 1 118, 33 |
//! | the level, typed values | 2.1, 5.4 | 16, 85 | |
//! | redb 2.6, a transaction each | 364, 8 009 | 3.9, 14 | 2 700, – |
//!
//! Opening a directory of a million entries takes 160 ms, after a kill 380 ms.
//!
//! The directory must be on a local file system with `fsync` and locks, not on NFS. Values are not encrypted; files are
//! readable by their user only.
//!
//! ```
//! use std::time::Duration;
//! use tollgate::{Tollgate, cache::{Rule, Rules}};
//!
//! let rules = Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(900)));
//! let gate = Tollgate::builder().cache(rules).file("/var/cache/app", 2 << 30).build()?;
//! assert_eq!(gate.stats().cache[1].name, "file");
//! # Ok::<(), tollgate::Error>(())
//! ```

mod absorb;
mod bytes;
mod checkpoint;
mod directory;
mod disk;
mod failure;
mod index;
mod journal;
mod journal_record;
mod level;
mod node;
mod record;
mod recovery;
mod remote;
mod secret;
mod segment_log;
mod segments;
mod tail;
mod writer;

pub use bytes::FileBytes;
pub use level::FileLevel;
