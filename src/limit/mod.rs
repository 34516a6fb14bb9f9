//! May they: limits.

mod decision;
mod future;
mod gcra;
mod grpc;
mod layer;
mod limiter;
mod plan;
mod quota;
mod reject;
mod reply;
mod reservation;
mod rules;
mod service;
mod state;
mod stats;
mod store;
mod tiers;
mod window;

pub use decision::{Decision, Part, Verdict, Verdicts};
pub use future::ResponseFuture;
pub use gcra::Gcra;
pub use layer::{RateLimitBuilder, RateLimitLayer};
pub use quota::{Algorithm, Quota};
pub use reject::{OnReject, Problem};
pub use reply::{Draft, Reset};
pub use reservation::Reservation;
pub use rules::Limit;
pub use service::RateLimit;
pub use state::KeyState;
pub use stats::{LimitStats, RateLimitStats, RouteRefusals};
pub use store::{Check, LimitStore, LimitStoreStats, Settlement};
pub use tiers::Tiers;
pub use window::{Log, Window};
