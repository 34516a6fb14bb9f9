//! [`JobBuilder`]: schedule and settings of a job.

use std::fmt::{self, Debug, Display};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::context::JobContext;
use super::job::JobSpec;
use super::job_engine::JobEngine;
use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::base::span::parse_span;
use crate::jobs::schedule::due::Schedule;
use crate::jobs::schedule::missed::Missed;

/// Longest name of a job in bytes.
const MAX_NAME: usize = 64;

/// Schedule and settings of a job: made by [`Jobs`](crate::Jobs), ended with [`job`](Self::job).
///
/// | setting | default |
/// |---|---|
/// | [`jitter`](Self::jitter) | none |
/// | [`timeout`](Self::timeout) | ten minutes |
/// | [`retries`](Self::retries) | 2, after 1 s and 2 s |
/// | [`missed`](Self::missed) | [`Missed::Skip`] |
#[must_use]
pub struct JobBuilder {
    engine: Arc<JobEngine>,
    schedule: Result<Schedule, Error>,
    text: String,
    jitter: Result<Duration, Error>,
    timeout: Result<Duration, Error>,
    retries: u32,
    missed: Missed,
}

impl JobBuilder {
    pub(crate) fn new(engine: Arc<JobEngine>, schedule: Result<Schedule, Error>, text: String) -> Self {
        let (jitter, timeout) = (Ok(Duration::ZERO), Ok(Duration::from_secs(600)));
        Self { engine, schedule, text, jitter, timeout, retries: 2, missed: Missed::default() }
    }

    /// Spreads the begin of runs over this time, such as `30s`, so that many jobs do not begin at once.
    pub fn jitter(mut self, span: &str) -> Self {
        self.jitter = parse_span(span);
        self
    }

    /// Drops a run that takes longer, such as `2m`; it counts as failed.
    pub fn timeout(mut self, span: &str) -> Self {
        self.timeout = parse_span(span);
        self
    }

    /// Repeats a failed run this many times: after a second, then after twice as long each time, at most five minutes.
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets what becomes of times at which no process ran the job.
    pub const fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// Adds the job, which runs from now on, as soon as there is a tokio runtime. Its result is kept in the history as
    /// `Debug` shows it, its error as `Display` does; a panic is an error.
    ///
    /// # Errors
    /// If a schedule or duration is malformed, or the name is: 1 to 64 letters, digits, `-`, `_` or `.`, once per gate.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let gate = tollgate::Tollgate::builder().build()?;
    /// gate.jobs().every("15m").timeout("2m").retries(3).job("coins", |_| async { Ok::<_, String>(250) })?;
    /// assert!(gate.jobs().every("soon").job("other", |_| async { Ok::<_, String>(()) }).is_err());
    /// # Ok(()) }
    /// ```
    pub fn job<F, R, T, E>(self, name: &str, run: F) -> Result<(), Error>
    where
        F: Fn(JobContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, E>> + Send + 'static,
        T: Debug,
        E: Display,
    {
        let is_char = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_char) {
            let message = format!("invalid job name {name:?}; use 1 to {MAX_NAME} letters, digits, -, _ or .");
            return Err(Error::config(message));
        }
        let run = move |context| -> BoxFuture<Result<String, String>> {
            let started = std::panic::catch_unwind(AssertUnwindSafe(|| run(context)));
            let Ok(running) = started else { return Box::pin(std::future::ready(Err(PANICKED.to_owned()))) };
            let shown = async { running.await.map(|value| shown(&value)).map_err(|error| error.to_string()) };
            Box::pin(AssertUnwindSafe(shown).catch_unwind().map(|ran| ran.unwrap_or_else(|_| Err(PANICKED.to_owned()))))
        };
        self.engine.add(JobSpec {
            name: name.into(),
            schedule: self.schedule?,
            text: self.text,
            jitter: self.jitter?,
            timeout: self.timeout?,
            attempts: self.retries.saturating_add(1),
            missed: self.missed,
            run: Box::new(run),
        })
    }
}

const PANICKED: &str = "the job panicked";

/// Shows a result: `()` is nothing to tell.
fn shown(value: &dyn Debug) -> String {
    let text = format!("{value:?}");
    if text == "()" { String::new() } else { text }
}

impl fmt::Debug for JobBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobBuilder").field("schedule", &self.text).finish_non_exhaustive()
    }
}
