//! Data of the admin service: what the page shows, the audit, the other nodes.

pub(super) mod audit;
pub(super) mod fleet;
pub(super) mod form;
pub(super) mod state;
pub(super) mod subject;
pub(super) mod view;
