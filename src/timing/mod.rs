//! The timing room.
