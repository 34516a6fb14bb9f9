//! [`CheckStatus`]: results of checks, and the status that follows from all of them.

use serde::Serialize;

use super::observed::Observation;
use super::slo::SloStatus;
use super::targets::{POOL_USE, QUOTA_USE};

/// Result of one check. Serialises to JSON.
///
/// ```
/// use tollgate::Tollgate;
///
/// let gate = Tollgate::builder().build()?;
/// assert!(gate.health().checks.iter().all(|check| check.status == "pass"));
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckStatus {
    /// Name, such as `store redis limits`, `quota market month` or `pool main`.
    pub name: String,
    /// Status: `pass`, `warn` or `fail`.
    pub status: &'static str,
    /// Reason of a warning or failure; else empty.
    pub text: String,
}

impl CheckStatus {
    pub(crate) fn new(name: String, status: &'static str, text: String) -> Self {
        Self { name, status, text: if status == "pass" { String::new() } else { text } }
    }
}

/// Returns the results of the checks on stores, quotas, pools and objectives.
pub(crate) fn checks(observed: &Observation, slos: &[SloStatus]) -> Vec<CheckStatus> {
    let stores = observed.stores.iter().map(|store| {
        let status = match (store.is_up, store.fails_closed) {
            (true, _) => "pass",
            (false, false) => "warn",
            (false, true) => "fail",
        };
        CheckStatus::new(format!("store {}", store.name), status, store.outage().to_owned())
    });
    let quotas = observed.quotas.iter().filter(|quota| quota.limit > 0).map(|quota| {
        let status = match quota.used() {
            used if used >= QUOTA_USE.1 => "fail",
            used if used >= QUOTA_USE.0 => "warn",
            _ => "pass",
        };
        let text = format!("{:.0} % of {} is used", quota.used() * 100.0, quota.limit);
        CheckStatus::new(format!("quota {} {}", quota.upstream, quota.window), status, text)
    });
    let pools = observed.pools.iter().map(|pool| {
        let status = if pool.used() >= POOL_USE { "warn" } else { "pass" };
        CheckStatus::new(
            format!("pool {}", pool.name),
            status,
            format!("{} of {} connections are in use", pool.in_use, pool.size),
        )
    });
    let objectives = slos.iter().map(|slo| {
        let status = if slo.state == "missed" { "warn" } else { "pass" };
        CheckStatus::new(format!("slo {}", slo.name), status, format!("missed: {}", slo.text))
    });
    let jobs = observed.jobs.iter().map(|job| {
        let text = format!("the last {} attempts failed: {}", job.failed_in_a_row, job.text);
        CheckStatus::new(format!("job {}", job.name), if job.fails() { "warn" } else { "pass" }, text)
    });
    stores.chain(quotas).chain(pools).chain(objectives).chain(jobs).collect()
}

/// Returns the worst status of all checks.
pub(crate) fn worst(checks: &[CheckStatus]) -> &'static str {
    let has = |status: &str| checks.iter().any(|check| check.status == status);
    match () {
        () if has("fail") => "fail",
        () if has("warn") => "warn",
        () => "pass",
    }
}
