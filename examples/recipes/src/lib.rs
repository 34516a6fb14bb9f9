//! How queries of other drivers are counted: a few lines each, to be copied.

pub mod diesel;
pub mod redis;
pub mod sea_orm;
pub mod tokio_postgres;
