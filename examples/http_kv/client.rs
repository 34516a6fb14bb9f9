//! The client: a `ByteStore` over `GET`, `PUT` and `DELETE`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tollgate::Error;
use tollgate::cache::{ByteStore, may_replace};

/// The service at one address.
#[derive(Clone)]
pub(crate) struct HttpKv {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
}

impl HttpKv {
    pub(crate) fn new(base: impl Into<String>) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), base: base.into() }
    }

    /// Sends a request; `None` for 404. Anything else but a success is an error, which the cache treats as a miss.
    async fn send(self, method: Method, name: &str, ttl: Duration, body: Bytes) -> Result<Option<Bytes>, Error> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/{name}", self.base))
            .header("tollgate-ttl", ttl.as_millis().to_string())
            .body(Full::new(body))
            .map_err(|error| Error::store("no such name", error))?;
        let response = self.client.request(request).await.map_err(|error| Error::store("no answer", error))?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let body = response.into_body().collect().await;
                Ok(Some(body.map_err(|error| Error::store("half an answer", error))?.to_bytes()))
            }
            status => Err(Error::store("refused", status.to_string())),
        }
    }

    async fn get(self, name: String) -> Result<Option<Bytes>, Error> {
        self.send(Method::GET, &name, Duration::ZERO, Bytes::new()).await
    }
}

impl ByteStore for HttpKv {
    fn get_many(&self, names: Vec<String>) -> BoxFuture<'static, Result<Vec<Option<Bytes>>, Error>> {
        let this = self.clone();
        Box::pin(async move {
            let answers = names.into_iter().map(|name| this.clone().get(name));
            join_all(answers).await.into_iter().collect()
        })
    }

    fn put(&self, name: String, value: Bytes, ttl: Duration) -> BoxFuture<'static, Result<bool, Error>> {
        let this = self.clone();
        Box::pin(async move {
            // A service that compares on the server does this in one step.
            let old = this.clone().get(name.clone()).await?;
            if old.is_some_and(|old| !may_replace(&old, &value)) {
                return Ok(false);
            }
            this.send(Method::PUT, &name, ttl, value).await.map(|_| true)
        })
    }

    fn remove(&self, names: Vec<String>) -> BoxFuture<'static, Result<u64, Error>> {
        let this = self.clone();
        Box::pin(async move {
            let removals =
                names.iter().map(|name| this.clone().send(Method::DELETE, name, Duration::ZERO, Bytes::new()));
            let removed: Result<Vec<_>, Error> = join_all(removals).await.into_iter().collect();
            Ok(removed?.into_iter().flatten().count() as u64)
        })
    }
}
