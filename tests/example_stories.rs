//! The examples that play a story to its end and exit with 0 when it ended well.
#![allow(clippy::expect_used, reason = "a test may fail")]

use std::process::Command;

#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/redis.rs"]
mod redis;

/// Two processes and a Redis that is killed twice under load.
#[test]
fn a_fleet_outlives_its_redis() {
    if redis::wanted() {
        let said = story("fleet", &[]);
        assert!(said.contains("No request failed."), "{said}");
    }
}

/// A service with a file level is killed, and pays no call again.
#[test]
fn a_restart_pays_no_call_again() {
    let said = story("restart", &[]);
    assert!(said.contains("calls paid after the restart: 0"), "{said}");
}

/// The same over PostgreSQL; without a server it ends with an error.
#[test]
fn a_restart_over_postgresql_pays_no_call_again() {
    if postgres::wanted() {
        let server = postgres::Postgres::start();
        let said = story("restart", &["--postgres", &server.url()]);
        assert!(said.contains("calls paid after the restart: 0"), "{said}");
    }
}

/// A day of a price service: no user waits for the provider, which is called 95 % less.
#[test]
fn a_day_with_a_job_lets_no_user_wait() {
    let said = story("jobs", &[]);
    assert!(said.contains("2000 times; 0 of them waited"), "{said}");
    assert!(said.contains("calls paid with the job: 101, 95.0 % less"), "{said}");
    assert!(said.contains("| 10:15 | 3 | failed | 0 ms | the provider is down |"), "{said}");
}

/// What the example prints. It is built first, where `cargo test` builds this test: examples are else built as tests.
fn story(example: &str, arguments: &[&str]) -> String {
    let test = std::env::current_exe().expect("this program");
    let profile = test.ancestors().nth(2).expect("the profile's folder");
    let target = profile.parent().expect("the target's folder");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--all-features", "--example", example, "--target-dir"]).arg(target);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success(), "the example {example} is built");
    let output = Command::new(profile.join("examples").join(example)).args(arguments).output().expect("it runs");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    said.into_owned()
}
