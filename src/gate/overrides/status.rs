//! [`OverrideStatus`]: an override in force.

use std::time::Duration;

use serde::Serialize;

use crate::base::json_units::{maybe_seconds, seconds};

/// Override in force on this node. Serialises to JSON.
///
/// ```
/// use tollgate::{Mode, Override, Tollgate};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let gate = Tollgate::builder().build()?;
/// let status = gate.overrides().apply(Override::mode("timing", Mode::Off)).await?;
/// assert_eq!((status.id.as_str(), status.value.as_str()), ("timing mode", "off"));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct OverrideStatus {
    /// Target and setting, such as `limit api quota`: there is one override of each, and with a shared store one of this node
    /// alone, `limit api quota on this node`.
    pub id: String,
    /// Target, such as `limit api`.
    pub target: String,
    /// Setting: `mode`, `quota`, `on_outage` or `budget`.
    pub setting: String,
    /// Value, such as `shadow` or `500/min`.
    pub value: String,
    /// Person or program that asked for it.
    pub actor: String,
    /// Reason; empty if none was given.
    pub reason: String,
    /// Time since it was made, by the clock of the node that made it.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// Time until it ends; `None` if it is permanent.
    #[serde(rename = "expires_in_seconds", serialize_with = "maybe_seconds")]
    pub expires_in: Option<Duration>,
    /// Whether only this node has it. It prevails over one of the fleet.
    pub is_local: bool,
    /// Whether the shared store does not have it yet: other nodes do not know it.
    pub is_pending: bool,
}
