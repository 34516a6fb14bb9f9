//! Tower layers for rate limits, response caching and timing.

mod answer;
pub mod body;
mod carrier;
mod clock;
mod error;
mod event;
mod fields;
mod head;
mod route;
mod stack;

pub mod cache;
pub mod key;
pub mod limit;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod timing;

pub use answer::{Answer, AnswerFuture, BoxFuture};
pub use body::{Body, BodyError};
pub use clock::{Clock, ManualClock, Timestamp};
pub use error::Error;
pub use event::{Event, Hook};
pub use head::{PeerAddr, RequestHead};
pub use route::UNMATCHED;
pub use stack::{RouteReport, Stats, Tollgate, TollgateBuilder, TollgateLayer, TollgateService};
