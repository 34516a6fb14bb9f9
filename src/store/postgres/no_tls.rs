//! Stands for TLS in builds without the feature `postgres-tls`.

use tokio_postgres::NoTls;

use crate::base::error::Error;

/// Whether this build has TLS.
pub(super) const AVAILABLE: bool = false;

/// Returns a connector without TLS.
///
/// # Errors
/// Never: a URL that asks for TLS is refused before.
pub(super) const fn connector(_authority: Option<&[u8]>) -> Result<NoTls, Error> {
    Ok(NoTls)
}
