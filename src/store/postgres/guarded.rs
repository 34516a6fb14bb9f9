//! Connections behind a guard, for limits and credits: made in the background, with the tables and the fleet's secret.

use std::sync::Arc;

use tokio_postgres::types::Type;

use super::connect::{Link, column};
use super::schema::Statements;
use super::settings::Postgres;
use crate::base::error::Error;
use crate::base::event::Events;
use crate::base::maybe_ready::BoxFuture;
use crate::identity::FleetSecret;
use crate::resilience::guard::{FailOpen, GuardSettings};
use crate::store::remote::names::SecretAgreement;

impl Postgres {
    /// Creates a guarded connection, and the secret under which the fleet hashes names: known once it is connected. Each session
    /// begins with the statements `first`: those after it need not read the catalogue.
    pub(super) fn guard(&self, name: &'static str, first: &'static str) -> (FailOpen<Arc<Link>>, FleetSecret) {
        let agreement = Arc::new(SecretAgreement::new(self.secret.as_deref()));
        let (secret, postgres) = (agreement.secret(), self.clone());
        let statements = Arc::new(Statements::new(&self.schema));
        let dial = move || -> BoxFuture<Result<Arc<Link>, Error>> {
            let (postgres, statements, agreement) = (postgres.clone(), statements.clone(), agreement.clone());
            Box::pin(async move {
                let link = Link::open(&postgres.address, None).await?;
                postgres.ensure_tables(&link, &statements).await?;
                if let Some(proposal) = agreement.proposal() {
                    agreement.set(&agree(&link, &statements, proposal).await?)?;
                }
                link.batch(&first.replace("{schema}", &postgres.schema)).await?;
                Ok(link)
            })
        };
        let settings = GuardSettings::new(self.deadline).circuit(self.circuit);
        (FailOpen::new(name, settings, dial, Events::default()), secret)
    }

    /// Creates the tables if they are missing.
    pub(super) async fn ensure_tables(&self, link: &Link, statements: &Statements) -> Result<(), Error> {
        if column::<bool>(&link.query_one(&statements.version, &[]).await?, 0)? {
            return Ok(());
        }
        link.batch(&self.sql()).await.map_err(|error| {
            let schema = &self.schema;
            let message = format!("postgres: no tables in schema {schema}; run Postgres::sql() as its owner: {error}");
            Error::store(message, error)
        })
    }
}

/// Returns the secret in the database; stores the proposed one if there is none.
pub(super) async fn agree(link: &Link, statements: &Statements, proposed: String) -> Result<String, Error> {
    if let Some(agreed) = link.query(&statements.secret, &[]).await?.first() {
        return column(agreed, 0);
    }
    column(&link.query_one(&statements.propose_secret, &[(&proposed, Type::TEXT)]).await?, 0)
}
