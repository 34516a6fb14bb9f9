//! A pretend API on loopback with a real quota: fields, 403 and 429, secondary limits, `ETag`s, and faults on demand. Its
//! clock is the one it is given.
//!
//! It counts a request when its head has arrived, whatever then becomes of the answer: what it has counted is the truth
//! that accounts are held against. A request with a current `If-None-Match` is answered 304 and costs nothing.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::must_use_candidate,
    reason = "each user takes its part, and may fail"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tollgate::Clock;

/// How the API behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Credits in one window.
    pub limit: u64,
    /// How long the window is.
    pub window: Duration,
    /// More requests within one second than this are refused without being counted (a secondary limit).
    pub most_a_second: u64,
    /// How often what it serves changes.
    pub changes_every: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        let (window, changes_every) = (Duration::from_secs(3_600), Duration::from_secs(60));
        Self { limit: 5_000, window, most_a_second: u64::MAX, changes_every }
    }
}

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection is closed before the request is counted.
    ResetBefore,
    /// It is closed after.
    ResetAfter,
    /// 500, counted.
    Broken,
    /// The answer takes that many milliseconds, counted.
    Slow(u64),
}

/// What it has done.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests that arrived.
    pub requests: u64,
    /// Credits counted in all windows.
    pub counted: u64,
    /// Credits counted in the window now running.
    pub in_window: u64,
    /// Answers 304.
    pub not_modified: u64,
    /// Refusals for the quota's sake.
    pub refused: u64,
    /// Refusals for the secondary limit's.
    pub secondary: u64,
}

#[derive(Default)]
struct State {
    seen: Seen,
    window: u64,
    second: u64,
    in_second: u64,
    by_path: HashMap<String, u64>,
}

/// The API. Clones are the same.
#[derive(Clone)]
pub struct PretendApi {
    address: SocketAddr,
    behaviour: Arc<Behaviour>,
    state: Arc<Mutex<State>>,
    faults: Arc<dyn Fn(u64) -> Fault + Send + Sync>,
    clock: Clock,
    /// Ends the server when the last clone goes.
    _alive: Arc<tokio::sync::watch::Sender<()>>,
}

impl PretendApi {
    /// An API that never fails.
    pub async fn start(behaviour: Behaviour, clock: Clock) -> Self {
        Self::start_with(behaviour, clock, |_| Fault::None).await
    }

    /// An API whose n-th request goes wrong as `faults` says.
    pub async fn start_with(
        behaviour: Behaviour,
        clock: Clock,
        faults: impl Fn(u64) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (alive, ended) = tokio::sync::watch::channel(());
        let api = Self {
            address: listener.local_addr().expect("an address"),
            behaviour: Arc::new(behaviour),
            state: Arc::default(),
            faults: Arc::new(faults),
            clock,
            _alive: Arc::new(alive),
        };
        // The server holds everything but what keeps it alive.
        let server = Self { _alive: Arc::new(tokio::sync::watch::channel(()).0), ..api.clone() };
        tokio::spawn(server.serve(listener, ended));
        api
    }

    /// Where it listens.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it has done by now.
    pub fn seen(&self) -> Seen {
        let mut state = self.lock();
        self.turn(&mut state);
        state.seen.clone()
    }

    /// How often each path was counted.
    pub fn counted(&self, path: &str) -> u64 {
        self.lock().by_path.get(path).copied().unwrap_or(0)
    }

    async fn serve(self, listener: TcpListener, mut ended: tokio::sync::watch::Receiver<()>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = ended.changed() => return,
            };
            let Ok((stream, _)) = accepted else { continue };
            let (api, mut ended) = (self.clone(), ended.clone());
            tokio::spawn(async move {
                let answer = service_fn(|request| {
                    let api = api.clone();
                    async move { api.answer(&request).await }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                tokio::select! {
                    // A reset is an error of the connection.
                    _ = connection => {}
                    _ = ended.changed() => {}
                }
            });
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let (response, fault) = self.count(request)?;
        match fault {
            Fault::ResetAfter => Err("reset"),
            Fault::Slow(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(response)
            }
            _ => Ok(response),
        }
    }

    fn count(&self, request: &Request<Incoming>) -> Result<(Response<Full<Bytes>>, Fault), &'static str> {
        let unix = self.unix();
        let mut state = self.lock();
        self.turn(&mut state);
        let n = state.seen.requests;
        state.seen.requests += 1;
        let fault = (self.faults)(n);
        if fault == Fault::ResetBefore {
            return Err("reset");
        }
        if state.second != unix.as_secs() {
            (state.second, state.in_second) = (unix.as_secs(), 0);
        }
        state.in_second += 1;
        if state.in_second > self.behaviour.most_a_second {
            state.seen.secondary += 1;
            let response = Response::builder().status(StatusCode::FORBIDDEN).header("retry-after", "1");
            return Ok((self.fields(response, &state, unix, "secondary rate limit"), fault));
        }
        let path = request.uri().path().to_owned();
        let version = unix.as_secs() / self.behaviour.changes_every.as_secs().max(1);
        let etag = format!("\"{path}-{version}\"");
        if request.headers().get("if-none-match").is_some_and(|known| known == etag.as_str()) {
            state.seen.not_modified += 1;
            let response = Response::builder().status(StatusCode::NOT_MODIFIED).header("etag", etag);
            return Ok((self.fields(response, &state, unix, ""), fault));
        }
        if state.seen.in_window >= self.behaviour.limit {
            state.seen.refused += 1;
            let status = if n.is_multiple_of(2) { StatusCode::FORBIDDEN } else { StatusCode::TOO_MANY_REQUESTS };
            return Ok((
                self.fields(Response::builder().status(status), &state, unix, "API rate limit exceeded"),
                fault,
            ));
        }
        state.seen.in_window += 1;
        state.seen.counted += 1;
        *state.by_path.entry(path.clone()).or_default() += 1;
        let status = if fault == Fault::Broken { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        let response = Response::builder().status(status).header("etag", etag);
        Ok((self.fields(response, &state, unix, &format!("{path} version {version}")), fault))
    }

    fn fields(
        &self,
        response: http::response::Builder,
        state: &State,
        unix: Duration,
        body: &str,
    ) -> Response<Full<Bytes>> {
        let Behaviour { limit, window, .. } = *self.behaviour;
        let reset = (state.window + 1) * window.as_secs();
        response
            .header("date", httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + unix))
            .header("x-ratelimit-limit", limit)
            .header("x-ratelimit-remaining", limit.saturating_sub(state.seen.in_window))
            .header("x-ratelimit-used", state.seen.in_window)
            .header("x-ratelimit-reset", reset)
            .header("x-ratelimit-resource", "core")
            .body(Full::from(body.to_owned()))
            .expect("a response")
    }

    fn turn(&self, state: &mut State) {
        let window = self.unix().as_secs() / self.behaviour.window.as_secs().max(1);
        if window != state.window {
            (state.window, state.seen.in_window) = (window, 0);
        }
    }

    fn unix(&self) -> Duration {
        self.clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
