//! How queries of other drivers are counted, and calls of other clients kept: a few lines each, to be copied.

pub mod diesel;
pub mod redis;
pub mod reqwest;
pub mod sea_orm;
pub mod tokio_postgres;
