//! Validated configuration of a timing layer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::request_series::HttpMetrics;
use crate::base::clock::Clock;
use crate::base::event::Events;
use crate::base::metrics::bounds::Bounds;
use crate::base::request_head::RequestHead;
use crate::base::route::Patterns;
use crate::base::route_matcher::CompiledMatcher;
use crate::timing::measure::n_plus_one::Repeats;

/// Selects the requests whose responses carry `Server-Timing`.
#[derive(Clone)]
pub(crate) enum Reporting {
    Never,
    Always,
    If(Arc<Predicate>),
}

type Predicate = dyn Fn(&RequestHead<'_>) -> bool + Send + Sync;

impl Reporting {
    #[inline]
    pub(crate) fn wanted(&self, head: &RequestHead<'_>) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::If(wanted) => wanted(head),
        }
    }
}

impl fmt::Debug for Reporting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "Never",
            Self::Always => "Always",
            Self::If(_) => "If",
        })
    }
}

/// Routes whose requests are not measured.
#[derive(Debug)]
pub(crate) struct ExceptedRoutes {
    pub(crate) patterns: Patterns,
    pub(crate) routes: CompiledMatcher,
}

impl ExceptedRoutes {
    /// Whether a request is to one of them.
    #[cold]
    pub(crate) fn contain(&self, head: &RequestHead<'_>) -> bool {
        self.routes.matches(self.patterns.find(head).map(|found| found.place), head)
    }
}

/// Configuration of a layer.
#[derive(Debug)]
pub(crate) struct TimingSettings {
    pub(crate) slow_after: Duration,
    pub(crate) slow_query_after: Duration,
    pub(crate) starved_after: Duration,
    pub(crate) repeats: Repeats,
    pub(crate) repeats_on: Vec<(Box<str>, Repeats)>,
    pub(crate) patterns: Patterns,
    /// Requests that are not measured, if any.
    pub(crate) except: Option<ExceptedRoutes>,
    pub(crate) max_routes: usize,
    pub(crate) server_timing: Reporting,
    /// Whether each request has a span with its outcome.
    pub(crate) request_spans: bool,
    pub(crate) http_metrics: HttpMetrics,
    /// Buckets of exported histograms of requests, and of queries.
    pub(crate) buckets: Bounds,
    pub(crate) query_buckets: Bounds,
    /// Value of `db_system_name`, empty if unknown.
    pub(crate) db_system: Box<str>,
    /// Whether the text of statements is a label.
    pub(crate) query_text_label: bool,
    pub(crate) clock: Clock,
    pub(crate) events: Events,
    pub(crate) enabled: bool,
}

impl Default for TimingSettings {
    fn default() -> Self {
        Self {
            slow_after: SLOW_AFTER,
            slow_query_after: SLOW_QUERY_AFTER,
            starved_after: STARVED_AFTER,
            repeats: Repeats::new(),
            repeats_on: Vec::new(),
            patterns: Patterns::default(),
            except: None,
            max_routes: MAX_ROUTES,
            server_timing: Reporting::Never,
            request_spans: false,
            http_metrics: HttpMetrics::Server,
            buckets: Bounds::http(),
            query_buckets: Bounds::db(),
            db_system: Box::default(),
            query_text_label: false,
            clock: Clock::default(),
            events: Events::default(),
            enabled: true,
        }
    }
}

const SLOW_AFTER: Duration = Duration::from_millis(250);

const SLOW_QUERY_AFTER: Duration = Duration::from_millis(100);

const STARVED_AFTER: Duration = Duration::from_millis(100);

const MAX_ROUTES: usize = 256;
