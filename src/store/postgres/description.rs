//! [`Description`]: columns beside a value, for views that people read. No look-up uses them.

use bytes::Bytes;

use crate::base::clock::Timestamp;
use crate::cache::Stored;
use crate::cache::engine::codec::{self, FleetClock};
use crate::cache::http::key::Target;

/// Description of an encoded value. Empty for anything that is no value of this crate.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Description {
    /// Host of a response, or the namespace of a typed value.
    pub(super) namespace: Option<String>,
    /// URL of a response.
    pub(super) url: Option<String>,
    pub(super) status: Option<i16>,
    pub(super) content_type: Option<String>,
    /// Seconds since 1970.
    pub(super) fresh_until: Option<f64>,
    /// Number of bytes before the body, unless it is compressed in the store.
    pub(super) body_start: Option<i32>,
}

impl Description {
    pub(super) fn of(value: &Bytes) -> Self {
        let Some(key) = codec::decode_key(value) else { return Self::default() };
        // With an offset of zero, times are those of the server's calendar.
        let calendar = FleetClock::reading(Timestamp::ZERO, 0);
        let Ok(stored) = codec::decode(value, &key, calendar, 0) else { return Self::default() };
        let mut found = Self::default();
        if let Some(target) = Target::of(key.resource()) {
            // The authority of a typed value begins with a zero byte.
            found.namespace = Some(text(target.authority));
            let url = [target.scheme, b"://", target.authority, target.path, target.query].concat();
            found.url = matches!(stored, Stored::Entry(_)).then(|| text(&url));
        }
        found.fresh_until = stored.meta().map(|meta| seconds(meta.deadlines.fresh_until));
        if let Stored::Entry(entry) = &stored {
            found.status = i16::try_from(entry.status().as_u16()).ok();
            found.content_type = entry.headers().get("content-type").map(|field| text(field.as_bytes()));
            let start = (value.len() as u64).checked_sub(entry.length);
            let plain = !codec::is_compressed(value) && entry.partial.is_none();
            found.body_start = start.filter(|_| plain).and_then(|start| i32::try_from(start).ok());
        }
        found
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds are enough for people")]
fn seconds(time: Timestamp) -> f64 {
    time.as_nanos() as f64 / 1e9
}

/// Converts to what the server accepts as text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| *c != '\0').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bytes_have_no_description() {
        assert_eq!(Description::of(&Bytes::from_static(b"anything")), Description::default());
        assert_eq!(text(b"a\0b\xff"), "ab\u{fffd}");
    }
}
