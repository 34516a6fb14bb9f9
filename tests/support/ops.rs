//! A gate with its admin service, and the requests of operators.
#![allow(dead_code, clippy::expect_used, reason = "each test uses its part, and may fail")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tollgate::cache::{Rule, Rules};
use tollgate::identity::{TrustedProxies, by};
use tollgate::limit::Limit;
use tollgate::testing::FakePeer;
use tollgate::{Admin, AdminBody, Tollgate, TollgateBuilder};
use tower::{Layer, ServiceExt, service_fn};

pub(crate) const SECRET: &str = "a secret of the operators";
pub(crate) const VIEWER: &str = "a secret of the viewers";

/// A gate with its admin service.
pub(crate) struct Ops {
    pub(crate) gate: Tollgate,
    pub(crate) admin: Admin,
}

pub(crate) fn builder() -> TollgateBuilder {
    let rule = Rule::ttl(Duration::from_secs(60)).same_for_everyone().tag("articles");
    Tollgate::builder()
        .routes(["/articles/{id}", "/other"])
        .identify(by::client_ip(TrustedProxies::none()))
        .cache(Rules::new().route("/articles/{id}", rule))
        .limit(Limit::per_user("100/h").named("api"))
}

impl Ops {
    pub(crate) fn new(builder: TollgateBuilder) -> Self {
        let gate = builder.build().expect("a gate");
        let admin = gate.admin().secret(SECRET).viewer_secret(VIEWER).build().expect("an admin service");
        Self { gate, admin }
    }

    /// Sends a GET through the gate; returns its status.
    pub(crate) async fn visit(&self, path: &str) -> StatusCode {
        let service = self.gate.layer().layer(service_fn(|_: Request<Full<Bytes>>| async {
            Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"answer"))))
        }));
        let request = Request::get(path).header("host", "h").body(Full::default()).expect("a request");
        service.oneshot(FakePeer::at("192.0.2.7").mark(request)).await.expect("infallible").status()
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Response<AdminBody> {
        let mut request = Request::builder().method(method).uri(path).header("host", "ops.example");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::<Bytes>::from(body.to_owned())).expect("a request");
        self.admin.handle(FakePeer::at("192.0.2.1").mark(request)).await
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        let answer = self.ask(Method::GET, path, &[("authorization", &bearer(SECRET))], "").await;
        serde_json::from_str(&text(answer).await).expect("JSON")
    }

    /// An action of a program.
    pub(crate) async fn act(&self, path: &str, form: &str) -> (StatusCode, Value) {
        let answer = self.ask(Method::POST, path, &[("authorization", &bearer(SECRET))], form).await;
        let status = answer.status();
        (status, serde_json::from_str(&text(answer).await).expect("JSON"))
    }

    /// The form token of the page.
    pub(crate) async fn token(&self) -> String {
        let page = text(self.ask(Method::GET, "/", &[("authorization", &basic("ann", SECRET))], "").await).await;
        let (_, rest) = page.split_once("name=\"token\" value=\"").expect("a form");
        rest.split('"').next().expect("a token").to_owned()
    }
}

pub(crate) async fn text(answer: Response<AdminBody>) -> String {
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

pub(crate) fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

pub(crate) fn basic(name: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{secret}")))
}
