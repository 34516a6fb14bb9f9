//! A day of a price service, with its clock turned by hand: `cargo run --example jobs`.
//!
//! A thousand users look at the prices twice a day, and each call of the provider is paid. A job fetches the prices every fifteen
//! minutes, so that no user waits for it. From ten to twenty to eleven the provider is down; at six in the evening the service is
//! restarted. Ends with an error if a user waited, or went without prices.
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tollgate::cache::{Cached, Rules};
use tollgate::{Clock, Error, JobRun, ManualClock, Missed, Tollgate};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const USERS: u64 = 1_000;
/// Seconds by which the clock is turned at a time.
const STEP: u64 = 10;

/// Provider whose calls are paid.
#[derive(Default)]
struct Provider {
    calls: AtomicU64,
    is_down: AtomicBool,
}

impl Provider {
    fn prices(&self) -> Result<Vec<u64>, &'static str> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.is_down.load(Ordering::SeqCst) { Err("the provider is down") } else { Ok(vec![call; 3]) }
    }
}

/// The service: a gate over a directory, and the cached prices.
struct Service {
    gate: Tollgate,
    prices: Cached<Vec<u64>>,
}

impl Service {
    fn start(directory: &Path, clock: &ManualClock, provider: &Arc<Provider>) -> Result<Self, Error> {
        let gate = Tollgate::builder().clock(Clock::Manual(clock.clone()));
        let gate = gate.cache(Rules::new()).file(directory, 64 << 20).build()?;
        let prices: Cached<Vec<u64>> = gate.data().cached("prices").ttl(Duration::from_secs(HOUR)).build()?;
        let (provider, cache) = (provider.clone(), prices.clone());
        gate.jobs().every("15m").retries(2).missed(Missed::Once).job("prices", move |_| {
            let (provider, cache) = (provider.clone(), cache.clone());
            async move {
                let prices = provider.prices().map_err(str::to_owned)?;
                cache.put("all", prices).await.map(|_| "all prices").map_err(|error| error.to_string())
            }
        })?;
        Ok(Self { gate, prices })
    }

    /// Waits until the directory is open: the process before has closed its files, on threads that the paused time does not
    /// wait for.
    async fn opens(&self) {
        while !self.gate.stats().cache[1].up {
            let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(10))).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn stop(self) {
        self.gate.shutdown().await;
        drop(self);
        // Its tasks end, and then its threads.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(100))).await;
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> ExitCode {
    let directory = std::env::temp_dir().join(format!("tollgate-jobs-{}", std::process::id()));
    let played = day(&directory).await;
    let _ = std::fs::remove_dir_all(&directory);
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Plays a day; returns whether no user waited, or went without prices.
async fn day(directory: &Path) -> Result<bool, Error> {
    // 2026-01-01 00:00 UTC. The service starts a minute before the first quarter of an hour.
    let start = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    let (clock, provider) = (ManualClock::starting(start - Duration::from_secs(MINUTE)), Arc::new(Provider::default()));
    let mut service = Service::start(directory, &clock, &provider)?;
    turn(&clock, 2 * MINUTE).await;
    let (mut views, mut without) = (0_u64, 0_u64);
    let views_a_day = USERS * 2;
    for step in 0..24 * HOUR / STEP {
        let second = step * STEP;
        provider.is_down.store((10 * HOUR..10 * HOUR + 40 * MINUTE).contains(&second), Ordering::SeqCst);
        if second == 18 * HOUR {
            service.stop().await;
            service = Service::start(directory, &clock, &provider)?;
            service.opens().await;
        }
        turn(&clock, STEP).await;
        while views < views_a_day * (second + STEP) / (24 * HOUR) {
            views += 1;
            without += u64::from(service.prices.get("all").await.is_none());
        }
    }
    let calls = provider.calls.load(Ordering::SeqCst);
    println!("{USERS} users looked at the prices {views} times; {without} of them waited or went without.");
    println!("calls paid if each asked the provider: {views}");
    println!("calls paid with the job: {calls}, {:.1} % less", 100.0 - calls as f64 * 100.0 / views as f64);
    let status = service.gate.jobs().list().remove(0);
    println!("\nThe job {} ({}): {} attempts, {} failed.", status.name, status.schedule, status.runs, status.failures);
    println!("\n| time | attempt | outcome | took | result |\n|---|--:|---|--:|---|");
    let mut history = service.gate.jobs().history("prices").await;
    history.sort_by_key(|run| run.started_at);
    history.iter().for_each(show);
    service.stop().await;
    Ok(without == 0)
}

fn show(run: &JobRun) {
    let minute = run.slot().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / MINUTE % 1_440;
    let time = format!("{:02}:{:02}", minute / 60, minute % 60);
    println!("| {time} | {} | {} | {} ms | {} |", run.attempt, run.outcome, run.took_ms, run.text);
}

/// Turns the clock, and lets the tasks of the service see it.
async fn turn(clock: &ManualClock, seconds: u64) {
    for _ in 0..seconds / STEP {
        clock.advance(Duration::from_secs(STEP));
        // Longer than the second in which jobs look at the clock; the runtime's time is paused and passes at once.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
}
