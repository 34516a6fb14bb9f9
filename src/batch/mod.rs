//! [`Batcher`]: batches concurrent requests for single keys into bulk calls.
//!
//! | | condition | yes | no |
//! |---|---|---|---|
//! | 1 | is the key in the current batch? | wait for it | 2 |
//! | 2 | is it the first of a batch? | the batch is sent after 2 ms | 3 |
//! | 3 | is it the hundredth? | the batch is sent now | wait for the batch |
//! | 4 | when sent: is a caller still waiting for the key? | request it | drop it; an empty batch makes no call |
//! | 5 | did the call succeed? | each caller gets the value of its key, `None` if there is none | 6 |
//! | 6 | did it have several keys, and are splits left? | send each half by itself, concurrently: 5 | those callers get the error |
//!
//! # Failure modes
//!
//! A key that makes the whole call fail is isolated by splitting: of 100 keys 99 get a value, with at most 14 more
//! calls, and the callers of the key get the error. If everything fails, splitting stops after
//! [`splits`](BatcherBuilder::splits) more calls. A panic of the call is an error for the callers of that batch only.
//! The call runs in a detached task: a caller that leaves cancels nothing for the others.
//!
//! # Cost
//!
//! Up to 2 ms of delay, a channel per caller, a task per batch. No task runs while idle.
//!
//! A batcher does not cache: put a [`Cached`](crate::cache::Cached) in front
//! ([`get_or_load_many`](crate::cache::Cached::get_or_load_many)), so that only missing keys are requested.

mod batcher;
mod builder;
mod call;
mod error;
mod queue;

pub use batcher::{BatchStats, Batcher};
pub use builder::BatcherBuilder;
pub use error::BatchError;
