//! [`Switch`]: on, off, or only looking.

/// Whether a layer does its work.
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
