//! Dashboard, statistics and actions for operators, as a service to mount beside the application.
//!
//! ```text
//! request ─► access: who asks, and may he act? ─► endpoint ─┬─ GET: page, JSON, text, events
//!                                                           └─ POST: form token ─► action ─► audit
//! ```

pub(crate) mod access;
mod actions;
mod audit;
pub(crate) mod body;
pub(crate) mod builder;
mod endpoint;
mod fleet;
mod form;
mod form_token;
mod live;
mod page;
pub(crate) mod service;
mod subject;
mod view;
