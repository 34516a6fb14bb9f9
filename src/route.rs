//! How requests are named: by the route they matched, never by the path a client typed.
//!
//! | the request | its name |
//! |---|---|
//! | axum matched a route | that route, such as `/prices/{symbol}` (feature `axum`) |
//! | one of our own patterns matches the path | that pattern |
//! | anything else | the one name [`UNMATCHED`] |
//!
//! Patterns use axum's syntax, through the same crate (`matchit`). A client cannot make new names: `//`, `/./`, `%2e`,
//! upper case or a trailing slash either match a route, or share [`UNMATCHED`] with everything else.

use std::collections::HashMap;
use std::fmt;

use crate::error::Error;
use crate::head::RequestHead;

/// The name all requests share that match no route.
pub const UNMATCHED: &str = "unmatched";

/// A set of route patterns, each with its place in the list they were given in.
#[derive(Clone, Default)]
pub(crate) struct Patterns {
    exact: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    router: matchit::Router<usize>,
    names: Vec<Box<str>>,
}

impl Patterns {
    /// Adds a pattern and returns its place.
    ///
    /// # Errors
    /// Where the pattern is malformed, repeated, or conflicts with an earlier one.
    pub(crate) fn add(&mut self, pattern: &str) -> Result<usize, Error> {
        let index = self.names.len();
        if !pattern.starts_with('/') {
            return Err(Error::config(format!("route pattern {pattern:?} must start with '/'")));
        }
        self.router.insert(pattern, index).map_err(|e| match e {
            matchit::InsertError::Conflict { with } => {
                Error::config(format!("route pattern {pattern:?} conflicts with {with:?}"))
            }
            other => Error::config(format!("route pattern {pattern:?} is malformed: {other}")),
        })?;
        self.exact.insert(pattern.into(), index);
        self.names.push(pattern.into());
        Ok(index)
    }

    /// The place of this pattern, added where it is new.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub(crate) fn place(&mut self, pattern: &str) -> Result<usize, Error> {
        self.exact.get(pattern).copied().map_or_else(|| self.add(pattern), Ok)
    }

    /// The place of the pattern this request matches: by the route axum matched, whatever its parameters are called,
    /// else by the path.
    pub(crate) fn find(&self, head: &RequestHead<'_>) -> Option<usize> {
        if self.names.is_empty() {
            return None;
        }
        let by_route = head.matched_path().and_then(|route| self.exact.get(route).copied().or_else(|| self.at(route)));
        by_route.or_else(|| self.at(head.uri().path()))
    }

    /// The name of this request's route.
    pub(crate) fn name<'a>(&'a self, head: &RequestHead<'a>) -> &'a str {
        head.matched_path().or_else(|| self.at(head.uri().path()).map(|index| &*self.names[index])).unwrap_or(UNMATCHED)
    }

    pub(crate) fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// The place of the pattern that this path matches.
    pub(crate) fn at(&self, path: &str) -> Option<usize> {
        self.router.at(path).ok().map(|found| *found.value)
    }
}

impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str) -> http::Request<()> {
        http::Request::get(path).body(()).expect("a request")
    }

    #[test]
    fn a_path_is_named_by_its_pattern_and_every_other_shares_one_name() {
        let mut patterns = Patterns::default();
        patterns.add("/prices/{symbol}").expect("a pattern");
        for (path, name) in [
            ("/prices/ACME", "/prices/{symbol}"),
            ("/prices/%2e", "/prices/{symbol}"),
            ("//prices/ACME", UNMATCHED),
            ("/./prices/ACME", UNMATCHED),
            ("/Prices/ACME", UNMATCHED),
            ("/prices/ACME/", UNMATCHED),
        ] {
            let request = request(path);
            assert_eq!(patterns.name(&RequestHead::of(&request)), name, "{path}");
        }
    }

    #[test]
    fn conflicts_and_malformed_patterns_are_refused_by_name() {
        let mut patterns = Patterns::default();
        patterns.add("/a/{x}").expect("a pattern");
        let conflict = patterns.add("/a/{y}").expect_err("a conflict").to_string();
        assert!(conflict.contains("/a/{y}") && conflict.contains("/a/{x}"), "{conflict}");
        assert!(patterns.add("a").expect_err("no slash").to_string().contains("\"a\""));
        assert!(patterns.add("/b/{").expect_err("malformed").is_config());
    }
}
