//! Setters of gates that may be called once.

use crate::base::error::Error;

/// Returns the server that a setter was given, unless it was called before: limits and credits are kept in one.
pub(super) fn given_once<S>(
    before: Option<Result<S, Error>>,
    given: Result<S, Error>,
    setter: &str,
) -> Result<S, Error> {
    match before {
        None => given,
        Some(_) => Err(Error::config(format!("`.{setter}(…)` is called twice; keep one call"))),
    }
}
