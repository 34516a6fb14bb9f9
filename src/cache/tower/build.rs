//! Validation of a [`CacheBuilder`], and assembly of the layer's state.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderName;

use super::builder::CacheBuilder;
use super::layer::CacheLayer;
use super::live_rules::LiveRules;
use super::shared::CacheShared;
use super::stats::CacheCounters;
use crate::base::error::Error;
use crate::base::event::{Event, Once};
use crate::base::mode::ModeCell;
use crate::base::route::Patterns;
use crate::cache::engine::body_memory::BodyMemory;
use crate::cache::engine::cache_engine::{CacheLevels, Engine, LevelOne};
use crate::cache::engine::coalesce::table::Coalescer;
use crate::cache::engine::store::CacheStore;
use crate::cache::http::credentials::Credentials;
use crate::cache::http::rules::{CompiledRules, Routing};
use crate::cache::http::settings::{CacheSettings, TOLLGATE_CACHE_CONTROL};
use crate::identity::IDENTIFIED_TWICE;
use crate::store::memory::MemoryCache;

impl CacheBuilder {
    /// Validates the configuration and builds the layer.
    ///
    /// # Errors
    /// Names the first invalid value: a malformed or conflicting route pattern, a malformed tag, a TTL of zero,
    /// `max_entry` over `memory`, an invalid field name, a share out of range, a file level without a path or of less than
    /// 16 MiB, or a malformed URL of a level.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// assert!(CacheLayer::builder().build().is_ok());
    /// assert!(CacheLayer::builder().jitter(1.0).build().is_err());
    /// ```
    pub fn build(mut self) -> Result<CacheLayer, Error> {
        let config_error = |message: String| Err(Error::config(message));
        if self.memory == 0 || self.max_entry == 0 {
            return config_error(format!(
                "cache: memory {} and max_entry {} must not be 0",
                self.memory, self.max_entry
            ));
        }
        if self.identified_twice {
            return Err(Error::config(IDENTIFIED_TWICE));
        }
        if self.max_entry > self.memory {
            return config_error(format!(
                "cache: max_entry {} exceeds memory {}; lower max_entry or raise memory",
                self.max_entry, self.memory
            ));
        }
        if !(0.0..1.0).contains(&self.jitter) {
            return config_error(format!("cache: jitter {} must be at least 0 and less than 1", self.jitter));
        }
        if !(self.refresh_ahead > 0.0 && self.refresh_ahead <= 1.0) {
            return config_error(format!(
                "cache: refresh_ahead {} must be more than 0 and at most 1",
                self.refresh_ahead
            ));
        }
        if !matches!(&*self.default_scheme, "http" | "https") {
            return config_error(format!(
                "cache: default_scheme {:?} must be \"http\" or \"https\"",
                self.default_scheme
            ));
        }
        if !is_token(&self.status_name) {
            return config_error(format!("cache: cache_status_name {:?} must be a token", self.status_name));
        }
        if self.wait.is_zero() {
            return config_error(
                "cache: wait must be longer than 0; it bounds how long a request waits for a coalesced fetch"
                    .to_owned(),
            );
        }
        if self.idle < Duration::from_secs(1) {
            return config_error(format!("cache: idle_timeout {:?} must be at least 1 s", self.idle));
        }
        let (level_2, switches) = std::mem::take(&mut self.levels).open(self.enabled)?;
        let declared = if self.routes.is_empty() { None } else { Some(Arc::new(Patterns::of(&self.routes)?)) };
        let in_process = self.store.is_none() && level_2.is_none();
        let routing = Routing { declared, in_process, outbound: self.outbound, identifies: self.identity.is_some() };
        let rules = std::mem::take(&mut self.rules).compile(&routing)?;
        let key_fields = field_names("key_field", &self.key_fields)?;
        let mut targeted = field_names("targeted_field", &self.targeted)?;
        targeted.retain(|name| *name != TOLLGATE_CACHE_CONTROL);
        targeted.insert(0, TOLLGATE_CACHE_CONTROL);
        if let Some(identity) = &self.identity {
            identity.check()?;
        }
        let core = self.assemble(level_2, rules, routing, key_fields, targeted);
        Ok(CacheLayer::new(CacheShared { switches, ..core }))
    }

    pub(super) fn assemble(
        self,
        level_2: Option<Arc<dyn CacheStore>>,
        rules: CompiledRules,
        routing: Routing,
        key_fields: Vec<HeaderName>,
        mut targeted: Vec<HeaderName>,
    ) -> CacheShared {
        if targeted.is_empty() {
            targeted.push(TOLLGATE_CACHE_CONTROL);
        }
        let settings = CacheSettings {
            profile: self.profile,
            max_entry: self.max_entry,
            ignore_cookies: self.ignore_cookies,
            key_fields,
            targeted,
            forward_targeted: self.forward_targeted,
            default_scheme: if &*self.default_scheme == "https" { "https" } else { "http" },
            status_name: self.cache_status.then_some(self.status_name),
            status_key: self.status_key,
            wait: self.wait,
            idle: self.idle,
            hit_for_miss: self.hit_for_miss,
            jitter: self.jitter,
            refresh_ahead: self.refresh_ahead,
            budget: self.budget,
        };
        let level_1 = match self.store {
            Some(store) => LevelOne::Custom(store),
            None => LevelOne::Memory(Arc::new(MemoryCache::new(self.memory))),
        };
        let levels = CacheLevels { level_1, level_2 };
        let Engine { store, barriers, clock, events, in_process, token, bounds } =
            Engine::new(levels, self.clock, self.hook);
        if let Some(message) = rules.explain_undeclared().filter(|_| self.enabled) {
            events.emit(&Event::Warning { code: "undeclared-route", message: &message });
        }
        CacheShared {
            enabled: self.enabled,
            mode: ModeCell::default(),
            settings,
            counters: CacheCounters::default(),
            rules: LiveRules::new(rules),
            credentials: Credentials::new(self.identity.into_iter().chain(self.other_extractors)),
            routing,
            store,
            in_process,
            clock,
            events,
            fetches: Arc::new(Coalescer::default()),
            barriers,
            hit_for_miss: crate::cache::engine::hit_for_miss::HitForMiss::default(),
            stored_keys: crate::cache::engine::stored_keys::StoredKeys::default(),
            has_divided: std::sync::atomic::AtomicBool::new(false),
            storable_routes: crate::cache::engine::storable_routes::StorableRoutes::default(),
            min_uses: crate::cache::engine::min_uses::MinUses::default(),
            body_memory: BodyMemory::new(self.memory),
            bounds,
            token,
            empty_body: self.empty_body,
            nonces: AtomicU64::new(0),
            unresolved: Once::new(),
            switches: Vec::new(),
            data: OnceLock::new(),
        }
    }
}

/// RFC 9110 §5.6.2; RFC 9651 §3.3.4 requires a letter first.
fn is_token(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b))
}

fn field_names(setter: &str, names: &[Box<str>]) -> Result<Vec<HeaderName>, Error> {
    let parse = |name: &str| {
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Error::config(format!("cache: {setter} {name:?} is not a valid field name")))
    };
    names.iter().map(|name| parse(name)).collect()
}
