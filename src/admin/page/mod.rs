//! The page: HTML written by the server, whole without JavaScript. Each panel answers one question.

mod cache;
mod chart;
mod explain;
mod forms;
mod happened;
#[cfg(feature = "jobs")]
mod jobs;
mod layout;
mod limits;
mod quotas;
mod state;
mod text;
mod traffic;
mod verdict;

pub(super) use explain::explain;
pub(super) use layout::{panels_json, render};
