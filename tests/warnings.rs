//! A misconfiguration is never silent: the first warning that nothing receives is printed.
//!
//! Each case runs in a process of its own, because it is printed once in each.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::convert::Infallible;
use std::process::Command;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tollgate::limit::{Limit, Quota, RateLimitLayer};
use tower::{Layer, ServiceExt, service_fn};
use tracing_subscriber::EnvFilter;

const CASE: &str = "TOLLGATE_TEST_WARNING";

/// What a process prints to standard error whose limits know no peer.
fn printed(case: &str) -> Vec<String> {
    let this = std::env::current_exe().expect("this program");
    let mut child = Command::new(this);
    child.args(["--exact", "the_child", "--nocapture", "--include-ignored"]).env(CASE, case);
    let output = child.output().expect("a child");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("text");
    text.lines().filter(|line| line.contains("tollgate")).map(str::to_owned).collect()
}

#[test]
fn without_a_listener_the_first_warning_is_printed() {
    for case in ["none", "filtered"] {
        let lines = printed(case);
        assert_eq!(lines.len(), 2, "{case}: {lines:?}");
        assert!(lines[0].starts_with("tollgate: limit \"first\": the client's address is unknown"), "{lines:?}");
        assert!(lines[1].contains("tollgate=info"), "{lines:?}");
    }
}

#[test]
fn with_a_listener_nothing_is_printed() {
    assert_eq!(printed("hook"), [""; 0]);
    let logged = printed("logged");
    assert!(logged.len() == 2 && logged.iter().all(|line| line.contains("WARN")), "{logged:?}");
}

#[tokio::test]
async fn the_child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let log = |filter: &str| {
        let filter = EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    };
    match &*case {
        "none" | "hook" => {}
        "filtered" => log("my_application=debug"),
        "logged" => log("my_application=debug,tollgate=info"),
        other => panic!("{other}"),
    }
    for name in ["first", "second"] {
        let builder = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(5)).named(name));
        let builder = if case == "hook" { builder.hook(|_| ()) } else { builder };
        let inner = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) });
        let service = builder.build().expect("a layer").layer(inner);
        service.oneshot(Request::new(())).await.expect("an answer");
    }
}
