//! [`Overrides`]: the overrides of a gate.

use std::fmt;
use std::sync::Arc;

use super::engine::OverrideEngine;
use super::spec::Override;
use super::status::OverrideStatus;
use crate::base::error::Error;

/// Overrides of a [`Tollgate`](crate::Tollgate). Clones share state.
///
/// With [`redis`](crate::TollgateBuilder::redis), [`postgres`](crate::TollgateBuilder::postgres) or
/// [`file`](crate::TollgateBuilder::file) they are stored there: they survive a restart, and all nodes apply them within two
/// seconds. The variable `TOLLGATE__OVERRIDES=ignore` starts a node without those that were stored before.
///
/// ```
/// use tollgate::limit::Limit;
/// use tollgate::{Mode, Override, Tollgate};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let gate = Tollgate::builder().limit(Limit::per_user("100/min").named("api")).build()?;
/// let status = gate.overrides().apply(Override::mode("limit api", Mode::Shadow).because("a wrong quota")).await?;
/// assert!(gate.overrides().remove(&status.id, "ann").await);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Overrides {
    engine: Arc<OverrideEngine>,
}

impl Overrides {
    pub(crate) fn new(engine: Arc<OverrideEngine>) -> Self {
        Self { engine }
    }

    /// Puts an override in force on this node at once, in place of an earlier one of the same setting, and writes it to the
    /// shared store, if there is one. If the store is unavailable, the override [is pending](OverrideStatus::is_pending) and is
    /// written when the store is back.
    ///
    /// # Errors
    /// If the gate does not have the target, a value is invalid, or there are more than 512 overrides.
    pub async fn apply(&self, asked: Override) -> Result<OverrideStatus, Error> {
        self.engine.apply(&asked).await
    }

    /// Ends an override by its [ID](OverrideStatus::id); returns whether there was one.
    pub async fn remove(&self, id: &str, actor: &str) -> bool {
        self.engine.remove(id, actor).await
    }

    /// Returns the overrides in force: those of the fleet, then those of this node, which prevail.
    #[must_use]
    pub fn list(&self) -> Vec<OverrideStatus> {
        self.engine.list()
    }

    /// Writes what is pending and reads what other nodes have changed. Done every two seconds anyway.
    pub async fn sync(&self) {
        self.engine.sync().await;
    }
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}
