//! A Prometheus of one's own: on a free port, scraping one target four times a second, ended when it is dropped.
#![allow(dead_code, unreachable_pub, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Pause between two attempts, and the number of attempts: a minute.
const PAUSE: Duration = Duration::from_millis(50);
const ATTEMPTS: usize = 1_200;

/// Whether `./test.sh` has made sure that a server is installed.
pub fn wanted() -> bool {
    std::env::var_os("TOLLGATE_TEST_PROMETHEUS").is_some()
}

/// A running server.
pub struct Prometheus {
    server: Child,
    folder: PathBuf,
    address: SocketAddr,
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Prometheus {
    /// Starts a server that scrapes `/metrics` of a target.
    ///
    /// # Panics
    /// Where no server is installed: run `./test.sh`, which installs one.
    pub async fn scraping(target: SocketAddr) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let folder =
            std::env::temp_dir().join(format!("tollgate-prometheus-{}-{}", std::process::id(), address.port()));
        fs::create_dir_all(&folder).expect("a folder");
        let config = format!(
            "global: {{ scrape_interval: 250ms, scrape_timeout: 250ms }}\n\
             scrape_configs: [{{ job_name: shop, static_configs: [{{ targets: ['{target}'] }}] }}]\n"
        );
        fs::write(folder.join("prometheus.yml"), config).expect("a file");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address={address}")).arg("--log.level=error");
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = started.expect("prometheus is installed: ./test.sh does that");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let server = Self { server, folder, address, client };
        for _ in 0..ATTEMPTS {
            if server.get("/-/ready").await.is_some() {
                return server;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("prometheus does not answer");
    }

    async fn get(&self, path: &str) -> Option<Bytes> {
        let url = format!("http://{}{path}", self.address).parse().expect("a URL");
        let response = self.client.get(url).await.ok().filter(|response| response.status().is_success())?;
        Some(response.into_body().collect().await.ok()?.to_bytes())
    }

    /// Returns the values of a query: an instant vector, without values that are no number.
    pub async fn query(&self, query: &str) -> Vec<f64> {
        let body = self.get(&format!("/api/v1/query?query={}", escape(query))).await;
        let answer: Value =
            serde_json::from_slice(&body.unwrap_or_else(|| panic!("{query} is no query"))).expect("JSON");
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let values = series.iter().filter_map(|series| series["value"][1].as_str()?.parse().ok());
        values.filter(|value: &f64| !value.is_nan()).collect()
    }

    /// Returns the values of a query as soon as there are any, and they are what is asked for.
    pub async fn values(&self, query: &str, are: impl Fn(&[f64]) -> bool) -> Vec<f64> {
        let mut last = Vec::new();
        for _ in 0..ATTEMPTS {
            last = self.query(query).await;
            if !last.is_empty() && are(&last) {
                return last;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("{query} returns {last:?}");
    }

    /// Returns the health and the last error of the target.
    pub async fn target(&self) -> (String, String) {
        let answer: Value =
            serde_json::from_slice(&self.get("/api/v1/targets").await.expect("an answer")).expect("JSON");
        let target = &answer["data"]["activeTargets"][0];
        let text = |name: &str| target[name].as_str().unwrap_or_default().to_owned();
        (text("health"), text("lastError"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |escaped, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => escaped + &char::from(byte).to_string(),
        _ => escaped + &format!("%{byte:02X}"),
    })
}

/// Runs `promtool` in the project's folder, with `input`.
///
/// # Panics
/// Where it is not installed: run `./test.sh`, which installs it.
pub fn promtool(args: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = command.spawn().expect("promtool is installed: ./test.sh does that");
    tool.stdin.take().expect("an input").write_all(input.as_bytes()).expect("it reads");
    tool.wait_with_output().expect("it ends")
}
