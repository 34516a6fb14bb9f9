//! [`Switch`]: on, off, or only looking.

/// Whether a layer does its work.
///
/// ```
/// use tollgate::limit::{Quota, RateLimitLayer};
/// use tollgate::Switch;
///
/// let layer = RateLimitLayer::per_ip(Quota::per_minute(20));
/// layer.switch(Switch::Shadow); // from now on it only counts what it would refuse
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Switch {
    /// It does.
    #[default]
    On,
    /// It does nothing; requests pass as if it were not there.
    Off,
    /// It decides and counts as if it were on, and changes nothing for requests.
    Shadow,
}
