//! Recipes for other database drivers, HTTP clients, OpenTelemetry and axum 0.7: a few lines each, to be copied.

pub mod axum_0_7;
pub mod diesel;
pub mod otlp;
pub mod redis;
pub mod reqwest;
pub mod sea_orm;
pub mod tokio_postgres;
