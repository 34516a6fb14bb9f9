//! Storage engines, each third party named in one folder or file and nowhere else.
//!
//! | engine | serves | built on |
//! |---|---|---|
//! | [`memory`] | limits and cached responses in this process | own table; `moka` |
//! | [`redis`] | limits and cached responses shared by a fleet (feature `redis`) | `redis` |
//! | the per-node ceiling | [`Limit::per_node`](crate::limit::Limit::per_node) | `governor` |

pub(crate) mod governor;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
