-- Tables of tollgate in PostgreSQL 14 or later. May be run again, and by several processes at once.
SELECT pg_advisory_xact_lock(hashtextextended('tollgate.migrate', 0));

DO $migrate$
BEGIN
  IF to_regnamespace('{schema}') IS NULL THEN
    CREATE SCHEMA {schema};
  END IF;
  IF to_regclass('{schema}.tollgate_settings') IS NOT NULL THEN
    RETURN;
  END IF;

  CREATE TABLE {schema}.tollgate_settings (
    name text PRIMARY KEY,
    value text NOT NULL
  );
  INSERT INTO {schema}.tollgate_settings VALUES ('version', '1');

  -- Cached responses and values. Reads never write.
  CREATE TABLE {schema}.tollgate_cache (
    name text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL,
    bytes integer NOT NULL,
    -- The order of puts: the version of the encoding, the start of the fetch in microseconds, the log position at it.
    format integer NOT NULL,
    started_at bigint NOT NULL,
    position bigint NOT NULL,
    stored_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- For views: null where the value is no response.
    namespace text,
    url text,
    status smallint,
    content_type text,
    fresh_until timestamptz,
    body_start integer
  ) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.05,
    toast.autovacuum_vacuum_scale_factor = 0.02,
    toast.autovacuum_vacuum_insert_scale_factor = 0.02
  );
  ALTER TABLE {schema}.tollgate_cache ALTER COLUMN value SET STORAGE EXTERNAL;
  CREATE INDEX tollgate_cache_expires_at ON {schema}.tollgate_cache (expires_at);

  -- Who fetches what is missing. Empty after a crash, which grants every lease again.
  CREATE UNLOGGED TABLE {schema}.tollgate_leases (
    name text COLLATE "C" PRIMARY KEY,
    token bigint NOT NULL,
    uncacheable boolean NOT NULL DEFAULT false,
    expires_at timestamptz NOT NULL
  ) WITH (autovacuum_vacuum_scale_factor = 0.02);
  CREATE INDEX tollgate_leases_expires_at ON {schema}.tollgate_leases (expires_at);

  -- The log of invalidations: positions grow by one in the order of the commits.
  CREATE TABLE {schema}.tollgate_invalidations (
    position bigint PRIMARY KEY,
    record bytea,
    tag text,
    path text,
    prefix text,
    soft boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
  );

  -- Invalidations of your own transactions, until they are numbered.
  CREATE TABLE {schema}.tollgate_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tag text,
    path text,
    prefix text,
    soft boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tollgate_outbox_scope CHECK (num_nonnulls(tag, path, prefix) = 1),
    -- Others would invalidate nothing.
    CONSTRAINT tollgate_outbox_tag CHECK (tag ~ '^[\x21-\x2b\x2d-\x7e]+$' AND length(tag) <= 256),
    CONSTRAINT tollgate_outbox_path CHECK (coalesce(path, prefix, '/') LIKE '/%')
  );

  -- Usage of each limited key, decided by the processes, which lock its row meanwhile.
  CREATE TABLE {schema}.tollgate_limits (
    name bigint PRIMARY KEY,
    state bytea NOT NULL,
    -- Rounded up to a minute, so that an update seldom changes the index.
    expires_at timestamptz NOT NULL
  ) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
  CREATE INDEX tollgate_limits_expires_at ON {schema}.tollgate_limits (expires_at);

  -- Grants and bans, which all processes read. Times are in microseconds since 1970.
  CREATE TABLE {schema}.tollgate_overrides (
    name bigint PRIMARY KEY,
    record bytea NOT NULL,
    expires_at bigint NOT NULL
  );
  INSERT INTO {schema}.tollgate_settings VALUES ('overrides', '0');

  -- Credits of each upstream and window. Both numbers only increase.
  CREATE TABLE {schema}.tollgate_credits (
    name bigint PRIMARY KEY,
    upstream text NOT NULL,
    quota_window text NOT NULL,
    booked bigint NOT NULL,
    returned bigint NOT NULL,
    expires_at timestamptz NOT NULL
  ) WITH (fillfactor = 50);

  -- Sums by hour, of 30 days: kind is upstream, route or data.
  CREATE TABLE {schema}.tollgate_usage (
    hour timestamptz NOT NULL,
    kind text NOT NULL,
    scope text NOT NULL,
    name text NOT NULL,
    credits bigint NOT NULL,
    requests bigint NOT NULL,
    busy_us bigint NOT NULL,
    hits bigint NOT NULL,
    misses bigint NOT NULL,
    PRIMARY KEY (hour, kind, scope, name)
  ) WITH (fillfactor = 50);

  -- Overrides of operators, snapshots of nodes, and the audit of actions.
  CREATE TABLE {schema}.tollgate_records (
    kind text NOT NULL,
    name text NOT NULL,
    record bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (kind, name)
  ) WITH (fillfactor = 50);
END
$migrate$;

-- Encodes a value for a tag: bytes that a tag cannot have are percent-encoded, as those of route parameters are.
CREATE OR REPLACE FUNCTION {schema}.tollgate_encode(value text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT AS $function$
  SELECT coalesce(string_agg(
    CASE WHEN byte BETWEEN 33 AND 126 AND byte NOT IN (37, 44) THEN chr(byte)
      ELSE '%' || lpad(upper(to_hex(byte)), 2, '0') END, '' ORDER BY at), '')
  FROM (
    SELECT at, get_byte(bytes, at) AS byte
    FROM (SELECT convert_to(value, 'UTF8') AS bytes) AS encoded, generate_series(0, length(bytes) - 1) AS at
  ) AS each;
$function$;

-- Returns a body as JSON; null if it is none.
CREATE OR REPLACE FUNCTION {schema}.tollgate_json(body bytea) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  RETURN convert_from(body, 'UTF8')::jsonb;
EXCEPTION WHEN OTHERS THEN
  RETURN NULL;
END
$function$;

DO $migrate$
BEGIN
  IF to_regclass('{schema}.api_cache') IS NULL THEN
    CREATE VIEW {schema}.api_cache AS
    SELECT namespace, url, status, content_type, bytes, stored_at, fresh_until, expires_at,
      fresh_until > now() AS is_fresh,
      CASE WHEN content_type ~* '[/+]json' AND body_start IS NOT NULL
        THEN {schema}.tollgate_json(substr(value, body_start + 1)) END AS body
    FROM {schema}.tollgate_cache
    WHERE fresh_until IS NOT NULL AND expires_at > now();
  END IF;
  IF to_regclass('{schema}.cache_stats') IS NULL THEN
    CREATE VIEW {schema}.cache_stats AS
    SELECT namespace, count(*) AS entries, count(*) FILTER (WHERE fresh_until > now()) AS fresh_entries,
      round(100.0 * count(*) FILTER (WHERE fresh_until > now()) / count(*), 1) AS fresh_percent,
      sum(bytes) AS bytes, min(expires_at) AS first_expires_at, max(stored_at) AS last_stored_at
    FROM {schema}.tollgate_cache
    WHERE fresh_until IS NOT NULL AND expires_at > now()
    GROUP BY namespace;
  END IF;
  IF to_regclass('{schema}.credit_usage') IS NULL THEN
    CREATE VIEW {schema}.credit_usage AS
    SELECT scope AS upstream, name AS endpoint, hour, credits, requests,
      round(busy_us / 1000.0 / nullif(requests, 0), 3) AS mean_ms, hits, misses
    FROM {schema}.tollgate_usage
    WHERE kind = 'upstream' AND hour > now() - interval '30 days';
  END IF;
  IF to_regclass('{schema}.cache_usage') IS NULL THEN
    CREATE VIEW {schema}.cache_usage AS
    SELECT CASE kind WHEN 'data' THEN name END AS namespace, CASE kind WHEN 'route' THEN name END AS route, hour, hits, misses,
      round(100.0 * hits / (hits + misses), 1) AS hit_percent
    FROM {schema}.tollgate_usage
    WHERE kind <> 'upstream' AND hits + misses > 0 AND hour > now() - interval '30 days';
  END IF;
  IF to_regclass('{schema}.background_jobs') IS NULL THEN
    CREATE VIEW {schema}.background_jobs AS
    SELECT name AS job, (job ->> 'is_enabled')::boolean AS is_enabled, job ->> 'status' AS status, (job ->> 'attempt')::int AS attempt,
      to_timestamp((job ->> 'slot')::bigint / 1000.0) AS slot, (job ->> 'runs')::bigint AS runs,
      (job ->> 'failures')::bigint AS failures, (job ->> 'failed_in_a_row')::bigint AS failed_in_a_row,
      to_timestamp(nullif((job ->> 'succeeded_at')::bigint, 0) / 1000.0) AS succeeded_at,
      to_timestamp((job -> 'last' ->> 'started_at')::bigint / 1000.0) AS last_started_at,
      (job -> 'last' ->> 'took_ms')::bigint AS last_took_ms, job -> 'last' ->> 'outcome' AS last_outcome,
      job -> 'last' ->> 'text' AS last_text
    FROM (
      SELECT name, convert_from(record, 'UTF8')::jsonb AS job FROM {schema}.tollgate_records WHERE kind = 'jobs' AND expires_at > now()
    ) AS jobs;
  END IF;
END
$migrate$;

-- Returns a value that has not expired. A session plans the statement once, and not for each look-up: look-ups prepare none, so
-- that they pass transaction poolers.
CREATE OR REPLACE FUNCTION {schema}.tollgate_get(wanted text) RETURNS bytea
LANGUAGE plpgsql STABLE AS $function$
BEGIN
  RETURN (SELECT value FROM {schema}.tollgate_cache WHERE name = wanted AND expires_at > now());
END
$function$;

-- Starts a log at the server's time in microseconds, above what is known.
CREATE OR REPLACE FUNCTION {schema}.tollgate_start_log(first bytea, known bigint) RETURNS bigint
LANGUAGE sql AS $function$
  INSERT INTO {schema}.tollgate_invalidations (position, record)
  VALUES (greatest((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, known + 1), first)
  RETURNING position;
$function$;

-- Appends a record and publishes it. The lock is held until the commit: positions become visible in their order.
CREATE OR REPLACE FUNCTION {schema}.tollgate_append(first bytea, appended bytea) RETURNS bigint
LANGUAGE plpgsql AS $function$
DECLARE
  last bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('tollgate.log.{schema}', 0));
  SELECT max(position) INTO last FROM {schema}.tollgate_invalidations;
  IF last IS NULL THEN
    last := {schema}.tollgate_start_log(first, 0);
  END IF;
  last := last + 1;
  INSERT INTO {schema}.tollgate_invalidations (position, record) VALUES (last, appended);
  DELETE FROM {schema}.tollgate_invalidations WHERE position <= last - {records};
  PERFORM pg_notify('tollgate.{schema}',
    CASE WHEN octet_length(appended) <= 3500 THEN 'record:' || last || ':' || encode(appended, 'hex') ELSE 'read' END);
  RETURN last;
END
$function$;

-- Starts a new log if there is none, or if it ends before what is known.
CREATE OR REPLACE FUNCTION {schema}.tollgate_restart(first bytea, known bigint) RETURNS void
LANGUAGE plpgsql AS $function$
DECLARE
  last bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('tollgate.log.{schema}', 0));
  SELECT max(position) INTO last FROM {schema}.tollgate_invalidations;
  IF last IS NULL OR last < known THEN
    DELETE FROM {schema}.tollgate_invalidations;
    PERFORM {schema}.tollgate_start_log(first, known);
  END IF;
END
$function$;

-- Numbers the committed rows of the outbox: moves them to the log. Returns their number.
CREATE OR REPLACE FUNCTION {schema}.tollgate_sequence() RETURNS bigint
LANGUAGE plpgsql AS $function$
DECLARE
  last bigint;
  moved bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('tollgate.log.{schema}', 0));
  SELECT max(position) INTO last FROM {schema}.tollgate_invalidations;
  IF last IS NULL THEN
    RETURN 0;
  END IF;
  WITH taken AS (
    DELETE FROM {schema}.tollgate_outbox WHERE id IN (SELECT id FROM {schema}.tollgate_outbox ORDER BY id LIMIT 1000)
    RETURNING id, tag, path, prefix, soft, created_at
  )
  INSERT INTO {schema}.tollgate_invalidations (position, tag, path, prefix, soft, created_at)
  SELECT last + row_number() OVER (ORDER BY id), tag, path, prefix, soft, created_at FROM taken;
  GET DIAGNOSTICS moved = ROW_COUNT;
  IF moved > 0 THEN
    DELETE FROM {schema}.tollgate_invalidations WHERE position <= last + moved - {records};
    PERFORM pg_notify('tollgate.{schema}', 'read');
  END IF;
  RETURN moved;
END
$function$;

-- Says on commit that the outbox has rows. Once per transaction, whatever it inserts.
CREATE OR REPLACE FUNCTION {schema}.tollgate_outbox_inserted() RETURNS trigger
LANGUAGE plpgsql AS $function$
BEGIN
  PERFORM pg_notify('tollgate.{schema}', 'read');
  RETURN NULL;
END
$function$;

CREATE OR REPLACE TRIGGER tollgate_outbox_inserted AFTER INSERT ON {schema}.tollgate_outbox
FOR EACH STATEMENT EXECUTE FUNCTION {schema}.tollgate_outbox_inserted();

-- Locks the rows of keys in the order of their names, those that are missing too, and returns them with the time in
-- microseconds.
CREATE OR REPLACE FUNCTION {schema}.tollgate_lock_limits(names bigint[])
RETURNS TABLE (at bigint, name bigint, state bytea)
LANGUAGE plpgsql AS $function$
DECLARE
  found bigint;
BEGIN
  LOOP
    INSERT INTO {schema}.tollgate_limits AS kept (name, state, expires_at)
    SELECT missing, '', now() + interval '1 minute' FROM unnest(names) AS missing ORDER BY missing
    ON CONFLICT DO NOTHING;
    SELECT count(*) INTO found FROM (
      SELECT FROM {schema}.tollgate_limits AS kept WHERE kept.name = ANY (names) ORDER BY kept.name FOR UPDATE
    ) AS locked;
    -- A sweep may have removed some in between.
    EXIT WHEN found = cardinality(names);
  END LOOP;
  RETURN QUERY SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, kept.name, kept.state
  FROM {schema}.tollgate_limits AS kept WHERE kept.name = ANY (names);
END
$function$;

-- Sets or removes a grant or ban, and returns the new version; 0 if there are too many. Arguments: name, record, microseconds
-- until it ends, time in microseconds, maximum number.
CREATE OR REPLACE FUNCTION {schema}.tollgate_override(bigint, bytea, bigint, bigint, bigint) RETURNS bigint
LANGUAGE plpgsql AS $function$
DECLARE
  known bigint;
  at bigint := coalesce($4, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
BEGIN
  -- One at a time: versions grow in the order of the commits.
  SELECT s.value::bigint INTO known FROM {schema}.tollgate_settings AS s WHERE s.name = 'overrides' FOR UPDATE;
  IF $3 > 0 THEN
    DELETE FROM {schema}.tollgate_overrides AS o WHERE o.expires_at <= at;
    IF (SELECT count(*) FROM {schema}.tollgate_overrides AS o WHERE o.name <> $1) >= $5 THEN
      RETURN 0;
    END IF;
    INSERT INTO {schema}.tollgate_overrides VALUES ($1, $2, at + $3)
    ON CONFLICT (name) DO UPDATE SET record = excluded.record, expires_at = excluded.expires_at;
  ELSE
    DELETE FROM {schema}.tollgate_overrides AS o WHERE o.name = $1;
  END IF;
  UPDATE {schema}.tollgate_settings AS s SET value = (known + 1)::text WHERE s.name = 'overrides';
  RETURN known + 1;
END
$function$;
