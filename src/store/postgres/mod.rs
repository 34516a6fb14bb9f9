//! Cached responses and values, limits and credits in PostgreSQL (14 and later), shared by a fleet of processes (feature
//! `postgres`).
//!
//! [`Postgres`] holds address, deadline and bounds; [`TollgateBuilder::postgres`](crate::TollgateBuilder::postgres) takes it,
//! or just its URL. Tables are created at the first connection if they are missing and the role may do so; otherwise run
//! [`Postgres::sql`] as their owner, or call [`Postgres::migrate`].
//!
//! | table | contents | durability |
//! |---|---|---|
//! | `tollgate_cache` | a response, a value or the index of a response's variants, under a keyed hash | a crash of the server loses at most the last second |
//! | `tollgate_leases` | who refreshes or fetches an entry | unlogged: empty after a crash |
//! | `tollgate_invalidations` | the latest 16 384 invalidations by position | on disk before they are acknowledged |
//! | `tollgate_outbox` | invalidations of your own transactions, until they are numbered | that of your transaction |
//! | `tollgate_limits` | the usage of each limited key, under a keyed hash | a crash of the server loses at most the last second |
//! | `tollgate_credits` | the booked and returned credits of each upstream and window | on disk before a call is made |
//! | `tollgate_usage` | sums by hour, of 30 days: credits, requests, hits and misses | a process that is killed loses its last minute |
//! | `tollgate_records` | [overrides](crate::Overrides) of operators | on disk |
//! | `tollgate_settings` | the version of the tables, the secret of the fleet | on disk |
//!
//! # How it behaves
//!
//! | | |
//! |---|---|
//! | connections | three per process and one that listens for the cache, one for limits, one for credits; calls are pipelined, and each is one statement |
//! | TLS | with the feature `postgres-tls` and `?sslmode=require`, the certificate and its host name are verified; otherwise connections are plain |
//! | transaction poolers | work: no statement is prepared, no session state is used. Notifications do not pass them: the log is read once a second |
//! | a look-up | never writes |
//! | a put | replaces a value unless its fetch began later; does not wait for the disk |
//! | a removal, an invalidation | waits for the disk, if the database's `synchronous_commit` says so |
//! | expiry | rows that have expired are removed a thousand at a time, after every 128 puts of a process |
//! | bound | [`max_bytes`](Postgres::max_bytes): what expires first is removed first; a put for which there is no room yet is not stored, and removes what it would have replaced |
//! | limits | decided in the process, under locks of the rows; one that is not free by the deadline refuses, and never admits. Nodes lease blocks of hot keys |
//! | an outage | a look-up is a miss after at most its deadline (50 ms); after five failures nothing waits |
//!
//! # Invalidation from your own transactions
//!
//! A row in `tollgate_outbox` invalidates on commit, on every process, and on rollback does nothing:
//!
//! ```sql
//! BEGIN;
//! UPDATE articles SET title = 'new' WHERE id = 7;
//! INSERT INTO tollgate_outbox (tag) VALUES ('article:7');
//! COMMIT;
//! ```
//!
//! | column | invalidates |
//! |---|---|
//! | `tag` | entries with this tag |
//! | `path` | this path and query under any host: `/articles/7?full=1` |
//! | `prefix` | everything whose path begins so: `/articles/` |
//! | `soft` | `true` marks entries stale instead: they are revalidated before they are served |
//!
//! A tag has visible ASCII characters without a comma; other bytes of a value, and `%`, are percent-encoded, as in tags with route
//! parameters: `'article:' || tollgate_encode(title)`. A row that could invalidate nothing is refused.
//!
//! Committed rows are numbered under a lock and moved to the log, however long their transaction was open: none is lost. Other
//! processes learn of them in milliseconds through `LISTEN`, and within about a second without it. The trigger of the table
//! notifies, which makes commits of transactions that insert into it wait for one another. A role that writes to the outbox needs
//! `INSERT` on it alone.
//!
//! [`Postgres::watch`] installs triggers that insert such rows whenever a table changes:
//! `postgres.watch("articles", ["article:{id}"])`.
//!
//! # Views
//!
//! | view | a row for each | columns |
//! |---|---|---|
//! | `api_cache` | stored response or typed value | `namespace` (the host of a response), `url`, `status`, `content_type`, `bytes`, `stored_at`, `fresh_until`, `expires_at`, `is_fresh`, `body` (as `jsonb`, if it is JSON that is not compressed) |
//! | `cache_stats` | namespace | `entries`, `fresh_entries`, `fresh_percent`, `bytes`, `first_expires_at`, `last_stored_at` |
//! | `credit_usage` | endpoint of an upstream and hour, 30 days | `upstream`, `endpoint`, `hour`, `credits`, `requests` (calls that were sent), `mean_ms`, `hits`, `misses` (requests that the cache answered, and did not) |
//! | `background_jobs` | job | `job`, `is_enabled`, `status`, `attempt`, `slot`, `runs`, `failures`, `failed_in_a_row`, `succeeded_at`, `last_started_at`, `last_took_ms`, `last_outcome`, `last_text` |
//! | `cache_usage` | route or namespace of typed values, and hour, 30 days | `namespace` or `route`, `hour`, `hits`, `misses`, `hit_percent` |
//!
//! The first two show what is stored: an entry that was invalidated stays there until it is replaced or expires. The last two are sums over
//! all processes, to which each adds once a minute and at its `shutdown()`. An existing table or view of such a name is left alone.
//!
//! # Grants
//!
//! The role of the service needs no more than these; the last line is for a role that reads the views:
//!
//! ```sql
#![doc = include_str!("grants.sql")]
//! ```
//!
//! [`Postgres::migrate`] needs `CREATE` on the schema, and to own the tables if they exist. [`Postgres::watch`] needs the same, and
//! `TRIGGER` on the table that is watched; run [`Postgres::watch_sql`] as a role that may `CREATE` in the schema of these tables,
//! `INSERT` into `tollgate_outbox`, and has `TRIGGER` on the watched table, if that is another one.

mod bytes;
mod connect;
mod credits;
mod description;
mod guarded;
mod limits;
mod log;
#[cfg(not(feature = "postgres-tls"))]
mod no_tls;
pub(crate) mod records;
mod schema;
mod settings;
mod sweep;
#[cfg(feature = "postgres-tls")]
mod tls;
pub(crate) mod usage;
mod watch;

pub use settings::Postgres;
