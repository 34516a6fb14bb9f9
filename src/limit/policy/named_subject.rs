//! [`NamedSubject`]: a subject of limits that is named, rather than extracted from a request.

use http::Method;

use crate::base::route_matcher;
use crate::identity::Key;

/// A subject, as operators and handlers name it.
#[derive(Clone, Debug)]
pub(crate) struct NamedSubject {
    pub(crate) key: Key<'static>,
    pub(crate) tier: Option<Box<str>>,
    /// Route, after a method if that is known.
    pub(crate) route: Option<Box<str>>,
    /// Name of the only limit that is meant.
    pub(crate) limit: Option<Box<str>>,
}

impl NamedSubject {
    /// Returns the method, if it is known, and the route.
    pub(super) fn method_and_route(&self) -> (Option<Method>, Option<&str>) {
        let Some(route) = self.route.as_deref() else { return (None, None) };
        route_matcher::parse(route).map_or((None, Some(route)), |(method, route)| (method, Some(route)))
    }
}
