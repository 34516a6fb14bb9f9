//! [`Admin`]: tower service of the dashboard.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;
use tokio::task::AbortHandle;
use tower_service::Service;

use super::access::{Access, AccessRules, Actor};
use super::actions::{self, Action};
use super::body::AdminBody;
use super::endpoint::AdminEndpoint;
use super::form_token::{FormTokens, is_same_origin};
use super::viewers::Viewers;
use crate::Tollgate;
use crate::admin::model::audit::AuditEntry;
use crate::admin::model::fleet;
use crate::admin::model::form::Form;
use crate::admin::model::state::AdminState;
use crate::admin::model::subject;
use crate::admin::model::view::{View, node};
use crate::admin::page;
use crate::base::clock::unix_millis;
use crate::base::error::{BoxError, Error};
use crate::base::maybe_ready::BoxFuture;
use crate::base::random::random;
use crate::base::request_head::RequestHead;
use crate::identity::{KeyExtractor, TrustedProxies, by};
use crate::limit::RateLimitLayer;

/// Longest form in bytes, and the time in which it must arrive.
const MAX_FORM: usize = 16 << 10;
const FORM_TIMEOUT: Duration = Duration::from_secs(10);
/// Wrong secrets of one address before it is told to wait. The right one is accepted all the same.
const WRONG_SECRETS: &str = "10/min";

/// Service of a [dashboard](Tollgate::admin), for any router or server. Clones share state.
///
/// | `GET` | answer |
/// |---|---|
/// | `/` | the dashboard |
/// | `stats.json`, `health.json`, `degradation.json`, `overrides.json`, `audit.json`, `fleet.json` | the same as JSON |
/// | `report.txt` | the last 24 hours as text |
/// | `jobs.json`, `jobs.json?job=NAME` | the jobs; the history of one (feature `jobs`) |
/// | `explain.json?url=…&subject=…` | what would happen to a request |
/// | `subject.json?subject=user:42` | limits of a user, an address, or the refusal with a reference |
/// | `health/live`, `health/ready` | for load balancers, without credentials: 200, or 503 while a check of the application fails |
///
/// | `POST`, as a form | fields |
/// |---|---|
/// | `purge` | `what`: `tag:NAME`, `/path`, `/path/*` or `*`; `mode=hard`; `preview`; `confirm` |
/// | `revoke-purge` | `what`, as it was purged: entries that were made stale in the last ten minutes are as fresh as before |
/// | `override` | `target`, `value`, `for`, `reason`, `scope=node` |
/// | `end-override` | `id` |
/// | `run-job`, `enable-job`, `disable-job` | `job` (feature `jobs`) |
/// | `correct-credits` | `upstream`, `window`, `credits`; `how`: `spent` (in all) or `add` (bought) |
/// | `reset-subject`, `grant-subject` | `subject`, `tier`, `route`; `limit`, `quota`, `for` |
///
/// A POST without a Bearer token needs the `token` of the page's forms, from a page of the same origin.
///
/// ```
/// use tollgate::{Admin, Tollgate};
///
/// let gate = Tollgate::builder().build()?;
/// let admin: Admin = gate.admin().local_only().build()?;
/// # let _ = admin;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone)]
pub struct Admin {
    pub(super) shared: Arc<AdminShared>,
}

/// State of an admin service.
pub(super) struct AdminShared {
    state: AdminState,
    access: AccessRules,
    tokens: FormTokens,
    wrong: RateLimitLayer,
    viewers: OnceLock<Arc<Viewers>>,
    task: OnceLock<AbortHandle>,
}

impl Drop for AdminShared {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl AdminShared {
    pub(super) fn new(gate: Tollgate, access: AccessRules) -> Result<Arc<Self>, Error> {
        let own = random().to_ne_bytes();
        let secret = access.secrets.first().map_or(&own[..], super::access::Secret::bytes);
        let tokens = FormTokens::new(secret).ok_or_else(|| Error::config("admin: the secret has an invalid length"))?;
        let shared = Arc::new(Self {
            state: AdminState::new(gate),
            wrong: RateLimitLayer::per_ip(WRONG_SECRETS),
            viewers: OnceLock::new(),
            task: OnceLock::new(),
            access,
            tokens,
        });
        let weak = Arc::downgrade(&shared);
        let for_viewers = weak.clone();
        let render =
            move || for_viewers.upgrade().map(|shared| page::panels_json(&View::of(&shared.state))).unwrap_or_default();
        let _ = shared.viewers.set(Viewers::new(render));
        shared.start();
        Ok(shared)
    }

    /// Starts to exchange snapshots with other nodes, if there is a runtime and it has not.
    fn start(self: &Arc<Self>) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let weak = Arc::downgrade(self);
            self.task.get_or_init(|| runtime.spawn(exchange(weak)).abort_handle());
        }
    }

    fn now(&self) -> u64 {
        unix_millis(self.state.gate.health.wall()) / 1_000
    }
}

impl Admin {
    /// Handles a request, for servers without tower.
    ///
    /// ```
    /// use http_body_util::Empty;
    /// use tollgate::Tollgate;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let admin = Tollgate::builder().build()?.admin().secret("at least sixteen bytes").build()?;
    /// let request = http::Request::get("/stats.json").body(Empty::<bytes::Bytes>::new()).unwrap();
    /// assert_eq!(admin.handle(request).await.status(), 401);
    /// # Ok(()) }
    /// ```
    pub async fn handle<B>(&self, request: Request<B>) -> Response<AdminBody>
    where
        B: http_body::Body<Error: Into<BoxError>>,
    {
        self.shared.start();
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let Some(endpoint) = AdminEndpoint::of(request.uri().path()) else {
            return text(StatusCode::NOT_FOUND, "no such page\n");
        };
        if !endpoint.allows(request.method()) {
            let allow = if endpoint.is_action() { "POST" } else { "GET, HEAD" };
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "another method is needed\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
            return response;
        }
        if endpoint.is_probe() {
            return self.probe(endpoint);
        }
        let (actor, is_machine) = match self.access(&request).await {
            Ok(granted) => granted,
            Err(response) => return *response,
        };
        let is_head = request.method() == Method::HEAD;
        let response = match endpoint.is_action() {
            true => self.act(endpoint, &request, body, actor, is_machine).await,
            false => self.read(endpoint, &request, &actor).await,
        };
        if is_head { response.map(|_| AdminBody::whole(Bytes::new())) } else { response }
    }

    fn probe(&self, endpoint: AdminEndpoint) -> Response<AdminBody> {
        match endpoint == AdminEndpoint::Live || self.shared.state.gate.health.is_ready() {
            true => text(StatusCode::OK, "ok\n"),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "a check fails\n"),
        }
    }

    /// Decides who asks. Wrong secrets of one address are limited; the right one is never locked out.
    async fn access(&self, request: &Request<()>) -> Result<(Actor, bool), Box<Response<AdminBody>>> {
        let (decided, peer) = {
            let head = RequestHead::of(request);
            let peer =
                by::client_ip(TrustedProxies::none()).ipv6_prefix(128).extract(&head).and_then(|key| key.as_ip());
            (self.shared.access.decide(&head, peer), peer)
        };
        match decided {
            Access::Granted { actor, is_machine } => Ok((actor, is_machine)),
            Access::Elsewhere => {
                Err(Box::new(text(StatusCode::FORBIDDEN, "only for this machine, directly and by a loopback name\n")))
            }
            Access::Unauthorized { is_wrong } => {
                let peer = peer.unwrap_or(IpAddr::from([0, 0, 0, 0]));
                let is_admitted = || self.shared.wrong.subject(crate::identity::Key::ip(peer));
                if is_wrong && !is_admitted().check(1).await.admits() {
                    let mut response = text(StatusCode::TOO_MANY_REQUESTS, "too many wrong secrets\n");
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
                    return Err(Box::new(response));
                }
                let mut response = text(StatusCode::UNAUTHORIZED, "a secret is needed\n");
                if !self.shared.access.secrets.is_empty() {
                    let scheme = HeaderValue::from_static("Basic realm=\"tollgate\", charset=\"UTF-8\"");
                    response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
                }
                Err(Box::new(response))
            }
        }
    }

    async fn read(&self, endpoint: AdminEndpoint, request: &Request<()>, actor: &Actor) -> Response<AdminBody> {
        let (shared, form) = (&self.shared, Form::parse(request.uri().query().unwrap_or_default().as_bytes()));
        match endpoint {
            AdminEndpoint::Page => self.page(request, &form, actor).await,
            AdminEndpoint::Style => asset("text/css; charset=utf-8", include_str!("../assets/dashboard.css")),
            AdminEndpoint::Script => asset("text/javascript; charset=utf-8", include_str!("../assets/dashboard.js")),
            AdminEndpoint::Icon => asset("image/svg+xml", include_str!("../assets/icon.svg")),
            AdminEndpoint::Events => match shared.viewers.get().and_then(Viewers::watch) {
                Some(stream) => typed(StatusCode::OK, "text/event-stream", AdminBody::events(stream)),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "too many viewers; poll panels.json\n"),
            },
            AdminEndpoint::Panels => {
                let body = AdminBody::whole(page::panels_json(&View::of(&shared.state)));
                typed(StatusCode::OK, "application/json", body)
            }
            AdminEndpoint::Stats => json(StatusCode::OK, &shared.state.gate.stats()),
            AdminEndpoint::Health => json(StatusCode::OK, &shared.state.gate.health()),
            AdminEndpoint::Degradation => {
                let health = shared.state.gate.health();
                json(StatusCode::OK, &serde_json::json!({ "degraded": health.degraded, "reasons": health.reasons }))
            }
            AdminEndpoint::Report => text(StatusCode::OK, &shared.state.gate.report()),
            #[cfg(feature = "jobs")]
            AdminEndpoint::Jobs => match form.get("job") {
                Some(job) => json(StatusCode::OK, &shared.state.gate.jobs().history(job).await),
                None => json(StatusCode::OK, &shared.state.gate.jobs().list()),
            },
            AdminEndpoint::Overrides => json(StatusCode::OK, &shared.state.gate.overrides().list()),
            AdminEndpoint::Audit => json(StatusCode::OK, &shared.state.audit.all().await),
            AdminEndpoint::Fleet => {
                json(StatusCode::OK, &shared.state.fleet.nodes(node(&shared.state, &shared.state.gate.health())))
            }
            AdminEndpoint::Explain => answer(page::explain(&shared.state.gate, &form, host(request)).await),
            AdminEndpoint::Subject => {
                let (tier, route) = (form.get("tier"), form.get("route"));
                match form.need("subject") {
                    Ok(text) => answer(subject::look(&shared.state.gate, text, tier, route).await),
                    Err(error) => answer::<()>(Err(error)),
                }
            }
            _ => text(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }

    /// Renders the page, whole without JavaScript. Its links are relative: a mount point without a slash gets one first.
    async fn page(&self, request: &Request<()>, form: &Form, actor: &Actor) -> Response<AdminBody> {
        let path = original_path(request);
        if !path.ends_with('/') {
            let last = path.rsplit('/').next().unwrap_or_default();
            let mut response = text(StatusCode::PERMANENT_REDIRECT, "");
            if let Ok(location) = HeaderValue::from_str(&format!("{last}/")) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            return response;
        }
        let token = actor.may_act.then(|| self.shared.tokens.issue(self.shared.now()));
        let html = page::render(&self.shared.state, form, host(request), token.as_deref(), None).await;
        typed(StatusCode::OK, "text/html; charset=utf-8", AdminBody::whole(html))
    }

    async fn act<B>(
        &self,
        endpoint: AdminEndpoint,
        request: &Request<()>,
        body: B,
        actor: Actor,
        is_machine: bool,
    ) -> Response<AdminBody>
    where
        B: http_body::Body<Error: Into<BoxError>>,
    {
        if !actor.may_act {
            return text(StatusCode::FORBIDDEN, "a viewer may only read\n");
        }
        let read = tokio::time::timeout(FORM_TIMEOUT, Limited::new(body, MAX_FORM).collect());
        let Ok(Ok(body)) = read.await else {
            return text(StatusCode::BAD_REQUEST, "the form is too long, or did not arrive\n");
        };
        let form = Form::parse(&body.to_bytes());
        let shared = &self.shared;
        if !is_machine {
            if !is_same_origin(request.headers()) {
                return text(StatusCode::FORBIDDEN, "this form was not sent by a page of the same origin\n");
            }
            if !form.get("token").is_some_and(|token| shared.tokens.accepts(token, shared.now())) {
                return text(StatusCode::FORBIDDEN, "the form has no valid token: load the page again\n");
            }
        }
        let action = self.perform(endpoint, &form, &actor).await;
        let (is_done, outcome) = match &action.result {
            Ok(done) => (true, done.clone()),
            Err(error) => (false, error.to_string()),
        };
        let status = if is_done { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
        let (text, is_preview) = (action.text.clone(), action.is_preview);
        if !is_preview {
            self.audit(&form, actor, action, &outcome).await;
        }
        if is_machine {
            return json(status, &serde_json::json!({ "action": text, "done": is_done, "outcome": outcome }));
        }
        if is_done && !is_preview {
            let mut response = self::text(StatusCode::SEE_OTHER, "");
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("./#happened"));
            return response;
        }
        let token = shared.tokens.issue(shared.now());
        let notice = (is_done, format!("{text}: {outcome}"));
        let html = page::render(&shared.state, &Form::default(), host(request), Some(&token), Some(&notice)).await;
        typed(status, "text/html; charset=utf-8", AdminBody::whole(html))
    }

    /// Performs an action.
    async fn perform(&self, endpoint: AdminEndpoint, form: &Form, actor: &Actor) -> Action {
        let shared = &self.shared;
        match endpoint {
            AdminEndpoint::Purge => actions::purge(&shared.state.gate, form).await,
            AdminEndpoint::RevokePurge => {
                let revocable = shared.state.revocable_purges(&shared.state.audit.all().await);
                actions::revoke_purge(&shared.state.gate, form, &revocable).await
            }
            AdminEndpoint::Override => actions::apply_override(&shared.state.gate, form, &actor.name).await,
            AdminEndpoint::EndOverride => actions::end_override(&shared.state.gate, form, &actor.name).await,
            #[cfg(feature = "jobs")]
            AdminEndpoint::RunJob | AdminEndpoint::EnableJob | AdminEndpoint::DisableJob => {
                actions::act_on_job(&shared.state.gate, endpoint, form).await
            }
            AdminEndpoint::CorrectCredits => actions::correct_credits(&shared.state.gate, form).await,
            AdminEndpoint::ResetSubject => actions::reset_subject(&shared.state.gate, form).await,
            _ => actions::grant_subject(&shared.state.gate, form, shared.state.gate.health.wall()).await,
        }
    }

    /// Records an action.
    async fn audit(&self, form: &Form, actor: Actor, action: Action, outcome: &str) {
        let is_done = action.result.is_ok();
        let cut = |text: &str| text.chars().take(256).collect::<String>();
        let entry = AuditEntry {
            at: unix_millis(self.shared.state.gate.health.wall()),
            node: self.shared.state.node.clone(),
            actor: actor.name,
            action: cut(&action.text),
            outcome: cut(outcome),
            reason: cut(form.get("reason").unwrap_or_default()),
            purged: action.purged.filter(|_| is_done),
        };
        self.shared.state.gate.health.mark("action", &format!("{}: {}", entry.action, entry.outcome));
        self.shared.state.audit.add(entry).await;
    }
}

/// Tells the other nodes about this one, until the service is gone.
async fn exchange(shared: Weak<AdminShared>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let own = node(&shared.state, &shared.state.gate.health());
        shared.state.fleet.exchange(&own).await;
        shared.state.audit.flush().await;
        drop(shared);
        tokio::time::sleep(fleet::INTERVAL).await;
    }
}

/// Returns the host that the operator asks: the authority of paths that he looks up.
fn host(request: &Request<()>) -> &str {
    let field = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    field.or_else(|| request.uri().authority().map(http::uri::Authority::as_str)).unwrap_or("localhost")
}

/// Returns the path before a router stripped its prefix.
fn original_path(request: &Request<()>) -> &str {
    #[cfg(feature = "axum")]
    if let Some(original) = request.extensions().get::<axum::extract::OriginalUri>() {
        return original.0.path();
    }
    request.uri().path()
}

fn answer<T: Serialize>(answer: Result<T, Error>) -> Response<AdminBody> {
    match answer {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => json(StatusCode::UNPROCESSABLE_ENTITY, &serde_json::json!({ "error": error.to_string() })),
    }
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<AdminBody> {
    match serde_json::to_vec(value) {
        Ok(body) => typed(status, "application/json", AdminBody::whole(body)),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: &str) -> Response<AdminBody> {
    typed(status, "text/plain; charset=utf-8", AdminBody::whole(body.to_owned()))
}

fn asset(content_type: &'static str, body: &'static str) -> Response<AdminBody> {
    typed(StatusCode::OK, content_type, AdminBody::whole(Bytes::from_static(body.as_bytes())))
}

/// Adds the fields of every answer: nothing is stored, framed, sniffed or loaded from elsewhere.
fn typed(status: StatusCode, content_type: &'static str, body: AdminBody) -> Response<AdminBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                  form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

impl<B> Service<Request<B>> for Admin
where
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<AdminBody>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Response<AdminBody>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let admin = self.clone();
        Box::pin(async move { Ok(admin.handle(request).await) })
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("node", &self.shared.state.node).finish_non_exhaustive()
    }
}
