//! Jobs: run on their schedule, once in a fleet, with their history kept.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/directory.rs"]
mod directory;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/redis.rs"]
mod redis;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use directory::TestDirectory;
use tollgate::{Clock, Event, JobContext, ManualClock, Missed, Mode, Tollgate, TollgateBuilder};

const MINUTE: Duration = Duration::from_secs(60);

/// 2026-01-01 00:00 UTC.
fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

fn turned() -> (ManualClock, TollgateBuilder) {
    let hand = ManualClock::starting(start());
    (hand.clone(), Tollgate::builder().clock(Clock::Manual(hand)))
}

/// Turns the clock in steps of a second, in which the tasks of the jobs look at it.
async fn turn(hand: &ManualClock, span: Duration) {
    for _ in 0..span.as_secs() {
        hand.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// A job that counts.
fn counting(count: &Arc<AtomicUsize>) -> impl Fn(JobContext) -> std::future::Ready<Result<usize, String>> + use<> {
    let count = count.clone();
    move |_| std::future::ready(Ok(count.fetch_add(1, Ordering::SeqCst) + 1))
}

#[tokio::test(start_paused = true)]
async fn jobs_run_at_their_times() {
    let (hand, builder) = turned();
    let gate = builder.build().expect("a gate");
    let (often, nightly) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    gate.jobs().every("15m").job("coins", counting(&often)).expect("a job");
    gate.jobs().cron("30 0 * * *").job("nightly", counting(&nightly)).expect("a job");
    turn(&hand, 14 * MINUTE).await;
    assert_eq!((often.load(Ordering::SeqCst), nightly.load(Ordering::SeqCst)), (0, 0));
    turn(&hand, 2 * MINUTE).await;
    assert_eq!(often.load(Ordering::SeqCst), 1);
    turn(&hand, 45 * MINUTE).await;
    assert_eq!((often.load(Ordering::SeqCst), nightly.load(Ordering::SeqCst)), (4, 1));
    let history = gate.jobs().history("coins").await;
    let shown: Vec<_> = history.iter().map(|run| (run.outcome.as_str(), run.text.as_str(), run.attempt)).collect();
    assert_eq!(shown, [("done", "4", 1), ("done", "3", 1), ("done", "2", 1), ("done", "1", 1)]);
    assert_eq!(history[0].slot(), start() + 60 * MINUTE);
    let status = gate.jobs().list();
    assert_eq!((status[0].runs, status[0].failures, status[0].is_enabled), (4, 0, true));
    let quarter = start() + 75 * MINUTE;
    assert_eq!(status[0].next_at.map(|at| UNIX_EPOCH + Duration::from_millis(at)), Some(quarter));
    let metrics = gate.prometheus();
    assert!(metrics.contains("tollgate_job_attempts_total{job=\"coins\",outcome=\"done\"} 4"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_is_repeated_and_repeated_failures_are_a_warning() {
    let (hand, builder) = turned();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let sink = ended.clone();
    let gate = builder.hook(move |event: &Event<'_>| {
        if let Event::JobEnded { job, attempt, outcome, text, .. } = event {
            sink.lock().expect("not poisoned").push(format!("{job} {attempt} {outcome} {text}"));
        }
    });
    let gate = gate.build().expect("a gate");
    let third = move |ctx: JobContext| async move {
        if ctx.attempt() < 3 { Err(format!("attempt {}", ctx.attempt())) } else { Ok("at last") }
    };
    gate.jobs().every("1h").retries(2).job("third", third).expect("a job");
    gate.jobs().every("1h").retries(2).job("never", |_| async { Err::<(), _>("the provider is down") }).expect("a job");
    gate.jobs()
        .every("1h")
        .retries(0)
        .job("panics", |ctx| async move {
            assert!(ctx.attempt() > 9, "a bug");
            Ok::<_, String>(())
        })
        .expect("a job");
    gate.jobs()
        .every("1h")
        .retries(0)
        .timeout("5s")
        .job("slow", |_| async {
            tokio::time::sleep(MINUTE).await;
            Ok::<_, String>(())
        })
        .expect("a job");
    turn(&hand, 61 * MINUTE).await;
    let outcomes = |name: &'static str| {
        let gate = gate.clone();
        async move {
            let history = gate.jobs().history(name).await;
            history.into_iter().rev().map(|run| (run.attempt, run.outcome, run.text)).collect::<Vec<_>>()
        }
    };
    let run = |attempt, outcome: &str, text: &str| (attempt, outcome.to_owned(), text.to_owned());
    assert_eq!(
        outcomes("third").await,
        [run(1, "failed", "attempt 1"), run(2, "failed", "attempt 2"), run(3, "done", "\"at last\"")]
    );
    let down = "the provider is down";
    assert_eq!(outcomes("never").await, [run(1, "failed", down), run(2, "failed", down), run(3, "failed", down)]);
    assert_eq!(outcomes("panics").await, [run(1, "failed", "the job panicked")]);
    assert_eq!(outcomes("slow").await, [run(1, "timed-out", "it took longer than 5s")]);
    let checks = gate.health().checks;
    let of = |name: &str| checks.iter().find(|check| check.name == name).map(|check| check.status);
    assert_eq!(gate.health().recommendations[0].code, "job-fails");
    assert_eq!(gate.stats().jobs[1].failed_in_a_row, 3);
    assert_eq!((of("job never"), of("job third"), of("job slow")), (Some("warn"), Some("pass"), Some("pass")));
    assert!(ended.lock().expect("not poisoned").contains(&format!("never 3 failed {down}")));
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_skipped_or_made_up_for_after_a_restart() {
    for (missed, expected) in [(Missed::Skip, 0), (Missed::Once, 1), (Missed::All, 3)] {
        let (directory, count) = (TestDirectory::new(), Arc::new(AtomicUsize::new(0)));
        let hand = ManualClock::starting(start());
        let node = || {
            let builder = Tollgate::builder().clock(Clock::Manual(hand.clone()));
            let gate = builder.file(directory.path(), 64 << 20).build().expect("a gate");
            gate.jobs().every("10m").missed(missed).job("coins", counting(&count)).expect("a job");
            gate
        };
        let first = node();
        turn(&hand, 11 * MINUTE).await;
        assert_eq!(count.load(Ordering::SeqCst), 1, "{missed:?}");
        first.shutdown().await;
        drop(first);
        hand.advance(35 * MINUTE);
        let second = node();
        turn(&hand, Duration::from_secs(10)).await;
        assert_eq!(count.load(Ordering::SeqCst), 1 + expected, "{missed:?}");
        turn(&hand, 5 * MINUTE).await;
        assert_eq!(count.load(Ordering::SeqCst), 2 + expected, "{missed:?}: the next time is as usual");
        assert_eq!(second.jobs().list()[0].runs as usize, 2 + expected);
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_are_disabled_and_run_by_hand_also_after_a_restart() {
    let (directory, count) = (TestDirectory::new(), Arc::new(AtomicUsize::new(0)));
    let hand = ManualClock::starting(start());
    let node = || {
        let builder = Tollgate::builder().clock(Clock::Manual(hand.clone()));
        let gate = builder.file(directory.path(), 64 << 20).build().expect("a gate");
        gate.jobs().every("10m").job("coins", counting(&count)).expect("a job");
        gate
    };
    let first = node();
    first.jobs().set_enabled("coins", false).await.expect("stored");
    turn(&hand, 21 * MINUTE).await;
    assert_eq!(count.load(Ordering::SeqCst), 0);
    drop(first);
    let second = node();
    turn(&hand, 10 * MINUTE).await;
    assert_eq!((count.load(Ordering::SeqCst), second.jobs().list()[0].is_enabled), (0, false));
    second.jobs().run_now("coins").expect("known");
    turn(&hand, Duration::from_secs(2)).await;
    assert_eq!(count.load(Ordering::SeqCst), 1, "a person asked for it");
    second.jobs().set_enabled("coins", true).await.expect("stored");
    turn(&hand, 10 * MINUTE).await;
    assert_eq!(count.load(Ordering::SeqCst), 2);
    assert!(second.jobs().run_now("moon").expect_err("unknown").to_string().contains("use one of [\"coins\"]"));
    assert!(second.jobs().set_enabled("moon", true).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_mode_switches_all_jobs() {
    let (hand, builder) = turned();
    let gate = builder.build().expect("a gate");
    let count = Arc::new(AtomicUsize::new(0));
    gate.jobs().every("10m").job("coins", counting(&count)).expect("a job");
    gate.jobs().set_mode(Mode::Shadow);
    turn(&hand, 11 * MINUTE).await;
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert_eq!(gate.jobs().history("coins").await[0].outcome, "shadow");
    gate.jobs().set_mode(Mode::Off);
    turn(&hand, 20 * MINUTE).await;
    gate.jobs().set_mode(Mode::On);
    turn(&hand, 2 * MINUTE).await;
    assert_eq!((count.load(Ordering::SeqCst), gate.jobs().history("coins").await.len()), (0, 1));
    turn(&hand, 8 * MINUTE).await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_does_not_overlap_itself_and_a_process_that_dies_loses_it() {
    let (directory, hand) = (TestDirectory::new(), ManualClock::starting(start()));
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let node = || {
        let builder = Tollgate::builder().clock(Clock::Manual(hand.clone()));
        let gate = builder.file(directory.path(), 64 << 20).build().expect("a gate");
        let tokens = tokens.clone();
        let long = move |ctx: JobContext| {
            let tokens = tokens.clone();
            async move {
                tokens.lock().expect("not poisoned").push((ctx.attempt(), ctx.token()));
                ctx.progress(1, 2);
                if ctx.attempt() == 1 {
                    std::future::pending::<()>().await;
                }
                Ok::<_, String>(())
            }
        };
        gate.jobs().every("10m").timeout("1d").job("long", long).expect("a job");
        gate
    };
    let (first, second) = (node(), node());
    turn(&hand, 25 * MINUTE).await;
    assert_eq!(*tokens.lock().expect("not poisoned"), [(1, 1)], "both were due twice");
    let running: Vec<_> = [&first, &second].iter().map(|gate| gate.jobs().list().remove(0)).collect();
    let holder = running.iter().position(|status| status.is_running).expect("one runs it");
    assert_eq!((running[holder].progress, running[1 - holder].is_running), (Some((1, 2)), false));
    let (dead, alive) = if holder == 0 { (first, second) } else { (second, first) };
    // Dropped with its task, as in a process that is killed: the lease is not given back.
    drop(dead);
    turn(&hand, Duration::from_secs(20)).await;
    assert_eq!(tokens.lock().expect("not poisoned").len(), 1, "the lease lasts");
    turn(&hand, Duration::from_secs(20)).await;
    assert_eq!(*tokens.lock().expect("not poisoned"), [(1, 1), (2, 2)]);
    let history = alive.jobs().history("long").await;
    let outcomes: Vec<_> = history.iter().map(|run| (run.attempt, run.outcome.as_str())).collect();
    assert_eq!(outcomes, [(2, "done"), (1, "lapsed")]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_the_middle_of_a_run_makes_the_next_attempt() {
    let (directory, hand) = (TestDirectory::new(), ManualClock::starting(start()));
    let node = || {
        let builder = Tollgate::builder().clock(Clock::Manual(hand.clone()));
        let gate = builder.file(directory.path(), 64 << 20).build().expect("a gate");
        let run = |ctx: JobContext| async move {
            if ctx.attempt() == 1 {
                std::future::pending::<()>().await;
            }
            Ok::<_, String>(ctx.attempt())
        };
        gate.jobs().cron("0 1 * * *").timeout("1h").job("nightly", run).expect("a job");
        gate
    };
    let first = node();
    turn(&hand, 61 * MINUTE).await;
    assert!(first.jobs().list()[0].is_running);
    drop(first);
    let second = node();
    turn(&hand, 2 * MINUTE).await;
    let history = second.jobs().history("nightly").await;
    let outcomes: Vec<_> = history.iter().map(|run| (run.attempt, run.outcome.as_str())).collect();
    assert_eq!(outcomes, [(2, "done"), (1, "lapsed")], "not a day later");
}

#[tokio::test(start_paused = true)]
async fn the_history_keeps_twenty_failures_and_ten_successes() {
    let (hand, builder) = turned();
    let gate = builder.build().expect("a gate");
    let count = AtomicUsize::new(0);
    let every_third_fails = move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(if number.is_multiple_of(3) { Err("the third") } else { Ok(number) })
    };
    gate.jobs().every("1m").retries(0).job("coins", every_third_fails).expect("a job");
    turn(&hand, 90 * MINUTE).await;
    let history = gate.jobs().history("coins").await;
    let failures = history.iter().filter(|run| run.is_failure()).count();
    assert_eq!((failures, history.len() - failures), (20, 10));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_for_a_request_runs_what_became_due_before_it() {
    let (directory, hand) = (TestDirectory::new(), ManualClock::starting(start()));
    let count = Arc::new(AtomicUsize::new(0));
    let ask = async || {
        let builder = Tollgate::builder().clock(Clock::Manual(hand.clone()));
        let gate = builder.file(directory.path(), 64 << 20).build().expect("a gate");
        gate.jobs().every("1h").missed(Missed::Once).job("coins", counting(&count)).expect("a job");
        let down = |_| std::future::ready(Err::<(), _>("the provider is down"));
        gate.jobs().every("1h").missed(Missed::Once).retries(0).job("broken", down).expect("a job");
        let trigger = gate.jobs().trigger("the secret in use").expect("long enough");
        let request = http::Request::get("/jobs/due").header("authorization", "Bearer the secret in use").body(());
        let answer = trigger.handle(&request.expect("a request")).await;
        assert_eq!(answer.status(), 200);
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.expect("a body").to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let results = [0, 1].map(|at| answer["jobs"][at]["result"].as_str().expect("a result").to_owned());
        gate.shutdown().await;
        results
    };
    assert_eq!(ask().await, ["not due", "not due"], "it is known from now on");
    hand.advance(100 * MINUTE);
    assert_eq!(ask().await, ["done", "failed"]);
    hand.advance(Duration::from_secs(1));
    assert_eq!(ask().await, ["not due", "not due"]);
    hand.advance(60 * MINUTE);
    assert_eq!(ask().await, ["done", "failed"]);
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_runs_and_then_drops_them() {
    let (hand, builder) = turned();
    let gate = builder.build().expect("a gate");
    let polite = |ctx: JobContext| async move {
        while !ctx.is_stopping() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, String>("stopped in time")
    };
    gate.jobs().every("10m").job("polite", polite).expect("a job");
    gate.jobs().every("10m").job("stubborn", |_| std::future::pending::<Result<(), String>>()).expect("a job");
    turn(&hand, 11 * MINUTE).await;
    #[expect(clippy::disallowed_methods, reason = "the runtime's time, which is paused")]
    let begun = tokio::time::Instant::now();
    gate.shutdown().await;
    let took = begun.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(7)).contains(&took), "{took:?}");
    assert_eq!(gate.jobs().history("polite").await[0].text, "\"stopped in time\"");
    let stubborn = gate.jobs().history("stubborn").await;
    assert_eq!((stubborn[0].outcome.as_str(), stubborn[0].text.as_str()), ("failed", "the process ended"));
    turn(&hand, 11 * MINUTE).await;
    assert_eq!(gate.jobs().history("polite").await.len(), 1, "none begins any more");
}

#[test]
fn wrong_settings_are_errors() {
    let gate = Tollgate::builder().build().expect("a gate");
    let run = |_: JobContext| async { Ok::<_, String>(()) };
    let jobs = gate.jobs();
    jobs.every("1h").job("known", run).expect("a job, which starts with a runtime");
    for (wrong, named) in [
        (jobs.every("soon").job("a", run), "invalid duration \"soon\""),
        (jobs.cron("* * *").job("a", run), "3 fields"),
        (jobs.every("1h").jitter("x").job("a", run), "invalid duration \"x\""),
        (jobs.every("1h").timeout("0s").job("a", run), "invalid duration \"0s\""),
        (jobs.every("1h").job("two words", run), "invalid job name"),
        (jobs.every("1h").job("known", run), "already"),
    ] {
        let error = wrong.expect_err(named).to_string();
        assert!(error.contains(named), "{error}");
    }
    for number in 1..32 {
        jobs.on_demand().job(&number.to_string(), run).expect("room");
    }
    assert!(jobs.on_demand().job("more", run).expect_err("too many").to_string().contains("more than 32 jobs"));
}

/// As a cron service would: over a socket, with curl.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_service_runs_what_is_due() {
    let gate = Tollgate::builder().build().expect("a gate");
    let count = Arc::new(AtomicUsize::new(0));
    gate.jobs().every("1s").missed(Missed::Once).job("coins", counting(&count)).expect("a job");
    gate.jobs().every("365d").job("yearly", counting(&count)).expect("a job");
    gate.jobs()
        .every("1s")
        .retries(0)
        .job("broken", |_| async { Err::<(), _>("the provider is down") })
        .expect("a job");
    let trigger =
        gate.jobs().trigger("the secret in use").expect("long enough").secret("the secret after it").expect("two");
    let near = trigger.clone().only_from(["203.0.113.0/24"]).expect("a network");
    let app = axum::Router::new().route_service("/jobs/due", trigger.clone()).route_service("/near/due", near);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let service = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    let curl = async |words: &str, secret: &str, path: &str| {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-s", "-w", "\n%{http_code}"]).args(words.split_whitespace());
        curl.args(["-H", &format!("authorization: Bearer {secret}"), &format!("http://{address}{path}")]);
        let said = String::from_utf8(curl.output().await.expect("curl is installed").stdout).expect("text");
        let (body, status) = said.rsplit_once('\n').expect("a status");
        (body.to_owned(), status.to_owned())
    };
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let (body, status) = curl("-X POST", "the secret in use", "/jobs/due").await;
    let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status.as_str(), &answer["done"]), ("200", &true.into()), "{body}");
    assert!(count.load(Ordering::SeqCst) >= 1, "{body}");
    let result = |job: &str| {
        let jobs = answer["jobs"].as_array().expect("a list").clone();
        jobs.into_iter().find(|one| one["job"] == job).expect("each job")["result"].clone()
    };
    assert!(["done", "not due"].map(serde_json::Value::from).contains(&result("coins")), "{body}");
    assert_eq!(result("yearly"), "not due");
    assert!(["failed", "not due"].map(serde_json::Value::from).contains(&result("broken")), "{body}");
    assert_eq!(curl("", "the secret after it", "/jobs/due").await.1, "200", "GET, while the secret is replaced");
    assert_eq!(curl("-X POST", "the secret in us", "/jobs/due").await.1, "401");
    assert_eq!(curl("-X POST", "", "/jobs/due").await.1, "401");
    assert_eq!(curl("-X PUT", "the secret in use", "/jobs/due").await.1, "405");
    assert_eq!(curl("-X POST", "the secret in use", "/near/due").await.1, "403");
    assert!(gate.jobs().trigger("short").is_err() && trigger.secret("a third secret!!").is_err());
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_cron_service_waits_for_so_long() {
    let (hand, builder) = turned();
    let gate = builder.build().expect("a gate");
    gate.jobs()
        .every("1m")
        .retries(0)
        .job("long", |_| async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Ok::<_, String>("twenty seconds")
        })
        .expect("a job");
    tokio::time::sleep(Duration::from_secs(2)).await;
    hand.advance(MINUTE);
    let trigger = gate.jobs().trigger("the secret in use").expect("long enough").max_wait(Duration::from_secs(5));
    let request = http::Request::post("/jobs/due")
        .header("authorization", "Bearer the secret in use")
        .body(())
        .expect("a request");
    let answer = trigger.handle(&request).await;
    let text = async |answer: http::Response<http_body_util::Full<bytes::Bytes>>| {
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.expect("a body").to_bytes();
        String::from_utf8(body.to_vec()).expect("text")
    };
    assert_eq!(answer.status(), 202);
    assert_eq!(text(answer).await, r#"{"done":false,"jobs":[{"job":"long","result":"running","text":""}]}"#);
    let answer = trigger.clone().max_wait(Duration::from_secs(30)).handle(&request).await;
    assert_eq!(answer.status(), 200);
    let done = r#"{"done":true,"jobs":[{"job":"long","result":"done","text":"\"twenty seconds\""}]}"#;
    assert_eq!(text(answer).await, done, "the same run");
    assert_eq!(gate.jobs().list()[0].runs, 1);
}

/// Four gates over one server: each time is run once, and a gate that is dropped leaves its work to the others.
async fn each_time_is_run_once(node: impl Fn() -> TollgateBuilder) {
    let runs: Arc<Mutex<HashMap<(SystemTime, u32), usize>>> = Arc::default();
    let gates: Vec<Tollgate> = (0..4)
        .map(|_| {
            let (gate, runs) = (node().build().expect("a gate"), runs.clone());
            let count = move |ctx: JobContext| {
                let runs = runs.clone();
                async move {
                    *runs.lock().expect("not poisoned").entry((ctx.slot(), ctx.attempt())).or_default() += 1;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    if ctx.attempt() == 1 { Err("the first attempt fails") } else { Ok(ctx.token()) }
                }
            };
            gate.jobs().every("2s").job("coins", count).expect("a job");
            gate
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(7)).await;
    drop(gates.into_iter().take(2));
    let rest = node().build().expect("a gate");
    let history = rest.jobs().history("coins").await;
    let runs = runs.lock().expect("not poisoned");
    assert!(runs.len() >= 4, "{runs:?}");
    assert!(runs.values().all(|times| *times == 1), "{runs:?}");
    assert!(runs.keys().any(|(_, attempt)| *attempt == 2), "{runs:?}");
    assert!(
        history.iter().any(|run| run.outcome == "done") && history.iter().any(|run| run.is_failure()),
        "{history:?}"
    );
    let mut tokens: Vec<u64> = history.iter().map(|run| run.token).collect();
    tokens.dedup();
    assert!(tokens.is_sorted_by(|newer, older| newer > older), "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_time_is_run_once_in_a_fleet_over_redis() {
    if redis::wanted() {
        let server = redis::RedisServer::start();
        each_time_is_run_once(|| Tollgate::builder().redis(server.url().as_str())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_time_is_run_once_in_a_fleet_over_postgresql_and_a_view_shows_it() {
    if postgres::wanted() {
        let server = postgres::Postgres::start();
        each_time_is_run_once(|| Tollgate::builder().postgres(server.url().as_str())).await;
        let shown = server.sql("SELECT job, is_enabled, runs > 3, last_outcome FROM background_jobs");
        assert!(shown.starts_with("coins|t|t|"), "{shown}");
    }
}
