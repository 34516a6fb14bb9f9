//! [`LevelList`]: the levels that a builder was given, in the order of the calls.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::level_chain::{LevelChain, check_directories};
use crate::base::error::Error;
use crate::cache::CacheStore;
use crate::resilience::outage_switch::StoreSwitch;
use crate::store::RemoteStore;
use crate::store::file::FileLevel;
#[cfg(feature = "memcached")]
use crate::store::memcached::Memcached;
#[cfg(feature = "postgres")]
use crate::store::postgres::Postgres;
#[cfg(feature = "redis")]
use crate::store::redis::Redis;

type OpenLevel = Box<dyn FnOnce() -> Result<OpenedLevel, Error> + Send + Sync>;
/// A level, and the switch of its server under the level's name.
type OpenedLevel = (Arc<dyn CacheStore>, Option<StoreSwitch>);
/// All levels as one store, and the switches of their servers.
type OpenedLevels = (Option<Arc<dyn CacheStore>>, Vec<StoreSwitch>);

/// Levels behind memory, not opened yet, in the order in which they are asked.
#[derive(Default)]
pub(crate) struct LevelList {
    levels: Vec<OpenLevel>,
    /// The first error of their settings.
    error: Option<Error>,
}

impl LevelList {
    pub(crate) fn store(&mut self, store: Arc<dyn CacheStore>) {
        self.levels.push(Box::new(move || Ok((store, None))));
    }

    pub(crate) fn file(&mut self, directory: impl Into<PathBuf>, bytes: u64) {
        let level = FileLevel::new(directory, bytes);
        self.push(level.check().map(|()| level), RemoteStore::file);
    }

    #[cfg(feature = "redis")]
    pub(crate) fn redis<R>(&mut self, redis: R)
    where
        R: TryInto<Redis>,
        R::Error: Into<Error>,
    {
        let redis = redis.try_into().map_err(Into::into);
        self.push(redis.and_then(|redis| redis.check().map(|()| redis)), RemoteStore::redis);
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn postgres<P>(&mut self, postgres: P)
    where
        P: TryInto<Postgres>,
        P::Error: Into<Error>,
    {
        let postgres = postgres.try_into().map_err(Into::into);
        self.push(postgres.and_then(|postgres| postgres.check().map(|()| postgres)), RemoteStore::postgres);
    }

    #[cfg(feature = "memcached")]
    pub(crate) fn memcached(&mut self, memcached: Memcached) {
        self.push(memcached.check().map(|()| memcached), RemoteStore::memcached);
    }

    fn push<S: Send + Sync + 'static>(
        &mut self,
        settings: Result<S, Error>,
        open: fn(S) -> Result<RemoteStore, Error>,
    ) {
        match settings {
            Ok(settings) => {
                self.levels.push(Box::new(move || {
                    let store = open(settings)?;
                    let switch = store.switch();
                    Ok((Arc::new(store) as Arc<dyn CacheStore>, Some(switch)))
                }));
            }
            Err(error) => drop(self.error.get_or_insert(error)),
        }
    }

    /// Opens the levels, unless the cache is disabled; returns the switches of their servers too.
    ///
    /// # Errors
    /// Returns the first error of the settings.
    pub(crate) fn open(self, enabled: bool) -> Result<OpenedLevels, Error> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if !enabled {
            return Ok((None, Vec::new()));
        }
        let opened: Result<Vec<OpenedLevel>, Error> = self.levels.into_iter().map(|open| open()).collect();
        let (stores, switches): (Vec<_>, Vec<_>) = opened?.into_iter().unzip();
        check_directories(&stores)?;
        Ok((LevelChain::of(stores), switches.into_iter().flatten().collect()))
    }
}

impl fmt::Debug for LevelList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LevelList").field("levels", &self.levels.len()).finish_non_exhaustive()
    }
}
