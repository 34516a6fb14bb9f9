//! [`Priority`]: the class of a call, and the share of the quota that each class may use.

use crate::base::error::Error;

/// Priority of a call, set as a request extension. Each class may use the quota up to its
/// [share](crate::upstream::UpstreamBuilder::share) only.
///
/// ```
/// use tollgate::upstream::Priority;
///
/// let mut request = http::Request::get("https://api.example.com/report").body(()).unwrap();
/// request.extensions_mut().insert(Priority::Low);   // stops at half of the quota
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "three classes, each with a share")]
pub enum Priority {
    /// May use the whole quota.
    High,
    /// Stops at 90 % of the quota by default, rounded up, which leaves the rest to high priority.
    #[default]
    Normal,
    /// Stops at 50 % of the quota by default: work that can wait for the next window.
    Low,
}

/// Share of each class in every limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares([f64; 3]);

impl Default for Shares {
    fn default() -> Self {
        Self([1.0, 0.9, 0.5])
    }
}

impl Shares {
    pub(crate) const fn of(&self, priority: Priority) -> f64 {
        self.0[priority as usize]
    }

    pub(crate) const fn set(&mut self, priority: Priority, share: f64) {
        self.0[priority as usize] = share;
    }

    pub(crate) fn check(self) -> Result<Self, Error> {
        match self.0.iter().find(|share| !(0.0..=1.0).contains(*share)) {
            Some(share) => Err(Error::config(format!("the share of a quota must be from 0 to 1, not {share}"))),
            None => Ok(self),
        }
    }
}
