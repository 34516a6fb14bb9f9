//! Decisions of RFC 9111 without I/O: directives, freshness, storability, validators, variants, ranges, keys.

pub(super) mod cache_status;
pub(super) mod client_directives;
pub mod conformance;
pub(super) mod content_location;
pub(super) mod credentials;
pub(super) mod deadlines;
pub(super) mod directives;
pub(super) mod freshness;
pub(crate) mod glob;
pub(crate) mod key;
pub(super) mod key_builder;
pub(super) mod policy;
pub(super) mod range;
pub(super) mod reason;
pub(crate) mod record_meta;
pub(super) mod request_flags;
mod response_flags;
pub(super) mod rule;
pub(super) mod rules;
pub(super) mod settings;
pub(super) mod storability;
pub(super) mod store_hint;
pub(crate) mod stored_head;
pub(super) mod tag;
pub(super) mod tag_template;
pub(super) mod validators;
pub(super) mod vary;
