//! What series of metrics take, by what is really allocated. Its own binary and one test, so that the process's memory is
//! theirs.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::alloc::System;
use std::convert::Infallible;

use bytes::Bytes;
use cap::Cap;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tollgate::timing::TimingLayer;
use tollgate::{Clock, ManualClock};
use tower::{Layer, ServiceExt, service_fn};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

const MIB: usize = 1 << 20;
const STATUSES: [u16; 12] = [200, 201, 204, 301, 304, 400, 403, 404, 409, 422, 500, 503];

/// Sends a request with each status to each route.
fn ask(timing: &TimingLayer, statuses: &[u16]) {
    let service = timing.layer(service_fn(|request: Request<()>| {
        let status = request.uri().path().rsplit('/').next().and_then(|text| text.parse().ok());
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or_default();
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    for route in 0..256 {
        for status in statuses {
            let request = Request::get(format!("/route/{route}/{status}")).body(()).expect("a request");
            service.clone().oneshot(request).now_or_never().expect("answered at once").expect("infallible");
        }
    }
}

#[test]
fn two_thousand_series_take_at_most_ten_megabytes_and_no_more_are_made() {
    let routes: Vec<String> = (0..256).map(|n| format!("/route/{n}/{{status}}")).collect();
    let clock = Clock::Manual(ManualClock::new());
    let timing = TimingLayer::builder().routes(&routes).clock(clock).build().expect("a layer");
    ask(&timing, &STATUSES[..1]);
    let before = MEMORY.allocated();
    ask(&timing, &STATUSES);
    let series = MEMORY.allocated() - before;
    let pages = timing.prometheus();
    let made = pages.lines().filter(|line| line.starts_with("http_server_request_duration_seconds_count")).count();
    assert_eq!(made, 2_048);
    println!("{} KiB for {made} series", series / 1024);
    assert!(series <= 10 * MIB, "{series} bytes");
    let before = MEMORY.allocated();
    for method in ["PUT", "POST", "DELETE"] {
        let service = timing.layer(service_fn(|_: Request<()>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
        }));
        let request = Request::builder().method(method).uri("/route/1/200").body(()).expect("a request");
        service.oneshot(request).now_or_never().expect("answered at once").expect("infallible");
    }
    assert!(MEMORY.allocated() <= before + 1024, "further series share one");
}
