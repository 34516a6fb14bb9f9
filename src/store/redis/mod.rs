//! Engines in Redis or Valkey (6.2 and later), shared by a fleet of processes.
//!
//! [`Redis`] holds address, deadlines and circuits; [`TollgateBuilder::redis`](crate::TollgateBuilder::redis) takes it,
//! or just its URL. Limits and cache have a connection, a deadline and a circuit breaker each, so that a large cached
//! body does not delay a decision.
//!
//! | URL | target |
//! |---|---|
//! | `redis://user:password@host:6379/0` | one server |
//! | `rediss://…` | the same over TLS (feature `redis-tls`) |
//! | `redis+sentinel://user:password@s1:26379,s2:26379/mymaster/0` | the primary that the sentinels name |
//! | `redis+cluster://user:password@n1:7000,n2:7001` | a cluster, discovered through any of these nodes |
//!
//! Keys of the cache, under the prefix (`tollgate` by default):
//!
//! | key | type | contents | expiry |
//! |---|---|---|---|
//! | `…:entry:<hash>` | string | a response, or the index of its variants, with a checksum | its remaining lifetime |
//! | `…:lease:<hash>` | string | the lease of a refresh | the `wait` of requests for a fetch |
//! | `…:{cache}:log` | sorted set | the latest 16 384 invalidations by number | thirty days without one |
//! | `…:{cache}:number` | string | the number of the latest | the same |
//! | `…:{cache}:secret` | string | the secret of the key hashes, unless configured | ten years without a new connection |
//!
//! Upstream credits are in `…:credits:<hash>`, a hash per upstream and window that expires an hour after the window's
//! end; the secret of the limits names them.
//!
//! Overrides of operators are in `…:records:overrides`, a hash that lasts until it is empty.
//!
//! Every addition to the log is published on the channel `…:{cache}:channel`. After thirty days without an invalidation
//! the log starts anew, as after `FLUSHALL`.

mod cache;
mod connect;
mod credits;
mod limit_mode;
mod limits;
mod log;
pub(crate) mod records;
mod secret;
mod settings;

pub use limit_mode::LimitMode;
pub use settings::Redis;
