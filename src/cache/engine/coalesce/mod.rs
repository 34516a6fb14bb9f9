//! Coalescing: concurrent requests for one key share one fetch, and none of them ends later for it than the bounds say.
//!
//! The first caller that misses leads a fetch; the others follow it. The responses of a service and the loads of typed
//! values share this code: a [`Caller`](caller::Caller) says what a fetch is and what may be served instead.
//!
//! | the leader's fetch | its followers |
//! |---|---|
//! | publishes something they can use | are served by it |
//! | publishes something that is not theirs | fetch without sharing, all at once |
//! | was invalidated, or its body stalls | share a new fetch |
//! | fails or panics | are served something stale if allowed, else pass the [slow start](slow_start) and fetch without sharing |
//! | exceeds their deadline `wait` | the same; the key is not shared for ten seconds |
//!
//! So a follower ends no later than its own fetch would have, plus `wait`; plus another `wait` if it passed the slow start.
//! A fetch leaves the table when its [`Leader`](table::Leader) is dropped: on completion, error or panic.

pub(crate) mod background_slots;
pub(crate) mod caller;
pub(crate) mod deadlines;
pub(crate) mod detached_fetch;
pub(crate) mod slow_start;
pub(crate) mod table;
