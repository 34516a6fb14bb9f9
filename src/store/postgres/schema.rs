//! Tables and functions in the database, and the statements that use them.
//!
//! All names are qualified with the schema, so that statements depend on no `search_path`: a transaction pooler may give
//! each of them another session.

/// Maximum number of records in the log.
const MAX_RECORDS: u64 = 16_384;

/// Turns off the wait for the disk in the transaction of a cache row or lease: what a crash of the server loses is a miss.
const ASYNCHRONOUS: &str = "set_config('synchronous_commit', 'off', true) = 'off'";

/// Whether a row has not expired, as no index could find out: the planner would look up the end of the index for each statement.
const ALIVE: &str = "expires_at - now() > interval '0'";

/// Asks for a lease with `$1` name, `$2` token and `$3` microseconds: no row if another token holds it.
const CLAIM: &str = "INSERT INTO {schema}.tollgate_leases AS held (name, token, expires_at)
SELECT $1, $2, clock_timestamp() + $3 * interval '1 microsecond' WHERE {asynchronous} {unless}
ON CONFLICT (name) DO UPDATE
SET token = excluded.token, uncacheable = false, expires_at = excluded.expires_at
WHERE held.expires_at <= clock_timestamp() OR (held.token = excluded.token AND NOT held.uncacheable)
RETURNING 1";

/// State of a lease: 1 if it was granted, 0 if another token holds it, 2 if there is nothing to share.
const STATE: &str = "CASE WHEN EXISTS (SELECT FROM claimed) THEN 1 ELSE coalesce((
SELECT CASE WHEN uncacheable THEN 2 ELSE 0 END FROM {schema}.tollgate_leases WHERE name = $1), 0) END";

const PUT: &str = "INSERT INTO {schema}.tollgate_cache AS old (name, value, bytes, format, started_at, position,
  stored_at, expires_at, namespace, url, status, content_type, fresh_until, body_start)
SELECT $1, $2, octet_length($2), $3, $4, $5, clock_timestamp(), clock_timestamp() + $6 * interval '1 microsecond',
  $7, $8, $9, $10, to_timestamp($11), $12
WHERE {asynchronous}
ON CONFLICT (name) DO UPDATE SET value = excluded.value, bytes = excluded.bytes, format = excluded.format,
  started_at = excluded.started_at, position = excluded.position, stored_at = excluded.stored_at,
  expires_at = excluded.expires_at, namespace = excluded.namespace, url = excluded.url, status = excluded.status,
  content_type = excluded.content_type, fresh_until = excluded.fresh_until, body_start = excluded.body_start
WHERE old.format <> excluded.format
  OR excluded.started_at = 0
  OR old.started_at <= excluded.started_at
  OR old.position < excluded.position
  OR old.started_at - excluded.started_at > 300000000
  OR old.expires_at <= clock_timestamp()
RETURNING 1";

/// Removes at most a thousand rows that have expired, and the leases that have; other sweeps skip them.
const SWEEP: &str = "WITH leases AS (
  DELETE FROM {schema}.tollgate_leases WHERE name = ANY (ARRAY(
    SELECT name FROM {schema}.tollgate_leases WHERE expires_at <= now() - interval '1 minute'
    ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED))
), swept AS (
  DELETE FROM {schema}.tollgate_cache WHERE {asynchronous} AND name = ANY (ARRAY(
    SELECT name FROM {schema}.tollgate_cache WHERE expires_at <= now()
    ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED))
  RETURNING 1
) SELECT count(*) FROM swept";

/// Removes at most a thousand rows, those that expire first, until `$1` bytes are gone.
const EVICT: &str = "WITH first AS (
  SELECT name, bytes, expires_at FROM {schema}.tollgate_cache
  ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED
), excess AS (
  SELECT name FROM (SELECT name, sum(bytes) OVER (ORDER BY expires_at, name) - bytes AS before FROM first) AS summed
  WHERE before < $1
), evicted AS (
  DELETE FROM {schema}.tollgate_cache WHERE {asynchronous} AND name = ANY (ARRAY(SELECT name FROM excess))
  RETURNING bytes
) SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM evicted";

/// Returns the version of grants and bans, and unless that is `$1`, all of them with the time they have left at `$2`.
const OVERRIDES: &str = "SELECT s.value::bigint, o.name, o.record, o.expires_at - c.at
FROM {schema}.tollgate_settings AS s
CROSS JOIN (SELECT coalesce($2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) AS at) AS c
LEFT JOIN {schema}.tollgate_overrides AS o ON s.value::bigint <> $1 AND o.expires_at > c.at
WHERE s.name = 'overrides'";

/// Books credits, and removes balances of windows that have ended, once in a while.
const BOOK: &str = "WITH booked AS (
  SELECT name, min(upstream) AS upstream, min(quota_window) AS quota_window, sum(booked)::bigint AS booked,
    sum(returned)::bigint AS returned, max(expires_at) AS expires_at
  FROM unnest($1, $2, $3, $4, $5, $6) AS asked (name, upstream, quota_window, booked, returned, expires_at)
  GROUP BY name ORDER BY name
), ended AS (
  DELETE FROM {schema}.tollgate_credits WHERE expires_at < now() AND random() < 0.01
)
INSERT INTO {schema}.tollgate_credits AS kept (name, upstream, quota_window, booked, returned, expires_at)
SELECT name, upstream, quota_window, booked, returned, to_timestamp(expires_at / 1000.0) FROM booked
ON CONFLICT (name) DO UPDATE SET booked = kept.booked + excluded.booked, returned = kept.returned + excluded.returned
RETURNING name, booked, returned";

/// Adds usage to the sums of this hour. Rows are locked in one order.
const ADD_USAGE: &str = "WITH old AS (
  DELETE FROM {schema}.tollgate_usage WHERE hour < now() - interval '31 days' AND {asynchronous}
)
INSERT INTO {schema}.tollgate_usage AS kept (hour, kind, scope, name, credits, requests, busy_us, hits, misses)
SELECT date_trunc('hour', now()), kind, scope, name, sum(credits), sum(requests), sum(busy_us), sum(hits), sum(misses)
FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) AS added (kind, scope, name, credits, requests, busy_us, hits, misses)
GROUP BY kind, scope, name ORDER BY kind, scope, name
ON CONFLICT (hour, kind, scope, name) DO UPDATE SET credits = kept.credits + excluded.credits,
  requests = kept.requests + excluded.requests, busy_us = kept.busy_us + excluded.busy_us,
  hits = kept.hits + excluded.hits, misses = kept.misses + excluded.misses";

/// Writes a record, unless there are `$5` of its kind besides; and removes what has expired.
const PUT_RECORD: &str = "WITH expired AS (
  DELETE FROM {schema}.tollgate_records WHERE expires_at <= clock_timestamp() AND name <> $2
)
INSERT INTO {schema}.tollgate_records AS old (kind, name, record, expires_at)
SELECT $1, $2, $3, clock_timestamp() + $4 * interval '1 millisecond'
WHERE (SELECT count(*) FROM {schema}.tollgate_records WHERE kind = $1 AND name <> $2 AND expires_at > clock_timestamp()) < $5
ON CONFLICT (kind, name) DO UPDATE SET record = excluded.record, expires_at = excluded.expires_at
RETURNING 1";

/// Writes a record if there is none of its name.
#[cfg(feature = "jobs")]
const CREATE_RECORD: &str = "INSERT INTO {schema}.tollgate_records AS old (kind, name, record, expires_at)
VALUES ($1, $2, $3, clock_timestamp() + $4 * interval '1 millisecond')
ON CONFLICT (kind, name) DO UPDATE SET record = excluded.record, expires_at = excluded.expires_at
WHERE old.expires_at <= clock_timestamp()
RETURNING 1";

/// Writes a record if that of its name has the contents `$5`.
#[cfg(feature = "jobs")]
const REPLACE_RECORD: &str = "UPDATE {schema}.tollgate_records
SET record = $3, expires_at = clock_timestamp() + $4 * interval '1 millisecond'
WHERE kind = $1 AND name = $2 AND record = $5 AND expires_at > clock_timestamp()
RETURNING 1";

/// Returns the text that creates everything in a schema.
pub(super) fn schema_sql(schema: &str) -> String {
    include_str!("schema.sql").replace("{schema}", schema).replace("{records}", &MAX_RECORDS.to_string())
}

/// Statements for the tables of one schema.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) version: String,
    pub(super) get: String,
    pub(super) get_many: String,
    pub(super) put: String,
    pub(super) discard: String,
    pub(super) remove: String,
    pub(super) claim: String,
    pub(super) get_or_claim: String,
    pub(super) release: String,
    pub(super) release_uncacheable: String,
    pub(super) scan: String,
    pub(super) sweep: String,
    pub(super) live_bytes: String,
    pub(super) evict: String,
    pub(super) secret: String,
    pub(super) propose_secret: String,
    pub(super) append: String,
    pub(super) sequence: String,
    pub(super) read: String,
    pub(super) restart: String,
    pub(super) notify: String,
    pub(super) listen: String,
    pub(super) lock_limits: String,
    pub(super) write_limits: String,
    pub(super) sweep_limits: String,
    pub(super) publish_override: String,
    pub(super) overrides: String,
    pub(super) book: String,
    pub(super) add_usage: String,
    pub(super) records: RecordStatements,
}

/// Statements of records.
#[derive(Debug)]
pub(super) struct RecordStatements {
    pub(super) put: String,
    #[cfg(feature = "jobs")]
    pub(super) create: String,
    #[cfg(feature = "jobs")]
    pub(super) replace: String,
    pub(super) remove: String,
    pub(super) list: String,
}

impl RecordStatements {
    fn new(schema: &str) -> Self {
        let of = |text: &str| text.replace("{schema}", schema);
        Self {
            put: of(PUT_RECORD),
            #[cfg(feature = "jobs")]
            create: of(CREATE_RECORD),
            #[cfg(feature = "jobs")]
            replace: of(REPLACE_RECORD),
            remove: of("DELETE FROM {schema}.tollgate_records WHERE kind = $1 AND name = $2"),
            list: of("SELECT name, record, ceil(extract(epoch FROM expires_at - clock_timestamp()) * 1000)::bigint
FROM {schema}.tollgate_records WHERE kind = $1 AND expires_at > clock_timestamp() ORDER BY name"),
        }
    }
}

impl Statements {
    pub(super) fn new(schema: &str) -> Self {
        let of = |text: &str| {
            text.replace("{asynchronous}", ASYNCHRONOUS).replace("{alive}", ALIVE).replace("{schema}", schema)
        };
        let claim = |unless: &str| CLAIM.replace("{unless}", unless);
        let found = "SELECT value FROM {schema}.tollgate_cache WHERE name = $4 AND {alive}";
        let unless_found = claim("AND NOT EXISTS (SELECT FROM found)");
        Self {
            // The table that is created first, and the function that was added last.
            version: format!(
                "SELECT to_regclass('{schema}.tollgate_settings') IS NOT NULL
AND to_regprocedure('{schema}.tollgate_get(text)') IS NOT NULL"
            ),
            get: of("SELECT {schema}.tollgate_get($1)"),
            get_many: of("SELECT name, value FROM {schema}.tollgate_cache WHERE name = ANY ($1) AND {alive}"),
            put: of(PUT),
            discard: of("DELETE FROM {schema}.tollgate_cache WHERE name = $1 AND {asynchronous}"),
            // Waits for the disk: a removed value must not return with a crash.
            remove: of("WITH removed AS (DELETE FROM {schema}.tollgate_cache WHERE name = ANY ($1) RETURNING 1)
SELECT count(*) FROM removed"),
            claim: of(&format!("WITH claimed AS ({}) SELECT {STATE}", claim(""))),
            get_or_claim: of(&format!(
                "WITH found AS MATERIALIZED ({found}), claimed AS ({unless_found})
SELECT (SELECT value FROM found), {STATE}"
            )),
            release: of("DELETE FROM {schema}.tollgate_leases WHERE name = $1 AND token = $2 AND {asynchronous}"),
            release_uncacheable: of(
                "UPDATE {schema}.tollgate_leases SET uncacheable = true, expires_at = clock_timestamp() + $3 * interval '1 microsecond'
WHERE name = $1 AND token = $2 AND expires_at > clock_timestamp() AND {asynchronous}",
            ),
            scan: of("SELECT name, substr(value, 1, 8192) FROM {schema}.tollgate_cache
WHERE name > $1 AND name >= $2 AND starts_with(name, $2) AND expires_at > now() ORDER BY name LIMIT 256"),
            sweep: of(SWEEP),
            live_bytes: of("SELECT coalesce(sum(bytes), 0)::bigint FROM {schema}.tollgate_cache"),
            evict: of(EVICT),
            secret: of("SELECT value FROM {schema}.tollgate_settings WHERE name = 'secret'"),
            propose_secret: of("INSERT INTO {schema}.tollgate_settings AS agreed VALUES ('secret', $1)
ON CONFLICT (name) DO UPDATE SET value = agreed.value RETURNING value"),
            append: of("SELECT {schema}.tollgate_append($1, $2)"),
            sequence: of("SELECT CASE WHEN EXISTS (SELECT FROM {schema}.tollgate_outbox)
THEN {schema}.tollgate_sequence() ELSE 0 END"),
            read: of("SELECT position, record, tag, path, prefix, soft FROM {schema}.tollgate_invalidations
WHERE position >= $1 ORDER BY position"),
            restart: of("SELECT {schema}.tollgate_restart($1, $2)"),
            notify: of("SELECT pg_notify('tollgate.{schema}', $1)"),
            listen: of("LISTEN \"tollgate.{schema}\""),
            lock_limits: of("SELECT at, name, state FROM {schema}.tollgate_lock_limits($1)"),
            write_limits: of("UPDATE {schema}.tollgate_limits AS kept
SET state = written.state,
  expires_at = date_trunc('minute', clock_timestamp() + written.ttl * interval '1 microsecond') + interval '1 minute'
FROM unnest($1, $2, $3) AS written (name, state, ttl) WHERE kept.name = written.name"),
            sweep_limits: of("DELETE FROM {schema}.tollgate_limits WHERE name = ANY (ARRAY(
SELECT name FROM {schema}.tollgate_limits WHERE expires_at <= now() ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED))"),
            publish_override: of("SELECT {schema}.tollgate_override($1, $2, $3, $4, $5)"),
            overrides: of(OVERRIDES),
            book: of(BOOK),
            add_usage: of(ADD_USAGE),
            records: RecordStatements::new(schema),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_fill_in() {
        let texts = [schema_sql("shop"), format!("{:?}", Statements::new("shop"))];
        for text in texts {
            let left: Vec<&str> = ["{schema}", "{records}", "{asynchronous}", "{unless}", "{alive}"]
                .into_iter()
                .filter(|placeholder| text.contains(placeholder))
                .collect();
            assert!(left.is_empty() && text.contains("shop.tollgate_cache"), "{left:?}");
        }
    }
}
