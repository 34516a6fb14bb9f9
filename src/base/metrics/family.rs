//! The families of metrics: name, type, unit, labels and meaning of each, in one place.
//!
//! The guide `metrics.md` shows them as a table, which a test compares with this list. Names follow OpenTelemetry's semantic
//! conventions, as Prometheus spells them; families without a convention begin with `tollgate_`.

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only rises while the process runs.
    Counter,
    Gauge,
    /// Counts of durations by bucket.
    Histogram,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Label of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) name: &'static str,
    /// Maximum number of its values.
    pub(crate) most: &'static str,
    pub(crate) values: &'static str,
}

/// Description of a family.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) metric: Metric,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: &'static str,
    pub(crate) labels: &'static [Label],
    pub(crate) help: &'static str,
}

impl Family {
    /// Returns the name without the suffix of counters.
    pub(crate) fn base_name(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }

    /// Whether the unit is a base unit and the name ends in it, as OpenMetrics requires of families that state one.
    pub(crate) fn is_named_by_unit(&self) -> bool {
        matches!(self.unit, "seconds" | "bytes" | "ratio")
            && self.base_name().strip_suffix(self.unit).is_some_and(|rest| rest.ends_with('_'))
    }
}

macro_rules! labels {
    ($($id:ident = $name:literal, $most:literal, $values:literal;)*) => {
        $(const $id: Label = Label { name: $name, most: $most, values: $values };)*
        /// All labels.
        #[cfg(test)]
        const LABELS: &[Label] = &[$($id),*];
    };
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal, $unit:literal, [$($label:ident),*], $help:literal;)*) => {
        /// Identifies a family.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Metric {
            $($id,)*
        }

        /// All families, in the order of a page.
        pub(crate) const FAMILIES: &[Family] = &[$(Family {
            metric: Metric::$id,
            name: $name,
            kind: Kind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            help: $help,
        },)*];
    };
}

impl Metric {
    pub(crate) const fn family(self) -> &'static Family {
        &FAMILIES[self as usize]
    }
}

labels! {
    METHOD = "http_request_method", "10", "a method that OpenTelemetry knows, else `_OTHER`";
    STATUS = "http_response_status_code", "as many as the service sends", "status of the response; omitted if the service failed";
    SCHEME = "url_scheme", "2", "`https` if the request target says so, else `http`";
    ROUTE = "http_route", "257", "pattern of the route, or `other` beyond `max_routes`; omitted if no route matched";
    ERROR = "error_type", "as many as the service sends", "the status of a failure, `_OTHER` without a response; omitted on success";
    TEMPLATE = "url_template", "declared routes + 1", "pattern of the endpoint; omitted if none matched";
    UPSTREAM = "upstream", "one per `UpstreamGate`", "name of the upstream; omitted for the gate of incoming requests";
    SYSTEM = "db_system_name", "1", "the configured `db_system`; omitted without one";
    SUMMARY = "db_query_summary", "257", "name of the query, or operation and tables of a statement; `other` beyond the bound";
    TEXT = "db_query_text", "257", "statement without its values; omitted unless `query_text_label` is set";
    REQUEST_OUTCOME = "outcome", "3", "`answered`, `error`, `cancelled`";
    KIND = "kind", "6", "kind of the finding, as in `FindingKind`";
    CALL = "name", "65", "name given to `timed_upstream`, or `other`";
    CACHE_OUTCOME = "outcome", "7", "`hit`, `stale`, `revalidated`, `miss`, `collapsed`, `shadowed`, `bypass`";
    REASON = "reason", "46", "a `Reason` of the cache; omitted if there is none";
    LEVEL = "level", "one per level", "name of the level, such as `memory` or `redis`";
    PERCENTILE = "percentile", "2", "`50`, `99`";
    NAMESPACE = "namespace", "one per namespace", "name of the namespace";
    DATA_OUTCOME = "outcome", "4", "`hit`, `stale`, `collapsed`, `miss`";
    DECISION = "outcome", "2", "`admitted`, `refused`";
    LIMIT_OUTCOME = "outcome", "3", "`admitted`, `refused`, `shadowed`";
    LIMIT = "limit", "one per limit and tier", "name of the limit or tier";
    STORE = "store", "1", "name of the shared store, such as `redis limits`";
    WINDOW = "window", "4 + 16", "`minute`, `hour`, `day`, `month`, or the upstream's name of a limit";
    CALL_REASON = "reason", "4", "a `RejectedReason`";
    OBJECTIVE = "objective", "3 + one per hit target", "`latency`, `errors`, `queries`, or `hits NAME`";
    JOB = "job", "32", "name of the job";
    JOB_OUTCOME = "outcome", "2", "`done`, `failed`";
    BURN_WINDOW = "window", "2", "`5m`, `1h`";
}

families! {
    HttpServerRequestDuration: Histogram "http_server_request_duration_seconds", "seconds",
        [METHOD, STATUS, SCHEME, ROUTE, ERROR], "Time to the response head.";
    HttpServerActiveRequests: Gauge "http_server_active_requests", "requests",
        [ROUTE], "Requests in progress.";
    Requests: Counter "tollgate_requests_total", "requests",
        [ROUTE, REQUEST_OUTCOME, UPSTREAM], "Requests that ended, by outcome.";
    SlowRequests: Counter "tollgate_slow_requests_total", "requests",
        [ROUTE, UPSTREAM], "Requests that took at least slow_after.";
    RequestQueries: Counter "tollgate_request_queries_total", "queries",
        [ROUTE], "Queries of requests.";
    RequestQuerySeconds: Counter "tollgate_request_query_seconds_total", "seconds",
        [ROUTE], "Total time of these queries.";
    DbOperationDuration: Histogram "db_client_operation_duration_seconds", "seconds",
        [SYSTEM, SUMMARY, TEXT], "Time of queries.";
    DbConnectionWait: Histogram "db_client_connection_wait_time_seconds", "seconds",
        [], "Waits for database connections.";
    UnattributedQueries: Counter "tollgate_unattributed_queries_total", "queries",
        [], "Queries made outside of requests, in the whole process.";
    Findings: Counter "tollgate_findings_total", "findings",
        [ROUTE, KIND], "Findings about requests and their queries.";
    TimedCallDuration: Histogram "tollgate_timed_call_duration_seconds", "seconds",
        [CALL], "Time of calls that timed_upstream measured.";

    CacheRequests: Counter "tollgate_cache_requests_total", "requests",
        [ROUTE, CACHE_OUTCOME, REASON, UPSTREAM], "Requests to the cache, by outcome and, if bypassed, reason.";
    CacheNotStored: Counter "tollgate_cache_not_stored_total", "responses",
        [ROUTE, REASON, UPSTREAM], "Responses not stored, fetches not shared and expired responses served, by reason.";
    CacheStored: Counter "tollgate_cache_stored_total", "responses",
        [ROUTE, UPSTREAM], "Responses stored.";
    CacheInnerCalls: Counter "tollgate_cache_inner_calls_total", "calls",
        [UPSTREAM], "Calls of the inner service.";
    CacheCallsAvoided: Counter "tollgate_cache_inner_calls_avoided_total", "calls",
        [UPSTREAM], "Calls of the inner service that the cache avoided.";
    CacheSavedSeconds: Counter "tollgate_cache_saved_seconds_total", "seconds",
        [UPSTREAM], "Estimated duration of the avoided calls.";
    CacheFetches: Gauge "tollgate_cache_fetches_in_progress", "fetches",
        [UPSTREAM], "Shared fetches in progress.";
    CacheBackgroundFetches: Gauge "tollgate_cache_background_fetches", "fetches",
        [UPSTREAM], "Fetches without a client.";
    CacheInFlightBytes: Gauge "tollgate_cache_in_flight_bytes", "bytes",
        [UPSTREAM], "Size of bodies in transfer.";
    LevelHits: Counter "tollgate_cache_level_hits_total", "look-ups",
        [LEVEL, UPSTREAM], "Look-ups that the level answered.";
    LevelMisses: Counter "tollgate_cache_level_misses_total", "look-ups",
        [LEVEL, UPSTREAM], "Look-ups that the level did not answer.";
    LevelErrors: Counter "tollgate_cache_level_errors_total", "calls",
        [LEVEL, UPSTREAM], "Calls of the level that failed or timed out.";
    LevelDecodeErrors: Counter "tollgate_cache_level_decode_errors_total", "values",
        [LEVEL, UPSTREAM], "Values that could not be used.";
    LevelSuperseded: Counter "tollgate_cache_level_superseded_total", "values",
        [LEVEL, UPSTREAM], "Values replaced by a fetch that began later.";
    LevelDropped: Counter "tollgate_cache_level_dropped_total", "values",
        [LEVEL, UPSTREAM], "Values not stored because too many waited.";
    LevelEvictions: Counter "tollgate_cache_level_evictions_total", "entries",
        [LEVEL, UPSTREAM], "Entries evicted for others, and entries not admitted; of levels that count them.";
    LevelEntries: Gauge "tollgate_cache_level_entries", "entries",
        [LEVEL, UPSTREAM], "Entries in the level; 0 if unknown.";
    LevelBytes: Gauge "tollgate_cache_level_bytes", "bytes",
        [LEVEL, UPSTREAM], "Size of the entries; 0 if unknown.";
    LevelCapacity: Gauge "tollgate_cache_level_capacity_bytes", "bytes",
        [LEVEL, UPSTREAM], "Capacity of the level; 0 if unknown.";
    LevelPending: Gauge "tollgate_cache_level_invalidations_pending", "invalidations",
        [LEVEL, UPSTREAM], "Invalidations not yet delivered.";
    LevelUp: Gauge "tollgate_cache_level_up", "boolean",
        [LEVEL, UPSTREAM], "Whether the level is available: connected, and its breaker closed.";
    LevelLookup: Gauge "tollgate_cache_level_lookup_seconds", "seconds",
        [LEVEL, PERCENTILE, UPSTREAM], "Percentile of the duration of a look-up in a remote level.";

    DataLookups: Counter "tollgate_cache_data_lookups_total", "look-ups",
        [NAMESPACE, DATA_OUTCOME, UPSTREAM], "Look-ups of typed values, by outcome.";
    DataLoads: Counter "tollgate_cache_data_loads_total", "loads",
        [NAMESPACE, UPSTREAM], "Loads of typed values, refreshes included.";
    DataErrors: Counter "tollgate_cache_data_errors_total", "loads",
        [NAMESPACE, UPSTREAM], "Loads that failed or panicked.";
    DataTimeouts: Counter "tollgate_cache_data_timeouts_total", "look-ups",
        [NAMESPACE, UPSTREAM], "Look-ups that exceeded the hard timeout without a stale value.";
    DataEncodeErrors: Counter "tollgate_cache_data_encode_errors_total", "values",
        [NAMESPACE, UPSTREAM], "Values that could not be encoded for other processes.";
    DataDecodeErrors: Counter "tollgate_cache_data_decode_errors_total", "values",
        [NAMESPACE, UPSTREAM], "Values of other processes that could not be decoded.";
    DataSavedSeconds: Counter "tollgate_cache_data_saved_seconds_total", "seconds",
        [NAMESPACE, UPSTREAM], "Estimated duration of the avoided loads.";
    DataFetches: Gauge "tollgate_cache_data_loads_in_progress", "loads",
        [NAMESPACE, UPSTREAM], "Shared loads in progress.";
    DataTarget: Gauge "tollgate_cache_data_target_hit_ratio", "ratio",
        [NAMESPACE, UPSTREAM], "Configured target of the hit ratio, 0 to 1.";

    LimitDecisions: Counter "tollgate_limit_decisions_total", "requests",
        [DECISION], "Decisions on requests, by outcome.";
    LimitDenied: Counter "tollgate_limit_denied_total", "requests",
        [], "Requests refused by the deny list or by bans.";
    LimitRequests: Counter "tollgate_limit_requests_total", "requests",
        [LIMIT, LIMIT_OUTCOME], "Requests that a limit or tier counted, by its outcome; shadowed ones would have been refused.";
    LimitRouteRefusals: Counter "tollgate_limit_route_refusals_total", "requests",
        [ROUTE], "Requests refused, by route.";
    LimitInProgress: Gauge "tollgate_limit_in_progress", "requests",
        [LIMIT], "Requests in progress, by concurrency limit.";
    LimitQueued: Gauge "tollgate_limit_queued", "requests",
        [LIMIT], "Requests that wait for a place, by concurrency limit.";
    LimitWaits: Counter "tollgate_limit_waits_total", "requests",
        [LIMIT], "Requests that had to wait for a place, by concurrency limit.";
    LimitKeys: Gauge "tollgate_limit_keys", "keys",
        [], "Keys in the limit store.";
    LimitKeyCapacity: Gauge "tollgate_limit_key_capacity", "keys",
        [], "Capacity of the limit store.";
    LimitKeysEvicted: Counter "tollgate_limit_keys_evicted_total", "keys",
        [], "Keys evicted for others.";
    LimitDegraded: Counter "tollgate_limit_degraded_total", "decisions",
        [], "Decisions made locally while the shared store was unavailable.";
    LimitStoreUp: Gauge "tollgate_limit_store_up", "boolean",
        [STORE], "Whether the shared store is reachable, used, and its breaker closed.";
    LimitStoreDecisions: Counter "tollgate_limit_store_decisions_total", "decisions",
        [STORE], "Decisions made by the shared store or on its behalf.";
    LimitStoreLeased: Counter "tollgate_limit_store_leased_total", "decisions",
        [STORE], "Decisions paid from a lease, without a round trip.";
    LimitStoreRemembered: Counter "tollgate_limit_store_remembered_total", "refusals",
        [STORE], "Refusals repeated from memory, without a round trip.";
    LimitStoreCommands: Counter "tollgate_limit_store_commands_total", "commands",
        [STORE], "Commands sent to the shared store.";
    LimitStoreFailures: Counter "tollgate_limit_store_failures_total", "commands",
        [STORE], "Commands that failed or timed out.";

    HttpClientRequestDuration: Histogram "http_client_request_duration_seconds", "seconds",
        [METHOD, STATUS, TEMPLATE, ERROR, UPSTREAM], "Time to the response head of calls that were sent to an upstream.";
    GatewayRequestDuration: Histogram "tollgate_upstream_request_duration_seconds", "seconds",
        [METHOD, STATUS, TEMPLATE, ERROR, UPSTREAM], "Time to the response head as callers see it: answers of the cache, waits and rejections included.";
    UpstreamCalls: Counter "tollgate_upstream_calls_total", "calls",
        [TEMPLATE, UPSTREAM], "Calls sent.";
    EndpointCredits: Gauge "tollgate_upstream_endpoint_credits", "credits",
        [TEMPLATE, UPSTREAM], "Credits that these calls have cost; falls when a 304 is refunded.";
    UpstreamRejections: Counter "tollgate_upstream_rejections_total", "calls",
        [CALL_REASON, UPSTREAM], "Calls rejected, by reason.";
    UpstreamWouldReject: Counter "tollgate_upstream_would_reject_total", "calls",
        [UPSTREAM], "Calls sent only because limits are observed, not enforced.";
    UpstreamWaits: Counter "tollgate_upstream_waits_total", "calls",
        [UPSTREAM], "Calls that waited.";
    CreditsLimit: Gauge "tollgate_upstream_credits_limit", "credits",
        [WINDOW, UPSTREAM], "Credits that may be spent in the window; aggregate by max.";
    CreditsRemaining: Gauge "tollgate_upstream_credits_remaining", "credits",
        [WINDOW, UPSTREAM], "Credits left in the window, of a quota that all processes may share.";
    CreditsUsed: Gauge "tollgate_upstream_credits_used", "credits",
        [WINDOW, UPSTREAM], "Credits spent in the window, as far as this process knows; aggregate by max, never by sum.";
    CreditsReset: Gauge "tollgate_upstream_credits_reset_seconds", "seconds",
        [WINDOW, UPSTREAM], "Time until the next window.";
    CreditsExhausted: Gauge "tollgate_upstream_credits_exhausted_seconds", "seconds",
        [WINDOW, UPSTREAM], "Time until the quota is used up at the present rate; omitted if it lasts.";
    CircuitOpen: Gauge "tollgate_upstream_circuit_open", "boolean",
        [UPSTREAM], "Whether the circuit breaker is open; omitted without one.";
    CreditStoreUp: Gauge "tollgate_upstream_store_up", "boolean",
        [UPSTREAM], "Whether the credit store is reachable; omitted without one.";
    UnbookedCredits: Gauge "tollgate_upstream_unbooked_credits", "credits",
        [UPSTREAM], "Credits spent and not yet booked in the store.";
    HealthScore: Gauge "tollgate_health_score", "points",
        [], "Score of the gate, 0 to 100; omitted while it is unknown.";
    HealthStatus: Gauge "tollgate_health_status", "0, 1, 2",
        [], "Status of the gate: 0 pass, 1 warn, 2 fail.";
    ObjectiveBurnRate: Gauge "tollgate_objective_burn_rate", "rate",
        [OBJECTIVE, BURN_WINDOW], "Share of bad samples over the permitted one; omitted below 20 samples.";
    OverridesActive: Gauge "tollgate_overrides_active", "overrides",
        [], "Overrides in force on this node.";
    JobAttempts: Counter "tollgate_job_attempts_total", "attempts",
        [JOB, JOB_OUTCOME], "Attempts to run a job that ended, in the fleet, as far as this node knows.";
    JobSucceeded: Gauge "tollgate_job_last_success_timestamp_seconds", "seconds",
        [JOB], "Last success of a job, in seconds since 1970; omitted before it.";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renders a table as the guide shows it.
    fn table(head: &str, rows: impl Iterator<Item = String>) -> String {
        rows.fold(head.to_owned(), |table, row| table + "\n" + &row)
    }

    fn families() -> String {
        let labels = |family: &Family| {
            let labels: Vec<String> =
                family.labels.iter().map(|label| format!("`{}` ({})", label.name, label.most)).collect();
            labels.join(", ")
        };
        let row = |family: &Family| {
            format!(
                "| `{}` | {} | {} | {} | {} |",
                family.name,
                family.kind.as_str(),
                family.unit,
                labels(family),
                family.help
            )
        };
        table(
            "| metric | type | unit | labels (number of values) | meaning |\n|---|---|---|---|---|",
            FAMILIES.iter().map(row),
        )
    }

    fn labels() -> String {
        let metrics = |label: &Label| {
            let of = FAMILIES.iter().filter(|family| family.labels.contains(label));
            let first: Vec<&str> = of.map(|family| family.name).collect();
            // A name that several labels share says where this one is used.
            let shared = LABELS.iter().filter(|other| other.name == label.name).count() > 1;
            if shared {
                format!(" of {}", first.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
            } else {
                String::new()
            }
        };
        let row = |label: &Label| format!("| `{}`{} | {} | {} |", label.name, metrics(label), label.most, label.values);
        table("| label | number of values | values |\n|---|---|---|", LABELS.iter().map(row))
    }

    #[test]
    fn the_guide_lists_every_family_and_every_label() {
        let guide = include_str!("../../docs/metrics.md");
        for table in [families(), labels()] {
            assert!(guide.contains(&table), "src/docs/metrics.md lacks this table:\n{table}");
        }
    }

    #[test]
    fn names_are_unique_and_say_their_type_and_unit() {
        let mut names: Vec<_> = FAMILIES.iter().map(Family::base_name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAMILIES.len());
        for (at, family) in FAMILIES.iter().enumerate() {
            assert_eq!(
                (family.metric as usize, family.name.ends_with("_total")),
                (at, family.kind == Kind::Counter),
                "{family:?}"
            );
            let base = matches!(family.unit, "seconds" | "bytes");
            assert!(!base || family.is_named_by_unit(), "{} ends in its unit", family.name);
            assert!(family.help.ends_with('.') && !family.help.contains(['\\', '\n', '|']), "{}", family.help);
        }
    }
}
