//! [`Rules`]: caching rules by route, applied where responses define nothing themselves.
//!
//! A rule never makes a response storable that says `no-store` or `private`, sets a cookie or varies on everything.
//! Patterns are axum's (`/prices/{symbol}`) and match the full route, prefixes of nested routers included; for requests
//! that no axum router matched see [`CacheBuilder::routes`](crate::cache::CacheBuilder::routes). Mistakes (a malformed
//! or conflicting pattern, an invalid tag, a TTL of zero) are errors when the layer is built.

use std::sync::Arc;

use http::Method;
use smallvec::SmallVec;

use super::rule::Rule;
use crate::base::error::Error;
use crate::base::request_head::RequestHead;
use crate::base::route::{Match, Patterns};
use crate::base::route_matcher::{self, RouteMatcher};

/// Caching rules by route pattern, with a fallback for all other requests.
///
/// ```
/// use std::time::Duration;
/// use tollgate::cache::{CacheLayer, Rule, Rules};
///
/// let rules = Rules::new()
///     .route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15)).tag("prices").same_for_everyone())
///     .route("/me", Rule::never());
/// let layer = CacheLayer::builder().rules(rules).build()?;
/// # let _ = layer;
///
/// let twice = Rules::new().route("/a/{x}", Rule::never()).route("/a/{y}", Rule::never());
/// let error = CacheLayer::builder().rules(twice).build().unwrap_err();
/// assert!(error.to_string().contains("/a/{y}"));
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Rules {
    routes: Vec<(RouteMatcher, Rule)>,
    otherwise: Option<Rule>,
    /// Whether there are two rules for requests that match no pattern.
    is_ambiguous: bool,
}

impl Rules {
    /// Creates an empty set of rules: responses alone decide.
    ///
    /// ```
    /// use tollgate::cache::{CacheLayer, Rules};
    ///
    /// let layer = CacheLayer::builder().rules(Rules::new()).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule for routes: a pattern in axum's syntax or several, each after a method if the rule applies to one only.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::cache::{Rule, Rules};
    ///
    /// let rules = Rules::new()
    ///     .route("/users/{name}", Rule::from_headers().per_identity())
    ///     .route(["GET /articles", "GET /articles/{id}"], Rule::ttl(Duration::from_secs(60)).tag("articles"))
    ///     .route("POST /articles", Rule::never().invalidates(["articles"]));
    /// # let _ = rules;
    /// ```
    pub fn route(mut self, routes: impl Into<RouteMatcher>, rule: Rule) -> Self {
        self.routes.push((routes.into(), rule));
        self
    }

    /// Sets the rule for requests that match no pattern.
    ///
    /// Without it [`Rule::from_headers`] applies to them, but in profile `app` a GET is not coalesced with others until its
    /// route has once sent a response that may be stored.
    ///
    /// ```
    /// use tollgate::cache::{Rule, Rules};
    ///
    /// let rules = Rules::new().route("/prices", Rule::from_headers()).otherwise(Rule::never());
    /// # let _ = rules;
    /// ```
    pub fn otherwise(mut self, rule: Rule) -> Self {
        self.is_ambiguous |= self.otherwise.is_some();
        self.otherwise = Some(rule);
        self
    }

    /// Adds other rules.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.is_ambiguous |= other.is_ambiguous || self.otherwise.is_some() && other.otherwise.is_some();
        self.routes.extend(other.routes);
        self.otherwise = other.otherwise.or(self.otherwise);
        self
    }

    /// Returns the patterns of all rules.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &str> {
        let entries = self.routes.iter().flat_map(|(routes, _)| routes.entries());
        entries.map(|entry| entry.split_once(' ').map_or(&**entry, |(_, pattern)| pattern))
    }

    /// Validates and compiles the rules.
    ///
    /// # Errors
    /// Names the first invalid value.
    pub(crate) fn compile(self, routing: &Routing) -> Result<CompiledRules, Error> {
        if self.is_ambiguous {
            return Err(Error::config("the rule for all other requests is set twice; keep one .otherwise(…)"));
        }
        let has_fallback = self.otherwise.is_some();
        let otherwise = self.otherwise.unwrap_or_default();
        let mut compiled = CompiledRules { has_fallback, ..CompiledRules::none() };
        if routing.outbound {
            compiled.patterns.use_path_alone();
        }
        if let Some(routes) = &routing.declared {
            compiled.patterns.declare(routes.clone());
        }
        let named = |(routes, rule): &'_ (RouteMatcher, Rule)| (routes.entries().join(", "), rule.clone());
        let all = || self.routes.iter().map(named).chain([("otherwise".to_owned(), otherwise.clone())]);
        if let Some((pattern, _)) = all().find(|(_, rule)| rule.lease_ttl.is_some() && routing.in_process) {
            let message = format!(
                "cache rule {pattern:?}: lease_ttl() needs a store that processes share; add one with .redis(…) or \
                 .level_2(…), or remove it"
            );
            return Err(Error::config(message));
        }
        if let Some((pattern, _)) = all().find(|(_, rule)| rule.per_identity && !routing.identifies) {
            let message = format!(
                "cache rule {pattern:?}: per_identity() needs an identity; set one with .identify(…) on the gate, or \
                 CacheBuilder::identity"
            );
            return Err(Error::config(message));
        }
        otherwise.check("otherwise")?;
        for (routes, rule) in &self.routes {
            compiled.add(routes, rule)?;
        }
        compiled.rules.push(otherwise);
        Ok(compiled)
    }
}

/// Routing information that rules are compiled against.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routing {
    /// Declared routes of the service.
    pub(crate) declared: Option<Arc<Patterns>>,
    /// Whether no other process reads the store.
    pub(crate) in_process: bool,
    /// Whether requests are outbound.
    pub(crate) outbound: bool,
    /// Whether an identity is available for `per_identity()`.
    pub(crate) identifies: bool,
}

/// Rules on one pattern, by their index.
type RulesByMethod = SmallVec<[(Option<Method>, usize); 1]>;

/// Compiled rules.
#[derive(Debug)]
pub(crate) struct CompiledRules {
    pub(crate) patterns: Patterns,
    /// One per entry of a matcher, in order, then the fallback.
    rules: Vec<Rule>,
    /// Index of the pattern of each rule but the fallback.
    places: Vec<usize>,
    /// Whether each rule is that of the pattern with its index, for all methods.
    is_plain: bool,
    /// For each pattern, the rules on it by method.
    by_place: Vec<RulesByMethod>,
    /// Whether the fallback was configured.
    has_fallback: bool,
}

impl CompiledRules {
    /// Creates a set with the default rule only.
    pub(crate) fn empty() -> Self {
        Self { rules: vec![Rule::default()], ..Self::none() }
    }

    fn none() -> Self {
        let (patterns, rules) = (Patterns::default(), Vec::new());
        Self { patterns, rules, places: Vec::new(), is_plain: true, by_place: Vec::new(), has_fallback: false }
    }

    fn add(&mut self, routes: &RouteMatcher, rule: &Rule) -> Result<(), Error> {
        for entry in routes.entries() {
            let (method, pattern) = route_matcher::parse(entry)?;
            rule.check(pattern)?;
            let place = self.place(pattern)?;
            if self.by_place[place].iter().any(|(known, _)| *known == method) {
                return Err(Error::config(format!("cache rule {entry:?} conflicts with another; keep one of them")));
            }
            self.is_plain &= method.is_none() && place == self.rules.len();
            self.by_place[place].push((method, self.rules.len()));
            self.places.push(place);
            self.rules.push(rule.clone());
        }
        // A request to an exception matches its pattern, on which there is no rule.
        self.is_plain &= routes.exceptions().is_empty();
        routes.exceptions().iter().try_for_each(|entry| self.place(route_matcher::parse(entry)?.1).map(|_| ()))
    }

    fn place(&mut self, pattern: &str) -> Result<usize, Error> {
        let place = self.patterns.place(pattern)?;
        self.by_place.resize_with(self.patterns.names().len(), SmallVec::new);
        Ok(place)
    }

    /// Returns how this request matches a rule, with the rule's index; `None` for the fallback.
    #[inline]
    pub(crate) fn find(&self, head: &RequestHead<'_>) -> Option<(Match, usize)> {
        let found = self.patterns.find(head)?;
        let rule = match self.is_plain {
            true => found.place,
            false => by_method(self.by_place.get(found.place)?, head.method())?,
        };
        (!found.is_wider || self.rules[rule].never).then_some((found, rule))
    }

    /// Returns the text of the warning that none of the declared routes matches the pattern of a rule.
    pub(crate) fn explain_undeclared(&self) -> Option<String> {
        let undeclared = self.places.iter().filter(|place| !self.patterns.may_match(**place));
        let undeclared: Vec<String> = undeclared.map(|place| format!("{:?}", self.patterns.names()[*place])).collect();
        (!undeclared.is_empty()).then(|| {
            format!(
                "no declared route matches the cache rules for {}: check the spelling against .routes([…]), or declare the \
                 route",
                undeclared.join(", ")
            )
        })
    }

    /// Returns the index of the fallback rule.
    pub(crate) const fn fallback(&self) -> usize {
        self.rules.len() - 1
    }

    /// Whether the rule with this index was configured, unlike the default for requests that none covers.
    pub(crate) fn is_configured(&self, index: usize) -> bool {
        self.has_fallback || index != self.fallback()
    }

    pub(crate) fn rule(&self, index: usize) -> &Rule {
        &self.rules[index]
    }

    /// Returns the pattern of a rule; `None` for the fallback.
    pub(crate) fn pattern(&self, index: usize) -> Option<&str> {
        let place = if self.is_plain { index } else { *self.places.get(index)? };
        self.patterns.names().get(place).map(|name| &**name)
    }

    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }
}

/// Returns the rule for a method: one for it, one that covers it, one for all methods.
fn by_method(rules: &[(Option<Method>, usize)], method: &Method) -> Option<usize> {
    let exact = rules.iter().find(|(known, _)| known.as_ref() == Some(method));
    let covering = || rules.iter().find(|(known, _)| known.is_some() && route_matcher::admits(known.as_ref(), method));
    let any = || rules.iter().find(|(known, _)| known.is_none());
    exact.or_else(covering).or_else(any).map(|(_, rule)| *rule)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn config_error(rules: Rules) -> String {
        rules.compile(&Routing::default()).expect_err("a mistake").to_string()
    }

    #[test]
    fn configuration_errors_name_the_value() {
        assert!(config_error(Rules::new().route("/a", Rule::from_headers().tag("a b"))).contains("\"a b\""));
        assert!(config_error(Rules::new().route("/a", Rule::ttl(Duration::ZERO))).contains("\"/a\": ttl 0s"));
        assert!(config_error(Rules::new().route("a", Rule::never())).contains("\"a\""));
        assert!(config_error(Rules::new().route("/a", Rule::never()).route("/a", Rule::never())).contains("conflicts"));
        assert!(config_error(Rules::new().otherwise(Rule::from_headers().tag(""))).contains("otherwise"));
        let both = Rule::from_headers().same_for_everyone().per_identity();
        assert!(
            Rules::new()
                .route("/a", both.clone())
                .compile(&Routing { identifies: true, ..Routing::default() })
                .is_err()
        );
        assert!(config_error(Rules::new().otherwise(Rule::from_headers().per_identity())).contains(".identify("));
        assert!(config_error(Rules::new().route("/a/{x}", Rule::from_headers().tag("a:{y}"))).contains("{y}"));
        assert!(config_error(Rules::new().route("/a", Rule::never().invalidates(["a:{x}"]))).contains("{x}"));
    }

    #[test]
    fn rules_may_share_a_pattern_by_method_and_have_several_and_exceptions() {
        let admin = RouteMatcher::from("/admin/{*rest}").except("/admin/logo");
        let rules = Rules::new()
            .route(["GET /a", "/b/{x}"], Rule::from_headers().tag("read"))
            .route("POST /a", Rule::never().tag("written"))
            .route(admin, Rule::never().tag("admin"));
        let compiled = rules.compile(&Routing::default()).expect("rules");
        for (method, path, tag) in [
            ("GET", "/a", "read"),
            ("HEAD", "/a", "read"),
            ("POST", "/a", "written"),
            ("PUT", "/a", ""),
            ("PUT", "/b/1", "read"),
            ("GET", "/admin/users", "admin"),
            ("GET", "/admin/logo", ""),
        ] {
            let request = http::Request::builder().method(method).uri(path).body(()).expect("a request");
            let index = compiled.find(&RequestHead::of(&request)).map_or(compiled.fallback(), |(_, rule)| rule);
            let tags = format!("{:?}", compiled.rule(index));
            assert!(if tag.is_empty() { index == compiled.fallback() } else { tags.contains(tag) }, "{method} {path}");
        }
        assert!(config_error(Rules::new().route(["/a", "/a"], Rule::never())).contains("conflicts"));
        assert!(config_error(Rules::new().route("get /a", Rule::never())).contains("capitals"));
    }

    #[test]
    fn requests_match_their_rule() {
        let compiled = Rules::new().route("/a/{x}", Rule::never()).compile(&Routing::default()).expect("rules");
        for (path, never) in [("/a/b", true), ("/b", false)] {
            let request = http::Request::get(path).body(()).expect("a request");
            let index = compiled.find(&RequestHead::of(&request)).map_or(compiled.fallback(), |(_, rule)| rule);
            assert_eq!(compiled.rule(index).never, never, "{path}");
        }
    }
}
