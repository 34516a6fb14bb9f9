//! [`HealthEngine`]: samples the counters of a gate every ten seconds, and judges them when asked.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
#[cfg(feature = "admin")]
use std::time::SystemTime;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::collect::CollectedLayers;
use super::settings::HealthBuilder;
use super::status::{CacheHealth, DatabaseHealth, Health};
use crate::base::clock::{Clock, Timestamp};
use crate::base::event::{Event, Events};
use crate::base::lock::Mutex;
use crate::base::metrics::family::Metric;
use crate::base::metrics::samples::Samples;
use crate::health::advice::advise;
use crate::health::checks::{checks, worst};
use crate::health::degradation::Degradation;
use crate::health::observed::Observation;
use crate::health::report::{self, ReportInput};
use crate::health::score::Score;
use crate::health::slo::{SloStatus, judge};
use crate::health::timeline::Timeline;
#[cfg(feature = "admin")]
use crate::health::timeline::{Mark, Point};
#[cfg(feature = "admin")]
use crate::health::totals::Totals;
#[cfg(feature = "admin")]
use crate::upstream::{UpstreamLayer, UpstreamStats};

/// Interval of samples.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time in which a process that has just started may connect to its stores.
const CONNECTING: Duration = Duration::from_secs(5);
/// Minutes of a report.
const DAY: u64 = 1_440;

/// Health of a gate. Dropping it ends its task.
pub(crate) struct HealthEngine {
    shared: Arc<Shared>,
    task: OnceLock<AbortHandle>,
}

struct Shared {
    layers: CollectedLayers,
    settings: HealthBuilder,
    clock: Clock,
    events: Events,
    cost_per_call: Option<f64>,
    state: Mutex<HealthState>,
}

struct HealthState {
    timeline: Timeline,
    degradation: Degradation,
    /// Objectives that are missed.
    missed: Vec<String>,
    /// Stores that were down at the last look.
    down: Vec<String>,
    /// Stores that have been up.
    seen_up: Vec<String>,
    /// Score, status and objectives of the last look.
    last: Option<(Option<u8>, &'static str, Vec<SloStatus>)>,
}

/// Minutes of a gate and what happened in them.
#[cfg(feature = "admin")]
pub(crate) struct RecentMinutes {
    pub(crate) points: Vec<Point>,
    /// Newest first, each with its age.
    pub(crate) marks: Vec<(Duration, Mark)>,
}

impl HealthEngine {
    pub(crate) fn new(
        layers: CollectedLayers,
        settings: HealthBuilder,
        (clock, events): (Clock, Events),
        cost_per_call: Option<f64>,
    ) -> Self {
        let state = HealthState {
            timeline: Timeline::new(clock.now()),
            degradation: Degradation::default(),
            missed: Vec::new(),
            down: Vec::new(),
            seen_up: Vec::new(),
            last: None,
        };
        let shared = Shared { layers, settings, clock, events, cost_per_call, state: Mutex::new(state) };
        let engine = Self { shared: Arc::new(shared), task: OnceLock::new() };
        engine.start();
        engine
    }

    /// Starts to sample, if there is a runtime and it has not.
    pub(crate) fn start(&self) {
        if let Ok(runtime) = Handle::try_current() {
            self.task.get_or_init(|| runtime.spawn(run(Arc::downgrade(&self.shared))).abort_handle());
        }
    }

    /// Adds the metrics of the last look, at most ten seconds old.
    pub(crate) fn fill_metrics(&self, out: &mut dyn Samples) {
        let last = self.shared.state.lock().last.clone();
        let Some((score, status, slos)) = last.or_else(|| {
            self.shared.look();
            self.shared.state.lock().last.clone()
        }) else {
            return;
        };
        if let Some(score) = score {
            out.whole(Metric::HealthScore, &[], score.into());
        }
        let status = ["pass", "warn", "fail"].iter().position(|known| *known == status).unwrap_or(2);
        out.whole(Metric::HealthStatus, &[], status as u64);
        for slo in &slos {
            for (window, burn) in [("5m", slo.burn_5m), ("1h", slo.burn_1h)] {
                if let Some(burn) = burn {
                    out.fraction(Metric::ObjectiveBurnRate, &[&slo.name, window], burn);
                }
            }
        }
    }

    /// Samples, and judges.
    pub(crate) fn health(&self) -> Health {
        self.shared.look().0
    }

    /// Samples, and writes the report of the last day, or of the time since the start.
    pub(crate) fn report(&self) -> String {
        let (health, observed, score) = self.shared.look();
        let now = self.shared.clock.now();
        let state = self.shared.state.lock();
        report::write(&ReportInput {
            observed: &observed,
            day: &state.timeline.window(now, DAY),
            covers: state.timeline.age(now).min(Duration::from_secs(60 * DAY)),
            score: &score,
            slos: &health.slos,
            advice: &health.recommendations,
            cost_per_call: self.shared.cost_per_call,
        })
    }

    /// Whether no check of the application fails. Costs no reading of counters.
    #[cfg(feature = "admin")]
    pub(crate) fn is_ready(&self) -> bool {
        let now = self.shared.clock.now();
        let checks = self.shared.settings.probes.iter().map(|probe| probe.look(now));
        checks.filter(|check| check.status == "fail").count() == 0
    }

    /// Returns the last `minutes` minutes.
    #[cfg(feature = "admin")]
    pub(crate) fn minutes(&self, minutes: u64) -> RecentMinutes {
        let (now, state) = (self.shared.clock.now(), self.shared.state.lock());
        let marks = state.timeline.marks().map(|mark| (now.since(mark.at), mark.clone())).collect();
        RecentMinutes { points: state.timeline.points(now, minutes), marks }
    }

    /// Returns the counts of the last day, or since the start.
    #[cfg(feature = "admin")]
    pub(crate) fn day(&self) -> Totals {
        self.shared.state.lock().timeline.window(self.shared.clock.now(), DAY)
    }

    /// Returns the counts of the last five minutes.
    #[cfg(feature = "admin")]
    pub(crate) fn recent(&self) -> Totals {
        self.shared.state.lock().timeline.window(self.shared.clock.now(), 5)
    }

    /// Returns the statistics of the watched upstreams.
    #[cfg(feature = "admin")]
    pub(crate) fn upstreams(&self) -> Vec<UpstreamStats> {
        self.watched().iter().map(UpstreamLayer::stats).collect()
    }

    /// Returns the watched upstreams.
    #[cfg(feature = "admin")]
    pub(crate) fn watched(&self) -> &[UpstreamLayer] {
        &self.shared.layers.upstreams
    }

    #[cfg(feature = "admin")]
    pub(crate) fn latency_target(&self) -> Duration {
        self.shared.settings.targets.latency
    }

    /// Time since the gate was built.
    #[cfg(feature = "admin")]
    pub(crate) fn age(&self) -> Duration {
        self.shared.state.lock().timeline.age(self.shared.clock.now())
    }

    #[cfg(feature = "admin")]
    pub(crate) fn wall(&self) -> SystemTime {
        self.shared.clock.wall()
    }

    /// Notes that something happened.
    #[cfg(feature = "admin")]
    pub(crate) fn mark(&self, kind: &'static str, text: &str) {
        self.shared.state.lock().timeline.mark(self.shared.clock.now(), kind, text);
    }
}

impl Drop for HealthEngine {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

async fn run(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(engine) = shared.upgrade() else { return };
        engine.look();
    }
}

impl Shared {
    fn look(&self) -> (Health, Observation, Score) {
        let (targets, now) = (&self.settings.targets, self.clock.now());
        let collected = self.layers.collect(targets);
        let mut state = self.state.lock();
        state.timeline.add(now, collected.totals.clone(), collected.targeted.clone(), collected.p95());
        let mut observed = collected.observe(&self.layers, &self.settings, &state.timeline, now);
        state.pardon_connecting(&mut observed, now);
        let (score, slos) = (Score::of(&observed, targets), judge(&observed, targets));
        let reasons = state.degradation.update(&observed, targets, &score);
        let crossed = state.cross(&slos, now);
        state.note_outages(&observed, now);
        drop(state);
        crossed.iter().for_each(|(slo, is_missed)| self.report(slo, *is_missed));
        let mut all = checks(&observed, &slos);
        all.extend(self.settings.probes.iter().map(|probe| probe.look(now)));
        let health = Health {
            status: worst(&all),
            score: score.value,
            band: score.band(),
            parts: score.parts.clone(),
            degraded: !reasons.is_empty(),
            reasons,
            cache: cache_health(&observed, &score),
            database: DatabaseHealth {
                mean_query: observed.hour.mean_query(),
                slow_queries: observed.hour.slow_queries,
                total_queries: observed.hour.queries,
            },
            checks: all,
            slos,
            recommendations: advise(&observed),
            at: self.clock.wall(),
        };
        self.state.lock().last = Some((health.score, health.status, health.slos.clone()));
        (health, observed, score)
    }

    fn report(&self, slo: &SloStatus, is_missed: bool) {
        let (name, text) = (slo.name.as_str(), slo.text.as_str());
        self.events.emit(&match is_missed {
            true => Event::ObjectiveMissed { name, text, burn_rate: slo.burn_1h.unwrap_or_default() },
            false => Event::ObjectiveMet { name, text },
        });
    }
}

impl HealthState {
    /// Returns the objectives whose state has changed, with whether they are missed. An unknown one keeps its state.
    fn cross(&mut self, slos: &[SloStatus], now: Timestamp) -> Vec<(SloStatus, bool)> {
        let mut crossed = Vec::new();
        for slo in slos.iter().filter(|slo| slo.state != "unknown") {
            let (was, is) = (self.missed.contains(&slo.name), slo.state == "missed");
            if was == is {
                continue;
            }
            if is {
                self.missed.push(slo.name.clone())
            } else {
                self.missed.retain(|name| *name != slo.name)
            }
            let text = format!("{}: {}", if is { "missed" } else { "met again" }, slo.text);
            self.timeline.mark(now, "slo", &text);
            crossed.push((slo.clone(), is));
        }
        crossed
    }

    /// Treats stores that this process has not reached yet as up, for its first seconds.
    fn pardon_connecting(&mut self, observed: &mut Observation, now: Timestamp) {
        let is_starting = self.timeline.age(now) < CONNECTING;
        for store in &mut observed.stores {
            let has_been_up = self.seen_up.contains(&store.name);
            if store.is_up && !has_been_up {
                self.seen_up.push(store.name.clone());
            }
            store.is_up |= is_starting && !has_been_up;
        }
    }

    /// Marks the beginnings and ends of outages.
    fn note_outages(&mut self, observed: &Observation, now: Timestamp) {
        let down: Vec<String> =
            observed.stores.iter().filter(|store| !store.is_up).map(|store| store.name.clone()).collect();
        for name in down.iter().filter(|name| !self.down.contains(name)) {
            self.timeline.mark(now, "outage", &format!("{name} is unavailable"));
        }
        for name in self.down.iter().filter(|name| !down.contains(name)) {
            self.timeline.mark(now, "recovery", &format!("{name} is back"));
        }
        self.down = down;
    }
}

/// The hit rate of the last hour, and the band of the score's part.
fn cache_health(observed: &Observation, score: &Score) -> CacheHealth {
    let part = score.parts.iter().find(|part| part.name == "cache").and_then(|part| part.value);
    let health = match part.map(|value| (value * 100.0).round() as u8) {
        None => "unknown",
        Some(90..) => "excellent",
        Some(75..) => "good",
        Some(50..) => "fair",
        Some(_) => "poor",
    };
    CacheHealth {
        hit_rate: observed.hour.hit_ratio().unwrap_or(0.0),
        health,
        total_operations: observed.hour.lookups(),
    }
}
