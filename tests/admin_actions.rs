//! Actions of operators, and what they read.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/directory.rs"]
mod directory;
#[path = "support/ops.rs"]
mod ops;
#[path = "support/redis.rs"]
mod redis;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use directory::TestDirectory;
use http::{Method, Request};
use http_body_util::BodyExt;
use ops::{Ops, SECRET, VIEWER, basic, bearer, builder, text};
use redis::RedisServer;
use serde_json::Value;
use tollgate::limit::Limit;
use tollgate::upstream::Credits;
use tollgate::{Clock, ManualClock, Mode, Override, Tollgate};

#[tokio::test]
async fn a_purge_that_concerns_many_needs_their_number() {
    let ops = Ops::new(builder());
    for id in 0..40 {
        ops.visit(&format!("/articles/{id}")).await;
    }
    let calls = || ops.gate.stats().inner_calls;
    assert_eq!(calls(), 40);
    let (status, answer) = ops.act("/purge", "what=*").await;
    assert_eq!((status.as_u16(), &answer["done"]), (422, &false.into()));
    assert!(answer["outcome"].as_str().is_some_and(|text| text.contains("40 of 40 entries")), "{answer}");
    let (_, preview) = ops.act("/purge", "what=tag:articles&preview=1").await;
    assert_eq!(preview["outcome"], "40 of 40 entries in this process match; nothing was purged");
    assert_eq!(ops.act("/purge", "what=/&confirm=39").await.1["done"], true, "a path is one entry, or none");
    assert_eq!(ops.act("/purge", "what=/*&confirm=39").await.0, 422);
    assert_eq!(ops.act("/purge", "what=/articles/7").await.0, 200, "one entry");
    ops.visit("/articles/7").await;
    assert_eq!(calls(), 41);
    assert_eq!(ops.act("/purge", "what=tag:articles&mode=hard&confirm=40&reason=a+wrong+import").await.0, 200);
    ops.visit("/articles/9").await;
    assert_eq!(calls(), 42);
    assert_eq!(ops.act("/purge", "what=articles").await.0, 422);
    let audit = ops.json("/audit.json").await;
    assert_eq!(
        (&audit[1]["action"], &audit[1]["reason"]),
        (&"purge, hard, of tag:articles".into(), &"a wrong import".into())
    );
}

#[tokio::test]
async fn a_purge_that_made_entries_stale_is_revoked_within_ten_minutes() {
    let hand = ManualClock::new();
    let ops = Ops::new(builder().clock(Clock::Manual(hand.clone())));
    let calls = || ops.gate.stats().inner_calls;
    ops.visit("/articles/1").await;
    ops.visit("/articles/2").await;
    assert_eq!(ops.act("/purge", "what=tag:articles&confirm=2").await.0, 200);
    ops.visit("/articles/1").await;
    assert_eq!(calls(), 3, "it was stale");
    assert_eq!(ops.act("/revoke-purge", "what=tag:other").await.0, 422);
    let (status, answer) = ops.act("/revoke-purge", "what=tag:articles").await;
    assert_eq!((status.as_u16(), &answer["outcome"]), (200, &"its entries are as fresh as before".into()));
    ops.visit("/articles/2").await;
    assert_eq!(calls(), 3, "it is as fresh as it was");
    assert_eq!(ops.act("/revoke-purge", "what=tag:articles").await.0, 422, "once");
    assert_eq!(ops.act("/purge", "what=/articles/2&mode=hard").await.0, 200);
    assert_eq!(ops.act("/revoke-purge", "what=/articles/2").await.0, 422, "what was removed is gone");
    assert_eq!(ops.act("/purge", "what=/articles/1").await.0, 200);
    hand.advance(Duration::from_secs(601));
    let (status, answer) = ops.act("/revoke-purge", "what=/articles/1").await;
    assert_eq!((status.as_u16(), answer["done"].as_bool()), (422, Some(false)));
}

#[tokio::test]
async fn a_revocation_reaches_the_other_nodes() {
    if !redis::wanted() {
        return;
    }
    let server = RedisServer::start();
    let node = || Ops::new(builder().redis(server.url().as_str()));
    let (a, b) = (node(), node());
    let calls = || a.gate.stats().inner_calls + b.gate.stats().inner_calls;
    until("both are connected", async || {
        a.visit("/articles/0").await;
        b.visit("/articles/0").await;
        a.gate.stats().cache[1].up && b.gate.stats().cache[1].up
    })
    .await;
    let (first, second) = ("/articles/1", "/articles/2");
    a.visit(first).await;
    a.visit(second).await;
    until("b has both", async || {
        let before = calls();
        b.visit(first).await;
        b.visit(second).await;
        calls() == before
    })
    .await;
    let before = calls();
    let (status, answer) = a.act("/purge", "what=/articles/*&confirm=3").await;
    assert_eq!(status, 200, "{answer}");
    until("b knows of the purge", async || {
        b.visit(first).await;
        calls() > before
    })
    .await;
    assert_eq!(b.act("/revoke-purge", "what=/articles/*").await.0, 200, "any node revokes it");
    until("a knows of the revocation", async || {
        let before = calls();
        a.visit(second).await;
        calls() == before
    })
    .await;
}

#[tokio::test]
async fn a_person_is_told_on_the_page_what_failed_and_what_a_count_found() {
    let ops = Ops::new(builder());
    ops.visit("/articles/1").await;
    let ann = basic("ann", SECRET);
    let fields = [("authorization", ann.as_str()), ("sec-fetch-site", "same-origin")];
    for (form, status, told) in [
        ("what=nonsense", 422, "cannot purge &quot;nonsense&quot;"),
        ("what=tag:articles&preview=1", 200, "1 of 1 entries in this process match"),
    ] {
        let form = format!("{form}&token={}", ops.token().await);
        let answer = ops.ask(Method::POST, "/purge", &fields, &form).await;
        assert_eq!(answer.status(), status);
        let page = text(answer).await;
        assert!(page.contains("role=\"alert\"") && page.contains(told) && page.contains("id=\"actions\""), "{form}");
    }
    let audit = ops.json("/audit.json").await;
    assert_eq!(audit.as_array().map(Vec::len), Some(1), "a count is no action: {audit}");
}

#[tokio::test]
async fn the_credits_of_an_upstream_are_corrected_and_topped_up() {
    let market = Tollgate::upstream("market").quota(Credits::per_month(60_000)).build().expect("a gate");
    let ops = Ops::new(builder().watch_upstream(&market));
    let spent = || market.stats().upstream.windows[0].spent;
    assert_eq!(ops.act("/correct-credits", "upstream=market&credits=41000").await.0, 200);
    assert_eq!(spent(), 41_000);
    assert_eq!(ops.act("/correct-credits", "upstream=market&window=month&credits=40000").await.0, 200);
    assert_eq!(spent(), 40_000);
    let (_, answer) = ops.act("/correct-credits", "upstream=market&how=add&credits=5000&reason=bought").await;
    assert_eq!((&answer["outcome"], spent()), (&"35000 are spent now".into(), 35_000));
    for (form, reason) in [
        ("upstream=moon&credits=1", "unknown upstream"),
        ("upstream=market&credits=many", "malformed number"),
        ("upstream=market&credits=60001", "exceeds the limit"),
        ("upstream=market&window=day&credits=1", "unknown window"),
        ("upstream=market&how=take&credits=1", "unknown correction"),
    ] {
        let (status, answer) = ops.act("/correct-credits", form).await;
        assert_eq!(status, 422, "{form}");
        assert!(answer["outcome"].as_str().is_some_and(|text| text.contains(reason)), "{answer}");
    }
}

#[tokio::test]
async fn jobs_are_seen_run_enabled_and_disabled() {
    let ops = Ops::new(builder());
    let ran = Arc::new(AtomicUsize::new(0));
    let count = ran.clone();
    let run = move |_| std::future::ready(Ok::<_, String>(count.fetch_add(1, Ordering::SeqCst)));
    ops.gate.jobs().on_demand().job("coins", run).expect("a job");
    assert_eq!(ops.act("/run-job", "job=coins&reason=a+test").await.0, 200);
    until("it has run", async || ops.json("/jobs.json").await[0]["runs_total"] == 1).await;
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    assert_eq!(ops.json("/jobs.json?job=coins").await[0]["outcome"], "done");
    assert_eq!(ops.act("/disable-job", "job=coins").await.0, 200);
    assert_eq!(ops.json("/jobs.json").await[0]["is_enabled"], false);
    let panels = ops.json("/panels.json").await;
    let shown = panels["quotas"].as_str().expect("a panel");
    assert!(shown.contains("coins") && shown.contains("disabled"), "{shown}");
    assert_eq!(ops.act("/enable-job", "job=coins").await.0, 200);
    assert_eq!(ops.act("/run-job", "job=moon").await.0, 422);
    let audit = ops.json("/audit.json").await;
    assert_eq!((&audit[3]["action"], &audit[3]["reason"]), (&"run of the job coins".into(), &"a test".into()));
}

/// Waits until something is so, for at most twenty seconds.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not so: {what}");
}

#[tokio::test]
async fn overrides_are_made_listed_and_ended() {
    let hand = ManualClock::new();
    let ops = Ops::new(builder().clock(Clock::Manual(hand.clone())));
    let form = "target=limit+api&value=shadow&for=15m&reason=a+customer+is+refused";
    assert_eq!(ops.act("/override", form).await.0, 200);
    let listed = ops.json("/overrides.json").await;
    assert_eq!(
        (&listed[0]["id"], &listed[0]["actor"], &listed[0]["expires_in_seconds"]),
        (&"limit api mode".into(), &"bearer".into(), &900.0.into())
    );
    assert_eq!(ops.gate.stats().limits[0].mode, Mode::Shadow);
    hand.advance(Duration::from_secs(900));
    assert_eq!(ops.json("/overrides.json").await, serde_json::json!([]), "it has expired");
    let panels = ops.json("/panels.json").await;
    let happened = panels["happened"].as_str().expect("a panel");
    assert!(happened.contains("the override limit api mode has expired"), "{happened}");
    assert_eq!(ops.act("/override", "target=limit+api&value=7/h&for=permanent").await.0, 200);
    assert_eq!(ops.gate.stats().limits[0].quota, "7/hour");
    assert_eq!(ops.act("/end-override", "id=limit+api+quota").await.0, 200);
    for (path, form, reason) in [
        ("/end-override", "id=limit+api+quota", "there is no override"),
        ("/override", "target=limit+apo&value=off", "unknown limit"),
        ("/override", "target=limit+api&value=soon", "unknown value"),
        ("/override", "target=limit+api&value=off&for=soon", "invalid duration"),
        ("/override", "value=off", "unknown target"),
    ] {
        let (status, answer) = ops.act(path, form).await;
        assert_eq!(status, 422, "{form}");
        assert!(answer["outcome"].as_str().is_some_and(|text| text.contains(reason)), "{answer}");
    }
}

#[tokio::test]
async fn a_customer_is_found_by_his_reference_reset_and_granted_more() {
    let ops = Ops::new(builder());
    for _ in 0..101 {
        ops.visit("/other").await;
    }
    let client = ops.json("/subject.json?subject=192.0.2.7").await;
    assert_eq!((&client["is_admitted"], &client["limits"][0]["remaining"]), (&false.into(), &0.into()));
    let reference = client["refusals"][0]["reference"].as_str().expect("a reference").to_owned();
    let refusal = ops.json(&format!("/subject.json?subject={reference}")).await;
    assert_eq!(
        (&refusal["refusals"][0]["route"], &refusal["refusals"][0]["limits"][0]),
        (&"/other".into(), &"api".into())
    );
    assert_eq!(ops.act("/reset-subject", "subject=192.0.2.7").await.0, 200);
    assert_eq!(ops.visit("/other").await, 200);
    assert_eq!(ops.act("/grant-subject", "subject=192.0.2.7&limit=api&quota=500/h&for=2h").await.0, 200);
    let mut admitted = 0;
    for _ in 0..600 {
        admitted += usize::from(ops.visit("/other").await == 200);
    }
    assert!((490..500).contains(&admitted), "{admitted}");
    for form in
        ["subject=192.0.2.7&limit=api&quota=9/h&for=91d", "limit=api&quota=9/h", "subject=moon:1&limit=api&quota=9/h"]
    {
        assert_eq!(ops.act("/grant-subject", form).await.0, 422, "{form}");
    }
    let audit = ops.json("/audit.json").await.to_string();
    assert!(!audit.contains("192.0.2.7"), "people are not named: {audit}");
}

#[tokio::test]
async fn it_says_what_would_happen_to_a_request() {
    let ops = Ops::new(builder());
    ops.visit("/articles/1").await;
    let explain = async |query: &str| ops.json(&format!("/explain.json?{query}")).await;
    let fresh = explain("url=http://h/articles/1&subject=192.0.2.7").await;
    assert_eq!((&fresh["state"], &fresh["rule"]), (&"fresh".into(), &"/articles/{id}".into()));
    assert_eq!(
        (&fresh["entry"]["tags"][0], &fresh["limits"]["limits"][0]["remaining"]),
        (&"articles".into(), &99.into())
    );
    assert_eq!(explain("url=http://h/articles/2").await["state"], "missing");
    assert_eq!(explain("url=/other").await["rule"], Value::Null);
    let bypass = explain("url=http://h/articles/1&header=Authorization:+x").await;
    assert_eq!(bypass["state"], "fresh", "the rule says the same for everyone");
    ops.gate.invalidate().tag("articles").await.expect("valid");
    assert_eq!(explain("url=http://h/articles/1").await["state"], "invalidated");
    ops.gate.overrides().apply(Override::mode("rule /articles/{id}", Mode::Off)).await.expect("a rule");
    assert_eq!(explain("url=http://h/articles/1").await["state"], "off");
    let before = ops.gate.stats();
    explain("url=http://h/articles/3").await;
    assert_eq!(
        ops.gate.stats().routes["/articles/{id}"].misses,
        before.routes["/articles/{id}"].misses,
        "it is not counted"
    );
    for wrong in ["url=%00", "url=/other&header=nocolon", "url=/other&header=a+b:c"] {
        let (path, bearer) = (format!("/explain.json?{wrong}"), bearer(SECRET));
        let answer = ops.ask(Method::GET, &path, &[("authorization", &bearer)], "").await;
        assert_eq!(answer.status(), 422, "{wrong}");
    }
}

#[tokio::test]
async fn a_form_that_is_too_long_or_never_ends_is_refused() {
    let ops = Ops::new(builder());
    let fields = [("authorization", bearer(SECRET))];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(ops.ask(Method::POST, "/purge", &fields, &"x".repeat(17 << 10)).await.status(), 400);
    tokio::time::pause();
    let body = http_body_util::StreamBody::new(futures_util::stream::pending::<Result<_, std::convert::Infallible>>());
    let body = BodyExt::map_frame(body, |frame: http_body::Frame<Bytes>| frame);
    let request = Request::post("/purge").header("authorization", bearer(SECRET)).body(body).expect("a request");
    assert_eq!(ops.admin.handle(request).await.status(), 400);
}

#[tokio::test]
async fn a_hundred_viewers_see_the_same_events() {
    let ops = Ops::new(builder());
    let viewer = bearer(VIEWER);
    let fields = [("authorization", viewer.as_str())];
    let mut bodies = Vec::new();
    for _ in 0..100 {
        let answer = ops.ask(Method::GET, "/events", &fields, "").await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &"text/event-stream".parse().expect("a value"))
        );
        bodies.push(answer.into_body());
    }
    for body in &mut bodies {
        let event = body.frame().await.expect("an event").expect("infallible").into_data().expect("data");
        let event = std::str::from_utf8(&event).expect("text");
        let panels: Value = serde_json::from_str(event.trim().strip_prefix("data: ").expect("an event")).expect("JSON");
        assert!(panels["verdict"].as_str().is_some_and(|html| html.contains("Objectives")), "{panels}");
    }
}

#[tokio::test]
async fn an_action_while_the_store_is_away_is_in_force_here_and_pending_for_the_fleet() {
    if !redis::wanted() {
        return;
    }
    let server = redis::RedisServer::start();
    let ops = Ops::new(builder().redis(server.url().as_str()));
    ops.gate.overrides().sync().await;
    server.stop();
    let (status, answer) = ops.act("/override", "target=cache&value=off").await;
    assert_eq!(status, 200);
    assert!(answer["outcome"].as_str().is_some_and(|text| text.contains("fleet: pending")), "{answer}");
    assert_eq!(ops.json("/overrides.json").await[0]["is_pending"], true);
    server.cont();
    let other = Ops::new(builder().redis(server.url().as_str()));
    for _ in 0..200 {
        ops.gate.overrides().sync().await;
        other.gate.overrides().sync().await;
        if other.gate.stats().modes.cache == Mode::Off {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(other.gate.stats().modes.cache, Mode::Off);
    // The audit follows within ten seconds.
    let audited = async {
        while other.json("/audit.json").await[0]["action"] != "override of cache to off" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), audited).await.expect("the audit");
}

#[tokio::test]
async fn nodes_see_one_another_and_their_audit() {
    let directory = TestDirectory::new();
    let node = |limit: &str| {
        let limit = Limit::per_ip(limit).named("other");
        Ops::new(builder().limit(limit).file(directory.path(), 64 << 20))
    };
    let (a, b, c) = (node("5/h"), node("5/h"), node("6/h"));
    assert_eq!(a.act("/override", "target=limit+api&value=50/h&reason=launch").await.0, 200);
    let seen = async {
        loop {
            let nodes = b.json("/fleet.json").await;
            let nodes = nodes.as_array().expect("a list").clone();
            if nodes.len() == 3 {
                return nodes;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let nodes = tokio::time::timeout(Duration::from_secs(60), seen).await.expect("ten seconds, on an idle machine");
    let mut hashes: Vec<&str> = nodes.iter().filter_map(|node| node["configuration"].as_str()).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 2, "c differs: {nodes:?}");
    let audit = b.json("/audit.json").await;
    assert_eq!((&audit[0]["action"], &audit[0]["reason"]), (&"override of limit api to 50/h".into(), &"launch".into()));
    drop(c);
}
