//! Builds a [`Tollgate`] from its settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::health::settings::HealthBuilder;
use super::health::{CollectedLayers, HealthEngine};
use super::inbound::{Tollgate, TollgateLayer};
use super::inbound_builder::TollgateBuilder;
use super::overrides::{OverriddenLayers, OverrideEngine};
#[cfg(feature = "postgres")]
use super::usage::{UsageRecorder, cache_usage};
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::Events;
#[cfg(feature = "admin")]
use crate::base::event::{Event, Hook};
use crate::context::GatePlace;
#[cfg(feature = "jobs")]
use crate::jobs::engine::job_engine::JobEngine;
use crate::limit::Limit;
use crate::resilience::outage_switch::StoreSwitch;
#[cfg(any(feature = "postgres", feature = "redis"))]
use crate::store::RemoteLimits;
use crate::store::fleet_records::file::RecordFile;
#[cfg(feature = "jobs")]
use crate::store::fleet_records::memory::RecordMap;
use crate::store::fleet_records::port::FleetRecords;
#[cfg(feature = "postgres")]
use crate::store::postgres::{records::RecordTable, usage::UsageTable};
#[cfg(feature = "redis")]
use crate::store::redis::records::RecordHashes;
use crate::upstream::UpstreamLayer;

impl TollgateBuilder {
    /// Builds the gate.
    ///
    /// # Errors
    /// Returns the errors of the layers' builders, or an error if the cost per call is not a finite, non-negative
    /// number. The message names the value.
    pub fn build(self) -> Result<Tollgate, Error> {
        if let Some(cost) = self.cost_per_call.filter(|cost| !(cost.is_finite() && *cost >= 0.0)) {
            return Err(Error::config(format!("the cost per call must be a finite amount of at least 0, not {cost}")));
        }
        let this = self;
        #[cfg(feature = "redis")]
        let this = this.sharing()?;
        #[cfg(feature = "postgres")]
        let this = this.sharing_postgres()?;
        // A gate without a limit has the same type: it contains a disabled limit.
        let limits = if this.limited { this.limits } else { this.limits.limit(Limit::unused()).enabled(false) };
        let (identify, own) = limits.extractors();
        let cache = this.cache.identified_by(identify, own);
        let cache = if this.cached { cache } else { cache.enabled(false) };
        static GATES: AtomicU16 = AtomicU16::new(1);
        let routes = |own: &[Box<str>]| joined(&this.routes, own);
        let (of_limits, of_cache) = (routes(limits.declared_routes()), routes(cache.declared_routes()));
        let of_timing = routes(this.timing.declared_routes());
        let place = GatePlace {
            // After 65 535 gates the numbers start again; 0 stands for none.
            number: GATES.fetch_add(1, Ordering::Relaxed),
            shares_clock: limits.own_clock().is(cache.own_clock()) && limits.own_clock().is(this.timing.own_clock()),
            shares_routes: of_limits == of_cache && of_limits == of_timing,
        };
        let clock = limits.own_clock().clone();
        let layer = TollgateLayer {
            timing: this.timing.declare(&of_timing).build()?,
            limit: limits.declare(of_limits).build()?,
            cache: cache.declare(of_cache).build()?,
            place,
        };
        #[cfg(feature = "postgres")]
        let usage = this.usage.map(|table| {
            let cache = layer.cache.clone();
            Arc::new(UsageRecorder::new(table, Box::new(move || cache_usage(&cache.stats()))))
        });
        let operated = Operated {
            clock,
            events: this.events,
            health: this.health,
            upstreams: this.upstreams,
            records: this.records,
            directory: this.directory,
            switches: this.switches,
        };
        let built = operated.build(&layer, this.cost_per_call)?;
        Ok(Tollgate {
            layer,
            cost_per_call: this.cost_per_call,
            overrides: built.overrides,
            health: built.health,
            #[cfg(feature = "jobs")]
            jobs: built.jobs,
            #[cfg(feature = "postgres")]
            usage,
        })
    }

    /// Shares limits through PostgreSQL, if there is one and no Redis.
    #[cfg(feature = "postgres")]
    fn sharing_postgres(mut self) -> Result<Self, Error> {
        let Some(postgres) = self.postgres.take().transpose()? else { return Ok(self) };
        // With Redis as well, Redis decides limits.
        if self.limited && self.records.is_none() {
            let limits = RemoteLimits::postgres(&postgres)?;
            self.switches.push(("postgres".to_owned(), limits.switch()));
            self.limits = self.limits.store(Arc::new(limits));
        }
        if self.cached {
            self.usage = Some(UsageTable::new(&postgres));
        }
        self.records = Some(Arc::new(RecordTable::new(&postgres)));
        postgres.check().map(|()| self)
    }

    /// Connects the enabled layers to Redis, if there is one.
    #[cfg(feature = "redis")]
    fn sharing(mut self) -> Result<Self, Error> {
        let Some(redis) = self.redis.take().transpose()? else { return Ok(self) };
        if self.limited {
            let limits = RemoteLimits::redis(&redis)?;
            self.switches.push(("redis".to_owned(), limits.switch()));
            self.limits = self.limits.store(Arc::new(limits));
        }
        self.records = Some(Arc::new(RecordHashes::new(&redis)));
        redis.check().map(|()| self)
    }
}

/// Settings of what operators see and change.
struct Operated {
    clock: Clock,
    events: Events,
    health: HealthBuilder,
    upstreams: Vec<UpstreamLayer>,
    records: Option<Arc<dyn FleetRecords>>,
    directory: Option<PathBuf>,
    switches: Vec<StoreSwitch>,
}

/// What operators see and change.
struct Built {
    overrides: Arc<OverrideEngine>,
    health: Arc<HealthEngine>,
    #[cfg(feature = "jobs")]
    jobs: Arc<JobEngine>,
}

impl Operated {
    fn build(self, layer: &TollgateLayer, cost_per_call: Option<f64>) -> Result<Built, Error> {
        self.health.check_targets()?;
        let (timing, limit, cache) = (layer.timing.clone(), layer.limit.clone(), layer.cache.clone());
        let switches = self.switches.into_iter().chain(cache.switches().iter().cloned()).collect();
        let overridden =
            OverriddenLayers { timing: timing.clone(), limit: limit.clone(), cache: cache.clone(), switches };
        let records = self.records.or_else(|| {
            let records: Arc<dyn FleetRecords> = Arc::new(RecordFile::new(self.directory?, self.clock.clone()));
            Some(records)
        });
        #[cfg(feature = "jobs")]
        let jobs = {
            let alone = || -> Arc<dyn FleetRecords> { Arc::new(RecordMap::new(self.clock.clone())) };
            let records = records.clone().unwrap_or_else(alone);
            Arc::new(JobEngine::new(records, self.clock.clone(), self.events.clone()))
        };
        let collected = CollectedLayers {
            timing,
            limit,
            cache,
            upstreams: self.upstreams,
            #[cfg(feature = "jobs")]
            jobs: jobs.clone(),
        };
        let seen = (self.clock.clone(), self.events.clone());
        let health = Arc::new(HealthEngine::new(collected, self.health, seen, cost_per_call));
        #[cfg_attr(not(feature = "admin"), expect(unused_mut, reason = "nothing shows what expires"))]
        let mut events = self.events;
        #[cfg(feature = "admin")]
        events.add(mark_expiries(&health));
        Ok(Built {
            overrides: Arc::new(OverrideEngine::new(overridden, records, self.clock, events)?),
            health,
            #[cfg(feature = "jobs")]
            jobs,
        })
    }
}

/// Returns a hook that marks the ends of overrides in the timeline.
#[cfg(feature = "admin")]
fn mark_expiries(health: &Arc<HealthEngine>) -> Hook {
    let health = Arc::downgrade(health);
    Arc::new(move |event| {
        if let (Event::OverrideEnded { id, actor: None }, Some(health)) = (event, health.upgrade()) {
            health.mark("override", &format!("the override {id} has expired"));
        }
    })
}

/// Returns the routes that a layer declares: those of the gate, then its own.
fn joined(gate: &[Box<str>], own: &[Box<str>]) -> Vec<Box<str>> {
    let mut routes: Vec<Box<str>> = Vec::new();
    for route in gate.iter().chain(own) {
        if !routes.contains(route) {
            routes.push(route.clone());
        }
    }
    routes
}
