//! [`Probe`] and [`PoolProbe`]: checks that the application supplies. Their panics, errors and delays stay with them.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;

use crate::base::clock::Timestamp;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::health::checks::CheckStatus;
use crate::health::observed::PoolState;

/// Longest duration of a check.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which a result is used.
const FRESH: Duration = Duration::from_secs(5);

type Run = Box<dyn Fn() -> BoxFuture<Result<(), String>> + Send + Sync>;

/// Check of something that the service depends on.
pub(super) struct Probe {
    name: String,
    run: Run,
    /// The last result, and when it was asked for.
    last: Mutex<(Option<Timestamp>, Result<(), String>)>,
    is_running: AtomicBool,
}

/// Pool of connections that the application describes.
#[derive(Clone)]
pub(super) struct PoolProbe {
    pub(super) name: String,
    pub(super) read: Arc<dyn Fn() -> (u32, u32) + Send + Sync>,
}

impl Probe {
    pub(super) fn new<F, R, E>(name: String, check: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + 'static,
    {
        let run: Run = Box::new(move || {
            let checked = std::panic::catch_unwind(AssertUnwindSafe(&check));
            Box::pin(async move {
                let Ok(checked) = checked else { return Err("the check panicked".to_owned()) };
                let checked = async { checked.await.map_err(|error| error.to_string()) };
                AssertUnwindSafe(checked).catch_unwind().await.unwrap_or_else(|_| Err("the check panicked".to_owned()))
            })
        });
        Self { name, run, last: Mutex::new((None, Ok(()))), is_running: AtomicBool::new(false) }
    }

    /// Returns the last result, and starts the check again if that is old.
    pub(super) fn look(self: &Arc<Self>, now: Timestamp) -> CheckStatus {
        let last = self.last.lock().clone();
        if last.0.is_none_or(|at| now.since(at) >= FRESH) {
            self.start(now);
        }
        let name = format!("check {}", self.name);
        match last.1 {
            Ok(()) => CheckStatus::new(name, "pass", String::new()),
            Err(text) => CheckStatus::new(name, "fail", text),
        }
    }

    fn start(self: &Arc<Self>, now: Timestamp) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let probe = self.clone();
        runtime.spawn(async move {
            let result = tokio::time::timeout(TIMEOUT, (probe.run)()).await;
            let result = result.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
            *probe.last.lock() = (Some(now), result);
            probe.is_running.store(false, Ordering::Release);
        });
    }
}

impl PoolProbe {
    /// Returns the state; `None` if the closure panics.
    pub(super) fn look(&self) -> Option<PoolState> {
        let (in_use, size) = std::panic::catch_unwind(AssertUnwindSafe(|| (self.read)())).ok()?;
        Some(PoolState { name: self.name.clone(), in_use, size })
    }
}
