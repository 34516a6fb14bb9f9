//! The route of a request: the name by which limits, cache rules and statistics refer to it.
//!
//! | the request | its route |
//! |---|---|
//! | axum matched a route | that route, verbatim, such as `/prices/{symbol}` (feature `axum`) |
//! | routes are declared (`.routes([…])`), and no router matched it, or one that only mounts the service (`/{*rest}`) | the declared route that matches its path, as a router would choose |
//! | no router matched it, and none are declared | the configured pattern that matches its path: a guess, see [`Match`] |
//! | anything else | the one name [`UNMATCHED`] |
//!
//! A pattern applies to a route with the same spelling, whatever its parameters are called. It is never matched against the
//! path of a request that a router has matched: axum prefers the static route `/users/me` to `/users/{name}`, and a pattern
//! for the second must not govern the first.
//!
//! Patterns use axum's syntax, through the same crate (`matchit`). A client cannot create names: `//`, `/./`, `%2e`,
//! upper case or a trailing slash either match a route, or share [`UNMATCHED`] with everything else.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::error::Error;
use super::request_head::{RequestHead, RouteKind};

/// Route name of all requests that match no route.
pub const UNMATCHED: &str = "unmatched";

/// Route with the names of its parameters removed.
type Shape = SmallVec<[u8; 64]>;

/// Set of route patterns, each with its index in the order of insertion.
#[derive(Clone, Default)]
pub(crate) struct Patterns {
    exact: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    shapes: HashMap<Shape, usize, foldhash::fast::RandomState>,
    /// Literal beginnings of the patterns with parameters: the shape of a route with another one is not needed.
    beginnings: HashSet<Box<str>, foldhash::fast::RandomState>,
    router: matchit::Router<usize>,
    names: Vec<Box<str>>,
    /// Prefixes of the patterns that end in a catch-all after a literal prefix.
    catch_alls: Vec<(Box<str>, usize)>,
    /// Declared routes of the service.
    declared: Option<Arc<Patterns>>,
    /// For each declared route, the index of the pattern with the same spelling.
    of_declared: Vec<Option<usize>>,
    /// Whether they name outgoing requests, for which the route of an incoming request is irrelevant.
    outbound: bool,
}

/// Pattern that applies to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    /// Index of the pattern.
    pub(crate) place: usize,
    /// Whether only the path matched: no router matched the request, and no routes are declared. The service may have
    /// another route for this path.
    pub(crate) is_guess: bool,
    /// Whether it is a catch-all (`/admin/{*rest}`) whose prefix covers the route, rather than the route itself: it may
    /// restrict, but permits nothing.
    pub(crate) is_wider: bool,
    /// Whether the names of parameters differ between route and pattern.
    pub(crate) is_renamed: bool,
}

impl Match {
    const fn exact(place: usize) -> Self {
        Self { place, is_guess: false, is_wider: false, is_renamed: false }
    }
}

/// Source of a request's route, with its name.
#[derive(Clone, Copy)]
pub(crate) enum RouteSource<'a> {
    /// The declared route with this index.
    Declared(usize),
    /// The route that a router matched.
    Routed(&'a str),
    Unknown,
}

impl RouteSource<'_> {
    /// Returns the source alone.
    #[inline]
    pub(crate) const fn kind(self) -> RouteKind {
        match self {
            // Their number is that of the patterns in a program.
            Self::Declared(route) => RouteKind::Declared(route as u32),
            Self::Routed(_) => RouteKind::Routed,
            Self::Unknown => RouteKind::Unknown,
        }
    }
}

impl Patterns {
    /// Adds a pattern and returns its index.
    ///
    /// # Errors
    /// If the pattern is malformed, repeated, or conflicts with an earlier one.
    pub(crate) fn add(&mut self, pattern: &str) -> Result<usize, Error> {
        let index = self.names.len();
        if !pattern.starts_with('/') {
            return Err(Error::config(format!("route pattern {pattern:?} must start with '/'")));
        }
        if let Some(today) = today(pattern) {
            return Err(Error::config(format!(
                "route pattern {pattern:?} has the syntax of axum 0.7; write {today:?}"
            )));
        }
        self.router.insert(pattern, index).map_err(|e| match e {
            matchit::InsertError::Conflict { with } => {
                Error::config(format!("route pattern {pattern:?} conflicts with {with:?}"))
            }
            other => Error::config(format!("route pattern {pattern:?} is malformed: {other}")),
        })?;
        self.exact.insert(pattern.into(), index);
        self.shapes.insert(shape(pattern), index);
        self.beginnings.insert(literal_beginning(pattern).into());
        if let Some((prefix, _)) = pattern.split_once("{*").filter(|(prefix, _)| !has_parameters(prefix)) {
            self.catch_alls.push((prefix.into(), index));
        }
        self.names.push(pattern.into());
        if let Some(declared) = self.declared.take() {
            self.declare(declared);
        }
        Ok(index)
    }

    /// Creates a set of these patterns; repeated ones are added once.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub(crate) fn of(patterns: impl IntoIterator<Item: AsRef<str>>) -> Result<Self, Error> {
        let mut set = Self::default();
        for pattern in patterns {
            set.place(pattern.as_ref())?;
        }
        Ok(set)
    }

    /// Returns the index of this pattern, adding it if it is new.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub(crate) fn place(&mut self, pattern: &str) -> Result<usize, Error> {
        self.exact.get(pattern).copied().map_or_else(|| self.add(pattern), Ok)
    }

    /// Declares the routes of the service, for requests that no router has matched.
    pub(crate) fn declare(&mut self, routes: Arc<Patterns>) {
        self.of_declared = routes.names.iter().map(|route| self.pattern_equal_to(route)).collect();
        self.declared = Some(routes);
    }

    /// Makes them name outgoing requests: by path alone, whatever route a router left in the extensions.
    pub(crate) fn use_path_alone(&mut self) {
        self.outbound = true;
    }

    /// Returns the route by which a router matched this request.
    #[inline]
    pub(crate) fn routed<'a>(&self, head: &RequestHead<'a>) -> Option<&'a str> {
        if self.outbound { None } else { head.matched_path() }
    }

    /// Returns the pattern that applies to this request.
    pub(crate) fn find(&self, head: &RequestHead<'_>) -> Option<Match> {
        if self.names.is_empty() {
            return None;
        }
        match self.route(head) {
            RouteSource::Declared(route) => {
                let name = || self.declared.as_ref().and_then(|declared| self.covering(declared.names.get(route)?));
                self.of_declared.get(route).copied().flatten().map(Match::exact).or_else(name)
            }
            RouteSource::Routed(route) => {
                let found = self.pattern_equal_to(route).map(Match::exact).or_else(|| self.covering(route));
                found.map(|found| Match { is_renamed: *self.names[found.place] != *route, ..found })
            }
            RouteSource::Unknown if self.declared.is_some() => None,
            RouteSource::Unknown => {
                self.at(self.path(head)).map(|place| Match { is_guess: true, ..Match::exact(place) })
            }
        }
    }

    /// Returns the name of this request's route.
    pub(crate) fn name<'a>(&'a self, head: &RequestHead<'a>) -> &'a str {
        let declared = self.declared.as_deref();
        match self.route(head) {
            RouteSource::Declared(route) => {
                declared.and_then(|declared| declared.names.get(route)).map_or(UNMATCHED, |name| &**name)
            }
            RouteSource::Routed(route) => route,
            RouteSource::Unknown if declared.is_some() => UNMATCHED,
            RouteSource::Unknown => self.at(self.path(head)).map_or(UNMATCHED, |index| &*self.names[index]),
        }
    }

    /// Returns the route of this request, as an outer layer has determined it, or else as it is found here.
    #[inline(always)]
    fn route<'a>(&self, head: &RequestHead<'a>) -> RouteSource<'a> {
        match head.route() {
            None => self.determine(head),
            Some(RouteKind::Declared(route)) => RouteSource::Declared(route as usize),
            Some(RouteKind::Routed) => self.routed(head).map_or(RouteSource::Unknown, RouteSource::Routed),
            Some(RouteKind::Unknown) => RouteSource::Unknown,
        }
    }

    /// Returns the name of this request's route if a router matched it or it is declared.
    #[inline]
    pub(crate) fn own_name<'a>(&'a self, head: &RequestHead<'a>) -> Option<&'a str> {
        if self.declared.is_none() {
            self.routed(head)
        } else {
            Some(self.name(head)).filter(|name| *name != UNMATCHED)
        }
    }

    /// Determines the route of this request: the one that a router matched, unless that only mounts the service and a declared
    /// route is more specific.
    #[inline]
    pub(crate) fn determine<'a>(&self, head: &RequestHead<'a>) -> RouteSource<'a> {
        let routed = self.routed(head);
        let declared = self.declared.as_ref().and_then(|declared| self.more_specific(declared, head, routed));
        declared.or(routed.map(RouteSource::Routed)).unwrap_or(RouteSource::Unknown)
    }

    fn more_specific<'a>(
        &self,
        declared: &Patterns,
        head: &RequestHead<'a>,
        routed: Option<&str>,
    ) -> Option<RouteSource<'a>> {
        let route = declared.at(self.path(head))?;
        routed.is_none_or(|routed| covers(routed, &declared.names[route])).then_some(RouteSource::Declared(route))
    }

    /// Returns the path of the whole target, with the prefix that a nested router has stripped.
    fn path<'a>(&self, head: &RequestHead<'a>) -> &'a str {
        let path = head.uri().path();
        let original = if self.outbound { None } else { head.stripped_from() };
        original.map(http::Uri::path).filter(|original| original.ends_with(path)).unwrap_or(path)
    }

    /// Returns the catch-all pattern with the longest prefix that covers this route.
    fn covering(&self, route: &str) -> Option<Match> {
        let covering =
            self.catch_alls.iter().filter(|(prefix, _)| route.starts_with(&**prefix) && route.len() > prefix.len());
        let longest = covering.max_by_key(|(prefix, _)| prefix.len());
        longest.map(|(_, place)| Match { is_wider: true, ..Match::exact(*place) })
    }

    /// Whether a request to a declared route may match the pattern with this index; true if no routes are declared.
    pub(crate) fn may_match(&self, place: usize) -> bool {
        let Some(declared) = &self.declared else { return true };
        let name = &*self.names[place];
        self.of_declared.contains(&Some(place))
            || name.contains("{*") && declared.names.iter().any(|route| covers(name, route))
    }

    /// Returns the index of the pattern that applies to this route.
    pub(crate) fn place_of(&self, route: &str) -> Option<usize> {
        self.pattern_equal_to(route).or_else(|| self.covering(route).map(|found| found.place))
    }

    /// Whether there are no patterns.
    pub(crate) const fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(crate) fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Returns the index of the pattern that this path matches.
    pub(crate) fn at(&self, path: &str) -> Option<usize> {
        self.router.at(path).ok().map(|found| *found.value)
    }

    /// Returns the index of the pattern with the spelling of this route, whatever its parameters are called.
    #[inline]
    fn pattern_equal_to(&self, route: &str) -> Option<usize> {
        if let Some(place) = self.exact.get(route) {
            return Some(*place);
        }
        if !has_parameters(route) || !self.beginnings.contains(literal_beginning(route)) {
            return None;
        }
        self.shapes.get(&shape(route)).copied()
    }
}

/// Returns a pattern of axum 0.7 (`/users/:id`, `/files/*path`) in today's syntax; `None` for any other. axum refuses such
/// patterns too.
fn today(pattern: &str) -> Option<String> {
    let old = |segment: &str| segment.starts_with([':', '*']);
    let segment = |segment: &str| match segment.split_at_checked(1) {
        Some((":", name)) => format!("{{{name}}}"),
        Some(("*", "")) => "{*rest}".to_owned(),
        Some(("*", name)) => format!("{{*{name}}}"),
        _ => segment.to_owned(),
    };
    pattern.split('/').any(old).then(|| pattern.split('/').map(segment).collect::<Vec<_>>().join("/"))
}

/// Whether a pattern matches more than one path.
pub(crate) fn has_parameters(pattern: &str) -> bool {
    pattern.as_bytes().contains(&b'{')
}

/// Returns the part of a pattern before its first parameter.
fn literal_beginning(pattern: &str) -> &str {
    pattern.split_once('{').map_or(pattern, |(beginning, _)| beginning)
}

/// Whether a route that a router matched covers a declared one: then the service is mounted there.
pub(crate) fn covers(routed: &str, declared: &str) -> bool {
    let mut wanted = declared.split('/');
    for segment in routed.split('/') {
        if segment.starts_with("{*") {
            return true;
        }
        let Some(found) = wanted.next() else { return false };
        if segment != found && !segment.starts_with('{') {
            return false;
        }
    }
    wanted.next().is_none()
}

/// Removes the names of parameters: `/a/{x}` becomes `/a/{}`, `/a/{*x}` becomes `/a/{*}`. Doubled braces are literal.
fn shape(pattern: &str) -> Shape {
    let (mut out, mut bytes) = (Shape::new(), pattern.bytes().peekable());
    while let Some(byte) = bytes.next() {
        out.push(byte);
        if byte != b'{' {
            continue;
        }
        match bytes.peek() {
            Some(b'{') => out.extend(bytes.next()),
            Some(b'*') => {
                out.push(b'*');
                bytes.by_ref().find(|byte| *byte == b'}');
                out.push(b'}');
            }
            _ => {
                bytes.by_ref().find(|byte| *byte == b'}');
                out.push(b'}');
            }
        }
    }
    out
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
    fn declared_routes_are_chosen_as_a_router_would() {
        let mut declared = Patterns::default();
        for route in ["/users/{name}", "/users/me", "/files/{*path}"] {
            declared.add(route).expect("a pattern");
        }
        let mut patterns = Patterns::default();
        patterns.declare(Arc::new(declared));
        let user = patterns.add("/users/{id}").expect("a pattern");
        let files = patterns.add("/files/{*rest}").expect("a pattern");
        let sure = |place| Some(Match::exact(place));
        for (path, found, name) in [
            ("/users/alice", sure(user), "/users/{name}"),
            ("/users/me", None, "/users/me"),
            ("/files/a/b", sure(files), "/files/{*path}"),
            ("/other", None, UNMATCHED),
        ] {
            let request = request(path);
            assert_eq!(patterns.find(&RequestHead::of(&request)), found, "{path}");
            assert_eq!(patterns.name(&RequestHead::of(&request)), name, "{path}");
        }
    }

    #[test]
    fn without_declared_routes_a_path_is_a_guess() {
        let mut patterns = Patterns::default();
        let place = patterns.add("/users/{name}").expect("a pattern");
        let request = request("/users/me");
        assert_eq!(patterns.find(&RequestHead::of(&request)), Some(Match { is_guess: true, ..Match::exact(place) }));
    }

    #[test]
    fn routes_are_alike_whatever_their_parameters_are_called() {
        let mut patterns = Patterns::default();
        let one = patterns.add("/a/{x}/b").expect("a pattern");
        let rest = patterns.add("/c/{*x}").expect("a pattern");
        let braces = patterns.add("/{{x}}/d").expect("a pattern");
        for (route, found) in [
            ("/a/{x}/b", Some(one)),
            ("/a/{other}/b", Some(one)),
            ("/a/{x}/c", None),
            ("/a/x/b", None),
            ("/c/{*other}", Some(rest)),
            ("/c/{other}", None),
            ("/{{x}}/d", Some(braces)),
            ("/{{y}}/d", None),
        ] {
            assert_eq!(patterns.pattern_equal_to(route), found, "{route}");
        }
    }

    #[test]
    fn a_route_covers_those_that_say_more() {
        for (routed, declared, expected) in [
            ("/{*rest}", "/login", true),
            ("/users/{name}", "/users/me", true),
            ("/users/{name}", "/users/{id}", true),
            ("/users/me", "/users/{name}", false),
            ("/users/{name}", "/users/me/posts", false),
            ("/api/{*rest}", "/users/me", false),
            ("/users/me", "/users/me", true),
        ] {
            assert_eq!(covers(routed, declared), expected, "{routed} {declared}");
        }
    }

    #[test]
    fn a_catch_all_covers_the_routes_under_its_prefix() {
        let mut patterns = Patterns::default();
        let all = patterns.add("/{*rest}").expect("a pattern");
        let admin = patterns.add("/admin/{*rest}").expect("a pattern");
        let wider = |place| Some(Match { is_wider: true, ..Match::exact(place) });
        assert_eq!(patterns.covering("/admin/stats"), wider(admin));
        assert_eq!(patterns.covering("/users/{name}"), wider(all));
        assert_eq!(patterns.covering("/"), None);
    }

    #[test]
    fn conflicts_and_malformed_patterns_are_refused_by_name() {
        let mut patterns = Patterns::default();
        patterns.add("/a/{x}").expect("a pattern");
        let conflict = patterns.add("/a/{y}").expect_err("a conflict").to_string();
        assert!(conflict.contains("/a/{y}") && conflict.contains("/a/{x}"), "{conflict}");
        assert!(patterns.add("a").expect_err("no slash").to_string().contains("\"a\""));
        assert!(patterns.add("/b/{").expect_err("malformed").is_config());
        for (old, today) in [
            ("/users/:id", "/users/{id}"),
            ("/api/*", "/api/{*rest}"),
            ("/f/*path", "/f/{*path}"),
            ("/:a/b/:c", "/{a}/b/{c}"),
        ] {
            let refused = patterns.add(old).expect_err("old syntax").to_string();
            assert!(refused.contains(old) && refused.contains(today), "{refused}");
        }
        patterns.add("/a:b/c*d").expect("within a segment they are literal");
    }
}
