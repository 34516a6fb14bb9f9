//! Every measurement, handed to the `metrics` facade: whichever exporter the application has installed gets it.
//!
//! | metric | type | unit | labels |
//! |---|---|---|---|
//! | `http.server.request.duration` | histogram | seconds | `http.route` |
//! | `db.client.operation.duration` | histogram | seconds | `db.query.text`: a fingerprint, or a name given to `timed` |
//! | `db.client.connection.wait_time` | histogram | seconds | |
//!
//! Buckets are the exporter's affair. Where none is installed, a measurement costs one look at a global.

use std::sync::Arc;
use std::time::Duration;

use metrics::SharedString;

use super::group::Name;

pub(super) fn request(route: &Arc<str>, took: Duration) {
    let route = SharedString::from_shared(route.clone());
    metrics::histogram!("http.server.request.duration", "http.route" => route).record(took);
}

pub(super) fn query(name: &Name, took: Duration) {
    let name = match name {
        Name::Word(word) => SharedString::const_str(word),
        Name::Print(print) => SharedString::from_shared(print.clone()),
    };
    metrics::histogram!("db.client.operation.duration", "db.query.text" => name).record(took);
}

pub(super) fn waited(took: Duration) {
    metrics::histogram!("db.client.connection.wait_time").record(took);
}
