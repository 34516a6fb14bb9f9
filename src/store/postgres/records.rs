//! Records of a fleet in PostgreSQL: one table for all kinds.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connect::{Link, column};
use super::schema::Statements;
use super::settings::Postgres;
use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::resilience::guard::{FailOpen, Fault};
use crate::store::fleet_records::port::{FleetRecord, FleetRecords, MAX_RECORD_BYTES, MAX_RECORDS, refused};

/// Table of records, behind a guard of its own.
pub(crate) struct RecordTable {
    guard: FailOpen<Arc<Link>>,
    statements: Arc<Statements>,
}

/// Parameter with its type.
type OwnedParameter = (Box<dyn tokio_postgres::types::ToSql + Send + Sync>, Type);

impl RecordTable {
    pub(crate) fn new(postgres: &Postgres) -> Self {
        let guard = postgres.guard("postgres records", "").0;
        Self { guard, statements: Arc::new(Statements::new(&postgres.schema)) }
    }

    fn call(
        &self,
        kind: &'static str,
        statement: fn(&Statements) -> &str,
        parameters: Vec<OwnedParameter>,
    ) -> BoxFuture<Result<Vec<Row>, Error>> {
        let (guard, statements) = (self.guard.clone(), self.statements.clone());
        Box::pin(async move {
            guard.first_connection().await;
            let rows = guard.call(async |link| {
                let parameters: Vec<_> = parameters.iter().map(|(value, of)| (&**value as _, of.clone())).collect();
                link.query(statement(&statements), &parameters).await.map_err(Fault::from)
            });
            rows.await.map_err(|outage| Error::outage(kind, outage))
        })
    }
}

impl FleetRecords for RecordTable {
    fn put(&self, kind: &'static str, record: FleetRecord) -> BoxFuture<Result<(), Error>> {
        if record.contents.len() > MAX_RECORD_BYTES {
            return Box::pin(std::future::ready(Err(refused(kind))));
        }
        let parameters: Vec<OwnedParameter> = vec![
            (Box::new(kind), Type::TEXT),
            (Box::new(record.name), Type::TEXT),
            (Box::new(record.contents), Type::BYTEA),
            (Box::new(left(record.left)), Type::INT8),
            (Box::new(MAX_RECORDS as i64), Type::INT8),
        ];
        let rows = self.call(kind, |statements| &statements.records.put, parameters);
        Box::pin(async move { if rows.await?.is_empty() { Err(refused(kind)) } else { Ok(()) } })
    }

    #[cfg(feature = "jobs")]
    fn replace(
        &self,
        kind: &'static str,
        record: FleetRecord,
        expected: Option<Vec<u8>>,
    ) -> BoxFuture<Result<bool, Error>> {
        let mut parameters: Vec<OwnedParameter> = vec![
            (Box::new(kind), Type::TEXT),
            (Box::new(record.name), Type::TEXT),
            (Box::new(record.contents), Type::BYTEA),
            (Box::new(left(record.left)), Type::INT8),
        ];
        let rows = match expected {
            None => self.call(kind, |statements| &statements.records.create, parameters),
            Some(expected) => {
                parameters.push((Box::new(expected), Type::BYTEA));
                self.call(kind, |statements| &statements.records.replace, parameters)
            }
        };
        Box::pin(async move { Ok(!rows.await?.is_empty()) })
    }

    fn remove(&self, kind: &'static str, name: &str) -> BoxFuture<Result<(), Error>> {
        let parameters: Vec<OwnedParameter> =
            vec![(Box::new(kind), Type::TEXT), (Box::new(name.to_owned()), Type::TEXT)];
        let removed = self.call(kind, |statements| &statements.records.remove, parameters);
        Box::pin(async move { removed.await.map(drop) })
    }

    fn list(&self, kind: &'static str) -> BoxFuture<Result<Vec<FleetRecord>, Error>> {
        let rows = self.call(kind, |statements| &statements.records.list, vec![(Box::new(kind), Type::TEXT)]);
        Box::pin(async move { rows.await?.iter().map(record).collect() })
    }
}

/// Returns milliseconds, at most three thousand years.
fn left(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX).min(100_000_000_000_000)
}

fn record(row: &Row) -> Result<FleetRecord, Error> {
    let left = Duration::from_millis(column::<i64>(row, 2)?.max(0).cast_unsigned());
    Ok(FleetRecord { name: column(row, 0)?, contents: column(row, 1)?, left })
}
