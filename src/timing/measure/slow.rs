//! [`SlowLog`]: bounded lists of the most recent and the slowest requests.
//!
//! | list | contains | order |
//! |---|---|---|
//! | recent | the last 64 | newest first |
//! | slowest | the 16 slowest since the start | slowest first, older first among equals |

use std::collections::VecDeque;
use std::sync::Arc;

use super::stats::SlowRequest;

const RECENT: usize = 64;
const SLOWEST: usize = 16;

/// Two bounded lists of slow requests.
#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    recent: VecDeque<Arc<SlowRequest>>,
    slowest: Vec<Arc<SlowRequest>>,
}

impl SlowLog {
    pub(crate) fn push(&mut self, request: SlowRequest) {
        let request = Arc::new(request);
        let rank = self.slowest.partition_point(|held| held.took >= request.took);
        if rank < SLOWEST {
            self.slowest.truncate(SLOWEST - 1);
            self.slowest.insert(rank, request.clone());
        }
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(request);
    }

    pub(crate) fn recent(&self) -> Vec<SlowRequest> {
        self.recent.iter().map(|request| (**request).clone()).collect()
    }

    pub(crate) fn slowest(&self) -> Vec<SlowRequest> {
        self.slowest.iter().map(|request| (**request).clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn took(millis: u64) -> SlowRequest {
        SlowRequest {
            route: "/".to_owned(),
            took: Duration::from_millis(millis),
            status: Some(200),
            cancelled: false,
            at: SystemTime::UNIX_EPOCH,
            queries: Vec::new(),
            pool_waits: 0,
            pool_wait: Duration::ZERO,
            upstream_calls: 0,
            upstream_time: Duration::ZERO,
            cache: None,
            limit: None,
        }
    }

    fn millis(list: &[SlowRequest]) -> Vec<u128> {
        list.iter().map(|request| request.took.as_millis()).collect()
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_leave() {
        let mut log = SlowLog::default();
        (0..100).for_each(|n| log.push(took(n)));
        assert_eq!(millis(&log.recent()), (36..100).rev().collect::<Vec<_>>());
    }

    #[test]
    fn the_slowest_stay_however_many_come_after_them() {
        let mut log = SlowLog::default();
        (1_000..1_020).for_each(|n| log.push(took(n)));
        (0..1_000).for_each(|n| log.push(took(n)));
        assert_eq!(millis(&log.slowest()), (1_004..1_020).rev().collect::<Vec<_>>());
    }
}
