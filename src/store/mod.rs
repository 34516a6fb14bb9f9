//! Storage engines. Each third-party engine is confined to one folder or file.
//!
//! | engine | used for | built on |
//! |---|---|---|
//! | [`memory`] | limits and cached responses in this process | own table; `moka` |
//! | [`mod@file`] | cached responses in a directory, which survive a restart | the standard library |
//! | [`redis`] | limits, credits and cached responses shared by a fleet (feature `redis`) | `redis` |
//! | [`postgres`] | limits, credits and cached responses shared by a fleet (feature `postgres`) | `tokio-postgres` |
//! | [`memcached`] | cached responses in memcached servers (feature `memcached`) | the standard library and tokio |
//! | [`RemoteStore`] | cached responses in any server that keeps [bytes](crate::cache::ByteStore) | your own client |
//! | the per-node ceiling | [`Limit::per_node`](crate::limit::Limit::per_node) | `governor` |

pub mod file;
pub(crate) mod fleet_records;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod from_url;
pub(crate) mod governor;
pub(crate) mod levels;
#[cfg(feature = "memcached")]
pub mod memcached;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
pub(crate) mod remote;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod remote_credits;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod remote_limits;

pub use remote::{RemoteSettings, RemoteStore};
#[cfg(any(feature = "postgres", feature = "redis"))]
pub use remote_credits::handle::RemoteCredits;
#[cfg(any(feature = "postgres", feature = "redis"))]
pub use remote_limits::handle::RemoteLimits;
