//! Accounting of credits: calendar windows, observed limits, calls in flight, priorities, alerts, rejections.

pub(super) mod account;
pub(super) mod alert;
pub(super) mod balance;
pub(super) mod burn;
pub(super) mod call_pace;
pub(super) mod credit;
pub(super) mod in_flight;
pub(super) mod meter;
pub(super) mod on_limit;
pub(super) mod priority;
pub(super) mod rejected;
pub(super) mod reservation_size;
