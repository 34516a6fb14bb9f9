//! Without the feature `metrics` nobody is told.

use std::sync::Arc;
use std::time::Duration;

use super::group::Name;

pub(super) const fn request(_route: &Arc<str>, _took: Duration) {}

pub(super) const fn query(_name: &Name, _took: Duration) {}

pub(super) const fn waited(_took: Duration) {}
