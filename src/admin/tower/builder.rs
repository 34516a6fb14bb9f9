//! [`AdminBuilder`]: who may use the admin service.

use std::fmt;
use std::sync::Arc;

use super::access::{AccessRules, Actor, Secret};
use super::service::{Admin, AdminShared};
use crate::Tollgate;
use crate::base::error::Error;
use crate::base::request_head::RequestHead;

/// Shortest secret in bytes.
const MIN_SECRET: usize = 16;

/// Builds an [`Admin`]: [`Tollgate::admin`]. Who may use it must be stated: a secret, a hook, or this machine only.
///
/// ```
/// use tollgate::Tollgate;
///
/// let gate = Tollgate::builder().build()?;
/// assert!(gate.admin().build().is_err(), "nobody could use it");
/// let admin = gate.admin().secret("at least sixteen bytes").viewer_secret("another sixteen bytes").build()?;
/// # let _ = admin;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[must_use]
pub struct AdminBuilder {
    gate: Tollgate,
    access: AccessRules,
}

impl Tollgate {
    /// Returns a builder of the [admin service](crate::Admin): dashboard, statistics and actions for operators.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().build()?;
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "hello" }))
    ///     .layer(gate.layer())
    ///     .nest_service("/ops", gate.admin().secret("at least sixteen bytes").build()?);
    /// # let _ = app;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn admin(&self) -> AdminBuilder {
        AdminBuilder { gate: self.clone(), access: AccessRules::default() }
    }
}

impl AdminBuilder {
    /// Adds a secret of at least 16 bytes with which one may read and act: the password of HTTP Basic, or a Bearer token. Two
    /// are accepted while they are rotated.
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.access.secrets.push(Secret::new(secret.as_ref().to_vec(), true));
        self
    }

    /// Adds a secret of at least 16 bytes with which one may only read.
    pub fn viewer_secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.access.secrets.push(Secret::new(secret.as_ref().to_vec(), false));
        self
    }

    /// Lets in whom the application names, by what its own authentication left in the extensions or the fields of the request.
    ///
    /// ```
    /// use tollgate::{Actor, Tollgate};
    ///
    /// #[derive(Clone)]
    /// struct User { name: String, is_staff: bool }
    ///
    /// let gate = Tollgate::builder().build()?;
    /// let admin = gate.admin().authorize(|head| {
    ///     let user = head.extension::<User>()?;
    ///     user.is_staff.then(|| Actor::admin(&user.name))
    /// });
    /// # let _ = admin.build()?;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn authorize(mut self, hook: impl Fn(&RequestHead<'_>) -> Option<Actor> + Send + Sync + 'static) -> Self {
        self.access.authorize = Some(Arc::new(hook));
        self
    }

    /// Answers only requests of this machine: from a loopback address, to a loopback `Host`, without a forwarding field. Without a
    /// secret or hook, they need no credentials.
    pub const fn local_only(mut self) -> Self {
        self.access.local_only = true;
        self
    }

    /// Builds the service, to mount beside the gated routes: its requests then pass no limit, cache or timing of the gate.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder().build()?;
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "hello" }))
    ///     .layer(gate.layer())
    ///     .nest_service("/ops", gate.admin().local_only().build()?);
    /// # let _ = app;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    ///
    /// # Errors
    /// If nobody could use it, or a secret has less than 16 bytes.
    pub fn build(self) -> Result<Admin, Error> {
        if !self.access.is_configured() {
            return Err(Error::config(
                "the admin service lets nobody in: give it a .secret(…), an .authorize(…) hook, or .local_only()",
            ));
        }
        if let Some(short) = self.access.secrets.iter().find(|secret| secret.len() < MIN_SECRET) {
            return Err(Error::config(format!(
                "an admin secret of {} bytes is too short; use at least {MIN_SECRET}",
                short.len()
            )));
        }
        Ok(Admin { shared: AdminShared::new(self.gate, self.access)? })
    }
}

impl fmt::Debug for AdminBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminBuilder").finish_non_exhaustive()
    }
}
