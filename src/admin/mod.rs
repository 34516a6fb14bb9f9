//! Dashboard, statistics and actions for operators, as a service to mount beside the application.
//!
//! ```text
//! request ─► access: who asks, and may he act? ─► endpoint ─┬─ GET: page, JSON, text, events
//!                                                           └─ POST: form token ─► action ─► audit
//! ```

mod model;
mod page;
pub(crate) mod tower;
