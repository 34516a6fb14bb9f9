//! State of the harvest of sqlx's queries: warns once if no query event arrives.
//!
//! A harvest that hears nothing looks like a program without queries. So the state is kept for the whole process, shown
//! as [`TimingStats::harvest`](crate::timing::TimingStats::harvest), and after 100 requests in silence there is one
//! warning that
//! names what is in the way.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::settings::TimingSettings;
use super::span;
use crate::base::event::Once;
use crate::timing::measure::stats::HarvestState;

const SILENT: u8 = 1;
const HEARD: u8 = 2;
/// After so many requests silence is worth a word.
const PATIENCE: u64 = 100;

static STATE: AtomicU8 = AtomicU8::new(0);
static REQUESTS: AtomicU64 = AtomicU64::new(0);
static WARNED: Once = Once::new();

/// Records that a harvest is installed.
#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "there is no harvest without it"))]
pub(crate) fn install() {
    let _ = STATE.compare_exchange(0, SILENT, Ordering::Relaxed, Ordering::Relaxed);
}

/// Records that an event of sqlx arrived.
#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "there is no harvest without it"))]
pub(crate) fn heard() {
    if STATE.load(Ordering::Relaxed) != HEARD {
        STATE.store(HEARD, Ordering::Relaxed);
    }
}

#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "there is no harvest without it"))]
pub(crate) fn is_installed() -> bool {
    STATE.load(Ordering::Relaxed) != 0
}

pub(crate) fn state() -> HarvestState {
    match STATE.load(Ordering::Relaxed) {
        SILENT => HarvestState::NeverHeard,
        HEARD => HarvestState::Heard,
        _ => HarvestState::Off,
    }
}

/// One more request has ended.
#[inline]
pub(crate) fn request(settings: &TimingSettings) {
    if STATE.load(Ordering::Relaxed) == SILENT && REQUESTS.fetch_add(1, Ordering::Relaxed) + 1 == PATIENCE {
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
    settings.events.warn_once(&WARNED, "harvest_never_heard", span::why_nothing_is_heard());
}
