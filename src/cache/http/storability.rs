//! Storability: whether a response may be stored and for how long, decided on its head alone.
//!
//! [`evaluate`] checks, in this order: the handler's hint; the status; the directives; `Set-Cookie` (`app`);
//! authorization of the request and permission to share; event streams and the length; `Vary: *`; the tags; the
//! freshness lifetime; and whether the response could be used at all. The first check that fails is reported as the
//! [`Reason`]; otherwise the [`StorePolicy`] holds the deadlines.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode, header};

use super::deadlines::Deadlines;
use super::directives::{DirectiveFields, ResponseDirectives};
use super::freshness::{self, ExchangeTimes, Lifetime};
use super::reason::Reason;
use super::request_flags::RequestFlags;
use super::response_flags::ResponseFlags;
use super::rule::Rule;
use super::settings::{CacheSettings, Profile};
use super::store_hint::StoreHint;
use super::{range, tag, validators, vary};
use crate::base::budget::Budget;
use crate::base::structured_fields;

/// Upper bound of a lifetime: a hundred years.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Time a stale entry with a validator is retained for revalidation.
const REVALIDATION_RETENTION: Duration = Duration::from_secs(3600);

/// Properties with which a response is stored.
#[derive(Debug)]
pub(crate) struct StorePolicy {
    pub(crate) exchange: ExchangeTimes,
    /// Age on arrival.
    pub(crate) age: Duration,
    /// Freshness lifetime counted from generation, after jitter.
    pub(super) lifetime: Duration,
    pub(super) while_revalidate: Duration,
    pub(super) if_error: Duration,
    /// Stale-if-error window for errors, 502, 503 and 504.
    pub(super) if_down: Duration,
    pub(super) retention: Duration,
    pub(super) refresh_ahead: f64,
    pub(crate) strict: bool,
    pub(crate) immutable: bool,
    /// Fields not to store (§5.2.2.4, §5.2.2.7).
    pub(crate) omit: Vec<HeaderName>,
    pub(crate) vary: vary::VaryFields,
    pub(crate) tags: Box<[Box<str>]>,
}

impl StorePolicy {
    pub(crate) fn deadlines(&self) -> Deadlines {
        let stale_for = self.age.saturating_sub(self.lifetime);
        let fresh_until = self.exchange.received_at + self.lifetime.saturating_sub(self.age);
        let beyond = |window: Duration| fresh_until + window.saturating_sub(stale_for);
        let left = self.lifetime.saturating_sub(self.age);
        let longest = self.while_revalidate.max(self.if_error).max(self.if_down);
        Deadlines {
            fresh_until,
            initial_staleness: stale_for,
            refresh_from: match self.refresh_ahead {
                share if share < 1.0 => self.exchange.received_at + left.mul_f64(share),
                _ => fresh_until,
            },
            revalidate_until: beyond(self.while_revalidate),
            error_until: beyond(self.if_error),
            unreachable_until: beyond(self.if_down),
            retain_until: (fresh_until + self.retention).max(beyond(longest)),
        }
    }
}

/// Input of [`evaluate`] beside the response.
#[derive(Clone, Debug)]
pub(crate) struct StoreContext<'a> {
    pub(crate) settings: &'a CacheSettings,
    pub(crate) rule: &'a Rule,
    /// Tags of the rule, with the parameters of the request's path.
    pub(crate) rule_tags: Cow<'a, [Box<str>]>,
    pub(crate) flags: RequestFlags,
    /// Whether the key includes an identity.
    pub(crate) keyed: bool,
    pub(crate) exchange: ExchangeTimes,
    /// Whether the request is a POST: only explicit freshness in the response counts.
    pub(crate) post: bool,
    /// Whether the forwarded request held fields specific to it that may cause an error. These are the client's
    /// `Range`, condition or `Expect`, or a `Range` added by the cache.
    pub(crate) request_specific: bool,
    /// Whether `Accept-Encoding` rejects the identity coding, which variants by `Accept-Encoding` do not distinguish.
    pub(crate) refuses_identity: bool,
    /// Random number, for jitter.
    pub(crate) random: u64,
}

/// Decides from the head alone whether this response is stored, and for how long.
///
/// # Errors
/// The reason not to store the response.
pub(crate) fn evaluate(
    context: &StoreContext<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    handler: Option<&StoreHint>,
) -> Result<StorePolicy, Reason> {
    let denied = |no: bool, reason| if no { Err(reason) } else { Ok(()) };
    let app = context.settings.profile == Profile::App;
    let flags = ResponseFlags::scan(headers, &context.settings.targeted);
    denied(handler.is_some_and(|store| store.never), Reason::Handler)?;
    check_status(context, status, headers, flags)?;
    let (directives, targeted) = directives(headers, flags, &context.settings.targeted);
    check_directives(&directives, status, app)?;
    // A rule applies where the response is silent; it does not share one client's cookie.
    let by_rule =
        |headers| freshness::lifetime(headers, &directives, targeted, None, &context.exchange) == Lifetime::Unknown;
    denied(flags.has(ResponseFlags::SET_COOKIE) && (app || by_rule(headers)), Reason::SetCookie)?;
    // RFC 9111 §3.5: a shared cache stores the response to an authorized request only if the response allows it.
    let allowed = directives.public || directives.must_revalidate || directives.s_maxage.is_some();
    let keyed = context.rule.same_for_everyone || context.keyed;
    let credential = context.flags.has(RequestFlags::AUTHORIZATION.and(RequestFlags::IDENTITY));
    denied(credential && !keyed && (app || !allowed), Reason::NotPublic)?;
    denied(flags.has(ResponseFlags::EVENT_STREAM), Reason::EventStream)?;
    let promised = if flags.has(ResponseFlags::CONTENT_LENGTH) { promised_length(headers)? } else { None };
    denied(promised.is_some_and(|length| length > context.settings.max_entry), Reason::TooLarge)?;
    let vary = if flags.has(ResponseFlags::VARY) { vary::names(headers)? } else { Vec::new() };
    let mut given = handler.into_iter().flat_map(|store| &store.tags).chain(&*context.rule_tags).peekable();
    let has_tags = flags.has(ResponseFlags::TAGS) || given.peek().is_some();
    let tags = if has_tags { tag::collect(headers, given)? } else { Box::default() };

    let lifetime = lifetime(context, status, headers, &directives, targeted, handler)?;
    let validated = flags.has(ResponseFlags::VALIDATOR);
    let mut store_policy = store_policy(context, headers, &directives, lifetime, validated);
    store_policy.vary = vary;
    store_policy.tags = tags;
    let deadlines = store_policy.deadlines();
    if directives.no_cache.is_whole() {
        denied(!validated, Reason::NoCache)?;
    } else {
        // In `shared` a stale response is useful for clients that send max-stale and while the origin is down.
        let useful = if app { deadlines.fresh_until.max(deadlines.revalidate_until) } else { deadlines.retain_until };
        denied(useful <= store_policy.exchange.received_at && !validated, Reason::AlreadyStale)?;
    }
    Ok(store_policy)
}

/// Returns the reason not to store a 200 for which neither the response nor its handler, nor a rule, defines a freshness
/// lifetime, in profile `app`. Most responses of routes without a rule are like that: nothing is parsed.
pub(crate) fn reason_without_freshness(
    settings: &CacheSettings,
    headers: &HeaderMap,
    handler: Option<&StoreHint>,
) -> Option<Reason> {
    const FRESHNESS: ResponseFlags =
        ResponseFlags::CACHE_CONTROL.and(ResponseFlags::TARGETED).and(ResponseFlags::EXPIRES);
    let flags = ResponseFlags::scan(headers, &settings.targeted);
    match handler {
        None if flags.has(FRESHNESS) => None,
        None if flags.has(ResponseFlags::CONTENT_RANGE) => Some(Reason::Partial),
        None if flags.has(ResponseFlags::SET_COOKIE) => Some(Reason::SetCookie),
        None if flags.has(ResponseFlags::EVENT_STREAM) => Some(Reason::EventStream),
        None => Some(Reason::NoFreshness),
        Some(_) => None,
    }
}

/// Returns the lifetime that the rule sets for this status.
fn rule_lifetime(context: &StoreContext<'_>, status: StatusCode) -> Option<Duration> {
    match status.as_u16() {
        // RFC 9110 §9.3.3: "only cacheable when they include explicit freshness information".
        _ if context.post => None,
        200 | 203 | 301 | 308 => context.rule.ttl,
        404 | 410 => context.rule.negative_ttl,
        _ => None,
    }
}

/// Reads the first valid targeted field, else `Cache-Control`; returns whether a targeted field was used.
fn directives(headers: &HeaderMap, flags: ResponseFlags, targeted: &[HeaderName]) -> (ResponseDirectives, bool) {
    let targeted = if flags.has(ResponseFlags::TARGETED) { targeted } else { &[] };
    for name in targeted {
        let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
        // RFC 9213 §2.2: the first field on the list that is present "with a valid, non-empty value" is used.
        let joined = lines.join(&b","[..]);
        let Some(members) = structured_fields::dictionary(&joined).filter(|members| !members.is_empty()) else {
            continue;
        };
        let mut found = ResponseDirectives::default();
        for (name, item) in members {
            match item {
                structured_fields::Item::True | structured_fields::Item::Text(_) | structured_fields::Item::Other => {
                    found.take(name, None)
                }
                structured_fields::Item::Integer(n) => found.take(name, Some(n.to_string().as_bytes())),
                structured_fields::Item::False => {}
            }
        }
        return (found, true);
    }
    match flags.has(ResponseFlags::CACHE_CONTROL) {
        true => (ResponseDirectives::of(headers), false),
        false => (ResponseDirectives::default(), false),
    }
}

fn check_status(
    context: &StoreContext<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    flags: ResponseFlags,
) -> Result<(), Reason> {
    let app = context.settings.profile == Profile::App;
    // RFC 9110 §14.4: `Content-Range` has no meaning with any other status; `app` does not store such a response.
    if status == StatusCode::PARTIAL_CONTENT || (app && flags.has(ResponseFlags::CONTENT_RANGE)) {
        // RFC 9111 §3.3: "A cache MUST NOT store incomplete or partial-content responses if it does not support the
        // Range and Content-Range header fields". Profile `shared` does, for one requested range of a known total
        // length.
        let one = range::content_range(headers).is_some();
        return if app || !one || !context.flags.has(RequestFlags::RANGE) { Err(Reason::Partial) } else { Ok(()) };
    }
    if (status.is_client_error() || status.is_server_error()) && is_request_specific(context, status) {
        return Err(Reason::RequestSpecific);
    }
    let storable = if app {
        matches!(status.as_u16(), 200 | 203 | 301 | 308 | 404 | 410)
    } else {
        // RFC 9111 §3: "the response status code is final"; 304 describes another response.
        !status.is_informational() && status != StatusCode::NOT_MODIFIED
    };
    if storable { Ok(()) } else { Err(Reason::Status) }
}

/// Whether an error is specific to this request. Some statuses always are, and any is if the request held fields that a
/// service can reject.
///
/// RFC 6585 §3 to §6: 428, 429, 431 and 511 "MUST NOT be stored by a cache"; 407, 408, 421 and 425 concern the
/// connection; 406, 412, 413, 415, 416, 417 and 426 one request's `Accept`, conditions, content, `Range`, `Expect` and
/// `Upgrade`.
fn is_request_specific(context: &StoreContext<'_>, status: StatusCode) -> bool {
    context.request_specific
        || context.refuses_identity
        || matches!(
            status.as_u16(),
            406 | 407 | 408 | 412 | 413 | 415 | 416 | 417 | 421 | 425 | 426 | 428 | 429 | 431 | 511
        )
}

/// RFC 9111 §3: "the no-store cache directive is not present", "if the cache is shared: the private response directive
/// is either not present or allows a shared cache to store a modified response".
fn check_directives(directives: &ResponseDirectives, status: StatusCode, app: bool) -> Result<(), Reason> {
    // §5.2.2.3: a cache that understands the status ignores no-store beside must-understand.
    let understood = directives.must_understand && !app && is_understood(status);
    if directives.no_store && !understood {
        return Err(Reason::NoStore);
    }
    if directives.must_understand && !is_understood(status) {
        return Err(Reason::Status);
    }
    let private = if app { directives.private != DirectiveFields::Absent } else { directives.private.is_whole() };
    if private { Err(Reason::Private) } else { Ok(()) }
}

/// Statuses for which this crate implements the caching requirements: those of RFC 9110 §15, final and not partial.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=205 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

/// RFC 9110 §8.6: returns the declared content length; repeated lines must agree.
///
/// # Errors
/// [`Reason::Truncated`] if lengths differ or are not numbers.
pub(crate) fn promised_length(headers: &HeaderMap) -> Result<Option<u64>, Reason> {
    let mut promised = None;
    for line in headers.get_all(header::CONTENT_LENGTH) {
        let length = line.to_str().ok().and_then(|text| text.parse::<u64>().ok()).ok_or(Reason::Truncated)?;
        if promised.is_some_and(|known| known != length) {
            return Err(Reason::Truncated);
        }
        promised = Some(length);
    }
    Ok(promised)
}

fn lifetime(
    context: &StoreContext<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    targeted: bool,
    handler: Option<&StoreHint>,
) -> Result<Duration, Reason> {
    if let Some(span) = handler.and_then(|store| store.ttl) {
        return Ok(span);
    }
    let from_rule = rule_lifetime(context, status);
    let app = context.settings.profile == Profile::App;
    let mut found = freshness::lifetime(headers, directives, targeted, from_rule, &context.exchange);
    if found == Lifetime::Unknown && !app && !context.post {
        found = freshness::heuristic(headers, status, directives.public, &context.exchange);
    }
    match found {
        Lifetime::Explicit(span) | Lifetime::Heuristic(span) => Ok(span),
        // Stored only for revalidation: §3 allows that for heuristically cacheable statuses.
        Lifetime::Unknown if !app && !context.post && may_store_without_freshness(status, headers, directives) => {
            Ok(Duration::ZERO)
        }
        Lifetime::Unknown => Err(Reason::NoFreshness),
    }
}

fn may_store_without_freshness(status: StatusCode, headers: &HeaderMap, directives: &ResponseDirectives) -> bool {
    validators::has_validator(headers) && (directives.public || freshness::is_heuristically_cacheable(status))
}

fn store_policy(
    context: &StoreContext<'_>,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    lifetime: Duration,
    validated: bool,
) -> StorePolicy {
    let app = context.settings.profile == Profile::App;
    let mut omit = Vec::new();
    for scope in [&directives.no_cache, &directives.private] {
        if let DirectiveFields::Fields(names) = scope {
            omit.extend(names.iter().cloned());
        }
    }
    // Profile `app` applies a field list to the whole response: the strictest reading.
    let no_cache = directives.no_cache.is_whole() || (app && directives.no_cache != DirectiveFields::Absent);
    // §4.2.4: "A cache MUST NOT generate a stale response if it is prohibited by an explicit in-protocol directive";
    // §5.2.2.10: s-maxage "incorporates the semantics of the proxy-revalidate response directive".
    let strict = no_cache || directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage.is_some();
    let window = |directive: Option<Duration>, from_rule: Option<Duration>| {
        if strict { Duration::ZERO } else { directive.or(from_rule).unwrap_or_default() }
    };
    let if_error = window(directives.stale_if_error, context.rule.stale_if_error);
    // §4.2.4: "disconnected" caches may serve stale; a gateway does, for an hour, where the response sets no window.
    let if_down = if app || strict {
        if_error
    } else {
        directives.stale_if_error.unwrap_or(if_error.max(REVALIDATION_RETENTION))
    };
    // Bounded so that arithmetic on deadlines cannot overflow.
    let lifetime = lifetime.min(MAX_LIFETIME);
    let retention = if validated { REVALIDATION_RETENTION } else { Duration::ZERO };
    // At least as long as a budget may stretch the lifetime, counted from now.
    let stretch = context.settings.budget.as_ref().filter(|_| !strict).map_or(1.0, Budget::max_stretch);
    let retention =
        retention.max(Duration::try_from_secs_f64(lifetime.as_secs_f64() * (stretch - 1.0)).unwrap_or(MAX_LIFETIME));
    StorePolicy {
        exchange: context.exchange,
        age: freshness::initial_age(headers, &context.exchange, context.settings.profile),
        lifetime: if no_cache { Duration::ZERO } else { jittered(lifetime, context.settings.jitter, context.random) },
        while_revalidate: window(directives.stale_while_revalidate, context.rule.stale_while_revalidate),
        if_error,
        if_down,
        retention,
        refresh_ahead: context.settings.refresh_ahead,
        strict,
        immutable: directives.immutable,
        omit,
        vary: vary::VaryFields::new(),
        tags: Box::default(),
    }
}

/// Subtracts up to `share` of a lifetime at random, so that entries stored together do not expire together.
pub(crate) fn jittered(span: Duration, share: f64, random: u64) -> Duration {
    let unit = (random >> 11) as f64 / (1_u64 << 53) as f64;
    span.mul_f64(1.0 - share * unit)
}
