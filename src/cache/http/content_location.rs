//! Resolution of `Location` and `Content-Location` against the request URL (RFC 3986 §5.2).

use http::Uri;

use super::key::Target;

/// Resolves `reference` against `base`; `None` if the origins differ.
///
/// RFC 9111 §4.4: "A cache MUST NOT trigger an invalidation … if the origin of the URI to be invalidated differs".
pub(crate) fn same_origin(base: &Target<'_>, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or_default();
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let (scheme, authority) = (text(base.scheme)?, text(base.authority)?);
    let rest = match reference.split_once("://") {
        Some((given, rest)) if given.eq_ignore_ascii_case(scheme) && is_scheme(given) => Some(rest),
        Some((given, _)) if is_scheme(given) => return None,
        _ => reference.strip_prefix("//"),
    };
    let target = match rest {
        Some(rest) => {
            let (given, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            if !is_same_authority(scheme, authority, given) {
                return None;
            }
            if target.starts_with('/') { target.to_owned() } else { format!("/{target}") }
        }
        None => resolve(text(base.path)?, text(base.query)?, reference),
    };
    target.parse().ok()
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

fn is_same_authority(scheme: &str, own: &str, given: &str) -> bool {
    let default = if scheme == "https" { ":443" } else { ":80" };
    let given = given.strip_suffix(default).unwrap_or(given);
    given.eq_ignore_ascii_case(own)
}

/// RFC 3986 §5.2.2, for a reference without scheme and authority.
fn resolve(path: &str, query: &str, reference: &str) -> String {
    match reference.as_bytes().first() {
        None => format!("{path}{query}"),
        Some(b'?') => format!("{path}{reference}"),
        Some(b'/') => remove_dot_segments(reference),
        Some(_) => {
            let directory = &path[..path.rfind('/').map_or(0, |at| at + 1)];
            remove_dot_segments(&format!("{directory}{reference}"))
        }
    }
}

/// RFC 3986 §5.2.4: removes `.` and `..` segments from a path, leaving its query alone.
fn remove_dot_segments(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut output: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if last => output.push(""),
            "." => {}
            ".." => {
                output.pop();
                if last {
                    output.push("");
                }
            }
            other => output.push(other),
        }
    }
    format!("/{}{query}", output.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve_within_the_same_origin() {
        let base = Target { scheme: b"http", authority: b"h", path: b"/a/b", query: b"?q" };
        for (reference, expected) in [
            ("/x", Some("/x")),
            ("x?y", Some("/a/x?y")),
            ("", Some("/a/b?q")),
            ("?z", Some("/a/b?z")),
            ("../x", Some("/x")),
            ("../../x", Some("/x")),
            ("./x/./y/..", Some("/a/x/")),
            ("http://h/x#f", Some("/x")),
            ("HTTP://H:80/x", Some("/x")),
            ("http://h", Some("/")),
            ("http://h?x", Some("/?x")),
            ("//h/x", Some("/x")),
            ("//other/x", None),
            ("https://h/x", None),
            ("http://h:81/x", None),
            ("http://h.evil/x", None),
            ("http://u@h/x", None),
            ("/x?u=http://other/", Some("/x?u=http://other/")),
        ] {
            let found = same_origin(&base, reference).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), expected, "{reference}");
        }
    }
}
