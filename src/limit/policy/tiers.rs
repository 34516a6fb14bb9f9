//! [`Tiers`]: quotas per plan, and the assignment of requests to plans.

use std::fmt;
use std::sync::Arc;

use super::tier_lookup::TierLookup;
use crate::base::error::Error;
use crate::base::request_head::RequestHead;
use crate::limit::algorithm::quota::Quota;

pub(crate) type AssignTier = Arc<dyn for<'a> Fn(&RequestHead<'a>) -> Option<&'a str> + Send + Sync>;

/// Plans and their quotas.
///
/// | tier | default quota |
/// |---|---|
/// | `anonymous` | 20 per minute |
/// | `free` | 100 per minute |
/// | `pro` | 1 000 per minute |
/// | `enterprise` | 10 000 per minute |
///
/// A request is counted by its identity if [`assign`](Self::assign) returns a tier for it. Otherwise, or if that tier
/// does not exist, the request is anonymous and counted by the last alternative of its identity, usually the address.
/// A thousand forged tokens from one address therefore share the anonymous 20. A user whose tier changes keeps the
/// used share, or what was used in the new tier before, if that is more: changing to and fro gains nothing.
///
/// ```
/// use tollgate::limit::{Quota, Tiers};
///
/// #[derive(Clone)]
/// struct User { plan: String } // left behind by the authentication layer
///
/// let tiers = Tiers::default()
///     .quota("pro", Quota::per_minute(2_000))
///     .tier("partner", Quota::per_second(500))
///     .assign(|head| head.extension::<User>().map(|user| user.plan.as_str()));
/// # let _ = tiers;
/// ```
#[derive(Clone)]
pub struct Tiers {
    pub(super) tiers: Vec<(String, Quota)>,
    pub(super) assign: Option<AssignTier>,
    pub(super) lookup: Option<TierLookup>,
    mistake: Option<String>,
}

impl Tiers {
    /// Creates a single tier, `anonymous`. Add others with [`tier`](Self::tier).
    ///
    /// ```
    /// use tollgate::limit::{Quota, Tiers};
    ///
    /// let tiers = Tiers::new("10/minute").tier("member", Quota::per_minute(600));
    /// # let _ = tiers;
    /// ```
    #[must_use]
    pub fn new(anonymous: impl TryInto<Quota, Error: Into<Error>>) -> Self {
        let (anonymous, mistake) = Quota::read(anonymous);
        Self { tiers: vec![("anonymous".to_owned(), anonymous)], assign: None, lookup: None, mistake }
    }

    /// Adds a tier. A duplicate name fails when the layer is built.
    ///
    /// ```
    /// use tollgate::limit::{Quota, Tiers};
    ///
    /// let tiers = Tiers::default().tier("partner", Quota::per_second(500));
    /// # let _ = tiers;
    /// ```
    #[must_use]
    pub fn tier(mut self, name: impl Into<String>, quota: impl TryInto<Quota, Error: Into<Error>>) -> Self {
        let (name, quota) = (name.into(), self.read(quota));
        if self.tiers.iter().any(|(known, _)| *known == name) {
            self.mistake = Some(format!("duplicate tier {name:?}; use each name once"));
        }
        self.tiers.push((name, quota));
        self
    }

    /// Changes the quota of a tier. An unknown name fails when the layer is built.
    ///
    /// ```
    /// use tollgate::limit::{Quota, Tiers};
    ///
    /// let tiers = Tiers::default().quota("anonymous", Quota::per_minute(5));
    /// # let _ = tiers;
    /// ```
    #[must_use]
    pub fn quota(mut self, name: &str, quota: impl TryInto<Quota, Error: Into<Error>>) -> Self {
        let quota = self.read(quota);
        match self.tiers.iter_mut().find(|(known, _)| known == name) {
            Some(tier) => tier.1 = quota,
            None => self.mistake = Some(format!("unknown tier {name:?}; add it with `.tier()`")),
        }
        self
    }

    /// Sets the function that returns a request's tier.
    ///
    /// It runs on every request: read what an earlier layer verified, and do not block.
    ///
    /// ```
    /// use tollgate::limit::Tiers;
    ///
    /// #[derive(Clone)]
    /// struct User { plan: String } // inserted by the authentication layer
    ///
    /// let tiers = Tiers::default().assign(|head| head.extension::<User>().map(|user| user.plan.as_str()));
    /// # let _ = tiers;
    /// ```
    #[must_use]
    pub fn assign<F>(mut self, f: F) -> Self
    where
        F: for<'a> Fn(&RequestHead<'a>) -> Option<&'a str> + Send + Sync + 'static,
    {
        self.assign = Some(Arc::new(f));
        self
    }

    /// Looks up the tier asynchronously for requests that [`assign`](Self::assign) returns none for.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use tollgate::limit::{TierLookup, Tiers};
    ///
    /// let lookup = TierLookup::new(|_| Some(1_u64), |_| async { Ok::<_, Infallible>(Some("pro".to_owned())) });
    /// let tiers = Tiers::default().lookup(lookup);
    /// # let _ = tiers;
    /// ```
    #[must_use]
    pub fn lookup(mut self, lookup: TierLookup) -> Self {
        self.lookup = Some(lookup);
        self
    }

    fn read(&mut self, quota: impl TryInto<Quota, Error: Into<Error>>) -> Quota {
        let (quota, mistake) = Quota::read(quota);
        self.mistake = self.mistake.take().or(mistake);
        quota
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.lookup.as_ref().map_or(Ok(()), TierLookup::check)?;
        self.mistake.as_ref().map_or(Ok(()), |mistake| Err(Error::config(mistake.clone())))
    }
}

impl Default for Tiers {
    fn default() -> Self {
        Self::new(Quota::per_minute(20))
            .tier("free", Quota::per_minute(100))
            .tier("pro", Quota::per_minute(1_000))
            .tier("enterprise", Quota::per_minute(10_000))
    }
}

impl fmt::Debug for Tiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.tiers.iter().map(|(name, quota)| (name, quota))).finish()
    }
}
