//! [`Rules`]: caching rules by route, applied where responses define nothing themselves.
//!
//! A rule never makes a response storable that says `no-store` or `private`, sets a cookie or varies on everything.
//! Patterns are axum's (`/prices/{symbol}`) and match the full route, prefixes of nested routers included; for requests
//! that no axum router matched see [`CacheBuilder::routes`](crate::cache::CacheBuilder::routes). Mistakes (a malformed
//! or conflicting pattern, an invalid tag, a TTL of zero) are errors when the layer is built.

use std::sync::Arc;

use super::rule::Rule;
use crate::base::error::Error;
use crate::base::request_head::RequestHead;
use crate::base::route::{Match, Patterns};

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
    routes: Vec<(Box<str>, Rule)>,
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

    /// Adds a rule for the routes that match `pattern`.
    ///
    /// ```
    /// use tollgate::cache::{Rule, Rules};
    ///
    /// let rules = Rules::new().route("/users/{name}", Rule::from_headers().per_identity());
    /// # let _ = rules;
    /// ```
    pub fn route(mut self, pattern: impl Into<Box<str>>, rule: Rule) -> Self {
        self.routes.push((pattern.into(), rule));
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
        self.routes.iter().map(|(pattern, _)| &**pattern)
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
        let mut compiled = CompiledRules { patterns: Patterns::default(), rules: Vec::new(), has_fallback };
        if routing.outbound {
            compiled.patterns.use_path_alone();
        }
        if let Some(routes) = &routing.declared {
            compiled.patterns.declare(routes.clone());
        }
        let rules = self.routes.iter().map(|(pattern, rule)| (&**pattern, rule)).chain([("otherwise", &otherwise)]);
        if let Some((pattern, _)) = rules.into_iter().find(|(_, rule)| rule.lease_ttl.is_some() && routing.in_process) {
            let message = format!(
                "cache rule {pattern:?}: lease_ttl() needs a store that processes share; add one with .redis(…) or \
                 .level_2(…), or remove it"
            );
            return Err(Error::config(message));
        }
        let apart = self.routes.iter().map(|(pattern, rule)| (&**pattern, rule)).chain([("otherwise", &otherwise)]);
        if let Some((pattern, _)) = apart.into_iter().find(|(_, rule)| rule.per_identity && !routing.identifies) {
            let message = format!(
                "cache rule {pattern:?}: per_identity() needs an identity; set one with .identify(…) on the gate, or \
                 CacheBuilder::identity"
            );
            return Err(Error::config(message));
        }
        otherwise.check("otherwise")?;
        for (pattern, rule) in self.routes {
            rule.check(&pattern)?;
            compiled.patterns.add(&pattern)?;
            compiled.rules.push(rule);
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

/// Compiled rules.
#[derive(Debug)]
pub(crate) struct CompiledRules {
    pub(crate) patterns: Patterns,
    /// One per pattern, in order, then the fallback.
    rules: Vec<Rule>,
    /// Whether the fallback was configured.
    has_fallback: bool,
}

impl CompiledRules {
    /// Creates a set with the default rule only.
    pub(crate) fn empty() -> Self {
        Self { patterns: Patterns::default(), rules: vec![Rule::default()], has_fallback: false }
    }

    /// Returns how this request matches a rule; `None` for the fallback.
    pub(crate) fn find(&self, head: &RequestHead<'_>) -> Option<Match> {
        self.patterns.find(head).filter(|found| !found.is_wider || self.rules[found.place].never)
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
        self.patterns.names().get(index).map(|name| &**name)
    }

    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }
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
    fn requests_match_their_rule() {
        let compiled = Rules::new().route("/a/{x}", Rule::never()).compile(&Routing::default()).expect("rules");
        for (path, never) in [("/a/b", true), ("/b", false)] {
            let request = http::Request::get(path).body(()).expect("a request");
            let index = compiled.find(&RequestHead::of(&request)).map_or(compiled.fallback(), |found| found.place);
            assert_eq!(compiled.rule(index).never, never, "{path}");
        }
    }
}
