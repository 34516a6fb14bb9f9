//! [`Rules`]: what the operator says about routes, where responses say nothing.
//!
//! A rule never makes a response public that says `no-store` or `private`, sets a cookie or varies on everything: it
//! fills silence. Patterns are axum's (`/prices/{symbol}`), and name the whole route that axum matched, prefixes of nested
//! routers included; where axum matched none, see [`CacheBuilder::routes`](crate::cache::CacheBuilder::routes). Mistakes — a malformed or conflicting pattern, a tag that cannot be one, a TTL of zero — are collected and
//! returned when the layer is built.

use std::sync::Arc;
use std::time::Duration;

use super::tag;
use crate::base::error::Error;
use crate::base::request_head::RequestHead;
use crate::base::route::{Match, Patterns};

/// How the responses of one route are cached.
///
/// ```
/// use std::time::Duration;
/// use tollgate::cache::Rule;
///
/// let prices = Rule::ttl(Duration::from_secs(15 * 60))
///     .stale_while_revalidate(Duration::from_secs(60))
///     .stale_if_error(Duration::from_secs(24 * 3600))
///     .tag("prices")
///     .same_for_everyone();
/// # let _ = prices;
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Rule {
    pub(crate) never: bool,
    pub(crate) ttl: Option<Duration>,
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
    pub(crate) same_for_everyone: bool,
    pub(crate) per_identity: bool,
    pub(crate) tags: Vec<Box<str>>,
    pub(crate) ignore_query: Vec<Box<str>>,
    pub(crate) without_query: bool,
    pub(crate) min_uses: u32,
}

impl Rule {
    /// Caches what the responses themselves allow, and nothing else. For adding tags, or `same_for_everyone`.
    pub fn from_headers() -> Self {
        Self::default()
    }

    /// Keeps responses that say nothing about freshness for this long: statuses 200, 203, 301 and 308.
    pub fn ttl(span: Duration) -> Self {
        Self { ttl: Some(span), ..Self::default() }
    }

    /// Never caches this route.
    pub fn never() -> Self {
        Self { never: true, ..Self::default() }
    }

    /// Also keeps 404 and 410 that say nothing about freshness, for this long.
    pub fn negative_ttl(mut self, span: Duration) -> Self {
        self.negative_ttl = Some(span);
        self
    }

    /// Serves a stale response for this long while one request refreshes it (RFC 5861 §3), where the response does not
    /// say otherwise.
    pub fn stale_while_revalidate(mut self, span: Duration) -> Self {
        self.stale_while_revalidate = Some(span);
        self
    }

    /// Serves a stale response for this long when the inner service fails (RFC 5861 §4), where the response does not
    /// say otherwise.
    pub fn stale_if_error(mut self, span: Duration) -> Self {
        self.stale_if_error = Some(span);
        self
    }

    /// The operator's word that responses do not depend on who asks: requests with `Authorization`, a `Cookie` or another
    /// credential share one entry. Responses that set a cookie or say `private` are still not stored.
    ///
    /// In profile `app` a pattern with parameters says this only of requests that a router of axum matched, or whose
    /// routes are declared ([`CacheBuilder::routes`](crate::cache::CacheBuilder::routes)): otherwise `/users/me` would be
    /// taken for a `/users/{name}`.
    pub fn same_for_everyone(mut self) -> Self {
        self.same_for_everyone = true;
        self
    }

    /// The operator's word that responses depend on who asks, and on no other credential of the request: the identity
    /// becomes part of the key, and each identity has entries of its own. Requests that carry a credential which shows no
    /// identity, or several, bypass the cache.
    ///
    /// The identity is the one of [`Tollgate::identify`](crate::TollgateBuilder::identify), or of
    /// [`CacheBuilder::identity`](crate::cache::CacheBuilder::identity) for a cache layer used alone; without either,
    /// building fails. It must have been verified: put an authentication layer outside.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::Tollgate;
    /// use tollgate::cache::{Rule, Rules};
    /// use tollgate::identity::by;
    ///
    /// let rules = Rules::new().route("/me", Rule::ttl(Duration::from_secs(5)).per_identity());
    /// let gate = Tollgate::builder().identify(by::header("x-user-id")).cache(rules.clone()).build()?;
    /// # let _ = gate;
    ///
    /// let error = tollgate::cache::CacheLayer::builder().rules(rules).build().unwrap_err();
    /// assert!(error.to_string().contains("per_identity"));
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn per_identity(mut self) -> Self {
        self.per_identity = true;
        self
    }

    /// Adds a tag to invalidate these entries by.
    pub fn tag(mut self, tag: impl Into<Box<str>>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Leaves these query parameters out of the key: they do not select the response. Names are compared as sent.
    pub fn ignore_query<N: Into<Box<str>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.ignore_query.extend(names.into_iter().map(Into::into));
        self
    }

    /// Leaves the whole query out of the key.
    pub fn without_query(mut self) -> Self {
        self.without_query = true;
        self
    }

    /// Stores a response only once it was asked for this often. 1 unless set.
    pub fn min_uses(mut self, times: u32) -> Self {
        self.min_uses = times;
        self
    }

    fn check(&self, pattern: &str) -> Result<(), Error> {
        if let Some(tag) = self.tags.iter().find(|tag| !tag::is_valid(tag)) {
            let form = "1 to 256 visible ASCII characters without a comma";
            return Err(Error::config(format!("cache rule {pattern:?}: tag {tag:?} must be {form}")));
        }
        if self.same_for_everyone && self.per_identity {
            let message = format!("cache rule {pattern:?}: say either same_for_everyone() or per_identity()");
            return Err(Error::config(message));
        }
        for (name, span) in [("ttl", self.ttl), ("negative_ttl", self.negative_ttl)] {
            if span.is_some_and(|span| span.is_zero()) {
                let message = format!("cache rule {pattern:?}: {name} 0s keeps nothing; use Rule::never()");
                return Err(Error::config(message));
            }
        }
        Ok(())
    }
}

/// Rules by route pattern, and one for all other requests.
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
    otherwise: Rule,
}

impl Rules {
    /// No rules: responses say all that is said.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule for the requests this pattern matches.
    pub fn route(mut self, pattern: impl Into<Box<str>>, rule: Rule) -> Self {
        self.routes.push((pattern.into(), rule));
        self
    }

    /// The rule for requests that match no pattern; [`Rule::from_headers`] unless set.
    pub fn otherwise(mut self, rule: Rule) -> Self {
        self.otherwise = rule;
        self
    }

    /// The patterns there are rules for.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|(pattern, _)| &**pattern)
    }

    /// Checks and compiles.
    ///
    /// # Errors
    /// Names the first value that is wrong.
    pub(crate) fn compile(self, routing: &Routing) -> Result<RuleBook, Error> {
        let mut book = RuleBook { patterns: Patterns::default(), rules: Vec::new() };
        if routing.outbound {
            book.patterns.go_out();
        }
        if let Some(routes) = &routing.declared {
            book.patterns.declare(routes.clone());
        }
        let apart =
            self.routes.iter().map(|(pattern, rule)| (&**pattern, rule)).chain([("otherwise", &self.otherwise)]);
        if let Some((pattern, _)) = apart.into_iter().find(|(_, rule)| rule.per_identity && !routing.identifies) {
            let message = format!(
                "cache rule {pattern:?}: per_identity() needs to know who asks; set Tollgate::identify, or \
                 CacheBuilder::identity"
            );
            return Err(Error::config(message));
        }
        self.otherwise.check("otherwise")?;
        for (pattern, rule) in self.routes {
            rule.check(&pattern)?;
            book.patterns.add(&pattern)?;
            book.rules.push(rule);
        }
        book.rules.push(self.otherwise);
        Ok(book)
    }
}

/// What rules are compiled against: how requests find their route, and whether it is known who asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routing {
    /// The routes of the service, where they are declared.
    pub(crate) declared: Option<Arc<Patterns>>,
    /// Whether the requests go out.
    pub(crate) outbound: bool,
    /// Whether there is an identity for `per_identity()`.
    pub(crate) identifies: bool,
}

/// Rules that can be looked up.
#[derive(Debug)]
pub(crate) struct RuleBook {
    pub(crate) patterns: Patterns,
    /// One per pattern, in order, then the one for everything else.
    rules: Vec<Rule>,
}

impl RuleBook {
    /// Without a rule for anything.
    pub(crate) fn empty() -> Self {
        Self { patterns: Patterns::default(), rules: vec![Rule::default()] }
    }

    /// The place of this request's rule, and whether it is a [guess](crate::base::route::Match).
    pub(crate) fn find(&self, head: &RequestHead<'_>) -> (usize, bool) {
        let applies = |found: &Match| !found.is_wider || self.rules[found.place].never;
        let found = self.patterns.find(head).filter(applies);
        found.map_or((self.rules.len() - 1, false), |found| (found.place, found.is_guess))
    }

    pub(crate) fn rule(&self, index: usize) -> &Rule {
        &self.rules[index]
    }

    /// The pattern of a rule; `None` for the last.
    pub(crate) fn pattern(&self, index: usize) -> Option<&str> {
        self.patterns.names().get(index).map(|name| &**name)
    }

    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(rules: Rules) -> String {
        rules.compile(&Routing::default()).expect_err("a mistake").to_string()
    }

    #[test]
    fn mistakes_are_named() {
        assert!(refusal(Rules::new().route("/a", Rule::from_headers().tag("a b"))).contains("\"a b\""));
        assert!(refusal(Rules::new().route("/a", Rule::ttl(Duration::ZERO))).contains("\"/a\": ttl 0s"));
        assert!(refusal(Rules::new().route("a", Rule::never())).contains("\"a\""));
        assert!(refusal(Rules::new().route("/a", Rule::never()).route("/a", Rule::never())).contains("conflicts"));
        assert!(refusal(Rules::new().otherwise(Rule::from_headers().tag(""))).contains("otherwise"));
        let both = Rule::from_headers().same_for_everyone().per_identity();
        assert!(
            Rules::new()
                .route("/a", both.clone())
                .compile(&Routing { identifies: true, ..Routing::default() })
                .is_err()
        );
        assert!(refusal(Rules::new().otherwise(Rule::from_headers().per_identity())).contains("Tollgate::identify"));
    }

    #[test]
    fn requests_find_their_rule() {
        let book = Rules::new().route("/a/{x}", Rule::never()).compile(&Routing::default()).expect("rules");
        for (path, never) in [("/a/b", true), ("/b", false)] {
            let request = http::Request::get(path).body(()).expect("a request");
            let (index, _) = book.find(&RequestHead::of(&request));
            assert_eq!(book.rule(index).never, never, "{path}");
        }
    }
}
