//! Glob patterns over URLs, for administrators: `*` matches any sequence, `?` one byte, `\` escapes the next byte.

use super::key::{CacheKey, Target};

/// Whether the pattern matches the URL of this key's resource.
pub(crate) fn matches_url(pattern: &str, key: &CacheKey) -> bool {
    let Some(target) = Target::of(key.resource()) else { return false };
    let url = [target.scheme, b"://", target.authority, target.path, target.query].concat();
    matches(pattern.as_bytes(), &url)
}

/// Whether the pattern may match a URL: it begins as one does, up to its first wildcard.
pub(crate) fn may_match_url(pattern: &str) -> bool {
    let end = pattern.find(['*', '?', '\\']);
    let literal = &pattern[..end.unwrap_or(pattern.len())];
    let scheme = literal.split_once(':').map_or(literal, |(scheme, _)| scheme);
    let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-".contains(&byte));
    let rest = &literal[scheme.len()..];
    is_scheme
        && if end.is_some() { rest.starts_with("://") || "://".starts_with(rest) } else { rest.starts_with("://") }
}

/// Takes at most `pattern × text` steps: only the latest star backtracks.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Position after the latest star, and the text position it extends to.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match (pattern.get(p), pattern.get(p + 1)) {
            (Some(b'*'), _) => {
                star = Some((p + 1, t));
                p += 1;
            }
            (Some(b'\\'), Some(literal)) if *literal == text[t] => (p, t) = (p + 2, t + 1),
            (Some(b'?'), _) => (p, t) = (p + 1, t + 1),
            (Some(byte), _) if *byte != b'\\' && *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((after_star, reached)) => {
                    star = Some((after_star, reached + 1));
                    (p, t) = (after_star, reached + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_matches_no_url_is_told_apart() {
        for pattern in
            ["*", "*/prices/*", "http*", "h?tp://a/*", "https:*", "https://a/b", "https://*.a/*", "\\http://a/"]
        {
            assert!(may_match_url(pattern), "{pattern:?}");
        }
        for pattern in ["", "/prices/*", "prices/*", "example.com/*", "prices", "https:/a*", "a b*"] {
            assert!(!may_match_url(pattern), "{pattern:?}");
        }
    }

    #[test]
    fn wildcards_and_escapes() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("*/prices/?", "http://h/prices/a", true),
            ("*/prices/?", "http://h/prices/ab", false),
            ("a\\*c", "a*c", true),
            ("a\\*c", "abc", false),
            ("a\\?", "a?", true),
            ("a\\", "a\\", false),
            ("**a**", "bab", true),
            ("[ab]", "a", false),
            ("[ab]", "[ab]", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} and {text:?}");
        }
    }

    #[test]
    fn adversarial_patterns_take_bounded_time() {
        let pattern = "*a".repeat(500) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(20_000).as_bytes()));
    }
}
