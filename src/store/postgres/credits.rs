//! Credits of upstreams in PostgreSQL: one row per upstream and window. Bookings wait for the disk.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::types::Type;

use super::connect::{Link, column};
use super::schema::Statements;
use super::settings::Postgres;
use crate::base::error::Error;
use crate::resilience::guard::Fault;
use crate::store::remote_credits::engine::{CreditBackend, NamedBooking};
use crate::store::remote_credits::handle::RemoteCredits;
use crate::upstream::Balance;

impl RemoteCredits {
    /// Creates a credit store in PostgreSQL; connects on first use, and does not fail while the server is down.
    ///
    /// # Errors
    /// If a setting is invalid.
    ///
    /// # Examples
    /// ```
    /// use std::sync::Arc;
    /// use tollgate::store::RemoteCredits;
    /// use tollgate::store::postgres::Postgres;
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    ///
    /// let layer = UpstreamLayer::builder("github")
    ///     .quota(Credits::per_hour(5_000))
    ///     .store(Arc::new(RemoteCredits::postgres(&Postgres::new("postgres://127.0.0.1")?)?))
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn postgres(postgres: &Postgres) -> Result<Self, Error> {
        postgres.check()?;
        let (guard, secret) = postgres.guard("postgres credits", "");
        Ok(Self::new(PostgresBalances { statements: Statements::new(&postgres.schema) }, guard, secret))
    }
}

struct PostgresBalances {
    statements: Statements,
}

impl CreditBackend for PostgresBalances {
    type Connection = Arc<Link>;

    async fn book(&self, link: Arc<Link>, bookings: &[NamedBooking]) -> Result<Vec<Balance>, Fault> {
        let column_of = |f: &dyn Fn(&NamedBooking) -> i64| bookings.iter().map(f).collect::<Vec<i64>>();
        let names = column_of(&|named| named.name.cast_signed());
        let booked = column_of(&|named| named.booking.credits.max(0));
        let returned = column_of(&|named| named.booking.credits.min(0).saturating_neg());
        let expires_at = column_of(&|named| named.expires_at_ms().cast_signed());
        let upstreams: Vec<&str> = bookings.iter().map(|named| &*named.booking.upstream).collect();
        let windows: Vec<&str> = bookings.iter().map(|named| named.booking.window).collect();
        let parameters = [
            (&names as _, Type::INT8_ARRAY),
            (&upstreams as _, Type::TEXT_ARRAY),
            (&windows as _, Type::TEXT_ARRAY),
            (&booked as _, Type::INT8_ARRAY),
            (&returned as _, Type::INT8_ARRAY),
            (&expires_at as _, Type::INT8_ARRAY),
        ];
        let rows = link.query(&self.statements.book, &parameters).await.map_err(Fault::from)?;
        let mut balances = HashMap::with_capacity(rows.len());
        for row in &rows {
            let number = |at| column::<i64>(row, at).map(i64::unsigned_abs).map_err(Fault::from);
            let name: i64 = column(row, 0).map_err(Fault::from)?;
            balances.insert(name, Balance { booked: number(1)?, returned: number(2)? });
        }
        let missing = || Fault::Lost(Error::store("postgres: a booking returned no balance", "no row"));
        names.iter().map(|name| balances.get(name).copied().ok_or_else(missing)).collect()
    }
}
