//! HourlyUsage by hour in PostgreSQL: counters of endpoints, routes and namespaces, added to every minute and at shutdown.
//!
//! A process adds what it counted since the last time it could. If the server is unavailable, the next minute adds it: the
//! sums are complete, and their hours approximate. A process that is killed loses its last minute.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::CacheStats;
use crate::store::postgres::usage::{HourlyUsage, UsageTable};
use crate::timing::TimingStats;
use crate::upstream::{EndpointStats, UpstreamStats};

/// Interval of additions.
const INTERVAL: Duration = Duration::from_secs(60);

/// Collects the usage since the gate was built.
pub(super) type Collect = Box<dyn Fn() -> Vec<HourlyUsage> + Send + Sync>;
/// Adds usage to the sums.
type Add = Box<dyn Fn(Vec<HourlyUsage>) -> BoxFuture<Result<(), Error>> + Send + Sync>;

/// Recorder of a gate's usage. Dropping it ends its task.
pub(super) struct UsageRecorder {
    shared: Arc<Shared>,
    task: OnceLock<AbortHandle>,
}

struct Shared {
    collect: Collect,
    add: Add,
    /// HourlyUsage that was added, by row; locked while a write is in progress.
    added: tokio::sync::Mutex<HashMap<(&'static str, String, String), HourlyUsage>>,
}

impl UsageRecorder {
    pub(super) fn new(table: UsageTable, collect: Collect) -> Self {
        Self::with(collect, Box::new(move |rows| Box::pin(table.clone().add(rows))))
    }

    fn with(collect: Collect, add: Add) -> Self {
        let recorder = Self {
            shared: Arc::new(Shared { collect, add, added: tokio::sync::Mutex::default() }),
            task: OnceLock::new(),
        };
        recorder.start();
        recorder
    }

    /// Starts to record, if there is a runtime and it has not.
    pub(super) fn start(&self) {
        if let Ok(runtime) = Handle::try_current() {
            self.task.get_or_init(|| runtime.spawn(run(self.shared.clone())).abort_handle());
        }
    }

    /// Adds what was counted since the last time.
    pub(super) async fn flush(&self) {
        self.shared.flush().await;
    }
}

/// Returns the usage of routes and of typed values.
pub(super) fn cache_usage(cache: &CacheStats) -> Vec<HourlyUsage> {
    let routes = cache.routes.iter().map(|(name, route)| {
        let hits = route.hits + route.stale + route.revalidated + route.collapsed;
        HourlyUsage::new("route", "", name).cache(hits, route.misses)
    });
    let data = cache.data.iter().map(|data| HourlyUsage::new("data", "", &data.name).cache(data.avoided, data.misses));
    routes.chain(data).collect()
}

/// Returns the usage of an upstream's endpoints.
pub(super) fn upstream_usage(timing: &TimingStats, upstream: &UpstreamStats) -> Vec<HourlyUsage> {
    let endpoint = |endpoint: &EndpointStats| {
        let busy = u64::try_from(endpoint.mean_latency.as_micros()).unwrap_or(u64::MAX).saturating_mul(endpoint.calls);
        let route = timing.routes.iter().find(|route| route.route == endpoint.endpoint);
        let requests = route.map_or(endpoint.calls, |route| route.requests);
        HourlyUsage::new("upstream", &upstream.upstream, &endpoint.endpoint)
            .calls(endpoint.credits, endpoint.calls, busy)
            .cache(requests.saturating_sub(endpoint.calls), endpoint.calls)
    };
    upstream.endpoints.iter().map(endpoint).collect()
}

impl Drop for UsageRecorder {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        shared.flush().await;
    }
}

impl Shared {
    async fn flush(&self) {
        let mut added = self.added.lock().await;
        let total = (self.collect)();
        let before = |usage: &HourlyUsage| added.get(&usage.key()).cloned();
        let rows: Vec<HourlyUsage> = total.iter().filter_map(|usage| usage.since(before(usage).as_ref())).collect();
        // The next time adds it, and the guard reports the outage.
        if !rows.is_empty() && (self.add)(rows).await.is_ok() {
            *added = total.into_iter().map(|usage| (usage.key(), usage)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::base::lock::Mutex;

    #[tokio::test(start_paused = true)]
    async fn each_minute_adds_what_is_new_and_an_outage_loses_nothing() {
        let (calls, up) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(1)));
        let written: Arc<Mutex<Vec<u64>>> = Arc::default();
        let (count, is_up, sink) = (calls.clone(), up.clone(), written.clone());
        let collect: Collect =
            Box::new(move || vec![HourlyUsage::new("upstream", "api", "/a").calls(count.load(Ordering::SeqCst), 0, 0)]);
        let add: Add = Box::new(move |rows| {
            let (is_up, sink) = (is_up.load(Ordering::SeqCst) == 1, sink.clone());
            Box::pin(async move {
                sink.lock().extend(rows.iter().map(|row| row.credits));
                if is_up { Ok(()) } else { Err(Error::disconnected("down")) }
            })
        });
        let recorder = UsageRecorder::with(collect, add);
        for (total, is_up) in [(3, 1), (3, 1), (5, 0), (9, 1)] {
            calls.store(total, Ordering::SeqCst);
            up.store(is_up, Ordering::SeqCst);
            tokio::time::sleep(INTERVAL).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(*written.lock(), [3, 2, 6], "the outage's two are added with the next");
        calls.store(10, Ordering::SeqCst);
        recorder.flush().await;
        assert_eq!(written.lock().last(), Some(&1));
        drop(recorder);
        calls.store(20, Ordering::SeqCst);
        tokio::time::sleep(2 * INTERVAL).await;
        assert_eq!(written.lock().len(), 4, "nothing runs on");
    }
}
