//! [`Override`]: a setting to override, for how long, and why.

use std::time::Duration;

use super::target::{OverrideSetting, OverrideTarget};
use crate::base::error::Error;
use crate::base::mode::Mode;
use crate::limit::{OnOutage, Quota};

/// Time after which an override ends, unless it has another.
const DEFAULT_TTL: Duration = Duration::from_secs(3_600);
/// Longest time until an override ends; one that is permanent lasts as long.
pub(super) const PERMANENT: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Maximum length of the actor and of the reason, in bytes.
const MAX_TEXT: usize = 256;

/// Setting that prevails over the configured one until it expires: an hour by default, on all nodes if a store is shared.
/// Applied by [`Overrides::apply`](crate::Overrides::apply).
///
/// | target | settings |
/// |---|---|
/// | `limits`, `cache`, `timing` | mode of the layer |
/// | `limits` | [policy](Self::on_outage) while the shared store is unavailable |
/// | `cache` | [saves calls](Self::conserve) as if nothing of its budget were left |
/// | `limit NAME`: a limit, or one of its tiers | mode, quota |
/// | `rule ROUTE`: the cache rule with this pattern | mode |
/// | `store NAME`: `redis`, `postgres`, `memcached` or `file` | mode: off is as if it were away |
///
/// ```
/// use std::time::Duration;
///
/// use tollgate::limit::Limit;
/// use tollgate::{Mode, Override, Tollgate};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let gate = Tollgate::builder().limit(Limit::per_user("100/min").named("api")).build()?;
/// let launch = Override::quota("limit api", "500/min").by("ann").because("launch day");
/// gate.overrides().apply(launch.expires_in(Duration::from_secs(86_400))).await?;
/// assert_eq!(gate.stats().limits[0].quota, "500/min");
/// gate.overrides().apply(Override::mode("limit api", Mode::Shadow)).await?;
/// assert_eq!(gate.overrides().list().len(), 2);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Override {
    pub(super) target: String,
    pub(super) setting: Result<OverrideSetting, String>,
    pub(super) actor: String,
    pub(super) reason: String,
    /// `None` if permanent.
    pub(super) ttl: Option<Duration>,
    pub(super) is_local: bool,
}

impl Override {
    fn new(target: &str, setting: Result<OverrideSetting, String>) -> Self {
        let (actor, reason) = (String::from("code"), String::new());
        Self { target: target.to_owned(), setting, actor, reason, ttl: Some(DEFAULT_TTL), is_local: false }
    }

    /// Overrides the mode of a target: see the [table](Self).
    pub fn mode(target: &str, mode: Mode) -> Self {
        Self::new(target, Ok(OverrideSetting::Mode(mode)))
    }

    /// Overrides the quota of a limit or tier. A malformed quota is an error of [`apply`](crate::Overrides::apply).
    pub fn quota(target: &str, quota: impl TryInto<Quota, Error: Into<Error>>) -> Self {
        let quota = quota.try_into().map_err(|error| error.into().to_string());
        Self::new(target, quota.map(OverrideSetting::Quota))
    }

    /// Overrides the policy of the limits while the shared store is unavailable.
    pub fn on_outage(policy: OnOutage) -> Self {
        Self::new("limits", Ok(OverrideSetting::OnOutage(policy)))
    }

    /// Saves calls of the service as if nothing were left of the cache's [budget](crate::cache::CacheBuilder::budget): entries live
    /// up to 16 times as long, and stale ones are served.
    pub fn conserve() -> Self {
        Self::new("cache", Ok(OverrideSetting::Conserve))
    }

    /// Overrides the setting that a value belongs to: `shadow`, `500/min`, `share:4`, `conserve`.
    #[cfg(feature = "admin")]
    pub(crate) fn of_text(target: &str, value: &str) -> Self {
        Self::new(target, OverrideSetting::guess(value).map_err(|error| error.to_string()))
    }

    /// Sets the person or program that asks for it, at most 256 bytes. Defaults to `code`.
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.actor = actor.into();
        self
    }

    /// Sets the reason, at most 256 bytes. Defaults to none.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Sets the time until it ends. Defaults to an hour.
    pub const fn expires_in(mut self, span: Duration) -> Self {
        self.ttl = Some(span);
        self
    }

    /// Lets it last until it is removed.
    pub const fn permanently(mut self) -> Self {
        self.ttl = None;
        self
    }

    /// Restricts it to this process: it ends with the process.
    pub const fn on_this_node(mut self) -> Self {
        self.is_local = true;
        self
    }

    /// Returns the target and the setting, if all values are valid.
    pub(super) fn checked(&self) -> Result<(OverrideTarget, OverrideSetting), Error> {
        let target = OverrideTarget::parse(&self.target)?;
        let setting = self.setting.clone().map_err(Error::config)?;
        match (&target, setting) {
            (OverrideTarget::Limit(_), OverrideSetting::Quota(_))
            | (OverrideTarget::Limits, OverrideSetting::OnOutage(_))
            | (OverrideTarget::Cache, OverrideSetting::Conserve)
            | (_, OverrideSetting::Mode(_)) => {}
            _ => return Err(Error::config(format!("{target} has no setting {}; see Override", setting.name()))),
        }
        if self.actor.len() > MAX_TEXT || self.reason.len() > MAX_TEXT {
            return Err(Error::config(format!("an actor or reason has at most {MAX_TEXT} bytes")));
        }
        match self.ttl {
            Some(ttl) if ttl.is_zero() || ttl > PERMANENT => {
                Err(Error::config("an override lasts more than 0 s and at most ten years, or permanently"))
            }
            _ => Ok((target, setting)),
        }
    }
}
