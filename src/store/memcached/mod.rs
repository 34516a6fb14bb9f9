//! Cached responses and values in memcached servers (1.6.10 and later), shared by a fleet of processes.
//!
//! | question | answer |
//! |---|---|
//! | which server has a value | the one that rendezvous hashing names; all processes list the same servers |
//! | one server is away | what it holds is a miss, and is not stored meanwhile; removals of it are errors |
//! | all are away | the level is off: see [`RemoteStore`](crate::store::RemoteStore) |
//! | invalidation | memcached has no log: a removal by full URL or key succeeds and takes effect everywhere, within five seconds also in the memory of other processes; a path, a URL stored under several keys, tags, prefixes and soft purges stay in the process that asks, and return an error. Beside a level with a log (PostgreSQL, Redis, a directory) that log invalidates what memcached holds |
//! | how large | values of at most a megabyte, of which memcached evicts those that are used least |
//! | order | of two fetches the one that began later wins, by compare-and-swap |
//!
//! The client speaks the meta protocol, pipelined over one connection per server. Replies are read by a task of the
//! connection: a call that is given up leaves its reply to no one else.

mod bytes;
mod connection;
mod protocol;
mod settings;

pub use bytes::MemcachedBytes;
pub use settings::Memcached;
