//! Pages, as text and as parsers read them.

use super::*;

fn page(format: TextFormat, fill: impl FnOnce(&mut dyn Samples)) -> String {
    let mut page = TextPage::new(format);
    fill(&mut page);
    page.finish()
}

fn durations(out: &mut dyn Samples, route: &str) {
    let bounds = Bounds::http();
    let mut counts = BucketCounts { buckets: vec![0; bounds.buckets()], sum: 2_000_500_000 };
    (counts.buckets[0], counts.buckets[13]) = (1, 1);
    out.durations(Metric::HttpServerRequestDuration, &["GET", "200", "http", route, ""], &bounds, &counts);
}

#[test]
fn families_are_blocks_whatever_the_order_of_their_values() {
    let text = page(TextFormat::Prometheus, |out| {
        out.whole(Metric::LevelEntries, &["memory", ""], 7);
        out.whole(Metric::LevelHits, &["a\"b\\c\nd", ""], 1_234);
        out.whole(Metric::LevelEntries, &["redis", ""], 8);
        out.flag(Metric::CircuitOpen, &["market"], true);
    });
    let wanted = "# HELP tollgate_cache_level_hits_total Look-ups that the level answered.\n\
                  # TYPE tollgate_cache_level_hits_total counter\n\
                  tollgate_cache_level_hits_total{level=\"a\\\"b\\\\c\\nd\"} 1234\n\
                  # HELP tollgate_cache_level_entries Entries in the level; 0 if unknown.\n\
                  # TYPE tollgate_cache_level_entries gauge\n\
                  tollgate_cache_level_entries{level=\"memory\"} 7\n\
                  tollgate_cache_level_entries{level=\"redis\"} 8\n";
    assert!(text.starts_with(wanted), "{text}");
    openmetrics_parser::prometheus::parse_prometheus(&text).expect("a page");
}

#[test]
fn open_metrics_states_units_and_its_end() {
    let text = page(TextFormat::OpenMetrics, |out| {
        durations(out, "/a");
        out.seconds(Metric::RequestQuerySeconds, &["/a"], Duration::from_millis(1_500));
    });
    // This parser refuses units of histograms, which the specification allows.
    let known = text.replace("# UNIT http_server_request_duration_seconds seconds\n", "");
    openmetrics_parser::openmetrics::parse_openmetrics(&known).unwrap_or_else(|e| panic!("{e:?}\n{known}"));
    for line in [
        "# UNIT http_server_request_duration_seconds seconds",
        "# TYPE tollgate_request_query_seconds counter",
        "tollgate_request_query_seconds_total{http_route=\"/a\"} 1.5",
        "http_server_request_duration_seconds_sum{http_request_method=\"GET\",http_response_status_code=\"200\",url_scheme=\"http\",http_route=\"/a\"} 2.0005",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
    }
    assert!(text.contains("le=\"1.0\"} 1\n") && text.contains("le=\"2.5\"} 2\n"), "{text}");
    assert!(text.ends_with("# EOF\n") && !page(TextFormat::Prometheus, |out| durations(out, "/a")).contains("EOF"));
}

#[test]
fn a_family_has_2048_series_and_one_for_all_others() {
    let text = page(TextFormat::Prometheus, |out| {
        for route in 0..MAX_SERIES + 3 {
            durations(out, &format!("/{route}"));
            out.whole(Metric::SlowRequests, &[&format!("/{route}"), ""], 2);
        }
    });
    let counts: Vec<&str> = text.lines().filter(|line| line.starts_with("tollgate_slow_requests_total")).collect();
    assert_eq!(counts.len(), MAX_SERIES + 1);
    assert_eq!(counts[MAX_SERIES], "tollgate_slow_requests_total{http_route=\"other\",upstream=\"other\"} 6");
    let other = "http_server_request_duration_seconds_count{http_request_method=\"other\"";
    assert!(text.lines().any(|line| line.starts_with(other) && line.ends_with(" 6")), "{other}");
}

#[test]
fn the_client_chooses_the_format() {
    let chosen = |accept: &str| TextFormat::accepted([accept].into_iter());
    for accept in [
        "application/openmetrics-text",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "text/plain;q=0.5, Application/OpenMetrics-Text;q=0.6",
    ] {
        assert_eq!(chosen(accept), TextFormat::OpenMetrics, "{accept}");
    }
    for accept in [
        "",
        "*/*",
        "text/plain",
        "application/openmetrics-text;version=0.0.1",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text;q=0.4,text/plain",
        "application/openmetrics-text;q=much",
    ] {
        assert_eq!(chosen(accept), TextFormat::Prometheus, "{accept}");
    }
}
