//! Reads Rust sources as tokens and paths: enough of the language for the rules of the house, and no more.
#![expect(clippy::panic, reason = "a test may fail")]

use std::fs;
use std::path::{Path, PathBuf};

/// The source up to its unit tests, which stand last.
pub(crate) fn without_tests(source: &str) -> String {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

/// Identifiers, `::` and single characters; no comments, no literals.
pub(crate) fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        let start = at;
        match c {
            '/' if next == '/' => at = seek(&chars, at, |rest| rest[0] == '\n'),
            '/' if next == '*' => at = seek(&chars, at + 2, |rest| rest.starts_with(&['*', '/'])) + 2,
            'r' | 'b' if matches!(next, '"' | '#') && raw_end(&chars, at).is_some() => {
                at = raw_end(&chars, at).unwrap_or(at + 1);
            }
            '"' => at = quoted(&chars, at, '"'),
            // A character, where it is not a lifetime.
            '\'' if next == '\\' || chars.get(at + 2) == Some(&'\'') => at = quoted(&chars, at, '\''),
            ':' if next == ':' => at += 2,
            c if c.is_alphanumeric() || c == '_' => {
                at = seek(&chars, at, |rest| !rest[0].is_alphanumeric() && rest[0] != '_');
            }
            _ => at += 1,
        }
        let literal =
            matches!(c, '"' | '\'') || (c == '/' && at > start + 1) || (at > start && chars[start..at].contains(&'"'));
        if !literal && !c.is_whitespace() {
            tokens.push(chars[start..at].iter().collect());
        }
    }
    tokens
}

fn seek(chars: &[char], from: usize, stop: impl Fn(&[char]) -> bool) -> usize {
    (from..chars.len()).find(|at| stop(&chars[*at..])).unwrap_or(chars.len())
}

fn quoted(chars: &[char], from: usize, quote: char) -> usize {
    let mut at = from + 1;
    while let Some(&c) = chars.get(at) {
        at += if c == '\\' { 2 } else { 1 };
        if c == quote {
            break;
        }
    }
    at.min(chars.len())
}

/// The end of a raw or byte string that starts here.
fn raw_end(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
    let open = from + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    if hashes == 0 && chars[from] == 'b' {
        return Some(quoted(chars, open, '"'));
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    Some((seek(chars, open + 1, |rest| rest.starts_with(&close)) + close.len()).min(chars.len()))
}

/// All paths of two parts or more, those of `use` trees spelled out.
pub(crate) fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if tokens[at] == "use" {
            at = tree(tokens, at + 1, &[], &mut found);
        } else if is_name(&tokens[at]) && tokens.get(at + 1).is_some_and(|token| token == "::") {
            at = tree(tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path or `use` tree and returns where it ends.
fn tree(tokens: &[String], mut at: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(at) {
        match &**token {
            "::" => at += 1,
            "{" if before.len() < path.len() || path.is_empty() => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    let end = tree(tokens, at, &path, found);
                    at = end.max(at + 1);
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            name if is_name(name) && name != "as" => {
                path.push(name.to_owned());
                at += 1;
                if tokens.get(at).is_none_or(|token| token != "::") {
                    break;
                }
            }
            _ => break,
        }
    }
    if !path.is_empty() {
        found.push(path);
    }
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Every Rust file of the project, by its path from the project's root.
pub(crate) fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    ["src", "tests", "examples", "benches"].iter().for_each(|folder| walk(&root.join(folder), &mut files));
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, source)
    };
    files.into_iter().map(read).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    // A folder that cannot be read would leave the rules nothing to find.
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
