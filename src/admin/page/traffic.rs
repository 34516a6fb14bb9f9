//! Where do requests go?

use std::fmt::Write;
use std::time::Duration;

use super::chart;
use super::text::{count, percent, span};
use crate::admin::model::view::View;
use crate::health::timeline::Point;
use crate::health::totals::{Totals, share};

pub(super) fn panel(view: &View) -> String {
    let hour = view.minutes.points.iter().fold(Totals::default(), |sum, point| sum.plus(&point.counts));
    let mut html = flow(&hour, view);
    html.push_str(
        "<figure><figcaption>Requests per minute <span class=\"legend\"><span class=\"key hit\"></span>from the cache \
                   <span class=\"key served\"></span>by the service <span class=\"key refused\"></span>refused \
                   <span class=\"key failed\"></span>failed</span></figcaption>",
    );
    html.push_str(&chart::stacked(
        &view.minutes,
        "Requests of each of the last 60 minutes: from the cache, by the service, refused, failed",
        &[("hit", hits), ("served", served), ("refused", refused), ("failed", failed)],
    ));
    html.push_str(
        "</figure><figure><figcaption>Time to the response, 95th percentile <span class=\"legend\">\
                   <span class=\"key target\"></span>target</span></figcaption>",
    );
    html.push_str(&chart::durations(&view.minutes, "95th percentile of the last 60 minutes", view.latency_target, p95));
    html.push_str("</figure>");
    html
}

fn hits(point: &Point) -> u64 {
    point.counts.hits
}

fn refused(point: &Point) -> u64 {
    point.counts.refused
}

fn failed(point: &Point) -> u64 {
    point.counts.errors
}

fn served(point: &Point) -> u64 {
    let counts = &point.counts;
    counts.requests.saturating_sub(counts.hits + counts.refused + counts.errors)
}

fn p95(point: &Point) -> Duration {
    point.p95
}

/// Writes the numbers of the last hour, from the client to the upstreams.
fn flow(hour: &Totals, view: &View) -> String {
    let calls: u64 = view.upstreams.iter().map(|upstream| upstream.calls).sum();
    let served = hour.requests.saturating_sub(hour.hits + hour.refused);
    let latency = view.stats.timing.latency;
    let mut steps = vec![
        ("Requests", count(hour.requests), "last hour".to_owned()),
        ("Refused", count(hour.refused), percent(share(hour.refused, hour.requests))),
        ("From the cache", count(hour.hits), percent(share(hour.hits, hour.requests))),
        ("By the service", count(served), percent(share(served, hour.requests))),
        ("Failed", count(hour.errors), percent(share(hour.errors, hour.requests))),
        ("Queries", count(hour.queries), format!("{} each", span(hour.mean_query()))),
    ];
    if !view.upstreams.is_empty() {
        steps.push(("Upstream calls", count(calls), format!("{} credits in the hour", count(hour.credits))));
    }
    steps.push(("Median time", span(latency.p50), format!("p99 {}", span(latency.p99))));
    let mut html = String::from("<dl class=\"flow\">");
    for (name, value, note) in steps {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>");
    }
    html.push_str("</dl>");
    html
}
