//! Report: a text for people, in aligned columns.

use std::fmt::Write;
use std::time::Duration;

use super::advice::Advice;
use super::observed::Observation;
use super::score::Score;
use super::slo::{SloStatus, span};
use super::totals::{Totals, share};

/// Number of rows of each table.
const MAX_ROWS: usize = 10;

/// Numbers that a report is written from.
pub(crate) struct ReportInput<'a> {
    pub(crate) observed: &'a Observation,
    /// Counts of the day, or since the start.
    pub(crate) day: &'a Totals,
    /// Time that they cover.
    pub(crate) covers: Duration,
    pub(crate) score: &'a Score,
    pub(crate) slos: &'a [SloStatus],
    pub(crate) advice: &'a [Advice],
    /// Price of an avoided call.
    pub(crate) cost_per_call: Option<f64>,
}

/// Writes the report.
pub(crate) fn write(input: &ReportInput<'_>) -> String {
    let (day, mut text) = (input.day, String::with_capacity(2_048));
    let score = input.score.value.map_or_else(|| "unknown".to_owned(), |value| format!("{value} of 100"));
    let _ = writeln!(text, "Tollgate, the last {}\n", span(input.covers));
    let percent =
        |part, whole| share(part, whole).map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
    let saved =
        input.cost_per_call.map(|cost| format!(", {:.2} in money", cost * day.avoided as f64)).unwrap_or_default();
    let rows = [
        ("score", format!("{score}, {}", input.score.band())),
        ("requests", day.requests.to_string()),
        ("failed", format!("{} ({})", day.errors, percent(day.errors, day.requests))),
        ("refused by limits", format!("{} ({})", day.refused, percent(day.refused, day.requests))),
        (
            "answered from the cache",
            format!(
                "{} of {} ({})",
                day.hits + day.data_hits,
                day.lookups(),
                percent(day.hits + day.data_hits, day.lookups())
            ),
        ),
        ("calls avoided", format!("{}, {} of waiting{saved}", day.avoided, span(day.time_saved))),
        ("queries", format!("{}, {} on average, {} slow", day.queries, span(day.mean_query()), day.slow_queries)),
        ("credits spent", day.credits.to_string()),
    ];
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<24}{value}");
    }
    objectives(&mut text, input.slos);
    cached(&mut text, input.observed);
    limits(&mut text, input.observed);
    quotas(&mut text, input.observed);
    if !input.advice.is_empty() {
        text.push_str("\nAdvice\n");
    }
    for advice in input.advice.iter().take(MAX_ROWS) {
        let _ = writeln!(text, "  {}\n      {}", advice.text, advice.evidence);
        for line in advice.lines.lines() {
            let _ = writeln!(text, "      {line}");
        }
    }
    text
}

fn objectives(text: &mut String, slos: &[SloStatus]) {
    let width = slos.iter().map(|slo| slo.text.chars().count()).max().unwrap_or(0).max(36);
    let _ = writeln!(text, "\n{:<width$}  actual   burn 5 min   burn 1 h   state", "Objectives", width = width + 2);
    for slo in slos {
        let actual = slo.actual.map_or_else(|| "-".to_owned(), |actual| format!("{:.1} %", actual * 100.0));
        let burn = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
        let _ = writeln!(
            text,
            "  {:<width$}{actual:>8}{:>13}{:>11}   {}",
            slo.text,
            burn(slo.burn_5m),
            burn(slo.burn_1h),
            slo.state
        );
    }
}

fn cached(text: &mut String, observed: &Observation) {
    let mut all: Vec<_> = observed.cached.iter().filter(|cached| cached.hits + cached.misses > 0).collect();
    all.sort_by_key(|cached| std::cmp::Reverse(cached.hits + cached.misses));
    if !all.is_empty() {
        text.push_str("\nCache                                     hits     misses      ratio     target\n");
    }
    for cached in all.into_iter().take(MAX_ROWS) {
        let ratio = cached.hit_ratio().unwrap_or_default() * 100.0;
        let _ = writeln!(
            text,
            "  {:<34}{:>10}{:>11}{ratio:>9.1} %{:>9.1} %",
            cached.name,
            cached.hits,
            cached.misses,
            cached.target * 100.0
        );
    }
}

fn limits(text: &mut String, observed: &Observation) {
    if !observed.limits.is_empty() {
        text.push_str("\nLimits                  quota         admitted    refused   would refuse\n");
    }
    for limit in observed.limits.iter().take(MAX_ROWS) {
        let name = if limit.is_shadow { format!("{} (shadow)", limit.name) } else { limit.name.clone() };
        let _ = writeln!(
            text,
            "  {name:<22}{:<14}{:>8}{:>11}{:>15}",
            limit.quota, limit.admitted, limit.refused, limit.would_refuse
        );
    }
}

fn quotas(text: &mut String, observed: &Observation) {
    if !observed.quotas.is_empty() {
        text.push_str("\nUpstream quotas              spent      limit   renewed in   ends in\n");
    }
    for quota in observed.quotas.iter().take(MAX_ROWS) {
        let ends = quota.exhausted_in.map_or_else(|| "-".to_owned(), span);
        let name = format!("{} {}", quota.upstream, quota.window);
        let _ =
            writeln!(text, "  {name:<22}{:>10}{:>11}{:>13}{ends:>10}", quota.spent, quota.limit, span(quota.resets_in));
    }
}
