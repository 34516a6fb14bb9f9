//! [`Reason`]: why a response did not come from the cache, or did not go into it.

use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $word:literal, $remedy:literal;)*) => {
        /// Why a request was not answered from the cache, or its response not kept; or why it was answered by what had
        /// expired ([`Budget`](Reason::Budget)).
        ///
        /// The list is closed: the same word stands in `Cache-Status: …; detail=`, in
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
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The one word for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What to change so that it is cached, where that is wanted.
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
    /// No `Host`, several, a malformed one, or one that contradicts the target's authority.
    Authority = "authority", "send exactly one Host field that agrees with the request target";
    /// The request asks to change protocols.
    Upgrade = "upgrade", "nothing: a connection cannot be cached";
    /// The request is a gRPC call.
    Grpc = "grpc", "nothing: gRPC calls are POST requests with trailers";
    /// The request carries `Authorization`.
    Authorization = "authorization", "give the route's rule `same_for_everyone()` or `per_identity()`";
    /// The request carries a `Cookie` that is not on the list of ignorable ones.
    Cookie = "cookie", "list harmless names with `ignore_cookies`, or give the route's rule `same_for_everyone()` or `per_identity()`";
    /// The request carries another credential: what the layer identifies users by, or a field such as `X-Api-Key`; or
    /// the
    /// route's rule says `per_identity()` and the request shows no identity.
    Identity = "identity", "give the route's rule `same_for_everyone()` or `per_identity()`; a closure declares with `carried_where` which requests carry its credential";
    /// The request carries a field that applications reflect into responses but that is not part of the key.
    UnkeyedField = "unkeyed-field", "strip X-Forwarded-Host and its like before the cache, or make them part of the key with `key_field`";
    /// The request asks for part of the representation, which is not stored whole.
    Range = "range", "nothing: the whole representation is stored once somebody asks for it";
    /// The request is conditional in a way only the origin may decide (`If-Match`, `If-Unmodified-Since`).
    Precondition = "precondition", "nothing: RFC 9111 §4.3.2 leaves these to the origin";
    /// The key would be longer than 16 KiB.
    KeyTooLong = "key-too-long", "shorten the target, or `ignore_query` what does not select the response";
    /// The route's rule is `Rule::never()`.
    Rule = "rule", "change the route's rule";
    /// The rule says `same_for_everyone()`, its pattern has parameters, and no router of axum matched the request.
    UndeclaredRoutes = "undeclared-routes", "declare all routes of the service with `.routes([…])`, or put the layer inside axum's Router";
    /// The request says `no-store`.
    RequestNoStore = "request-no-store", "nothing: the client's word (profile `shared` only)";
    /// The request says `only-if-cached`, and it is not.
    OnlyIfCached = "only-if-cached", "nothing: the client asked for 504 rather than a fetch";
    /// The handler said so with a `Store` extension.
    Handler = "handler", "change what the handler leaves in the response's extensions";
    /// The status is not one that this profile stores.
    Status = "status", "answer 200, 203, 301, 308, 404 or 410; profile `shared` stores every final status with explicit freshness";
    /// An error that answers this one request: its `Range`, condition, `Expect` or `Accept`, its rate, its connection.
    OwnFields = "own-fields", "nothing: the error belongs to one request";
    /// The response says `no-store`.
    NoStore = "no-store", "drop the directive from the response";
    /// The response says `private`.
    Private = "private", "drop the directive, if the response is the same for everyone";
    /// The response says `no-cache` and has no validator to revalidate it by.
    NoCache = "no-cache", "drop the directive, or add an ETag";
    /// The response sets a cookie.
    SetCookie = "set-cookie", "do not send Set-Cookie from cacheable routes";
    /// Neither the response nor a rule says how long it stays fresh.
    NoFreshness = "no-freshness", "send Cache-Control: max-age, or give the route `Rule::ttl`";
    /// Its freshness was over when it arrived.
    AlreadyStale = "already-stale", "send a longer max-age than the response's Age, a valid Expires, or a validator";
    /// The response says `Vary: *`.
    VaryStar = "vary-star", "name the fields the response depends on";
    /// The response names more fields in `Vary` than are looked at (16).
    VaryTooWide = "vary-too-wide", "vary on fewer fields";
    /// The request carried `Authorization` and the response does not allow sharing (RFC 9111 §3.5).
    NotPublic = "not-public", "send Cache-Control: public, s-maxage or must-revalidate";
    /// A part of a representation, or a whole one that claims to be a part.
    Partial = "partial", "nothing: profile `app` stores complete responses only";
    /// An event stream.
    EventStream = "event-stream", "nothing: a stream has no end to store";
    /// The body is larger than the bound of an entry.
    TooLarge = "too-large", "raise `max_entry`";
    /// The bodies being read at this moment would take more memory than the cache may use.
    NoRoom = "no-room", "raise `memory`";
    /// The body was not as long as its `Content-Length`, or lengths contradict each other.
    Truncated = "truncated", "send as many bytes as promised";
    /// The body ended in an error.
    BodyError = "body-error", "see the inner service's own log";
    /// The body made no progress, or too many fetches had outlived their clients, when its own had left.
    Abandoned = "abandoned", "see why the inner service stalls, or raise `idle_timeout`";
    /// The body ended with trailers.
    Trailers = "trailers", "do not send trailers on cacheable routes";
    /// A tag is malformed, or there are more than 256.
    Tags = "tags", "send fewer, shorter tags of visible ASCII characters";
    /// Somebody invalidated it while it was being fetched.
    Invalidated = "invalidated", "nothing: the next request fetches the new state";
    /// A younger response was stored while its body was arriving.
    Superseded = "superseded", "nothing: the younger one is served";
    /// The last answer for this key was not cacheable, so requests are not made to wait for one another.
    HitForMiss = "hit-for-miss", "see the reason of the request before";
    /// The fetch this request waited for took longer than the waiters' deadline.
    WaitedTooLong = "waited-too-long", "raise `wait`, or make the inner service faster";
    /// The fetch this request waited for failed, or did not fit this request.
    FlightFailed = "flight-failed", "see the inner service's own log";
    /// Not asked for often enough yet.
    MinUses = "min-uses", "lower `min_uses`";
    /// It was served though its freshness was over: what the budget has left is spared.
    Budget = "budget", "nothing: the quota of whom is asked runs low, and lasts longer this way";
    /// The store failed.
    StoreFailed = "store-failed", "see the event `StoreFailed`";
}

impl Reason {
    pub(crate) const COUNT: usize = Self::ALL.len();

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
    fn the_documentation_lists_every_reason_with_its_remedy() {
        let table = include_str!("../../docs/cache_reasons.md");
        for reason in Reason::ALL {
            let row = table.lines().find(|line| line.starts_with(&format!("| `{reason}` |")));
            assert!(row.is_some_and(|row| row.contains(reason.remedy())), "{reason}");
        }
        assert_eq!(table.lines().count(), Reason::COUNT + 2);
    }

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let mut words: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::COUNT);
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
            assert!(!reason.remedy().is_empty());
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        }
    }
}
