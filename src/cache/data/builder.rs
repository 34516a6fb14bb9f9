//! [`CachedBuilder`]: a namespace's settings, checked before the first look-up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cached::{Cached, SizeOf};
use super::data_cache::DataCache;
use super::key;
use super::namespace::{Namespace, NamespaceSettings};
use super::record::SchemaStamp;
use super::stats::NamespaceCounters;
use super::ttl::TtlPolicy;
use crate::base::budget::Budget;
use crate::base::error::Error;
use crate::base::event::Once;
use crate::base::mode::SwitchCell;
use crate::cache::engine::coalesce::Coalescer;
use crate::cache::http::tag;

/// Sets up a [`Cached`].
///
/// ```
/// use std::time::Duration;
/// use tollgate::Budget;
/// use tollgate::cache::{Cached, DataCache};
///
/// let seconds = Duration::from_secs;
/// let budget = Budget::default(); // told by whoever spends it
/// let repositories: Cached<Vec<String>> = DataCache::in_memory(64 << 20)
///     .cached("github")
///     .ttl(seconds(900))
///     .jitter(0.1)
///     .stale_while_revalidate(seconds(60))
///     .stale_if_error(seconds(24 * 3600))
///     .refresh_ahead(0.9)
///     .soft_timeout(Duration::from_millis(300))
///     .hard_timeout(seconds(5))
///     .budget(budget)
///     .tag("github")
///     .build()?;
/// # let _ = repositories;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[must_use]
pub struct CachedBuilder<V> {
    data: DataCache,
    name: Box<str>,
    version: u32,
    settings: NamespaceSettings,
    weigh: Option<SizeOf<V>>,
}

impl<V> CachedBuilder<V> {
    pub(super) fn new(data: DataCache, name: Box<str>) -> Self {
        let life = TtlPolicy {
            ttl: Duration::from_secs(60),
            while_revalidate: Duration::ZERO,
            if_error: Duration::ZERO,
            jitter: 0.0,
            refresh_ahead: 1.0,
            max_stretch: 1.0,
        };
        let settings = NamespaceSettings {
            life,
            tags: Vec::new(),
            soft: None,
            hard: None,
            wait: Duration::from_secs(3),
            lease: Duration::from_secs(3),
            parallel: 100,
            target: None,
            budget: None,
        };
        Self { data, name, version: 0, settings, weigh: None }
    }

    /// How long a value is fresh, where its load does not [say](super::Loaded::ttl). A minute unless set.
    pub fn ttl(mut self, span: Duration) -> Self {
        self.settings.life.ttl = span;
        self
    }

    /// Serves a stale value for this long, while one caller's load refreshes it. Not unless set.
    pub fn stale_while_revalidate(mut self, span: Duration) -> Self {
        self.settings.life.while_revalidate = span;
        self
    }

    /// Serves a stale value for this long where its load fails, or takes longer than a time-out. Not unless set.
    pub fn stale_if_error(mut self, span: Duration) -> Self {
        self.settings.life.if_error = span;
        self
    }

    /// After this a caller gets a stale value that may [stand in](Self::stale_if_error), while the load goes on. Never
    /// unless set.
    pub fn soft_timeout(mut self, span: Duration) -> Self {
        self.settings.soft = Some(span);
        self
    }

    /// After this a caller gets an [error](super::LoadError::TimedOut), or a stale value that may stand in. The load
    /// goes
    /// on, and what it brings is kept. Never unless set.
    pub fn hard_timeout(mut self, span: Duration) -> Self {
        self.settings.hard = Some(span);
        self
    }

    /// Refreshes a value in the background when it is asked for after this share of its life: more than 0, up to 1,
    /// which
    /// is the default and means never.
    pub fn refresh_ahead(mut self, share: f64) -> Self {
        self.settings.life.refresh_ahead = share;
        self
    }

    /// The largest share of a life that is taken off at random, so that values loaded together do not expire together:
    /// 0 up
    /// to (not including) 1. None unless set.
    pub fn jitter(mut self, share: f64) -> Self {
        self.settings.life.jitter = share;
        self
    }

    /// Every value of this namespace can be taken back by this tag.
    pub fn tag(mut self, tag: impl Into<Box<str>>) -> Self {
        self.settings.tags.push(tag.into());
        self
    }

    /// The version of what values mean: raise it when a field stays and means something else. A value that another
    /// version
    /// wrote to a shared store is a miss; so is, whatever the version, one whose fields have other names, kinds or
    /// places.
    /// 0 unless set.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// How many bytes a value takes in memory. Unless set it is reckoned from the parts that its `Serialize` shows:
    /// set it
    /// for values that keep more than they write.
    pub fn weigh(mut self, weigh: impl Fn(&V) -> usize + Send + Sync + 'static) -> Self {
        self.weigh = Some(Arc::new(weigh));
        self
    }

    /// How long a caller waits for the load of another before it loads by itself. 3 s unless set.
    pub fn wait(mut self, deadline: Duration) -> Self {
        self.settings.wait = deadline;
        self
    }

    /// How long a process that loads keeps those that share its store waiting, at most: as long as loads take. 3 s
    /// unless
    /// set; with zero each process loads by itself.
    pub fn lease(mut self, span: Duration) -> Self {
        self.settings.lease = span;
        self
    }

    /// How many loads [`get_or_load_many`](super::Cached::get_or_load_many) has under way. 100 unless set.
    pub fn parallel(mut self, loads: usize) -> Self {
        self.settings.parallel = loads;
        self
    }

    /// The share of look-ups that should need no load, 0 to 1: shown beside the real one.
    pub fn target_hit_ratio(mut self, share: f64) -> Self {
        self.settings.target = Some(share);
        self
    }

    /// What is left of the quota of whom the loads ask: as it runs low, values are used for longer. See
    /// [`Budget`](crate::Budget) for the policy.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.settings.life.max_stretch = budget.max_stretch();
        self.settings.budget = Some(budget);
        self
    }

    /// Checks everything and takes up the namespace.
    ///
    /// # Errors
    /// Names the first value that is wrong: a name that is taken, or is not 1 to 64 visible ASCII characters; a life of
    /// zero; a share out of range; a tag that cannot be one; a soft time-out that is not shorter than the hard one.
    pub fn build(self) -> Result<Cached<V>, Error>
    where
        V: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let Self { data, name, version, settings, weigh } = self;
        check(&name, &settings)?;
        let space = Namespace {
            beginning: key::beginning(&name),
            name,
            stamp: SchemaStamp::of::<V>(version),
            settings,
            engine: data.engine(),
            fetches: Arc::new(Coalescer::default()),
            counters: NamespaceCounters::default(),
            switch: SwitchCell::default(),
            warned: Once::new(),
        };
        Ok(Cached { space: data.add(space)?, weigh })
    }
}

fn check(name: &str, settings: &NamespaceSettings) -> Result<(), Error> {
    let refuse = |message: String| Err(Error::config(format!("cached {name:?}: {message}")));
    let NamespaceSettings { life, soft, hard, .. } = settings;
    if !(1..=64).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return refuse("a name is 1 to 64 visible ASCII characters".to_owned());
    }
    if life.ttl.is_zero() {
        return refuse("ttl 0s keeps nothing".to_owned());
    }
    if !(0.0..1.0).contains(&life.jitter) {
        return refuse(format!("jitter {} must be at least 0 and less than 1", life.jitter));
    }
    if !(life.refresh_ahead > 0.0 && life.refresh_ahead <= 1.0) {
        return refuse(format!("refresh_ahead {} must be over 0 and at most 1", life.refresh_ahead));
    }
    if settings.target.is_some_and(|target| !(0.0..=1.0).contains(&target)) {
        return refuse(format!("target_hit_ratio {:?} must be 0 to 1", settings.target));
    }
    if let Some(tag) = settings.tags.iter().find(|tag| !tag::is_valid(tag)) {
        return refuse(format!("tag {tag:?} must be 1 to 256 visible ASCII characters without a comma"));
    }
    if settings.wait.is_zero() || settings.parallel == 0 {
        return refuse(format!("wait {:?} and parallel {} must not be 0", settings.wait, settings.parallel));
    }
    if hard.is_some_and(|hard| hard.is_zero() || soft.is_some_and(|soft| soft >= hard)) {
        return refuse(format!("soft_timeout {soft:?} must be shorter than hard_timeout {hard:?}"));
    }
    Ok(())
}

impl<V> fmt::Debug for CachedBuilder<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(set: impl FnOnce(CachedBuilder<u8>) -> CachedBuilder<u8>) -> String {
        let builder = DataCache::in_memory(1 << 20).cached("space");
        set(builder).build().expect_err("a mistake").to_string()
    }

    #[test]
    fn mistakes_are_named() {
        let second = Duration::from_secs(1);
        assert!(refusal(|space| space.ttl(Duration::ZERO)).contains("ttl"));
        assert!(refusal(|space| space.jitter(1.0)).contains("jitter 1"));
        assert!(refusal(|space| space.refresh_ahead(f64::NAN)).contains("refresh_ahead"));
        assert!(refusal(|space| space.target_hit_ratio(1.1)).contains("1.1"));
        assert!(refusal(|space| space.tag("two words")).contains("two words"));
        assert!(refusal(|space| space.wait(Duration::ZERO)).contains("wait"));
        assert!(refusal(|space| space.soft_timeout(second).hard_timeout(second)).contains("soft_timeout"));
        for name in ["", "ä", "a b", &"x".repeat(65)] {
            assert!(DataCache::in_memory(1 << 20).cached::<u8>(name).build().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_name_is_taken_as_long_as_somebody_holds_it() {
        let data = DataCache::in_memory(1 << 20);
        let first = data.cached::<u8>("a").build().expect("free");
        assert!(data.cached::<u16>("a").build().expect_err("taken").to_string().contains("\"a\""));
        drop(first);
        assert!(data.cached::<u16>("a").build().is_ok());
    }
}
