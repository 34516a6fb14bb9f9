//! Names of files and types: those that have a standard term in their place, and those used twice.

use std::collections::BTreeMap;

/// Names of files, each with the standard term that replaced it.
const FILES: [(&str, &str); 47] = [
    ("answer", "maybe_ready"),
    ("block", "reservation_size"),
    ("books", "live_rules"),
    ("carrier", "detached_context"),
    ("contain", "isolate"),
    ("contained", "isolated_store"),
    ("control", "store_hint"),
    ("core", "shared"),
    ("directive", "directives"),
    ("envelope", "codec"),
    ("facts", "request_flags"),
    ("fields", "headers"),
    ("finding", "findings"),
    ("flight", "coalesce"),
    ("flow", "in_flight"),
    ("freshen", "update_from_304"),
    ("harvesting", "harvest_health"),
    ("head", "request_head"),
    ("history", "invalidation_log"),
    ("join", "serve"),
    ("judge", "storability"),
    ("keep", "store_response"),
    ("keying", "key_builder"),
    ("lane", "worker"),
    ("learn", "headers"),
    ("ledger", "credit_store"),
    ("levels", "tiered"),
    ("life", "ttl"),
    ("listener", "invalidation_sink"),
    ("live", "reload or stream_and_store"),
    ("locate", "content_location"),
    ("memo", "tier_cache"),
    ("near", "local_cache"),
    ("offer", "compiled_quota"),
    ("pack", "compression"),
    ("parts", "key"),
    ("passing", "hit_for_miss"),
    ("patience", "deadlines"),
    ("peek", "body_inspector"),
    ("renew", "refresh_lease"),
    ("settle", "unsafe_invalidation"),
    ("sf", "structured_fields"),
    ("shed", "rejected"),
    ("space", "namespace"),
    ("striped", "sharded_counter"),
    ("told", "observed_limits"),
    ("wish", "client_directives"),
];

/// Names of types, each with the standard term that replaced it; or a name that says too little.
const TYPES: [(&str, &str); 51] = [
    ("Answer", "MaybeReady"),
    ("Asker", "RequestView"),
    ("Books", "LiveRules"),
    ("CallerDuty", "CallerAction"),
    ("Case", "StoreContext"),
    ("CircuitShut", "CircuitClosed"),
    ("Contained", "IsolatedStore"),
    ("Aside", "RareEdits"),
    ("Core", "a name of its own, such as CacheShared"),
    ("Dues", "Checks"),
    ("Facts", "RequestFlags"),
    ("Found", "a name of its own, such as LookupResult"),
    ("Holding", "StoredBlocks"),
    ("Keeping", "StoreTask"),
    ("Kept", "StoredBody"),
    ("Lane", "Worker"),
    ("Life", "TtlPolicy"),
    ("Listener", "InvalidationSink"),
    ("Memo", "TierCache"),
    ("Meta", "StoredHead"),
    ("Misbehaviour", "InjectedFault"),
    ("Near", "LocalCache"),
    ("Odd", "DecodeError"),
    ("Offer", "CompiledQuota"),
    ("Outliving", "DetachedFetch"),
    ("Pace", "TeeProgress or WarmUpLimits"),
    ("Part", "LimitDecision"),
    ("Pass", "ResponseEdits"),
    ("Past", "Bypass"),
    ("Patience", "LoadDeadlines"),
    ("Plan", "StorePolicy or CompiledLimits"),
    ("Recall", "CachedTier"),
    ("Reply", "RateLimitHeaders"),
    ("RuleBook", "CompiledRules"),
    ("Ruling", "Outcome"),
    ("Settings", "a name of its own, such as CacheSettings"),
    ("Share", "ShareState"),
    ("Shed", "Rejected"),
    ("Space", "Namespace"),
    ("Standing", "Freshness"),
    ("Step", "a name of its own, such as LookupStep"),
    ("Striped", "ShardedCounter"),
    ("Term", "LimitOutcome"),
    ("Thrift", "BudgetEffect"),
    ("Told", "ObservedLimits"),
    ("Unseen", "SerializeError"),
    ("Trail", "PendingTrailers"),
    ("Unsettled", "UnsafeRequest"),
    ("Wanted", "RequestedRanges"),
    ("WarmUpPace", "WarmUpLimits"),
    ("Watch", "a name of its own, such as LeaseExpiry"),
];

/// Names that two public or crate-wide types may share, and why.
const SHARED: [(&str, &str); 5] = [
    ("Error", "the crate's, and that of a client behind `UpstreamLayer`"),
    ("RequestSpan", "two builds of one type, with and without `tracing`"),
    ("ResponseFuture", "each layer's future, named as tower's are"),
    ("Sealed", "each sealed trait's own"),
    ("Series", "two builds of one type, with and without `metrics`"),
];

/// The name of a file that has a better one.
pub(crate) fn file(path: &str) -> Option<String> {
    let stem = path.strip_prefix("src/")?.trim_end_matches(".rs").rsplit('/').next()?;
    let (_, term) = FILES.iter().find(|(name, _)| *name == stem)?;
    Some(format!("{path}: the term is {term}"))
}

/// The types that a file defines: name, and whether others may name it.
pub(crate) fn types(tokens: &[String]) -> Vec<(&str, bool)> {
    let mut found = Vec::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        let kind = matches!(&*pair[0], "struct" | "enum" | "union" | "trait" | "type");
        if kind && pair[1].starts_with(|c: char| c.is_ascii_uppercase()) {
            let visible = at > 0 && matches!(&*tokens[at - 1], "pub" | ")");
            found.push((&*pair[1], visible));
        }
    }
    found
}

/// A type whose name has a better one.
pub(crate) fn refused(path: &str, name: &str) -> Option<String> {
    let (_, term) = TYPES.iter().find(|(refused, _)| *refused == name)?;
    Some(format!("{path}: `{name}`: the term is {term}"))
}

/// Names that types of several files share.
pub(crate) fn twice<'a>(types: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    types.into_iter().for_each(|(path, name)| by_name.entry(name).or_default().push(path));
    by_name.retain(|name, paths| paths.len() > 1 && !SHARED.iter().any(|(shared, _)| shared == name));
    by_name.iter().map(|(name, paths)| format!("`{name}` is defined in {}", paths.join(" and "))).collect()
}
