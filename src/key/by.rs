//! Ready-made identities, read as "limit *by* client IP".

use super::extract::Func;
use super::{Key, KeyExtractor};
use crate::head::RequestHead;

/// Any closure. Return `None` where the request does not say.
pub fn func<F>(f: F) -> Func<F>
where
    F: for<'a> Fn(&RequestHead<'a>) -> Option<Key<'a>> + Send + Sync + 'static,
{
    Func(f)
}

/// The value of this header field, such as an API key; nothing where it is missing, or sent twice.
///
/// # Panics
/// Where `name` is not a valid lower-case field name: a mistake in the program, found when it starts.
#[must_use]
pub fn header(name: &'static str) -> Header {
    Header(http::HeaderName::from_static(name))
}

/// Made by [`header`].
#[derive(Clone, Debug)]
pub struct Header(http::HeaderName);

impl KeyExtractor for Header {
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        let mut lines = head.headers().get_all(&self.0).iter();
        match (lines.next(), lines.next()) {
            (Some(value), None) => Some(Key::bytes("header", value.as_bytes())),
            _ => None,
        }
    }
}
