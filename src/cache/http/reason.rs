//! [`Reason`]: why a request bypassed the cache or its response was not stored.

use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $token:literal, $remedy:literal;)*) => {
        /// Reason why a request bypassed the cache, a response was not stored, or an expired one was served
        /// ([`Budget`](Reason::Budget)).
        ///
        /// The list is closed: the same token appears in `Cache-Status: …; detail=`, in
        /// [`CacheStats`](crate::cache::CacheStats) and in this documentation.
        ///
        /// ```
        /// use tollgate::cache::Reason;
        ///
        /// assert_eq!(Reason::SetCookie.as_str(), "set-cookie");
        /// assert!(Reason::SetCookie.remedy().contains("Set-Cookie"));
        /// assert!(Reason::ALL.contains(&Reason::SetCookie));
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the token used in `Cache-Status`, statistics and logs.
            ///
            /// ```
            /// use tollgate::cache::Reason;
            ///
            /// assert_eq!(Reason::HitForMiss.as_str(), "hit-for-miss");
            /// ```
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $token,)* }
            }

            /// Returns a hint for making such responses cacheable.
            ///
            /// ```
            /// use tollgate::cache::Reason;
            ///
            /// assert_eq!(Reason::NoCache.remedy(), "drop the directive, or add an ETag");
            /// ```
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

reasons! {
    /// The method is neither GET nor HEAD.
    Method = "method", "nothing: only GET and HEAD are answered from a cache";
    /// The request carries a body.
    RequestBody = "request-body", "send what selects the response in the query instead";
    /// The request has no `Host`, several, a malformed one, or one that contradicts the target's authority.
    Authority = "authority", "send exactly one Host field that agrees with the request target";
    /// The request asks to change protocols.
    Upgrade = "upgrade", "nothing: a connection cannot be cached";
    /// The request is a gRPC call.
    Grpc = "grpc", "nothing: gRPC calls are POST requests with trailers";
    /// The request carries `Authorization`.
    Authorization = "authorization", "give the route's rule `same_for_everyone()` or `per_identity()`";
    /// The request carries a `Cookie` whose names are not all configured as ignorable.
    Cookie = "cookie", "list harmless names with `ignore_cookies`, or give the route's rule `same_for_everyone()` or `per_identity()`";
    /// The request carries another credential (an extractor's, or a field such as `X-Api-Key`), or no identity under `per_identity()`.
    Identity = "identity", "give the route's rule `same_for_everyone()` or `per_identity()`; declare with `carried_where` which requests carry the credential that a closure reads";
    /// The request carries a field that applications reflect into responses but that is not part of the key.
    UnkeyedField = "unkeyed-field", "strip X-Forwarded-Host and its like before the cache, or make them part of the key with `key_field`";
    /// The request has a `Range` field, and profile `app` does not store parts.
    Range = "range", "nothing: the whole representation is stored after a request without `Range`";
    /// The request has a precondition that only the origin may evaluate (`If-Match`, `If-Unmodified-Since`).
    Precondition = "precondition", "nothing: RFC 9111 §4.3.2 leaves these to the origin";
    /// The key exceeds 16 KiB.
    KeyTooLong = "key-too-long", "shorten the target, or drop parameters that do not select the response with `ignore_query`";
    /// The route's rule is `Rule::never()`.
    Rule = "rule", "change the route's rule";
    /// The rule says `same_for_everyone()`, its pattern has parameters, and no axum router matched the request.
    UndeclaredRoutes = "undeclared-routes", "declare all routes of the service with `.routes([…])`, or put the layer inside axum's Router";
    /// The request says `no-store`.
    RequestNoStore = "request-no-store", "nothing: the client's directive is obeyed (profile `shared` only)";
    /// The request says `only-if-cached`, and no stored response can be used.
    OnlyIfCached = "only-if-cached", "nothing: the client prefers 504 to a fetch";
    /// The handler forbade storing with a `StoreHint` extension.
    Handler = "handler", "change the `StoreHint` that the handler inserts";
    /// The status is not storable in this profile.
    Status = "status", "answer 200, 203, 301, 308, 404 or 410; profile `shared` stores every final status with explicit freshness";
    /// The error is specific to this request: its `Range`, condition, `Expect` or `Accept`, its rate, its connection.
    RequestSpecific = "request-specific", "nothing: the error does not apply to other requests";
    /// The response says `no-store`.
    NoStore = "no-store", "drop the directive from the response";
    /// The response says `private`.
    Private = "private", "drop the directive, if the response is the same for everyone";
    /// The response says `no-cache` and has no validator.
    NoCache = "no-cache", "drop the directive, or add an ETag";
    /// The response sets a cookie.
    SetCookie = "set-cookie", "do not send Set-Cookie from cacheable routes";
    /// Neither the response nor a rule defines a freshness lifetime.
    NoFreshness = "no-freshness", "send Cache-Control: max-age, or give the route `Rule::ttl`";
    /// The response was stale on arrival.
    AlreadyStale = "already-stale", "send a longer max-age than the response's Age, a valid Expires, or a validator";
    /// The response says `Vary: *`.
    VaryStar = "vary-star", "name the fields the response depends on";
    /// The response names more than 16 fields in `Vary`.
    VaryTooWide = "vary-too-wide", "vary on fewer fields";
    /// The request carried `Authorization` and the response does not allow sharing (RFC 9111 §3.5).
    NotPublic = "not-public", "send Cache-Control: public, s-maxage or must-revalidate";
    /// The response is partial, or a whole one with a `Content-Range`.
    Partial = "partial", "nothing: profile `app` stores complete responses only";
    /// The response is an event stream.
    EventStream = "event-stream", "nothing: a stream has no end to store";
    /// The body exceeds `max_entry`.
    TooLarge = "too-large", "raise `max_entry`";
    /// The memory for bodies is exhausted.
    NoRoom = "no-room", "raise `memory`";
    /// The body length differs from `Content-Length`, or the declared lengths contradict each other.
    Truncated = "truncated", "send as many bytes as declared";
    /// The body ended in an error.
    BodyError = "body-error", "see the log of the inner service";
    /// The body made no progress, or too many fetches had outlived their clients when this client left.
    Abandoned = "abandoned", "see why the inner service stalls, or raise `idle_timeout`";
    /// The body ended with trailers.
    Trailers = "trailers", "do not send trailers on cacheable routes";
    /// A tag is malformed, or there are more than 256.
    Tags = "tags", "send fewer, shorter tags of visible ASCII characters";
    /// The key was invalidated during the fetch.
    Invalidated = "invalidated", "nothing: the next request fetches the new state";
    /// A newer response was stored while this body was arriving.
    Superseded = "superseded", "nothing: the newer response is served";
    /// The previous response for this key was not cacheable, so requests are not coalesced.
    HitForMiss = "hit-for-miss", "see the reason of the previous response";
    /// The coalesced fetch took longer than the waiters' deadline.
    WaitedTooLong = "waited-too-long", "raise `wait`, or make the inner service faster";
    /// The inner service did not answer within the rule's soft time-out, and a stale response was served.
    SoftTimeout = "soft-timeout", "make the inner service faster, or raise `soft_timeout`";
    /// The coalesced fetch failed, or its response does not match this request.
    FetchFailed = "fetch-failed", "see the log of the inner service";
    /// The key was requested fewer than `min_uses` times.
    MinUses = "min-uses", "lower `min_uses`";
    /// The expired response was served to save the remaining budget.
    Budget = "budget", "nothing: the quota of the inner service runs low, and serving stale responses saves it";
    /// The store returned an error.
    StoreFailed = "store-failed", "see the event `StoreFailed`";
}

impl Reason {
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// Whether the request alone is the reason: the cache was not asked.
    pub(crate) const fn is_of_request(self) -> bool {
        self.index() <= Self::RequestNoStore.index()
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_lists_every_reason_with_its_remedy() {
        let table = include_str!("../../docs/cache_reasons.md");
        for reason in Reason::ALL {
            let row = table.lines().find(|line| line.starts_with(&format!("| `{reason}` |")));
            assert!(row.is_some_and(|row| row.contains(reason.remedy())), "{reason}");
        }
        assert_eq!(table.lines().count(), Reason::COUNT + 2);
    }

    #[test]
    fn tokens_are_unique_and_indexed() {
        let mut tokens: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), Reason::COUNT);
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
            assert!(!reason.remedy().is_empty());
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        }
    }
}
