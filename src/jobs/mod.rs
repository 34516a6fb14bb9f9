//! Jobs: named work on a schedule, each run once in a fleet.

pub(crate) mod engine;
pub(crate) mod schedule;
pub(crate) mod tower;
