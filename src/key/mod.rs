//! Who is asking: identities, and how a request shows them.

pub mod by;
mod extract;
mod identity;

pub use extract::{And, Func, KeyExtractor, Or};
pub(crate) use extract::SharedExtractor;
pub use identity::{Key, KeyHash, KeyHasher};
