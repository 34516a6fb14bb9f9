//! [`CacheStore`]: where entries lie.

use serde::Serialize;

use super::entry::Stored;
use super::key::CacheKey;
use crate::answer::Answer;
use crate::clock::Timestamp;
use crate::error::Error;

/// A place to keep entries: in this process, or elsewhere.
///
/// The contract is small, because the cache trusts it little: what `get` returns is compared with the key that was
/// asked for, its times are checked against `now`, and any error is a miss. A store may lose what it was given; it
/// must not return one key's entry for another's, and must forget a key that was removed before answering.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
/// use tollgate::cache::{CacheKey, CacheLayer, CacheStore, LevelStats, Stored};
/// use tollgate::{Answer, Error, Timestamp};
///
/// #[derive(Default)]
/// struct Everything(Mutex<HashMap<CacheKey, Stored>>);
///
/// impl CacheStore for Everything {
///     fn get(&self, key: &CacheKey, _now: Timestamp) -> Answer<Result<Option<Stored>, Error>> {
///         Answer::Ready(Ok(self.0.lock().unwrap().get(key).cloned()))
///     }
///     fn put(&self, key: &CacheKey, stored: Stored, _now: Timestamp) -> Answer<Result<(), Error>> {
///         self.0.lock().unwrap().insert(key.clone(), stored);
///         Answer::Ready(Ok(()))
///     }
///     fn remove(&self, key: &CacheKey) -> Answer<Result<(), Error>> {
///         self.0.lock().unwrap().remove(key);
///         Answer::Ready(Ok(()))
///     }
///     fn stats(&self) -> Vec<LevelStats> {
///         Vec::new()
///     }
/// }
///
/// let layer = CacheLayer::builder().store(Arc::new(Everything::default())).build()?;
/// # let _ = layer;
/// # Ok::<(), Error>(())
/// ```
pub trait CacheStore: Send + Sync + 'static {
    /// What lies under this key.
    fn get(&self, key: &CacheKey, now: Timestamp) -> Answer<Result<Option<Stored>, Error>>;

    /// Keeps this under the key, in place of what was there.
    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> Answer<Result<(), Error>>;

    /// Forgets the key.
    fn remove(&self, key: &CacheKey) -> Answer<Result<(), Error>>;

    /// What each level of the store holds, the nearest first.
    fn stats(&self) -> Vec<LevelStats>;
}

/// What one level of a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LevelStats {
    /// The level's name, such as `memory`.
    pub name: String,
    /// How many look-ups it answered.
    pub hits: u64,
    /// How many entries it holds.
    pub entries: u64,
    /// How many bytes they weigh.
    pub bytes: u64,
    /// How many bytes it may hold; 0 where it has no bound of its own.
    pub bound: u64,
}

impl LevelStats {
    /// Figures for a level of that name, all zero.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}
