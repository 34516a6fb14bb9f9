GRANT USAGE ON SCHEMA public TO service;
GRANT SELECT, INSERT, UPDATE, DELETE ON tollgate_cache, tollgate_leases, tollgate_limits, tollgate_overrides, tollgate_credits, tollgate_usage, tollgate_records TO service;
GRANT SELECT, INSERT, DELETE ON tollgate_invalidations, tollgate_outbox TO service;
GRANT SELECT, INSERT, UPDATE ON tollgate_settings TO service;
GRANT SELECT ON api_cache, cache_stats, credit_usage, cache_usage, background_jobs TO service;
