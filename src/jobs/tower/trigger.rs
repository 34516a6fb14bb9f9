//! [`JobTrigger`]: runs due jobs when a cron service asks.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use ipnet::IpNet;
use tower_service::Service;

use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::base::request_head::RequestHead;
use crate::identity::network::network;
use crate::identity::{KeyExtractor, TrustedProxies, by};
use crate::jobs::engine::job_engine::JobEngine;

/// Shortest secret in bytes.
const MIN_SECRET: usize = 16;
/// Most secrets at a time: the one in use, and the next or the last.
const MAX_SECRETS: usize = 2;

/// Service that runs the jobs that are due and answers when they have ended, for hosts that start a process only for a request: a
/// cron service asks it every minute. Made by [`Jobs::trigger`](crate::Jobs::trigger). Clones share state.
///
/// It answers GET and POST with `Authorization: Bearer SECRET`: 200 with a line for each job, or 202 if some still run after
/// [`max_wait`](Self::max_wait). Asking twice runs nothing twice.
///
/// ```
/// use http_body_util::Empty;
/// use tollgate::Tollgate;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let gate = Tollgate::builder().build()?;
/// gate.jobs().every("15m").job("coins", |_| async { Ok::<_, String>("250 coins") })?;
/// let trigger = gate.jobs().trigger("at least sixteen bytes")?.secret("the one that it replaces")?;
/// let request = http::Request::post("/jobs/due").body(Empty::<bytes::Bytes>::new()).unwrap();
/// assert_eq!(trigger.handle(&request).await.status(), 401);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct JobTrigger {
    engine: Arc<JobEngine>,
    secrets: Vec<Arc<[u8]>>,
    networks: Vec<IpNet>,
    max_wait: Duration,
}

impl JobTrigger {
    pub(crate) fn new(engine: Arc<JobEngine>) -> Self {
        Self { engine, secrets: Vec::new(), networks: Vec::new(), max_wait: Duration::from_secs(30) }
    }

    /// Accepts another secret too, while one is replaced by another.
    ///
    /// # Errors
    /// If it is shorter than 16 bytes, or the third.
    pub fn secret(mut self, secret: &str) -> Result<Self, Error> {
        if secret.len() < MIN_SECRET {
            return Err(Error::config(format!("jobs: a secret has at least {MIN_SECRET} bytes, not {}", secret.len())));
        }
        if self.secrets.len() == MAX_SECRETS {
            return Err(Error::config(format!("jobs: more than {MAX_SECRETS} secrets")));
        }
        self.secrets.push(secret.as_bytes().into());
        Ok(self)
    }

    /// Answers only to these networks or addresses, such as `203.0.113.0/24`: the peers of the connections. Defaults to all.
    ///
    /// # Errors
    /// If one is malformed.
    pub fn only_from<'a>(mut self, networks: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        for text in networks {
            let parsed = network(text).map_err(|reason| Error::config(format!("jobs: {text:?} {reason}")))?;
            self.networks.push(parsed);
        }
        Ok(self)
    }

    /// Sets how long an answer waits for the runs. Defaults to 30 s.
    #[must_use]
    pub const fn max_wait(mut self, span: Duration) -> Self {
        self.max_wait = span;
        self
    }

    /// Handles a request, for servers without tower.
    pub async fn handle<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let refused = self.refused(request);
        match refused {
            Some((status, text)) => answer(status, "text/plain; charset=utf-8", text.into()),
            None => {
                let jobs = self.engine.run_due(self.max_wait).await;
                let is_running = jobs.iter().any(|job| matches!(job.result, "running" | "store away"));
                let status = if is_running { StatusCode::ACCEPTED } else { StatusCode::OK };
                let body = serde_json::to_vec(&serde_json::json!({ "done": !is_running, "jobs": jobs }));
                answer(status, "application/json", body.unwrap_or_default().into())
            }
        }
    }

    /// Returns why a request is refused.
    fn refused<B>(&self, request: &Request<B>) -> Option<(StatusCode, &'static str)> {
        let head = RequestHead::of(request);
        let peer = by::client_ip(TrustedProxies::none()).ipv6_prefix(128).extract(&head).and_then(|key| key.as_ip());
        let is_near = self.networks.is_empty()
            || peer.is_some_and(|peer| self.networks.iter().any(|network| network.contains(&peer)));
        if !is_near {
            return Some((StatusCode::FORBIDDEN, "not from this address\n"));
        }
        if !bearer(request.headers()).is_some_and(|token| self.secrets.iter().any(|secret| is_equal(secret, token))) {
            return Some((StatusCode::UNAUTHORIZED, "a secret is needed\n"));
        }
        let is_asking = matches!(*request.method(), Method::GET | Method::POST);
        (!is_asking).then_some((StatusCode::METHOD_NOT_ALLOWED, "use POST or GET\n"))
    }
}

/// Returns the token of `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// Compares in a time that depends on the lengths alone.
fn is_equal(secret: &[u8], token: &[u8]) -> bool {
    let difference = secret.iter().zip(token).fold(0, |difference, (a, b)| difference | (a ^ b));
    secret.len() == token.len() && std::hint::black_box(difference) == 0
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match status {
        StatusCode::UNAUTHORIZED => drop(fields.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        StatusCode::METHOD_NOT_ALLOWED => drop(fields.insert(header::ALLOW, HeaderValue::from_static("GET, POST"))),
        _ => {}
    }
    response
}

impl<B: Send + 'static> Service<Request<B>> for JobTrigger {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        // The body is not read, and need not be shared between threads.
        let (parts, _) = request.into_parts();
        let request = Request::from_parts(parts, ());
        Box::pin(async move { Ok(this.handle(&request).await) })
    }
}

impl fmt::Debug for JobTrigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobTrigger").field("networks", &self.networks).finish_non_exhaustive()
    }
}
