//! Runs jobs, and keeps what became of them.

pub(crate) mod builder;
pub(crate) mod claim;
pub(crate) mod context;

pub(crate) mod job;
pub(crate) mod job_engine;
pub(crate) mod run;
pub(crate) mod runner;
pub(crate) mod status;
pub(crate) mod triggered_job;
