//! Configuration files: their tables, and errors that show the place.

pub(crate) mod document;
pub(crate) mod mistake;
