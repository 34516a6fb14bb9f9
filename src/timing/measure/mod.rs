//! Histograms, sliding windows, query fingerprints, findings, and the statistics made of them.

pub(super) mod exported_buckets;
pub(super) mod findings;
pub(super) mod fingerprint;
pub(super) mod group;
pub(super) mod histogram;
pub(super) mod latencies;
pub(super) mod n_plus_one;
pub(super) mod query_summary;
pub(super) mod recent_names;
pub(super) mod sliding;
pub(super) mod slow;
pub(super) mod sql;
pub(super) mod statement_kind;
pub(super) mod statement_names;
pub(super) mod stats;
pub(super) mod table;
