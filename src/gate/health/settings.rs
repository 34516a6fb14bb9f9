//! [`HealthBuilder`]: targets of a gate, and checks of what it depends on.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::Duration;

use super::probes::{PoolProbe, Probe};
use crate::base::error::Error;
use crate::base::route_matcher::RouteMatcher;
use crate::health::targets::Targets;

/// Configures targets and checks: [`TollgateBuilder::health_with`](crate::TollgateBuilder::health_with).
///
/// ```
/// use std::time::Duration;
/// use tollgate::Tollgate;
///
/// # async fn ping() -> Result<(), String> { Ok(()) }
/// let gate = Tollgate::builder()
///     .health_with(|health| {
///         health
///             .latency_target(Duration::from_millis(300))
///             .hit_target("/prices/{symbol}", 0.9)
///             .check("database", ping)
///     })
///     .build()?;
/// assert_eq!(gate.health().status, "pass");
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct HealthBuilder {
    pub(super) targets: Targets,
    pub(super) probes: Vec<Arc<Probe>>,
    pub(super) pools: Vec<PoolProbe>,
}

impl HealthBuilder {
    /// Sets the time within which 95 % of the requests are to be answered. Defaults to 500 ms.
    pub fn latency_target(mut self, span: Duration) -> Self {
        self.targets.latency = span;
        self
    }

    /// Sets the time within which 95 % of the queries are to end. Defaults to 100 ms.
    pub fn query_target(mut self, span: Duration) -> Self {
        self.targets.query = span;
        self
    }

    /// Sets the share of requests that may fail with a 5xx status. Defaults to 0.01.
    pub fn error_target(mut self, share: f64) -> Self {
        self.targets.errors = share;
        self
    }

    /// Sets the hit ratio that a cached route or a namespace of typed values is to reach, and makes it an objective. Without one,
    /// the score expects 0.7. A target of [`Cached`](crate::cache::Cached) counts too.
    pub fn hit_target(mut self, name: impl Into<String>, ratio: f64) -> Self {
        self.targets.hit_ratios.insert(name.into(), ratio);
        self
    }

    /// Sets the time within which 95 % of the requests of some routes are to be answered, and makes it an objective. Entries name
    /// routes, as of limits and cache rules, without a method.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder()
    ///     .health_with(|health| health.latency_target_on(["/search", "/api/{*rest}"], Duration::from_millis(80)))
    ///     .build()?;
    /// assert_eq!(gate.health().slos[3].text, "95 % of requests of /search, /api/{*rest} within 80 ms");
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn latency_target_on(mut self, routes: impl Into<RouteMatcher>, span: Duration) -> Self {
        self.targets.routes.push((routes.into(), span));
        self
    }

    /// Adds a check of something that the service depends on. It runs at most every five seconds, in the background, for at most
    /// a second; while it fails the gate's status is `fail`.
    pub fn check<F, R, E>(mut self, name: impl Into<String>, check: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + 'static,
    {
        self.probes.push(Arc::new(Probe::new(name.into(), check)));
        self
    }

    /// Adds a pool of database connections: `read` returns how many are in use, and how many there may be. From 80 % on it is a
    /// warning.
    ///
    /// ```
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tollgate::Tollgate;
    /// let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(20).connect("sqlite::memory:").await?;
    /// let read = pool.clone();
    /// let gate = Tollgate::builder()
    ///     .health_with(|health| {
    ///         health.pool("main", move || (read.size() - read.num_idle() as u32, read.options().get_max_connections()))
    ///     })
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn pool(mut self, name: impl Into<String>, read: impl Fn() -> (u32, u32) + Send + Sync + 'static) -> Self {
        self.pools.push(PoolProbe { name: name.into(), read: Arc::new(read) });
        self
    }

    pub(crate) fn check_targets(&self) -> Result<(), Error> {
        self.targets.check()
    }
}

impl fmt::Debug for HealthBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthBuilder").field("targets", &self.targets).finish_non_exhaustive()
    }
}
