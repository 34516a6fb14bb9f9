//! tokio-postgres: one function in place of `client.query`.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row};
use tollgate::timing::timed_query;

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The parameters as text are the key: only their hash is kept, until the request ends.
#[track_caller]
pub fn query<'a>(
    client: &'a Client,
    sql: &'a str,
    parameters: Parameters<'a>,
) -> impl Future<Output = Result<Vec<Row>, Error>> + 'a {
    let rows = client.query(sql, parameters);
    timed_query(sql, rows)
        .key(&format!("{parameters:?}"))
        .rows(|rows| rows.as_ref().map_or(0, |rows| rows.len() as u64))
}
