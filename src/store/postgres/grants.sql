GRANT USAGE ON SCHEMA public TO service;
GRANT SELECT, INSERT, UPDATE, DELETE ON tollgate_cache, tollgate_leases, tollgate_limits, tollgate_credits, tollgate_usage, tollgate_records TO service;
GRANT SELECT, INSERT, DELETE ON tollgate_invalidations, tollgate_outbox TO service;
GRANT SELECT, INSERT, UPDATE ON tollgate_settings TO service;
