//! [`RouteMatcher`]: selects requests by route and method, for limits, cache rules and timing alike.
//!
//! | entry | requests |
//! |---|---|
//! | `"/login"` | every method of that route |
//! | `"POST /login"` | that method of that route; `GET` includes `HEAD`, as axum routes it |
//! | `"/admin/{*rest}"` | every route under that prefix |
//!
//! A request is selected if an entry covers it and no exception does. Without entries all requests are, but the exceptions.

use http::Method;
use smallvec::SmallVec;

use super::error::Error;
use super::request_head::RequestHead;
use super::route::{Patterns, covers};

/// Selects requests by route pattern, method and exception.
///
/// It is made from one entry or from several, each a pattern in axum's syntax, after a method if it applies to one only.
///
/// ```
/// use tollgate::RouteMatcher;
/// use tollgate::limit::Limit;
///
/// let login = Limit::per_ip("5/15min").on(["POST /login", "POST /reset"]);
/// let most = Limit::per_ip("100/min").except("/health");
/// let admin = Limit::per_user("20/min").on(RouteMatcher::from("/admin/{*rest}").except("/admin/health"));
/// # let _ = (login, most, admin);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatcher {
    on: Vec<Box<str>>,
    except: Vec<Box<str>>,
}

impl RouteMatcher {
    /// Adds exceptions.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::RouteMatcher;
    /// use tollgate::cache::{Rule, Rules};
    ///
    /// let never = RouteMatcher::from("/admin/{*rest}").except("/admin/logo");
    /// let rules = Rules::new().route(never, Rule::never());
    /// # let _ = rules;
    /// ```
    #[must_use]
    pub fn except(mut self, routes: impl Into<Self>) -> Self {
        self.except.extend(routes.into().on);
        self
    }

    /// Adds the entries and exceptions of another matcher.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.on.extend(other.on);
        self.except.extend(other.except);
        self
    }

    /// Whether it selects every request.
    pub(crate) fn is_all(&self) -> bool {
        self.on.is_empty() && self.except.is_empty()
    }

    /// Returns the entries.
    pub(crate) fn entries(&self) -> &[Box<str>] {
        &self.on
    }

    /// Returns the exceptions.
    pub(crate) fn exceptions(&self) -> &[Box<str>] {
        &self.except
    }

    /// Whether it selects the requests of a route, by its pattern.
    pub(crate) fn selects_route(&self, route: &str) -> bool {
        let any = |entries: &[Box<str>]| entries.iter().any(|entry| **entry == *route || covers(entry, route));
        (self.on.is_empty() || any(&self.on)) && !any(&self.except)
    }

    /// Returns an entry that names a method.
    pub(crate) fn entry_with_method(&self) -> Option<&str> {
        self.on.iter().chain(&self.except).map(|entry| &**entry).find(|entry| entry.contains(' '))
    }

    /// Adds the patterns of the matcher to `patterns`, and compiles it.
    ///
    /// # Errors
    /// If a method or a pattern is malformed, or a pattern conflicts with another.
    pub(crate) fn compile(&self, patterns: &mut Patterns) -> Result<CompiledMatcher, Error> {
        let mut place = |entries: &[Box<str>]| {
            let mut compile = |text: &str| {
                let (method, pattern) = parse(text)?;
                Ok(RouteEntry { method, place: patterns.place(pattern)? })
            };
            entries.iter().map(|text| compile(text)).collect::<Result<_, Error>>()
        };
        Ok(CompiledMatcher { on: place(&self.on)?, except: place(&self.except)?, given: self.on.len() })
    }
}

/// Splits an entry into its method, if it has one, and its pattern.
///
/// # Errors
/// If the method is malformed.
pub(crate) fn parse(entry: &str) -> Result<(Option<Method>, &str), Error> {
    let Some((method, pattern)) = entry.split_once(' ') else { return Ok((None, entry)) };
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    match Method::from_bytes(method.as_bytes()) {
        Ok(method) if is_method => Ok((Some(method), pattern.trim_start())),
        _ => {
            let message = format!("route {entry:?}: the method must be in capitals, as in \"POST /login\"");
            Err(Error::config(message))
        }
    }
}

/// Whether an entry for `wanted` covers requests with `method`: `GET` includes `HEAD`.
pub(crate) fn admits(wanted: Option<&Method>, method: &Method) -> bool {
    wanted.is_none_or(|wanted| wanted == method || *wanted == Method::GET && *method == Method::HEAD)
}

/// Matcher over the indices of one set of patterns.
#[derive(Clone, Debug, Default)]
pub(crate) struct CompiledMatcher {
    on: SmallVec<[RouteEntry; 1]>,
    except: SmallVec<[RouteEntry; 1]>,
    /// Number of configured entries; the patterns that a catch-all covers follow.
    given: usize,
}

#[derive(Clone, Debug)]
struct RouteEntry {
    method: Option<Method>,
    /// Index of the pattern.
    place: usize,
}

impl CompiledMatcher {
    /// Extends catch-alls to the patterns under their prefix, once all patterns are known: a request has only one pattern.
    pub(crate) fn extend_catch_alls(&mut self, patterns: &Patterns) {
        let names = patterns.names();
        for entries in [&mut self.on, &mut self.except] {
            for at in 0..entries.len() {
                let RouteEntry { method, place } = entries[at].clone();
                if !names[place].contains("{*") {
                    continue;
                }
                let under = (0..names.len()).filter(|other| *other != place && covers(&names[place], &names[*other]));
                entries.extend(under.map(|place| RouteEntry { method: method.clone(), place }));
            }
        }
    }

    /// Whether it selects every request.
    #[inline]
    pub(crate) fn is_all(&self) -> bool {
        self.on.is_empty() && self.except.is_empty()
    }

    /// Whether it selects a request to this pattern.
    pub(crate) fn matches(&self, place: Option<usize>, head: &RequestHead<'_>) -> bool {
        self.selects(place, Some(head.method()))
    }

    /// As [`matches`](Self::matches), with any method if none is given.
    pub(crate) fn selects(&self, place: Option<usize>, method: Option<&Method>) -> bool {
        let covers = |entry: &RouteEntry| {
            Some(entry.place) == place && method.is_none_or(|method| admits(entry.method.as_ref(), method))
        };
        let is_except = |entry: &RouteEntry| covers(entry) && (method.is_some() || entry.method.is_none());
        (self.on.is_empty() || self.on.iter().any(covers)) && !self.except.iter().any(is_except)
    }

    /// Returns the patterns of the configured entries.
    pub(crate) fn patterns<'a>(&'a self, patterns: &'a Patterns) -> impl Iterator<Item = &'a str> {
        self.on[..self.given].iter().map(|entry| &*patterns.names()[entry.place])
    }

    /// Returns the patterns of the configured entries that none of the declared routes matches; none if no routes are declared.
    pub(crate) fn undeclared<'a>(&'a self, patterns: &'a Patterns) -> impl Iterator<Item = &'a str> {
        let places = self.on[..self.given].iter().map(|entry| entry.place);
        places.filter(|place| !patterns.may_match(*place)).map(|place| &*patterns.names()[place])
    }
}

impl From<&str> for RouteMatcher {
    fn from(entry: &str) -> Self {
        Self::from([entry])
    }
}

impl From<String> for RouteMatcher {
    fn from(entry: String) -> Self {
        Self::from([entry])
    }
}

impl From<Box<str>> for RouteMatcher {
    fn from(entry: Box<str>) -> Self {
        Self::from([entry])
    }
}

impl<T: Into<Box<str>>, const N: usize> From<[T; N]> for RouteMatcher {
    fn from(entries: [T; N]) -> Self {
        Self { on: entries.into_iter().map(Into::into).collect(), except: Vec::new() }
    }
}

impl<T: Into<Box<str>>> From<Vec<T>> for RouteMatcher {
    fn from(entries: Vec<T>) -> Self {
        Self { on: entries.into_iter().map(Into::into).collect(), except: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_select_by_route_and_method_and_exceptions_take_away() {
        let admin = RouteMatcher::from("/admin/{*rest}").except("/admin/health");
        let login = RouteMatcher::from(["POST /login", "GET /login/{id}"]);
        let most = RouteMatcher::default().except("/health");
        for (matcher, method, path, expected) in [
            (&admin, "GET", "/admin/users", true),
            (&admin, "DELETE", "/admin/stats", true),
            (&admin, "GET", "/admin/health", false),
            (&admin, "GET", "/", false),
            (&login, "POST", "/login", true),
            (&login, "GET", "/login", false),
            (&login, "GET", "/login/7", true),
            (&login, "HEAD", "/login/7", true),
            (&login, "POST", "/login/7", false),
            (&most, "GET", "/health", false),
            (&most, "GET", "/anything", true),
        ] {
            let mut patterns = Patterns::default();
            let mut compiled = matcher.compile(&mut patterns).expect("a matcher");
            // Another limit's pattern, under the catch-all.
            patterns.place("/admin/stats").expect("a pattern");
            compiled.extend_catch_alls(&patterns);
            let request = http::Request::builder().method(method).uri(path).body(()).expect("a request");
            let head = RequestHead::of(&request);
            let place = patterns.find(&head).map(|found| found.place);
            assert_eq!(compiled.matches(place, &head), expected, "{matcher:?} {method} {path}");
        }
    }

    #[test]
    fn malformed_entries_are_refused_by_name() {
        for entry in ["post /login", "login", "POST login", "P@ST /login", " /login"] {
            let error = RouteMatcher::from(entry).compile(&mut Patterns::default()).expect_err(entry).to_string();
            assert!(error.contains("login"), "{error}");
        }
    }

    #[test]
    fn entries_that_no_declared_route_matches_are_found() {
        let mut patterns = Patterns::default();
        let matcher = RouteMatcher::from(["/users/{id}", "/admin/{*rest}", "POST /lgoin", "/api/{*rest}"]);
        let compiled = matcher.compile(&mut patterns).expect("a matcher");
        assert_eq!(compiled.undeclared(&patterns).count(), 0, "no routes are declared");
        let routes = Patterns::of(["/users/{name}", "/admin/stats", "/login"]).expect("routes");
        patterns.declare(std::sync::Arc::new(routes));
        assert_eq!(compiled.undeclared(&patterns).collect::<Vec<_>>(), ["/lgoin", "/api/{*rest}"]);
    }
}
