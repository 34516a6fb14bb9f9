//! Agreement on the fleet's secret over Redis.

use redis::cmd;

use super::connect::Conn;
use crate::resilience::guard::Fault;

/// Expiry of untouched keys, in seconds: thirty days.
pub(super) const KEY_EXPIRY_SECONDS: u64 = 30 * 86_400;

/// Expiry of the secret, in seconds: ten years. A node connected for longer than that would use other names than a new
/// one.
const SECRET_EXPIRY_SECONDS: u64 = 3_650 * 86_400;

/// Returns the secret in Redis; stores the proposed one if there is none.
pub(super) async fn agree(connection: &mut Conn, name: &str, proposed: &str) -> Result<String, Fault> {
    let mut propose = cmd("SET");
    propose.arg(name).arg(proposed).arg("NX").arg("EX").arg(SECRET_EXPIRY_SECONDS);
    connection.query::<Option<String>>(&propose).await?;
    let agreed: Option<String> = connection.query(cmd("GET").arg(name)).await?;
    connection.query::<i64>(cmd("EXPIRE").arg(name).arg(SECRET_EXPIRY_SECONDS)).await?;
    Ok(agreed.unwrap_or_else(|| proposed.to_owned()))
}
