//! [`WantedPlace`]: a place that a request needs under a limit on requests in progress.

use smallvec::SmallVec;

use super::decision::LimitLabel;

/// A place that a request needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WantedPlace {
    /// Index of the limit among those on requests in progress.
    pub(crate) index: usize,
    pub(crate) label: LimitLabel,
    pub(crate) key: u64,
    pub(crate) enforced: bool,
    /// Whether all requests share the places.
    pub(crate) is_global: bool,
}

/// Places that a request needs, in the order in which they are taken.
pub(crate) type WantedPlaces = SmallVec<[WantedPlace; 1]>;
