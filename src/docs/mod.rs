//! Guides: from the first lines of code to the architecture of the crate.
//!
//! | you want to | guide |
//! |---|---|
//! | start | [`getting_started`] |
//! | identify users behind proxies, by API key, by session | [`identity`] |
//! | limit requests | [`limits`] |
//! | cache responses | [`caching`] |
//! | know what counts as a credential | [`sharing`] |
//! | share both between processes, keep the cache over restarts | [`fleets`] |
//! | protect the quota of an API | [`upstreams`] |
//! | refresh values on a schedule | `jobs` (feature `jobs`) |
//! | find slow queries | [`timing`] |
//! | see how it is doing, and act | [`operating`] |
//! | scrape metrics, with a dashboard and alerts | [`metrics`] |
//! | test your limits and your outages | [`testing`] |
//! | set limits in a file | [`configuration`] |
//! | combine the layers with others | [`layer_order`] |
//! | replace another crate | [`migrating`] |
//! | know what happens when something fails | [`faults`] |
//! | find an answer | [`questions`] |
//! | change the crate itself | [`architecture`] |

/// Limits, a cache and timing around an axum service, in three steps.
pub mod getting_started {
    #![doc = include_str!("getting_started.md")]
}

/// Configuration files.
pub mod configuration {
    #![doc = include_str!("configuration.md")]
}

/// Identities of requests: extractors, trusted proxies, credentials.
pub mod identity {
    #![doc = include_str!("identity.md")]
}

/// Quotas, tiers, routes, refusals.
pub mod limits {
    #![doc = include_str!("limits.md")]
}

/// Which responses are cached, for whom, and why not.
pub mod caching {
    #![doc = include_str!("caching.md")]
}

/// The credentials of requests, and which responses are shared between them.
pub mod sharing {
    #![doc = include_str!("sharing.md")]
}

/// Limits and cache shared by several processes through Redis; a cache that survives restarts in a directory.
pub mod fleets {
    #![doc = include_str!("fleets.md")]
}

/// The quotas of APIs that you call.
pub mod upstreams {
    #![doc = include_str!("upstreams.md")]
}

/// Named work on a schedule, each run once in a fleet.
#[cfg(feature = "jobs")]
pub mod jobs {
    #![doc = include_str!("jobs.md")]
}

/// Slow requests and queries, N+1.
pub mod timing {
    #![doc = include_str!("timing.md")]
}

/// A dashboard, its data, and actions for operators.
pub mod operating {
    #![doc = include_str!("operating.md")]
}

/// Metrics for Prometheus, OpenMetrics and the `metrics` facade.
pub mod metrics {
    #![doc = include_str!("metrics.md")]
}

/// Tests without sleeping and without servers.
pub mod testing {
    #![doc = include_str!("testing.md")]
}

/// The place of each layer among CORS, compression, authentication and time-outs.
pub mod layer_order {
    #![doc = include_str!("layer_order.md")]
}

/// The same configuration, coming from another crate.
pub mod migrating {
    #![doc = include_str!("migrating.md")]
}

/// Behaviour in every kind of failure, and the test that shows it.
pub mod faults {
    #![doc = include_str!("faults.md")]
}

/// Questions that users of such crates ask.
pub mod questions {
    #![doc = include_str!("questions.md")]
}

/// How the crate is built, for contributors.
pub mod architecture {
    #![doc = include_str!("architecture.md")]
}
