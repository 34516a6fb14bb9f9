//! [`HeldPlaces`]: the places of a request in progress.
//!
//! The response's body owns them, and frees them at its end. A connection that is upgraded, such as a websocket, goes on after
//! that; its handler finds a link to the places in the request's extensions, and may own them too. The link itself keeps
//! nothing: a clone of the extensions does not keep a request in progress.

use std::sync::{Arc, Weak};

use http::{Extensions, HeaderMap};
use smallvec::SmallVec;

use super::concurrency::Place;
use crate::base::body::BodyWatch;

/// Places of a request in progress.
#[derive(Debug, Default)]
pub(crate) struct HeldPlaces(pub(super) SmallVec<[Place; 1]>);

/// Links to the places of a request, under each layer around its handler.
#[derive(Clone, Debug, Default)]
struct PlaceLinks(SmallVec<[Weak<HeldPlaces>; 1]>);

impl HeldPlaces {
    /// Inserts a link to the places into the request's extensions.
    pub(super) fn link(places: &Arc<Self>, extensions: &mut Extensions) {
        extensions.get_or_insert_default::<PlaceLinks>().0.push(Arc::downgrade(places));
    }

    /// Returns the places that the extensions link to, as far as they are still held.
    pub(crate) fn linked(extensions: &Extensions) -> SmallVec<[Arc<Self>; 1]> {
        let links = extensions.get::<PlaceLinks>().map(|links| &links.0[..]).unwrap_or_default();
        links.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Holds places until the end of a body.
pub(super) struct PlacesWatch(pub(super) Option<Arc<HeldPlaces>>);

impl BodyWatch for PlacesWatch {
    fn ended(&mut self, _trailers: Option<&HeaderMap>) {
        self.0 = None;
    }
}
