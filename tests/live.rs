//! Cache and timing that are switched while requests go on.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use support::{Req, text};
use tollgate::cache::{Rule, Rules};
use tollgate::{Switch, Tollgate};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt, service_fn};

fn gate() -> Tollgate {
    let rules = Rules::new().route("/x", Rule::ttl(Duration::from_secs(60)));
    Tollgate::builder().cache(rules).timing_with(|timing| timing.server_timing(true)).build().expect("a gate")
}

/// Answers with the number of the call; says whether there was a `Server-Timing` and a `Cache-Status`.
struct App(BoxCloneService<Req, Response<tollgate::Body<Full<Bytes>>>, Infallible>);

impl App {
    fn new(gate: &Tollgate) -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let inner = service_fn(move |_: Req| {
            let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
            async move { Ok::<_, Infallible>(Response::new(Full::from(call.to_string()))) }
        });
        Self(BoxCloneService::new(gate.layer().layer(inner)))
    }

    async fn send(&self, method: &str) -> (String, bool) {
        let request = Request::builder().method(method).uri("/x").header("host", "example.com");
        let response =
            self.0.clone().oneshot(request.body(Empty::new()).expect("a request")).await.expect("infallible");
        let timed = response.headers().contains_key("server-timing");
        (text(response).await, timed)
    }

    async fn get(&self) -> String {
        self.send("GET").await.0
    }
}

#[tokio::test]
async fn a_cache_that_was_off_still_has_its_entries() {
    let gate = gate();
    let app = App::new(&gate);
    assert_eq!((app.get().await.as_str(), app.get().await.as_str()), ("1", "1"));
    gate.switch_cache(Switch::Off).expect("off");
    assert_eq!((app.get().await.as_str(), app.get().await.as_str()), ("2", "3"));
    gate.switch_cache(Switch::On).expect("on");
    assert_eq!(app.get().await, "1", "kept");
    assert!(gate.switch_cache(Switch::Shadow).is_err());
    assert_eq!(app.get().await, "1", "a refused switch changes nothing");
}

#[tokio::test]
async fn what_changes_while_the_cache_is_off_is_not_served_afterwards() {
    let gate = gate();
    let app = App::new(&gate);
    assert_eq!(app.get().await, "1");
    gate.switch_cache(Switch::Off).expect("off");
    assert_eq!(app.send("PUT").await.0, "2");
    gate.switch_cache(Switch::On).expect("on");
    assert_eq!(app.get().await, "3");
}

#[tokio::test]
async fn timing_is_switched_and_keeps_what_it_measured() {
    let gate = gate();
    let app = App::new(&gate);
    for (switch, told, requests) in
        [(Switch::On, true, 1), (Switch::Off, false, 1), (Switch::Shadow, false, 2), (Switch::On, true, 3)]
    {
        gate.switch_timing(switch);
        assert_eq!(app.send("GET").await.1, told, "{switch:?}");
        assert_eq!(gate.stats().requests, requests, "{switch:?}");
    }
}
