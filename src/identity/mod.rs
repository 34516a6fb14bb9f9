//! Identities of requests: extractors, trusted proxies and keyed hashing.
//!
//! An extractor turns a [`RequestHead`](crate::RequestHead) into a [`Key`]; a limit counts per key, a cache may keep
//! entries per key. Extractors are composed with [`KeyExtractor::or`] (the first that answers) and
//! [`KeyExtractor::and`] (both together):
//!
//! ```
//! use tollgate::identity::{KeyExtractor, TrustedProxies, by};
//!
//! let who = by::bearer().or(by::client_ip(TrustedProxies::cidrs(["10.0.0.0/8"])));
//! # let _ = who;
//! ```
//!
//! # How a client's address is found
//!
//! | the socket peer | the configured field | the client is |
//! |---|---|---|
//! | unknown | walked from the right, if a number of [`hops`](TrustedProxies::hops) is trusted (a proxy on a Unix socket) | the last of so many entries; without one, unknown: one warning, one shared bucket, never an error |
//! | not a trusted proxy | ignored | the peer |
//! | a trusted proxy | walked from the right | the first untrusted address, or the last trusted one before an entry that does not parse |
//!
//! # What it costs
//!
//! An address from the socket peer costs a few nanoseconds and allocates nothing; a walk over a forwarding field costs
//! the length of the entries it visits, not of the field. Keys are hashed under a per-process secret before anything
//! stores them, so a 64 KB key takes as much memory as a short one, and none can be read from memory, logs or stores.

pub mod by;
mod client;
mod extract;
mod extracted_keys;
mod fleet;
mod forwarded;
mod key;
pub(crate) mod network;
mod proxy;
mod resolve;
mod token_cache;
mod verify;

pub use client::ClientIp;
pub use extract::{And, Func, Identity, KeyExtractor, Or};
pub(crate) use extract::{IDENTIFIED_TWICE, SharedExtractor};
pub(crate) use extracted_keys::{ExtractedKeys, UNRESOLVED, UNRESOLVED_TEXT};
pub use fleet::FleetSecret;
#[cfg(test)]
pub(crate) use key::DIGESTS;
pub use key::{Key, KeyHash, KeyHasher};
pub(crate) use key::{KeyDigest, LimitSalt};
pub(crate) use network::network;
pub use proxy::TrustedProxies;
pub use resolve::Resolve;
pub use verify::Verify;
