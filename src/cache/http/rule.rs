//! [`Rule`]: how the responses of one route are cached.

use std::borrow::Cow;
use std::time::Duration;

use super::key::{CacheKey, Target};
use super::tag;
use super::tag_template;
use crate::base::error::Error;

/// Caching rule of one route.
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
    pub(super) ttl: Option<Duration>,
    pub(super) negative_ttl: Option<Duration>,
    pub(super) stale_while_revalidate: Option<Duration>,
    pub(super) stale_if_error: Option<Duration>,
    pub(crate) soft_timeout: Option<Duration>,
    pub(crate) lease_ttl: Option<Duration>,
    pub(crate) same_for_everyone: bool,
    pub(crate) per_identity: bool,
    pub(super) tags: Vec<Box<str>>,
    /// Tags that unsafe requests invalidate.
    pub(crate) invalidates: Vec<Box<str>>,
    pub(crate) ignore_query: Vec<Box<str>>,
    pub(crate) without_query: bool,
    pub(crate) min_uses: u32,
}

impl Rule {
    /// Whether each identity has entries of its own.
    #[cfg(feature = "admin")]
    pub(crate) const fn is_per_identity(&self) -> bool {
        self.per_identity
    }

    /// Creates a rule that caches only what responses allow. Useful for adding tags or `same_for_everyone`.
    ///
    /// ```
    /// use tollgate::cache::Rule;
    ///
    /// let rule = Rule::from_headers().tag("prices").same_for_everyone();
    /// # let _ = rule;
    /// ```
    pub fn from_headers() -> Self {
        Self::default()
    }

    /// Creates a rule that stores responses without freshness information for `span`: statuses 200, 203, 301 and 308.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use tollgate::cache::Rule;
    ///
    /// let rule = Rule::ttl(Duration::from_secs(15)).stale_while_revalidate(Duration::from_secs(60));
    /// # let _ = rule;
    /// ```
    pub fn ttl(span: Duration) -> Self {
        Self { ttl: Some(span), ..Self::default() }
    }

    /// Creates a rule that excludes the route from caching.
    ///
    /// ```
    /// use tollgate::cache::{CacheLayer, Rule, Rules};
    ///
    /// let layer = CacheLayer::builder().rules(Rules::new().route("/me", Rule::never())).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn never() -> Self {
        Self { never: true, ..Self::default() }
    }

    /// Also stores 404 and 410 responses without freshness information, for `span`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use tollgate::cache::Rule;
    ///
    /// let rule = Rule::ttl(Duration::from_secs(60)).negative_ttl(Duration::from_secs(5));
    /// # let _ = rule;
    /// ```
    pub fn negative_ttl(mut self, span: Duration) -> Self {
        self.negative_ttl = Some(span);
        self
    }

    /// Serves a stale response for `span` while one request revalidates it (RFC 5861 §3), unless the response sets the
    /// directive.
    pub fn stale_while_revalidate(mut self, span: Duration) -> Self {
        self.stale_while_revalidate = Some(span);
        self
    }

    /// Serves a stale response for `span` if the inner service fails (RFC 5861 §4), unless the response sets the
    /// directive.
    pub fn stale_if_error(mut self, span: Duration) -> Self {
        self.stale_if_error = Some(span);
        self
    }

    /// Serves a stale response [if allowed](Self::stale_if_error) once the inner service has not answered for `span`; the
    /// fetch continues, and its response is stored. Off by default.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use tollgate::cache::Rule;
    ///
    /// let rule = Rule::ttl(Duration::from_secs(60))
    ///     .stale_if_error(Duration::from_secs(86_400))
    ///     .soft_timeout(Duration::from_millis(200));
    /// # let _ = rule;
    /// ```
    pub fn soft_timeout(mut self, span: Duration) -> Self {
        self.soft_timeout = Some(span);
        self
    }

    /// Makes other processes wait for this process's fetch of a missing response, at most for `span` and for
    /// [`wait`](crate::cache::CacheBuilder::wait). Off by default: each process fetches by itself.
    ///
    /// Costs no round trip: the look-up asks for the lease, and storing releases it. Responses that vary are fetched once
    /// by each process. Building fails without a store that processes share.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use tollgate::cache::Rule;
    ///
    /// let rule = Rule::ttl(Duration::from_secs(900)).lease_ttl(Duration::from_secs(3));
    /// # let _ = rule;
    /// ```
    pub fn lease_ttl(mut self, span: Duration) -> Self {
        self.lease_ttl = Some(span);
        self
    }

    /// Declares that responses do not depend on the requester: requests with `Authorization`, a `Cookie` or another
    /// credential share one entry. Responses that set a cookie or say `private` are still not stored.
    ///
    /// In profile `app` a pattern with parameters applies only to requests that an axum router matched, or whose routes
    /// are declared ([`CacheBuilder::routes`](crate::cache::CacheBuilder::routes)): otherwise `/users/me` would match
    /// `/users/{name}`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use tollgate::cache::Rule;
    ///
    /// let rule = Rule::ttl(Duration::from_secs(15)).same_for_everyone();
    /// # let _ = rule;
    /// ```
    pub fn same_for_everyone(mut self) -> Self {
        self.same_for_everyone = true;
        self
    }

    /// Declares that responses depend on the identity of the requester and on no other credential. The identity becomes
    /// part of the key. Requests with a credential that yields no identity, or several, bypass the cache.
    ///
    /// The identity is that of [`identify`](crate::TollgateBuilder::identify), or of
    /// [`CacheBuilder::identity`](crate::cache::CacheBuilder::identity) for a cache layer used alone; building fails
    /// without either. Verify it first: put an authentication layer outside.
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

    /// Adds a tag by which entries of this route are invalidated. `{name}` in it stands for a parameter of the route, by its
    /// name in the rule's pattern; the value is percent-decoded.
    ///
    /// ```
    /// use tollgate::cache::{Rule, Rules};
    ///
    /// let rules = Rules::new().route("/prices/{symbol}", Rule::from_headers().tag("prices").tag("price:{symbol}"));
    /// # let _ = rules;
    /// ```
    pub fn tag(mut self, tag: impl Into<Box<str>>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Invalidates these tags after an unsafe request (POST, PUT, PATCH, DELETE …) to this route that succeeded, or whose
    /// result is unknown, in every process, beside the URL itself (RFC 9111 §4.4). Parameters are filled as in
    /// [`tag`](Self::tag).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::cache::{Rule, Rules};
    ///
    /// let minute = Duration::from_secs(60);
    /// let rules = Rules::new()
    ///     .route("/articles", Rule::ttl(minute).tag("articles").invalidates(["articles"]))
    ///     .route("/articles/{id}", Rule::ttl(minute).tag("article:{id}").invalidates(["articles", "article:{id}"]));
    /// # let _ = rules;
    /// ```
    pub fn invalidates<T: Into<Box<str>>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.invalidates.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Excludes these query parameters from the key. Names are compared as sent.
    ///
    /// ```
    /// use tollgate::cache::Rule;
    ///
    /// let rule = Rule::from_headers().ignore_query(["utm_source", "utm_medium"]);
    /// # let _ = rule;
    /// ```
    pub fn ignore_query<N: Into<Box<str>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.ignore_query.extend(names.into_iter().map(Into::into));
        self
    }

    /// Excludes the whole query from the key.
    ///
    /// ```
    /// use tollgate::cache::Rule;
    ///
    /// let rule = Rule::from_headers().without_query();
    /// # let _ = rule;
    /// ```
    pub fn without_query(mut self) -> Self {
        self.without_query = true;
        self
    }

    /// Stores a response only once its key was requested this often. Defaults to 1.
    ///
    /// ```
    /// use tollgate::cache::Rule;
    ///
    /// let rule = Rule::from_headers().min_uses(2);
    /// # let _ = rule;
    /// ```
    pub fn min_uses(mut self, times: u32) -> Self {
        self.min_uses = times;
        self
    }

    pub(super) fn check(&self, pattern: &str) -> Result<(), Error> {
        for tag in self.tags.iter().chain(&self.invalidates) {
            tag_template::check(tag, pattern)?;
        }
        if let Some(tag) = self.tags.iter().chain(&self.invalidates).find(|tag| !tag::is_valid(tag)) {
            let form = "1 to 256 visible ASCII characters without a comma";
            return Err(Error::config(format!("cache rule {pattern:?}: tag {tag:?} must be {form}")));
        }
        if self.same_for_everyone && self.per_identity {
            let message = format!(
                "cache rule {pattern:?}: same_for_everyone() and per_identity() exclude each other; remove one"
            );
            return Err(Error::config(message));
        }
        for (name, span) in [("ttl", self.ttl), ("negative_ttl", self.negative_ttl)] {
            if span.is_some_and(|span| span.is_zero()) {
                let message = format!("cache rule {pattern:?}: {name} 0s stores nothing; use Rule::never()");
                return Err(Error::config(message));
            }
        }
        Ok(())
    }
}

impl Rule {
    /// Returns the tags of a response to a request for this path.
    pub(crate) fn tags_for(&self, pattern: Option<&str>, key: &CacheKey) -> Cow<'_, [Box<str>]> {
        match self.tags.iter().any(|tag| tag_template::is_template(tag)) {
            true => filled(&self.tags, pattern, key).into(),
            false => Cow::Borrowed(&self.tags),
        }
    }

    /// Returns the tags that an unsafe request for this path invalidates.
    pub(crate) fn invalidates_for(&self, pattern: Option<&str>, key: &CacheKey) -> Vec<Box<str>> {
        filled(&self.invalidates, pattern, key)
    }
}

fn filled(tags: &[Box<str>], pattern: Option<&str>, key: &CacheKey) -> Vec<Box<str>> {
    let path = Target::of(key.resource()).map_or(&b""[..], |target| target.path);
    tags.iter().map(|tag| tag_template::fill(tag, pattern.unwrap_or_default(), path)).collect()
}
