//! Configuration of a gate by a file.

mod apply;
