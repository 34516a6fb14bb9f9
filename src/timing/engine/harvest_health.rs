//! State of the harvest of sqlx's queries: warns once if no query event arrives.
//!
//! A harvest without events looks like a program without queries. Its state is therefore kept per process and shown
//! as [`TimingStats::harvest`](crate::timing::TimingStats::harvest). After 100 requests without an event, one warning
//! names the likely cause.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::settings::TimingSettings;
use super::span;
use crate::base::event::Once;
use crate::timing::measure::stats::HarvestState;

const SILENT: u8 = 1;
const ACTIVE: u8 = 2;
/// Requests without an event before the warning.
const REQUESTS_BEFORE_WARNING: u64 = 100;

static STATE: AtomicU8 = AtomicU8::new(0);
static REQUESTS: AtomicU64 = AtomicU64::new(0);
static WARNED: Once = Once::new();
/// Whether a harvest is installed, or a layer opens a span for each request.
static SPANS: AtomicBool = AtomicBool::new(false);

/// Records that a harvest is installed.
#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "there is no harvest without it"))]
pub(crate) fn install() {
    let _ = STATE.compare_exchange(0, SILENT, Ordering::Relaxed, Ordering::Relaxed);
    request_spans();
}

/// Records that requests may have spans.
pub(super) fn request_spans() {
    SPANS.store(true, Ordering::Relaxed);
}

/// Whether requests may have spans.
#[inline]
pub(crate) fn has_spans() -> bool {
    SPANS.load(Ordering::Relaxed)
}

/// Records that an event of sqlx arrived.
#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "there is no harvest without it"))]
pub(crate) fn event_arrived() {
    if STATE.load(Ordering::Relaxed) != ACTIVE {
        STATE.store(ACTIVE, Ordering::Relaxed);
    }
}

#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "there is no harvest without it"))]
pub(super) fn is_installed() -> bool {
    STATE.load(Ordering::Relaxed) != 0
}

pub(crate) fn state() -> HarvestState {
    match STATE.load(Ordering::Relaxed) {
        SILENT => HarvestState::NoEvents,
        ACTIVE => HarvestState::Active,
        _ => HarvestState::Off,
    }
}

/// Counts a finished request.
#[inline]
pub(crate) fn request(settings: &TimingSettings) {
    if STATE.load(Ordering::Relaxed) == SILENT
        && REQUESTS.fetch_add(1, Ordering::Relaxed) + 1 == REQUESTS_BEFORE_WARNING
    {
        warn(settings);
    }
}

/// Warns if requests were served and no event arrived; called when statistics are read.
pub(crate) fn check(settings: &TimingSettings) {
    if STATE.load(Ordering::Relaxed) == SILENT && REQUESTS.load(Ordering::Relaxed) > 0 {
        warn(settings);
    }
}

#[cold]
fn warn(settings: &TimingSettings) {
    settings.events.warn_once(&WARNED, "harvest_no_events", span::silence_cause());
}
