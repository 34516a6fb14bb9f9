//! Accounting of credits: calendar windows, observed limits, calls in flight, priorities, alerts, rejections.

pub(super) mod account;
pub(super) mod alert;
pub(super) mod balance;
pub(super) mod burn;
pub(super) mod credit;
pub(super) mod in_flight;
pub(super) mod meter;
pub(super) mod mode;
pub(super) mod rejected;
pub(super) mod reservation_size;
