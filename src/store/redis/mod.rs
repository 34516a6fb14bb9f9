//! Engines over Redis or Valkey (6.2 and later), which a fleet of processes shares.
//!
//! [`Redis`] is where it is and how long it may take; [`TollgateBuilder::redis`](crate::TollgateBuilder::redis) takes it,
//! or just its URL. Limits and cache have a connection, a deadline and a breaker each, so that a large cached body never
//! delays a decision.
//!
//! | URL | reaches |
//! |---|---|
//! | `redis://user:password@host:6379/0` | one server |
//! | `rediss://…` | the same over TLS (feature `redis-tls`) |
//! | `redis+sentinel://user:password@s1:26379,s2:26379/mymaster/0` | the primary that the sentinels name |
//! | `redis+cluster://user:password@n1:7000,n2:7001` | a cluster, found through any of these nodes |

mod backplane;
mod cache;
mod connect;
mod limits;
mod names;
mod settings;
mod sweep;

pub use cache::RedisCache;
pub use limits::{LimitMode, RedisLimits};
pub use settings::Redis;
