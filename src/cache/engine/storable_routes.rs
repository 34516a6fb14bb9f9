//! [`StorableRoutes`]: remembers where responses that no rule covers turned out storable.
//!
//! A GET that no rule covers is coalesced only where a response was storable in the last ten minutes: on its route, or for its
//! key if its route shares a name with others. A mark that is lost costs a fetch that is not shared.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::marks::Marks;
use crate::base::clock::Timestamp;
use crate::cache::http::key::CacheKey;

/// Time for which a storable response is remembered.
const SPAN: Duration = Duration::from_secs(600);

/// Time until which the responses of one route count as storable.
#[derive(Debug, Default)]
pub(crate) struct StorableUntil(AtomicU64);

/// Keys of routes that share a name.
#[derive(Default)]
pub(crate) struct StorableRoutes(Marks);

impl StorableRoutes {
    /// Remembers a storable response; `route` is `None` if the route shares its name.
    pub(crate) fn mark(&self, route: Option<&StorableUntil>, key: &CacheKey, now: Timestamp) {
        match route {
            Some(route) => route.0.store((now + SPAN).as_nanos(), Ordering::Relaxed),
            None => self.0.mark(key.hash64(), now, SPAN, 0),
        }
    }

    /// Whether a storable response is remembered.
    pub(crate) fn is_marked(&self, route: Option<&StorableUntil>, key: &CacheKey, now: Timestamp) -> bool {
        match route {
            Some(route) => now.as_nanos() < route.0.load(Ordering::Relaxed),
            None => self.0.is_marked(key.hash64(), now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_remembered_by_its_name_or_else_by_the_key() {
        let (routes, now) = (StorableRoutes::default(), Timestamp::from_nanos(1));
        let (route, key, other) =
            (StorableUntil::default(), CacheKey::from_bytes(b"a", 1), CacheKey::from_bytes(b"b", 1));
        routes.mark(Some(&route), &key, now);
        assert!(routes.is_marked(Some(&route), &other, now) && !routes.is_marked(None, &key, now));
        routes.mark(None, &key, now);
        assert!(routes.is_marked(None, &key, now) && !routes.is_marked(None, &other, now));
        let later = now + SPAN;
        assert!(!routes.is_marked(Some(&route), &key, later) && !routes.is_marked(None, &key, later));
    }
}
