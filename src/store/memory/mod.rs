//! In-process engines.
