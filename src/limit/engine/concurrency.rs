//! [`ConcurrencyPlaces`]: the places of one limit on requests in progress, and the queues for them.
//!
//! A key takes memory only while it has requests in progress, so that the number of requests bounds it. A place that becomes
//! free is handed to the request that has waited longest. Whatever ends a request (its body, an error, a panic, a client that
//! leaves) drops its [`Place`], and that frees it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::base::lock::Mutex;
use crate::limit::policy::limit::ConcurrencyPolicy;

/// Statistics of one limit on requests in progress.
///
/// ```
/// use tollgate::limit::{ConcurrencyLimit, RateLimitLayer};
///
/// let layer = RateLimitLayer::builder().limit(ConcurrencyLimit::per_ip(20)).build()?;
/// let stats = &layer.stats().concurrency[0];
/// assert_eq!((stats.name.as_str(), stats.limit, stats.in_progress), ("ip-in-progress", 20, 0));
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ConcurrencyStats {
    /// Name of the limit.
    pub name: String,
    /// Requests of one key that may be in progress.
    pub limit: u32,
    /// Requests in progress, of all keys.
    pub in_progress: u64,
    /// Requests that wait for a place, of all keys.
    pub queued: u64,
    /// Requests that had to wait for a place.
    #[serde(rename = "queued_total")]
    pub queued_before: u64,
    /// Requests that got a place.
    #[serde(rename = "admitted_total")]
    pub admitted: u64,
    /// Requests that this limit rejected.
    #[serde(rename = "refused_total")]
    pub refused: u64,
    /// Requests that this limit would have queued or rejected if it were enforced.
    #[serde(rename = "would_refuse_total")]
    pub would_refuse: u64,
}

/// Places of one limit.
pub(crate) struct ConcurrencyPlaces {
    pub(super) policy: ConcurrencyPolicy,
    state: Mutex<PlacesState>,
}

#[derive(Default)]
struct PlacesState {
    keys: HashMap<u64, KeyPlaces, foldhash::fast::RandomState>,
    counts: ConcurrencyStats,
}

#[derive(Default)]
struct KeyPlaces {
    in_progress: u32,
    queue: VecDeque<oneshot::Sender<Place>>,
}

/// Result of asking for a place.
#[derive(Debug)]
pub(super) enum PlaceAttempt {
    Taken(Place),
    /// Taken beyond the limit, which is not enforced.
    Exceeded(Place),
    Queued(QueuedPlace),
    Full,
}

impl ConcurrencyPlaces {
    pub(crate) fn new(policy: ConcurrencyPolicy) -> Self {
        Self { policy, state: Mutex::default() }
    }

    /// Takes a place, or joins the queue if the limit is enforced.
    pub(super) fn take(self: &Arc<Self>, key: u64, enforced: bool) -> PlaceAttempt {
        let mut state = self.state.lock();
        let PlacesState { keys, counts } = &mut *state;
        let known = keys.entry(key).or_default();
        let is_free = known.in_progress < self.policy.places;
        if is_free || !enforced {
            known.in_progress += 1;
            counts.in_progress += 1;
            counts.admitted += u64::from(is_free);
            counts.would_refuse += u64::from(!is_free);
            let place = Place { places: self.clone(), key };
            return if is_free { PlaceAttempt::Taken(place) } else { PlaceAttempt::Exceeded(place) };
        }
        if known.queue.len() >= self.policy.queue as usize {
            counts.refused += 1;
            return PlaceAttempt::Full;
        }
        let (next, place) = oneshot::channel();
        known.queue.push_back(next);
        counts.queued += 1;
        counts.queued_before += 1;
        PlaceAttempt::Queued(QueuedPlace { place, places: self.clone(), key })
    }

    /// Counts a request that was refused after it has waited.
    pub(super) fn count_refusal(&self) {
        self.state.lock().counts.refused += 1;
    }

    pub(super) fn stats(&self, name: &str) -> ConcurrencyStats {
        let counts = self.state.lock().counts.clone();
        ConcurrencyStats { name: name.to_owned(), limit: self.policy.places, ..counts }
    }

    /// Hands a place to the next request in the queue, or frees it.
    fn release(self: &Arc<Self>, key: u64) {
        let mut state = self.state.lock();
        let PlacesState { keys, counts } = &mut *state;
        let Some(known) = keys.get_mut(&key) else { return };
        let may_pass_on = known.in_progress <= self.policy.places;
        let Some(next) = may_pass_on.then(|| known.queue.pop_front()).flatten() else {
            known.in_progress -= 1;
            counts.in_progress -= 1;
            if known.in_progress == 0 && known.queue.is_empty() {
                keys.remove(&key);
            }
            return;
        };
        counts.queued -= 1;
        counts.admitted += 1;
        drop(state);
        // A place that its receiver no longer waits for is released by its own drop.
        if next.send(Place { places: self.clone(), key }).is_err() {
            self.state.lock().counts.admitted -= 1;
        }
    }
}

/// A place, freed when it is dropped.
pub(crate) struct Place {
    places: Arc<ConcurrencyPlaces>,
    key: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.release(self.key);
    }
}

/// A request in the queue, which leaves it when it is dropped.
pub(super) struct QueuedPlace {
    place: oneshot::Receiver<Place>,
    places: Arc<ConcurrencyPlaces>,
    key: u64,
}

impl QueuedPlace {
    /// Resolves to the place when it is this request's turn.
    pub(super) async fn granted(mut self) -> Option<Place> {
        (&mut self.place).await.ok()
    }
}

impl Drop for QueuedPlace {
    fn drop(&mut self) {
        // From here on, no place is sent; one that was sent before is dropped with the receiver.
        self.place.close();
        let mut state = self.places.state.lock();
        let PlacesState { keys, counts } = &mut *state;
        let Some(known) = keys.get_mut(&self.key) else { return };
        let before = known.queue.len();
        known.queue.retain(|next| !next.is_closed());
        counts.queued -= (before - known.queue.len()) as u64;
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

impl fmt::Debug for QueuedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuedPlace").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn places(places: u32, queue: u32) -> Arc<ConcurrencyPlaces> {
        Arc::new(ConcurrencyPlaces::new(ConcurrencyPolicy { places, queue, wait: Duration::from_secs(1) }))
    }

    #[test]
    fn a_key_is_forgotten_with_its_last_request() {
        let places = places(1, 2);
        let PlaceAttempt::Taken(first) = places.take(7, true) else { panic!("free") };
        let (PlaceAttempt::Queued(second), PlaceAttempt::Queued(third)) = (places.take(7, true), places.take(7, true))
        else {
            panic!("two may wait")
        };
        assert!(matches!(places.take(7, true), PlaceAttempt::Full));
        drop(second);
        drop(first); // the third has its place, and leaves without it
        assert_eq!((places.stats("").in_progress, places.stats("").queued), (1, 0));
        drop(third);
        assert!(places.state.lock().keys.is_empty());
        assert_eq!(places.stats("").in_progress, 0);
    }

    #[test]
    fn beyond_a_limit_that_is_not_enforced_places_are_counted_and_not_passed_on() {
        let places = places(1, 1);
        let held: Vec<_> = (0..3).map(|_| places.take(7, false)).collect();
        let PlaceAttempt::Queued(queued) = places.take(7, true) else { panic!("one may wait") };
        assert_eq!((places.stats("").in_progress, places.stats("").queued), (3, 1));
        drop(held);
        assert_eq!((places.stats("").in_progress, places.stats("").queued), (1, 0), "the last one is passed on");
        drop(queued);
        assert_eq!((places.stats("").in_progress, places.stats("").would_refuse), (0, 2));
    }

    /// Threads take places, wait for some time or leave the queue: never more than the limit is in progress.
    #[test]
    fn never_more_than_the_limit_under_threads_and_cancellations() {
        const PLACES: usize = 3;
        let (places, now, most) =
            (places(PLACES as u32, 4), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = (0..8_u64)
            .map(|thread| {
                let (places, now, most) = (places.clone(), now.clone(), most.clone());
                std::thread::spawn(move || {
                    for turn in 0..2_000_u64 {
                        let place = match places.take(7, true) {
                            PlaceAttempt::Taken(place) => Some(place),
                            PlaceAttempt::Queued(queued) if (turn + thread) % 3 == 0 => {
                                drop(queued);
                                None
                            }
                            PlaceAttempt::Queued(queued) => {
                                futures_util::FutureExt::now_or_never(queued.granted()).flatten()
                            }
                            _ => None,
                        };
                        if place.is_some() {
                            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            std::thread::yield_now();
                            now.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert!((1..=PLACES).contains(&most.load(Ordering::SeqCst)), "{most:?}");
        assert!(places.state.lock().keys.is_empty(), "every place is free again");
    }
}
