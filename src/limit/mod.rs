//! May they: limits.

mod decision;
mod gcra;
mod quota;
mod state;
mod store;
mod window;

pub use decision::{Decision, Part, Verdict, Verdicts};
pub use gcra::Gcra;
pub use quota::{Algorithm, Quota};
pub use state::KeyState;
pub use store::{Check, LimitStore, LimitStoreStats, Settlement};
pub use window::{Log, Window};
