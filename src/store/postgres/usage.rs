//! Sums of usage by hour: one row per endpoint of an upstream, route and namespace of typed values.

use tokio_postgres::types::Type;

use std::sync::Arc;

use super::connect::Link;
use super::schema::Statements;
use super::settings::Postgres;
use crate::base::error::Error;
use crate::resilience::guard::{FailOpen, Fault};

/// HourlyUsage of an endpoint, a route or a namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct HourlyUsage {
    /// `upstream`, `route` or `data`.
    kind: &'static str,
    /// Name of the upstream; empty for others.
    scope: String,
    /// Endpoint, route or namespace.
    name: String,
    pub(crate) credits: u64,
    requests: u64,
    /// Duration of the requests, in microseconds.
    busy_us: u64,
    hits: u64,
    misses: u64,
}

impl HourlyUsage {
    pub(crate) fn new(kind: &'static str, scope: &str, name: &str) -> Self {
        Self { kind, scope: scope.to_owned(), name: name.to_owned(), ..Self::default() }
    }

    /// Sets credits, requests and the duration of the requests in microseconds.
    pub(crate) fn calls(self, credits: u64, requests: u64, busy_us: u64) -> Self {
        Self { credits, requests, busy_us, ..self }
    }

    /// Sets requests that the cache answered, and those that it did not.
    pub(crate) fn cache(self, hits: u64, misses: u64) -> Self {
        Self { hits, misses, ..self }
    }

    /// Returns the name of the row.
    pub(crate) fn key(&self) -> (&'static str, String, String) {
        (self.kind, self.scope.clone(), self.name.clone())
    }

    /// Returns the usage since `before`; `None` if there was none.
    pub(crate) fn since(&self, before: Option<&Self>) -> Option<Self> {
        let since = |of: fn(&Self) -> u64| of(self).saturating_sub(before.map_or(0, of));
        let usage = Self {
            credits: since(|usage| usage.credits),
            requests: since(|usage| usage.requests),
            busy_us: since(|usage| usage.busy_us),
            hits: since(|usage| usage.hits),
            misses: since(|usage| usage.misses),
            ..self.clone()
        };
        (usage.credits | usage.requests | usage.hits | usage.misses != 0).then_some(usage)
    }
}

/// Table of usage, behind a guard of its own.
#[derive(Clone)]
pub(crate) struct UsageTable {
    guard: FailOpen<Arc<Link>>,
    statements: Arc<Statements>,
}

impl UsageTable {
    pub(crate) fn new(postgres: &Postgres) -> Self {
        let guard = postgres.guard("postgres usage", "").0;
        Self { guard, statements: Arc::new(Statements::new(&postgres.schema)) }
    }

    /// Adds usage to the sums of the current hour, and removes what is older than 30 days.
    ///
    /// # Errors
    /// If the server is unavailable.
    pub(crate) async fn add(self, rows: Vec<HourlyUsage>) -> Result<(), Error> {
        let texts = |of: fn(&HourlyUsage) -> &str| rows.iter().map(of).collect::<Vec<&str>>();
        let numbers = |of: fn(&HourlyUsage) -> u64| rows.iter().map(|row| of(row).cast_signed()).collect::<Vec<i64>>();
        let [kinds, scopes, names] = [texts(|row| row.kind), texts(|row| &row.scope), texts(|row| &row.name)];
        let (credits, requests) = (numbers(|row| row.credits), numbers(|row| row.requests));
        let (busy, hits, misses) = (numbers(|row| row.busy_us), numbers(|row| row.hits), numbers(|row| row.misses));
        let statement = &self.statements.add_usage;
        self.guard.first_connection().await;
        let added = self.guard.call(async |link| {
            let parameters = [
                (&kinds as _, Type::TEXT_ARRAY),
                (&scopes as _, Type::TEXT_ARRAY),
                (&names as _, Type::TEXT_ARRAY),
                (&credits as _, Type::INT8_ARRAY),
                (&requests as _, Type::INT8_ARRAY),
                (&busy as _, Type::INT8_ARRAY),
                (&hits as _, Type::INT8_ARRAY),
                (&misses as _, Type::INT8_ARRAY),
            ];
            link.query(statement, &parameters).await.map_err(Fault::from)
        });
        added.await.map(drop).map_err(|outage| Error::outage("usage", outage))
    }
}
