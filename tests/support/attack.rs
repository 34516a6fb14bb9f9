//! Requests in one line, for attacks on what is shared.
#![allow(dead_code, unused_macros, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tollgate::cache::{CacheBuilder, CacheLayer, Rule, Rules};

pub type Req = Request<Body>;
pub const S: Duration = Duration::from_secs(1);
pub const NO: [(&str, &str); 0] = [];
pub fn req(m: &str, u: &str, h: &[(&str, &str)]) -> Req {
    let mut r = Request::builder().method(m).uri(u).header("host", "h");
    for (a, b) in h {
        r = r.header(*a, *b)
    }
    r.body(Body::empty()).unwrap()
}
/// Status, `Cache-Status`, body and fields of the answer.
#[macro_export]
macro_rules! ask {
    ($s:expr, $r:expr) => {{
        let r = $s.clone().oneshot($r).await.unwrap();
        let (p, b) = r.into_parts();
        let b = b.collect().await.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or("ERR".into());
        tokio::time::sleep(Duration::from_millis(15)).await;
        (
            p.status.as_u16(),
            p.headers.get("cache-status").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default(),
            b,
            p.headers,
        )
    }};
}
pub fn full(status: u16, b: impl Into<Bytes>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::builder().status(status).body(Full::from(b.into())).unwrap())
}
pub fn rule(r: Rule) -> CacheBuilder {
    CacheLayer::builder().cache_status(true).rules(Rules::new().otherwise(r))
}
