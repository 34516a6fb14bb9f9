//! [`InvalidationWebhook`]: invalidates cached responses on signed HTTP requests.
//!
//! | checked in this order | answer |
//! |---|---|
//! | the method is `POST` | 405 |
//! | `Webhook-Timestamp` is at most 5 min away from this process's calendar | 400, 401 |
//! | the body has at most 64 KiB, and arrives within 10 s | 413, 408 |
//! | `Webhook-Signature` is the HMAC-SHA256 of time stamp, full stop and body under one of the secrets | 400, 401 |
//! | the request was not received before | 409 |
//! | the body is JSON with valid tags, keys and prefixes, at least one | 400 |
//!
//! Nothing is invalidated unless all of this holds.

mod signature;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use serde::Deserialize;
use tower_service::Service;

use super::invalidate::Invalidate;
use crate::base::error::{BoxError, Error};
use crate::base::maybe_ready::BoxFuture;
use crate::cache::http::tag;
use signature::{Secrets, WebhookError};

/// Longest body in bytes.
const MAX_BODY: usize = 64 << 10;
/// Longest duration of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Service that invalidates cached responses on signed requests, for any router or server: `POST /invalidate` of a content
/// management system, a database trigger or a deployment.
///
/// ```
/// use tollgate::cache::InvalidationWebhook;
///
/// # fn example(gate: tollgate::Tollgate) -> Result<axum::Router, tollgate::Error> {
/// let webhook = InvalidationWebhook::new(gate.invalidate(), ["at least sixteen bytes"])?;
/// let app = axum::Router::new().route_service("/invalidate", webhook);
/// # Ok(app) }
/// ```
///
/// The body names what to invalidate; `"soft": true` makes entries stale instead of void:
///
/// ```json
/// { "tags": ["article:7"], "keys": ["/articles/7"], "prefixes": ["https://example.com/feeds/"], "id": "c0ffee-17" }
/// ```
///
/// Two equal bodies in one second are a replay. An `id` of your own, such as that of the change, tells them apart.
///
/// `Webhook-Timestamp` holds the seconds since 1970, `Webhook-Signature` the signature of both:
///
/// ```sh
/// body='{"tags":["article:7"],"id":"'$(date +%s%N)'"}'; time=$(date +%s)
/// signature=$(printf '%s.%s' "$time" "$body" | openssl dgst -sha256 -hmac "$SECRET" -r | cut -d' ' -f1)
/// curl -H "webhook-timestamp: $time" -H "webhook-signature: sha256=$signature" -d "$body" https://…/invalidate
/// ```
///
/// | status | |
/// |---|---|
/// | 200 | invalidated in all processes that share the cache |
/// | 202 | invalidated in this process; the others receive it when the shared store is back |
/// | 400 | a field is missing or malformed, or the body is; nothing was invalidated |
/// | 401 | the signature is wrong, or the time stamp more than 5 min off |
/// | 408, 413 | the body took over 10 s, or is over 64 KiB |
/// | 409 | the same request was received before: a replay |
/// | 503 | more than 65 536 requests within the window |
///
/// Replays are recognised by the process that received the request. Another one repeats the invalidation, which removes
/// nothing but entries.
#[derive(Clone)]
pub struct InvalidationWebhook {
    invalidate: Invalidate,
    secrets: Arc<Secrets>,
}

/// Body of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    prefixes: Vec<String>,
    #[serde(default)]
    soft: bool,
    /// Distinguishes equal requests of one second.
    #[serde(default, rename = "id")]
    _id: Option<String>,
}

type Outcome = (StatusCode, String);

impl InvalidationWebhook {
    /// Creates a webhook that accepts signatures under these secrets: one, or two while they are rotated.
    ///
    /// # Errors
    /// If there is no secret or more than two, or one has less than 16 bytes.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::{CacheLayer, InvalidationWebhook};
    ///
    /// let cache = CacheLayer::in_memory(1 << 20);
    /// assert!(InvalidationWebhook::new(cache.invalidate(), ["the new secret, 1", "the old secret, 2"]).is_ok());
    /// assert!(InvalidationWebhook::new(cache.invalidate(), ["short"]).is_err());
    /// ```
    pub fn new<S: AsRef<[u8]>>(invalidate: Invalidate, secrets: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        Ok(Self { invalidate, secrets: Arc::new(Secrets::new(secrets)?) })
    }

    /// Handles a request, for servers without tower.
    ///
    /// ```
    /// use http_body_util::Full;
    /// use tollgate::cache::{CacheLayer, InvalidationWebhook};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let webhook = InvalidationWebhook::new(CacheLayer::in_memory(1 << 20).invalidate(), ["at least sixteen bytes"])?;
    /// let request = http::Request::post("/invalidate").body(Full::<bytes::Bytes>::from("{}")).unwrap();
    /// assert_eq!(webhook.handle(request).await.status(), 400); // it is not signed
    /// # Ok(()) }
    /// ```
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: http_body::Body<Error: Into<BoxError>>,
    {
        let answer = match self.accept(request).await {
            Ok(document) => self.apply(&document).await,
            Err(rejection) => rejection,
        };
        reply(answer)
    }

    /// Reads and checks a request.
    async fn accept<B>(&self, request: Request<B>) -> Result<Document, Outcome>
    where
        B: http_body::Body<Error: Into<BoxError>>,
    {
        if request.method() != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "use POST".to_owned()));
        }
        let (head, body) = request.into_parts();
        let claim = signature::Claim::of(&head.headers, self.unix_seconds()).map_err(rejection)?;
        let body = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
        let body = body.map_err(|_| (StatusCode::REQUEST_TIMEOUT, "the body took over 10 s".to_owned()))?;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => (StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {MAX_BODY} bytes")),
            None => (StatusCode::BAD_REQUEST, "the body ended early".to_owned()),
        })?;
        let body = body.to_bytes();
        self.secrets.check(&claim, &body, self.unix_seconds()).map_err(rejection)?;
        let document: Document =
            serde_json::from_slice(&body).map_err(|error| bad_request(format!("malformed JSON: {error}")))?;
        self.check(&document).map_err(|error| bad_request(error.to_string()))?;
        Ok(document)
    }

    /// Checks everything that a document names, before anything of it is applied.
    fn check(&self, document: &Document) -> Result<(), Error> {
        if document.tags.is_empty() && document.keys.is_empty() && document.prefixes.is_empty() {
            return Err(Error::config("nothing to invalidate; name tags, keys or prefixes"));
        }
        if let Some(tag) = document.tags.iter().find(|tag| !tag::is_valid(tag)) {
            return Err(Error::config(format!(
                "invalid tag {tag:?}; use 1 to 256 visible ASCII characters without a comma"
            )));
        }
        document.keys.iter().chain(&document.prefixes).try_for_each(|url| self.invalidate.check_url(url))
    }

    /// Applies all of a document, also after an error of the shared store.
    async fn apply(&self, document: &Document) -> Outcome {
        let invalidate = if document.soft { self.invalidate.clone().soft() } else { self.invalidate.clone() };
        let mut result = Ok(());
        for tag in &document.tags {
            result = result.and(invalidate.tag(tag).await);
        }
        for key in &document.keys {
            result = result.and(invalidate.key(key).await);
        }
        for prefix in &document.prefixes {
            result = result.and(invalidate.prefix(prefix).await);
        }
        match result {
            Ok(()) => (StatusCode::OK, "invalidated".to_owned()),
            Err(error) => (StatusCode::ACCEPTED, error.to_string()),
        }
    }

    fn unix_seconds(&self) -> u64 {
        let wall = self.invalidate.clock().wall();
        wall.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

fn bad_request(message: String) -> Outcome {
    (StatusCode::BAD_REQUEST, message)
}

fn rejection(refusal: WebhookError) -> Outcome {
    let (status, message) = refusal.answer();
    (status, message.to_owned())
}

fn reply((status, message): Outcome) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::from(message + "\n"));
    *reply.status_mut() = status;
    let fields = reply.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        fields.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    reply
}

impl<B> Service<Request<B>> for InvalidationWebhook
where
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let webhook = self.clone();
        Box::pin(async move { Ok(webhook.handle(request).await) })
    }
}

impl fmt::Debug for InvalidationWebhook {
    /// Omits the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvalidationWebhook").finish_non_exhaustive()
    }
}
