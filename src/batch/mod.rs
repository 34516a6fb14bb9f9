//! [`Batcher`]: what is asked for one by one is asked for together.
//!
//! | | question | yes | no |
//! |---|---|---|---|
//! | 1 | is the key waiting to be asked for already? | this caller waits for it too | 2 |
//! | 2 | is it the first of a batch? | the batch leaves after 2 ms | 3 |
//! | 3 | is it the hundredth? | the batch leaves now | it waits along |
//! | 4 | when it leaves: does anybody wait for the key still? | it is asked for | it is left out; a batch of none is no call |
//! | 5 | did the call succeed? | each caller gets what lies under its own key, `None` where nothing does | 6 |
//! | 6 | were there several keys, and may it be tried again? | each half by itself, at the same time: 5 | those callers get the error |
//!
//! # When it fails
//!
//! One key that makes the whole call fail is found by halving: of 100 keys 99 are answered, by at most 14 more calls,
//! and
//! its callers get the error. Where everything fails, halving stops after [`splits`](BatcherBuilder::splits) more
//! calls.
//! A panic of the call is an error for the callers of that batch, and for nobody else. The call runs in a task of its
//! own: a
//! caller who leaves cancels nothing for the others.
//!
//! # What it costs
//!
//! Up to 2 ms of waiting for company, a channel for each caller, a task for each batch. Nothing runs while nobody asks.
//!
//! A batcher remembers nothing: put a [`Cached`](crate::cache::Cached) in front
//! ([`get_or_load_many`](crate::cache::Cached::get_or_load_many)), and only what is missing is asked for.

mod batcher;
mod builder;
mod call;
mod error;
mod queue;

pub use batcher::{BatchStats, Batcher};
pub use builder::BatcherBuilder;
pub use error::BatchError;
