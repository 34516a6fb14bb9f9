//! Surrogate keys (tags): names on entries by which many are invalidated at once.
//!
//! They come from the route's rule, the handler, and two response fields: `Cache-Tag` (a comma-separated list) and
//! `Surrogate-Key` (separated by spaces). A tag has 1 to 256 visible ASCII characters other than a comma; comparison is
//! bytewise, so `*` and `[` have no special meaning.

use http::{HeaderMap, HeaderName};

use super::reason::Reason;

const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// Maximum per entry. Beyond it the response is not stored: dropping tags would make invalidation unreliable.
const MAX_TAGS: usize = 256;

/// Whether `tag` is well-formed.
pub(crate) fn is_valid(tag: &str) -> bool {
    (1..=256).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

/// Collects the tags of a response: `given`, and those in its fields.
///
/// # Errors
/// [`Reason::Tags`] if a tag is malformed or there are too many.
pub(super) fn collect<'a>(
    headers: &HeaderMap,
    given: impl Iterator<Item = &'a Box<str>>,
) -> Result<Box<[Box<str>]>, Reason> {
    let mut tags: Vec<Box<str>> = given.cloned().collect();
    for (name, separators) in [(CACHE_TAG, &[',', ' '][..]), (SURROGATE_KEY, &[' '])] {
        for line in headers.get_all(name) {
            let text = line.to_str().map_err(|_| Reason::Tags)?;
            tags.extend(text.split(separators).filter(|tag| !tag.is_empty()).map(Box::from));
        }
    }
    tags.sort_unstable();
    tags.dedup();
    if tags.len() > MAX_TAGS || !tags.iter().all(|tag| is_valid(tag)) {
        return Err(Reason::Tags);
    }
    Ok(tags.into())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tags_come_from_rules_and_both_fields() {
        let mut headers = HeaderMap::new();
        headers.append(CACHE_TAG, HeaderValue::from_static("a, b,c*"));
        headers.append(SURROGATE_KEY, HeaderValue::from_static("d  a"));
        let tags = collect(&headers, ["z".into()].iter()).expect("tags");
        assert_eq!(tags.iter().map(|tag| &**tag).collect::<Vec<_>>(), ["a", "b", "c*", "d", "z"]);
        headers.append(SURROGATE_KEY, HeaderValue::from_static("e,f"));
        assert_eq!(collect(&headers, [].iter()), Err(Reason::Tags));
        let many: Vec<Box<str>> = (0..257).map(|n| n.to_string().into()).collect();
        assert_eq!(collect(&HeaderMap::new(), many.iter()), Err(Reason::Tags));
    }

    #[test]
    fn white_space_control_and_empty_tags_are_invalid() {
        for bad in ["", "a b", "a\r\n", "ä", "a,b", &"x".repeat(257)] {
            assert!(!is_valid(bad), "{bad:?}");
        }
        assert!(is_valid("*") && is_valid("user:[7]"));
    }
}
