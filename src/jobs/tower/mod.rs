//! Tower service that runs due jobs on request.

pub(crate) mod trigger;
