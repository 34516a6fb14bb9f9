//! Who is asking: identities, and how a request shows them.

pub mod by;
mod extract;
mod identity;

pub(crate) use extract::SharedExtractor;
pub use extract::{And, Func, KeyExtractor, Or};
pub use identity::{Key, KeyHash, KeyHasher};
