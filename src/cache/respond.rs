//! Responses made from what is stored: a copy of prepared fields, the age, and the body by reference.

use http::{HeaderMap, Response, StatusCode, header};

use super::core::Core;
use super::entry::{Entry, Kept, Meta};
use super::facts::Facts;
use super::settings::TOLLGATE_CACHE_CONTROL;
use super::status::{self, Report};
use super::validate;
use crate::body::Body;
use crate::clock::Timestamp;
use crate::fields::number;

/// Who is being answered.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) facts: Facts,
    pub(crate) head_only: bool,
}

/// The answer from a stored entry.
pub(crate) fn stored<B>(
    core: &Core,
    entry: &Entry,
    asker: Asker<'_>,
    now: Timestamp,
    report: Report,
) -> Response<Body<B>> {
    let body = match &entry.body {
        _ if asker.head_only => Body::empty(),
        Kept::One(bytes) => Body::full(bytes.clone()),
        Kept::Many(chunks) => Body::chunks(chunks.clone()),
    };
    from_meta(core, &entry.meta, body, asker, now, report)
}

/// The answer with this stored head and this body.
pub(crate) fn from_meta<B>(
    core: &Core,
    meta: &Meta,
    body: Body<B>,
    asker: Asker<'_>,
    now: Timestamp,
    report: Report,
) -> Response<Body<B>> {
    let mut response = Response::new(body);
    *response.status_mut() = meta.status;
    *response.headers_mut() = meta.headers.clone();
    // RFC 9111 §4: "the cache MUST generate an Age header field" in a response it has not just validated.
    response.headers_mut().insert(header::AGE, number(meta.age_at(now).as_secs()));
    let has_it =
        asker.facts.has(Facts::CONDITION) && validate::is_not_modified(asker.headers, meta.status, &meta.headers);
    let mut response = if has_it { validate::into_not_modified(response) } else { response };
    if let Some(name) = &core.settings.status_name {
        let ttl = Core::ttl(meta.windows.fresh_until, now);
        status::write(response.headers_mut(), name, Report { ttl: Some(ttl), ..report });
    }
    response
}

/// The inner service's answer on its way to the client whose request it answers.
pub(crate) fn passed<B>(core: &Core, response: &mut Response<B>, report: Report) {
    // RFC 9213 §2.2: a targeted field meant for this cache alone goes no further.
    response.headers_mut().remove(TOLLGATE_CACHE_CONTROL);
    if let Some(name) = &core.settings.status_name {
        let forward_status = report.forward_status.filter(|status| *status != response.status());
        status::write(response.headers_mut(), name, Report { forward_status, ..report });
    }
}

/// Whether the client of an answer that is being stored already has it.
pub(crate) fn has_it(asker: Asker<'_>, status: StatusCode, headers: &HeaderMap) -> bool {
    asker.facts.has(Facts::CONDITION) && validate::is_not_modified(asker.headers, status, headers)
}
