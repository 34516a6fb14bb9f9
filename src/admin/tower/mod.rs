//! Service of the dashboard: access, endpoints, actions.

pub(crate) mod access;
mod actions;
pub(crate) mod body;
pub(crate) mod builder;
mod endpoint;
mod form_token;
pub(crate) mod service;
mod viewers;
