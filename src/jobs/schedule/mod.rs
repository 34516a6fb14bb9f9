//! **Pure**: when jobs are due.

pub(crate) mod cron;
pub(crate) mod due;
pub(crate) mod missed;
