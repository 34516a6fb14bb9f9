//! [`CachedBuilder`]: configures a namespace and validates it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cached::{Cached, WeightFn};
use super::data_cache::DataCache;
use super::encoding::SchemaStamp;
use super::key;
use super::namespace::{Namespace, NamespaceSettings};
use super::stats::NamespaceCounters;
use super::ttl::TtlPolicy;
use crate::base::budget::Budget;
use crate::base::error::Error;
use crate::base::event::Once;
use crate::base::mode::ModeCell;
use crate::cache::engine::coalesce::table::Coalescer;
use crate::cache::http::tag;

/// Builder for [`Cached`].
///
/// ```
/// use std::time::Duration;
/// use tollgate::Budget;
/// use tollgate::cache::{Cached, DataCache};
///
/// let seconds = Duration::from_secs;
/// let budget = Budget::default(); // updated by the code that spends it
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
    weigher: Option<WeightFn<V>>,
}

impl<V> CachedBuilder<V> {
    pub(super) fn new(data: DataCache, name: Box<str>) -> Self {
        let ttl_policy = TtlPolicy {
            ttl: Duration::from_secs(60),
            while_revalidate: Duration::ZERO,
            if_error: Duration::ZERO,
            jitter: 0.0,
            refresh_ahead: 1.0,
            max_stretch: 1.0,
        };
        let settings = NamespaceSettings {
            ttl_policy,
            tags: Vec::new(),
            soft_timeout: None,
            hard_timeout: None,
            wait: Duration::from_secs(3),
            lease: Duration::from_secs(3),
            concurrency: 100,
            target: None,
            budget: None,
        };
        Self { data, name, version: 0, settings, weigher: None }
    }

    /// Sets the lifetime of values whose load does not [set one](super::Loaded::ttl). Defaults to 1 min.
    pub fn ttl(mut self, span: Duration) -> Self {
        self.settings.ttl_policy.ttl = span;
        self
    }

    /// Serves a stale value for `span` while one caller's load refreshes it. Off by default.
    pub fn stale_while_revalidate(mut self, span: Duration) -> Self {
        self.settings.ttl_policy.while_revalidate = span;
        self
    }

    /// Serves a stale value for `span` if its load fails or exceeds a timeout. Off by default.
    pub fn stale_if_error(mut self, span: Duration) -> Self {
        self.settings.ttl_policy.if_error = span;
        self
    }

    /// Sets the time after which a caller gets a stale value [if allowed](Self::stale_if_error), while the load
    /// continues. Off by default.
    pub fn soft_timeout(mut self, span: Duration) -> Self {
        self.settings.soft_timeout = Some(span);
        self
    }

    /// Sets the time after which a caller gets an [error](super::LoadError::TimedOut), or a stale value if allowed. The
    /// load continues and its result is stored. Off by default.
    pub fn hard_timeout(mut self, span: Duration) -> Self {
        self.settings.hard_timeout = Some(span);
        self
    }

    /// Refreshes a value in the background when it is requested after this share of its lifetime. Accepts more than 0,
    /// up to 1. Defaults to 1, which disables refreshing ahead.
    pub fn refresh_ahead(mut self, share: f64) -> Self {
        self.settings.ttl_policy.refresh_ahead = share;
        self
    }

    /// Sets the largest share of a lifetime subtracted at random. Values loaded together then do not expire together.
    /// Accepts at least 0, less than 1. Defaults to 0.
    pub fn jitter(mut self, share: f64) -> Self {
        self.settings.ttl_policy.jitter = share;
        self
    }

    /// Adds a tag to every value of this namespace.
    pub fn tag(mut self, tag: impl Into<Box<str>>) -> Self {
        self.settings.tags.push(tag.into());
        self
    }

    /// Sets the version of the values' meaning; raise it when a field keeps its name but changes its meaning. Values of
    /// another version in a shared store are misses; a renamed field, or one of another kind, is a miss in any
    /// case. Defaults to 0.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Sets a function for the size of a value in memory, in bytes. Defaults to an estimate from the parts that its
    /// `Serialize` shows; set it for values that hold more than they serialize.
    pub fn weigher(mut self, weigher: impl Fn(&V) -> usize + Send + Sync + 'static) -> Self {
        self.weigher = Some(Arc::new(weigher));
        self
    }

    /// Sets how long a caller waits for another's load before it loads by itself. Defaults to 3 s.
    pub fn wait(mut self, deadline: Duration) -> Self {
        self.settings.wait = deadline;
        self
    }

    /// Sets how long a loading process makes those that share its store wait. Should exceed the usual duration of a
    /// load. Defaults to 3 s; zero lets each process load by itself.
    pub fn lease_ttl(mut self, span: Duration) -> Self {
        self.settings.lease = span;
        self
    }

    /// Sets the concurrency of [`get_or_load_many`](super::Cached::get_or_load_many). Defaults to 100 loads.
    pub fn concurrency(mut self, loads: usize) -> Self {
        self.settings.concurrency = loads;
        self
    }

    /// Sets the target share of look-ups without a load, 0 to 1, reported beside the actual one.
    pub fn target_hit_ratio(mut self, share: f64) -> Self {
        self.settings.target = Some(share);
        self
    }

    /// Sets the remaining quota of the service that the loads call: as it runs low, values are used for longer. See
    /// [`Budget`] for the policy.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.settings.ttl_policy.max_stretch = budget.max_stretch();
        self.settings.budget = Some(budget);
        self
    }

    /// Validates the configuration and registers the namespace.
    ///
    /// # Errors
    /// Names the first invalid value: a name that is taken, or not 1 to 64 visible ASCII characters; a lifetime of
    /// zero; a share out of range; a malformed tag; a soft timeout not shorter than the hard one.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// let data = DataCache::in_memory(1 << 20);
    /// let users: Cached<String> = data.cached("users").build()?;
    /// assert!(data.cached::<u64>("users").build().is_err(), "the name is taken");
    /// # let _ = users;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn build(self) -> Result<Cached<V>, Error>
    where
        V: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let Self { data, name, version, settings, weigher } = self;
        check(&name, &settings)?;
        let namespace = Namespace {
            key_prefix: key::namespace_prefix(&name),
            name,
            stamp: SchemaStamp::of::<V>(version),
            settings,
            engine: data.engine(),
            fetches: Arc::new(Coalescer::default()),
            counters: NamespaceCounters::default(),
            mode: ModeCell::default(),
            warned: Once::new(),
            unencodable: Once::new(),
            too_large: Once::new(),
        };
        Ok(Cached { namespace: data.add(namespace)?, weigher })
    }
}

fn check(name: &str, settings: &NamespaceSettings) -> Result<(), Error> {
    let config_error = |message: String| Err(Error::config(format!("cached {name:?}: {message}")));
    let NamespaceSettings { ttl_policy, soft_timeout: soft, hard_timeout: hard, .. } = settings;
    if !(1..=64).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return config_error("name must have 1 to 64 visible ASCII characters".to_owned());
    }
    if ttl_policy.ttl.is_zero() {
        return config_error("ttl must be longer than 0".to_owned());
    }
    if !(0.0..1.0).contains(&ttl_policy.jitter) {
        return config_error(format!("jitter {} must be at least 0 and less than 1", ttl_policy.jitter));
    }
    if !(ttl_policy.refresh_ahead > 0.0 && ttl_policy.refresh_ahead <= 1.0) {
        return config_error(format!("refresh_ahead {} must be more than 0 and at most 1", ttl_policy.refresh_ahead));
    }
    if settings.target.is_some_and(|target| !(0.0..=1.0).contains(&target)) {
        return config_error(format!("target_hit_ratio {:?} must be 0 to 1", settings.target));
    }
    if let Some(tag) = settings.tags.iter().find(|tag| !tag::is_valid(tag)) {
        return config_error(format!("tag {tag:?} must be 1 to 256 visible ASCII characters without a comma"));
    }
    if settings.wait.is_zero() || settings.concurrency == 0 {
        return config_error(format!(
            "wait {:?} and concurrency {} must not be 0",
            settings.wait, settings.concurrency
        ));
    }
    if hard.is_some_and(|hard| hard.is_zero() || soft.is_some_and(|soft| soft >= hard)) {
        return config_error(format!("soft_timeout {soft:?} must be shorter than hard_timeout {hard:?}"));
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

    fn config_error(set: impl FnOnce(CachedBuilder<u8>) -> CachedBuilder<u8>) -> String {
        let builder = DataCache::in_memory(1 << 20).cached("space");
        set(builder).build().expect_err("a mistake").to_string()
    }

    #[test]
    fn configuration_errors_name_the_value() {
        let second = Duration::from_secs(1);
        assert!(config_error(|namespace| namespace.ttl(Duration::ZERO)).contains("ttl"));
        assert!(config_error(|namespace| namespace.jitter(1.0)).contains("jitter 1"));
        assert!(config_error(|namespace| namespace.refresh_ahead(f64::NAN)).contains("refresh_ahead"));
        assert!(config_error(|namespace| namespace.target_hit_ratio(1.1)).contains("1.1"));
        assert!(config_error(|namespace| namespace.tag("two words")).contains("two words"));
        assert!(config_error(|namespace| namespace.wait(Duration::ZERO)).contains("wait"));
        assert!(config_error(|namespace| namespace.soft_timeout(second).hard_timeout(second)).contains("soft_timeout"));
        for name in ["", "ä", "a b", &"x".repeat(65)] {
            assert!(DataCache::in_memory(1 << 20).cached::<u8>(name).build().is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_are_taken_while_a_handle_exists() {
        let data = DataCache::in_memory(1 << 20);
        let first = data.cached::<u8>("a").build().expect("free");
        assert!(data.cached::<u16>("a").build().expect_err("taken").to_string().contains("\"a\""));
        drop(first);
        assert!(data.cached::<u16>("a").build().is_ok());
    }
}
