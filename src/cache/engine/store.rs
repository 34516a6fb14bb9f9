//! [`CacheStore`]: where entries lie.

use std::time::Duration;

use serde::Serialize;

use super::invalidation::Invalidation;
use super::invalidation_sink::InvalidationSink;
use super::record::Stored;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::cache::http::key::CacheKey;

/// A place to keep entries: in this process, or elsewhere.
///
/// The contract is small, because the cache trusts it little: what `get` returns is compared with the key that was
/// asked for, its times are checked against `now`, and any error is a miss. A store may lose what it was given; it
/// must not return one key's entry for another's, and must forget a key that was removed before answering.
///
/// The first four methods are enough for a store of one process. The others, which do nothing unless they are written,
/// are for stores that several processes share.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
/// use tollgate::cache::{CacheKey, CacheLayer, CacheStore, LevelStats, Stored};
/// use tollgate::{MaybeReady, Error, Timestamp};
///
/// #[derive(Default)]
/// struct Everything(Mutex<HashMap<CacheKey, Stored>>);
///
/// impl CacheStore for Everything {
///     fn get(&self, key: &CacheKey, _now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
///         MaybeReady::Ready(Ok(self.0.lock().unwrap().get(key).cloned()))
///     }
///     fn put(&self, key: &CacheKey, stored: Stored, _now: Timestamp) -> MaybeReady<Result<(), Error>> {
///         self.0.lock().unwrap().insert(key.clone(), stored);
///         MaybeReady::Ready(Ok(()))
///     }
///     fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
///         self.0.lock().unwrap().remove(key);
///         MaybeReady::Ready(Ok(()))
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
    fn get(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>>;

    /// Keeps this under the key, in place of what was there.
    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>>;

    /// Forgets the key.
    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>>;

    /// What each level of the store holds, the nearest first.
    fn stats(&self) -> Vec<LevelStats>;

    /// What lies under each of these keys, in their order: one round trip, where the store is remote.
    fn get_many(&self, keys: &[CacheKey], now: Timestamp) -> MaybeReady<Result<Vec<Option<Stored>>, Error>> {
        let answers = keys.iter().map(|key| self.get(key, now)).collect();
        crate::base::maybe_ready::all(answers)
    }

    /// What processes share under this key, past copies that are nearer; nearer levels take a copy.
    fn get_shared(&self, _key: &CacheKey, _now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        MaybeReady::Ready(Ok(None))
    }

    /// Whether this process may refresh what lies under the key: of all that ask within `lease`, one is told so. Best
    /// effort: a store that cannot tell says yes.
    fn claim(&self, _key: &CacheKey, _lease: Duration) -> MaybeReady<bool> {
        MaybeReady::Ready(true)
    }

    /// Gives a [claim](Self::claim) of this process up before its lease is over: whoever waits for it may go on.
    fn release(&self, _key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        MaybeReady::Ready(Ok(()))
    }

    /// How many invalidations of all processes are known here: what a fetch remembers when it begins.
    fn generation(&self) -> u64 {
        0
    }

    /// Tells the processes that share the store. It binds in this one by the time the method returns; the answer says
    /// whether the others will hear of it.
    fn invalidate(&self, _invalidation: &Invalidation) -> MaybeReady<Result<(), Error>> {
        MaybeReady::Ready(Ok(()))
    }

    /// Removes the entries whose URL is meant by this pattern (`*`, `?`, `\\`), and says how many. Looks at every
    /// entry,
    /// in bounded steps: a tool for administrators, not for programs.
    fn sweep(&self, _pattern: &str) -> MaybeReady<Result<u64, Error>> {
        MaybeReady::Ready(Ok(0))
    }

    /// Whom to tell what other processes take back. Called once, when the layer is built.
    fn listen(&self, _listener: InvalidationSink) {}
}

/// What one level of a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LevelStats {
    /// The level's name, such as `memory`.
    pub name: String,
    /// How many look-ups it answered.
    pub hits: u64,
    /// How many values it held that were not what was asked for: damaged, foreign, of another version or another key.
    pub decode_errors: u64,
    /// How many entries it holds.
    pub entries: u64,
    /// How many bytes they weigh.
    pub bytes: u64,
    /// How many bytes it may hold; 0 where it has no bound of its own.
    pub capacity_bytes: u64,
    /// Whether it answers. A level that does not is left out.
    pub up: bool,
    /// The number of the latest invalidation heard of, where processes share it.
    pub invalidations_received: u64,
    /// How many invalidations it has yet to be told of.
    pub invalidations_pending: u64,
}

impl LevelStats {
    /// Figures for a level of that name, all zero; it is up.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), up: true, ..Self::default() }
    }
}
