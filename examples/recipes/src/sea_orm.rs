//! sea-orm uses sqlx, whose events are harvested once its logging is enabled.

use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr};

/// In `main`, once: `registry().with(fmt::layer().with_filter(filter)).with(tollgate::timing::harvest()).init()`.
pub async fn connect(url: &str) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(true).sqlx_logging_level(log::LevelFilter::Debug);
    Database::connect(options).await
}
