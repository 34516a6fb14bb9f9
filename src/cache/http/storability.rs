//! May this response be kept, and for how long: decided on its head alone, once.
//!
//! [`evaluate`] asks, in this order: did the handler forbid it; is the status one that is kept; do directives forbid it; does
//! it set a cookie (`app`); was the request authorised and is the response not for sharing; is it a stream, or longer than
//! the bound; does it vary on everything; are its tags sound; how long is it fresh; and is it of any use at all. The first
//! "no" is the [`Reason`] that is reported; else the [`StorePolicy`] says until when it may be used, and how.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode, header};

use super::deadlines::Deadlines;
use super::directives::{DirectiveFields, ResponseDirectives};
use super::freshness::{self, ExchangeTimes, Lifetime};
use super::reason::Reason;
use super::request_flags::RequestFlags;
use super::rules::Rule;
use super::settings::{CacheSettings, Profile};
use super::store_hint::StoreHint;
use super::{range, tag, validators, vary};
use crate::base::budget::Budget;
use crate::base::structured_fields;

/// No lifetime is longer than a hundred years.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// How long a stale entry with a validator is kept to be revalidated, beyond its other windows.
const KEEP: Duration = Duration::from_secs(3600);

/// How a response is to be kept.
#[derive(Debug)]
pub(crate) struct StorePolicy {
    pub(crate) moments: ExchangeTimes,
    /// Its age on arrival.
    pub(crate) age: Duration,
    /// How long it is fresh from its birth, jitter taken off.
    pub(crate) lifetime: Duration,
    pub(crate) while_revalidate: Duration,
    pub(crate) if_error: Duration,
    /// For errors, 502, 503 and 504.
    pub(crate) if_down: Duration,
    pub(crate) keep: Duration,
    pub(crate) refresh_ahead: f64,
    pub(crate) strict: bool,
    pub(crate) immutable: bool,
    /// Fields not to store (§5.2.2.4, §5.2.2.7).
    pub(crate) strip: Vec<HeaderName>,
    pub(crate) vary: vary::VaryFields,
    pub(crate) tags: Box<[Box<str>]>,
}

impl StorePolicy {
    pub(crate) fn windows(&self) -> Deadlines {
        let stale_for = self.age.saturating_sub(self.lifetime);
        let fresh_until = self.moments.answered + self.lifetime.saturating_sub(self.age);
        let beyond = |window: Duration| fresh_until + window.saturating_sub(stale_for);
        let left = self.lifetime.saturating_sub(self.age);
        let longest = self.while_revalidate.max(self.if_error).max(self.if_down);
        Deadlines {
            fresh_until,
            late: stale_for,
            refresh_from: match self.refresh_ahead {
                share if share < 1.0 => self.moments.answered + left.mul_f64(share),
                _ => fresh_until,
            },
            revalidate_until: beyond(self.while_revalidate),
            error_until: beyond(self.if_error),
            down_until: beyond(self.if_down),
            keep_until: (fresh_until + self.keep).max(beyond(longest)),
        }
    }
}

/// What [`evaluate`] needs to know beside the response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreContext<'a> {
    pub(crate) settings: &'a CacheSettings,
    pub(crate) rule: &'a Rule,
    pub(crate) flags: RequestFlags,
    /// Whether the key tells identities apart.
    pub(crate) keyed: bool,
    pub(crate) moments: ExchangeTimes,
    /// Whether it answers a POST: then only the response's own explicit freshness counts.
    pub(crate) post: bool,
    /// Whether what the inner service was sent holds fields of this one request by which it may have refused it: the
    /// client's own `Range`, condition or `Expect`, or a `Range` of ours.
    pub(crate) own_fields: bool,
    /// Whether its `Accept-Encoding` refuses a response that is not encoded: a rare refusal, that variants by
    /// `Accept-Encoding` do not tell from the usual case.
    pub(crate) refuses_identity: bool,
    /// Any number, for jitter.
    pub(crate) noise: u64,
}

/// Whether this response is kept, and for how long. Looks at the head alone.
///
/// # Errors
/// The reason to pass it on instead.
pub(crate) fn evaluate(
    case: &StoreContext<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    handler: Option<&StoreHint>,
) -> Result<StorePolicy, Reason> {
    let denied = |no: bool, reason| if no { Err(reason) } else { Ok(()) };
    let app = case.settings.profile == Profile::App;
    let (directives, targeted) = directives(headers, &case.settings.targeted);

    denied(handler.is_some_and(|store| store.never), Reason::Handler)?;
    check_status(case, status, headers)?;
    check_directives(&directives, status, app)?;
    // A rule fills silence; it does not hand one client's cookie to others.
    let by_rule =
        |headers| freshness::lifetime(headers, &directives, targeted, None, &case.moments) == Lifetime::Unknown;
    denied(headers.contains_key(header::SET_COOKIE) && (app || by_rule(headers)), Reason::SetCookie)?;
    // RFC 9111 §3.5: a shared cache stores the answer to an authorised request only where the response allows it.
    let allowed = directives.public || directives.must_revalidate || directives.s_maxage.is_some();
    let keyed = case.rule.same_for_everyone || case.keyed;
    let credential = case.flags.has(RequestFlags::AUTHORIZATION.and(RequestFlags::IDENTITY));
    denied(credential && !keyed && (app || !allowed), Reason::NotPublic)?;
    denied(is_event_stream(headers), Reason::EventStream)?;
    denied(promised_length(headers)?.is_some_and(|length| length > case.settings.max_entry), Reason::TooLarge)?;
    let vary = vary::names(headers)?;
    let given = handler.into_iter().flat_map(|store| &store.tags).chain(&case.rule.tags);
    let tags = tag::collect(headers, given)?;

    let lifetime = lifetime(case, status, headers, &directives, targeted, handler)?;
    let mut plan = plan(case, headers, &directives, lifetime);
    plan.vary = vary;
    plan.tags = tags;
    let windows = plan.windows();
    let validated = validators::has_validator(headers);
    if directives.no_cache.is_whole() {
        denied(!validated, Reason::NoCache)?;
    } else {
        // In `shared` a stale response is of use to a client that says max-stale, or when the origin is down.
        let useful = if app { windows.fresh_until.max(windows.revalidate_until) } else { windows.keep_until };
        denied(useful <= plan.moments.answered && !validated, Reason::AlreadyStale)?;
    }
    Ok(plan)
}

/// The first targeted field that is there and parses, else `Cache-Control`; and whether it was a targeted one.
fn directives(headers: &HeaderMap, targeted: &[HeaderName]) -> (ResponseDirectives, bool) {
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
    (ResponseDirectives::of(headers), false)
}

fn check_status(case: &StoreContext<'_>, status: StatusCode, headers: &HeaderMap) -> Result<(), Reason> {
    let app = case.settings.profile == Profile::App;
    // RFC 9110 §14.4: in any other status `Content-Range` means nothing; in `app` such a response is odd enough to pass.
    if status == StatusCode::PARTIAL_CONTENT || (app && headers.contains_key(header::CONTENT_RANGE)) {
        // RFC 9111 §3.3: "A cache MUST NOT store incomplete or partial-content responses if it does not support the
        // Range and Content-Range header fields". Here `shared` does, for one part of a known whole that was asked for.
        let one = range::content_range(headers).is_some();
        return if app || !one || !case.flags.has(RequestFlags::RANGE) { Err(Reason::Partial) } else { Ok(()) };
    }
    if (status.is_client_error() || status.is_server_error()) && is_of_this_request(case, status) {
        return Err(Reason::OwnFields);
    }
    let kept = if app {
        matches!(status.as_u16(), 200 | 203 | 301 | 308 | 404 | 410)
    } else {
        // RFC 9111 §3: "the response status code is final"; 304 speaks of another response.
        !status.is_informational() && status != StatusCode::NOT_MODIFIED
    };
    if kept { Ok(()) } else { Err(Reason::Status) }
}

/// Whether an error answers this one request, rather than everyone who asks for the same: some statuses always do, any
/// may where the request held fields that a service can refuse.
///
/// RFC 6585 §3 to §6: 428, 429, 431 and 511 "MUST NOT be stored by a cache"; 407, 408, 421 and 425 speak of the
/// connection; 406, 412, 413, 415, 416, 417 and 426 of one request's `Accept`, conditions, content, `Range`, `Expect` and
/// `Upgrade`.
fn is_of_this_request(case: &StoreContext<'_>, status: StatusCode) -> bool {
    case.own_fields
        || case.refuses_identity
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

/// Statuses whose caching this crate conforms to: those of RFC 9110 §15, final and not partial.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=205 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    const STREAM: &[u8] = b"text/event-stream";
    // RFC 9110 §8.3.1: type and subtype are case-insensitive.
    let is_stream = |kind: &[u8]| kind.get(..STREAM.len()).is_some_and(|start| start.eq_ignore_ascii_case(STREAM));
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| is_stream(kind.as_bytes()))
}

/// RFC 9110 §8.6: the length the response promises; repeated lines must agree.
///
/// # Errors
/// [`Reason::Truncated`] where it promises two lengths, or none that is a number.
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
    case: &StoreContext<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    targeted: bool,
    handler: Option<&StoreHint>,
) -> Result<Duration, Reason> {
    if let Some(span) = handler.and_then(|store| store.ttl) {
        return Ok(span);
    }
    let ruled = match status.as_u16() {
        // RFC 9110 §9.3.3: "only cacheable when they include explicit freshness information".
        _ if case.post => None,
        200 | 203 | 301 | 308 => case.rule.ttl,
        404 | 410 => case.rule.negative_ttl,
        _ => None,
    };
    let app = case.settings.profile == Profile::App;
    let mut found = freshness::lifetime(headers, directives, targeted, ruled, &case.moments);
    if found == Lifetime::Unknown && !app && !case.post {
        found = freshness::heuristic(headers, status, directives.public, &case.moments);
    }
    match found {
        Lifetime::Explicit(span) | Lifetime::Heuristic(span) => Ok(span),
        // Kept only to be revalidated each time: §3 asks no more of a heuristically cacheable status.
        Lifetime::Unknown if !app && !case.post && may_keep_unfresh(status, headers, directives) => Ok(Duration::ZERO),
        Lifetime::Unknown => Err(Reason::NoFreshness),
    }
}

fn may_keep_unfresh(status: StatusCode, headers: &HeaderMap, directives: &ResponseDirectives) -> bool {
    validators::has_validator(headers) && (directives.public || freshness::is_heuristically_cacheable(status))
}

fn plan(
    case: &StoreContext<'_>,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    lifetime: Duration,
) -> StorePolicy {
    let app = case.settings.profile == Profile::App;
    let mut strip = Vec::new();
    for scope in [&directives.no_cache, &directives.private] {
        if let DirectiveFields::Fields(names) = scope {
            strip.extend(names.iter().cloned());
        }
    }
    // In `app` a field list is read as the whole directive: strictest first.
    let no_cache = directives.no_cache.is_whole() || (app && directives.no_cache != DirectiveFields::Absent);
    // §4.2.4: "A cache MUST NOT generate a stale response if it is prohibited by an explicit in-protocol directive";
    // §5.2.2.10: s-maxage "incorporates the semantics of the proxy-revalidate response directive".
    let strict = no_cache || directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage.is_some();
    let window = |said: Option<Duration>, ruled: Option<Duration>| {
        if strict { Duration::ZERO } else { said.or(ruled).unwrap_or_default() }
    };
    let if_error = window(directives.stale_if_error, case.rule.stale_if_error);
    // §4.2.4: "disconnected" caches may serve stale; a gateway does, for an hour, where the response sets no window.
    let if_down = if app || strict { if_error } else { directives.stale_if_error.unwrap_or(if_error.max(KEEP)) };
    // A rule or a handler may say "for ever"; arithmetic wants an end.
    let lifetime = lifetime.min(LONGEST);
    let keep = if validators::has_validator(headers) { KEEP } else { Duration::ZERO };
    // As long as a budget may stretch its life, which is counted from now on.
    let stretch = case.settings.budget.as_ref().filter(|_| !strict).map_or(1.0, Budget::max_stretch);
    let keep = keep.max(Duration::try_from_secs_f64(lifetime.as_secs_f64() * (stretch - 1.0)).unwrap_or(LONGEST));
    StorePolicy {
        moments: case.moments,
        age: freshness::initial_age(headers, &case.moments, case.settings.profile),
        lifetime: if no_cache { Duration::ZERO } else { jittered(lifetime, case.settings.jitter, case.noise) },
        while_revalidate: window(directives.stale_while_revalidate, case.rule.stale_while_revalidate),
        if_error,
        if_down,
        keep,
        refresh_ahead: case.settings.refresh_ahead,
        strict,
        immutable: directives.immutable,
        strip,
        vary: vary::VaryFields::new(),
        tags: Box::default(),
    }
}

/// Takes up to `share` off, so that entries stored together do not expire together. Never lengthens a life.
pub(crate) fn jittered(span: Duration, share: f64, noise: u64) -> Duration {
    let unit = (noise >> 11) as f64 / (1_u64 << 53) as f64;
    span.mul_f64(1.0 - share * unit)
}
