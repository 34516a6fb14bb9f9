//! Engines over Redis or Valkey (6.2 and later), which a fleet of processes shares.
//!
//! [`Redis`] is where it is and how long it may take; [`TollgateBuilder::redis`](crate::TollgateBuilder::redis) takes
//! it,
//! or just its URL. Limits and cache have a connection, a deadline and a breaker each, so that a large cached body
//! never
//! delays a decision.
//!
//! | URL | reaches |
//! |---|---|
//! | `redis://user:password@host:6379/0` | one server |
//! | `rediss://…` | the same over TLS (feature `redis-tls`) |
//! | `redis+sentinel://user:password@s1:26379,s2:26379/mymaster/0` | the primary that the sentinels name |
//! | `redis+cluster://user:password@n1:7000,n2:7001` | a cluster, found through any of these nodes |
//!
//! What the cache keeps there, under the prefix (`tollgate` unless told):
//!
//! | key | type | holds | gone after |
//! |---|---|---|---|
//! | `…:entry:<hash>` | string | a response, or the list of its variants, in an envelope with a checksum | what is left of its life |
//! | `…:lease:<hash>` | string | that somebody refreshes it | the time a fetch may keep others waiting |
//! | `…:{cache}:log` | sorted set | the latest 16 384 invalidations by number | thirty days without one |
//! | `…:{cache}:number` | string | the number of the last | the same |
//! | `…:{cache}:secret` | string | what names are hashed under, where none is configured | ten years without a new connection |
//!
//! Credits of upstreams are under `…:credits:<hash>`, a hash for each upstream and window, gone an hour after the
//! window's
//! end; the limits' secret names them.
//!
//! And there is the channel `…:{cache}:channel`, on which every addition to the log is published. A fleet that says
//! nothing for so
//! long begins its history anew, as one whose Redis was emptied does.

mod backplane;
mod cache;
mod connect;
mod credits;
mod limits;
mod names;
mod settings;
mod sweep;

pub use cache::RedisCache;
pub use credits::RedisCredits;
pub use limits::{LimitMode, RedisLimits};
pub use settings::Redis;
