//! Recipes for other database drivers and HTTP clients: a few lines each, to be copied.

pub mod diesel;
pub mod redis;
pub mod reqwest;
pub mod sea_orm;
pub mod tokio_postgres;
