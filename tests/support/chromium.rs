//! A real Chromium, driven over its debugging protocol: one page, its console, its requests, and what scripts return.
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "each test uses its part, and may fail"
)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether tests shall start a browser; they fail where none is installed.
pub(crate) fn wanted() -> bool {
    std::env::var_os("TOLLGATE_TEST_CHROMIUM").is_some()
}

/// A browser with one page.
pub(crate) struct Chromium {
    process: Child,
    profile: PathBuf,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    number: u64,
    /// Messages of the console, and errors of scripts, of the log and of the security policy.
    pub(crate) complaints: Vec<String>,
    /// URLs of all requests.
    pub(crate) requested: Vec<String>,
}

impl Chromium {
    /// # Panics
    /// Where no browser is installed: run `./test.sh`, which installs one.
    pub(crate) async fn start() -> Self {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let profile = std::env::temp_dir().join(format!("tollgate-chromium-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&profile).expect("a temporary folder");
        let process = Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"])
            .args(["--disable-dev-shm-usage", "--remote-debugging-port=0", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium: run ./test.sh, which installs it");
        let since = Instant::now();
        let port = loop {
            let found = std::fs::read_to_string(profile.join("DevToolsActivePort")).unwrap_or_default();
            if let Some(port) = found.lines().next().filter(|_| found.lines().count() > 1) {
                break port.to_owned();
            }
            assert!(since.elapsed() < PATIENCE, "chromium does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let targets = http_get(&format!("127.0.0.1:{port}"), "/json/list").await;
        let targets: Vec<Value> = serde_json::from_str(&targets).expect("a list of pages");
        let page = targets.iter().find(|target| target["type"] == "page").expect("a page");
        let url = page["webSocketDebuggerUrl"].as_str().expect("an address").to_owned();
        let (socket, _) = tokio_tungstenite::connect_async(url).await.expect("a page to talk to");
        let mut browser = Self { process, profile, socket, number: 0, complaints: Vec::new(), requested: Vec::new() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Calls a method of the protocol.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let id = self.number;
        let message = json!({ "id": id, "method": method, "params": params }).to_string();
        self.socket.send(Message::text(message)).await.expect("a browser");
        let answered = async {
            loop {
                let message = self.socket.next().await.expect("a browser").expect("a message");
                let Ok(text) = message.to_text() else { continue };
                let Ok(value) = serde_json::from_str::<Value>(text) else { continue };
                if value["id"] == id {
                    return value;
                }
                note(&value, &mut self.complaints, &mut self.requested);
            }
        };
        let value = tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("{method} hangs"));
        assert!(value.get("error").is_none(), "{method}: {value}");
        value["result"].clone()
    }

    /// Opens a page of this width in CSS pixels, light or dark, and waits until it has loaded.
    pub(crate) async fn open(&mut self, url: &str, width: u32, is_dark: bool) {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if is_dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", media).await;
        self.call("Page.navigate", json!({ "url": url })).await;
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'").await;
    }

    /// Returns what an expression is, or resolves to.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&mut self, expression: &str) {
        let since = Instant::now();
        loop {
            let params = json!({ "expression": expression, "returnByValue": true });
            if self.call("Runtime.evaluate", params).await["result"]["value"] == true {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "never: {expression}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Presses a key.
    pub(crate) async fn press(&mut self, key: &str) {
        let code = if key == "Enter" { 13 } else { 9 };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let params = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", params).await;
        }
    }

    /// Returns a picture of the first `height` CSS pixels of the page, of the whole page for 0, as PNG or WebP.
    pub(crate) async fn picture(&mut self, height: u32, format: &str) -> Vec<u8> {
        let size = self.eval("[document.documentElement.clientWidth, document.documentElement.scrollHeight]").await;
        let height = if height == 0 { size[1].clone() } else { json!(height) };
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": height, "scale": 1 });
        let params = json!({ "format": format, "quality": 82, "captureBeyondViewport": true, "clip": clip });
        let params = if format == "png" {
            json!({ "format": "png", "captureBeyondViewport": true, "clip": params["clip"] })
        } else {
            params
        };
        let picture = self.call("Page.captureScreenshot", params).await;
        STANDARD.decode(picture["data"].as_str().expect("a picture")).expect("base64")
    }
}

fn note(message: &Value, complaints: &mut Vec<String>, requested: &mut Vec<String>) {
    let params = &message["params"];
    match message["method"].as_str().unwrap_or_default() {
        "Runtime.consoleAPICalled" => complaints.push(params["args"].to_string()),
        "Runtime.exceptionThrown" => complaints.push(params["exceptionDetails"].to_string()),
        "Log.entryAdded" => complaints.push(params["entry"]["text"].to_string()),
        "Network.requestWillBeSent" => {
            requested.push(params["request"]["url"].as_str().unwrap_or_default().to_owned());
        }
        _ => {}
    }
}

/// The body of a GET, without a client.
pub(crate) async fn http_get(address: &str, path: &str) -> String {
    http_get_as(address, path, "").await
}

/// The same, with a field that names the user.
pub(crate) async fn http_get_as(address: &str, path: &str, user: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = TcpStream::connect(address).await.expect("a server");
    let user = if user.is_empty() { String::new() } else { format!("x-user: {user}\r\n") };
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{user}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // The browser announces a length, and does not close.
    let read = async { while !is_whole(&answer) && stream.read_buf(&mut answer).await.expect("an answer") > 0 {} };
    tokio::time::timeout(PATIENCE, read).await.expect("an answer in time");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

/// Whether an answer has as many bytes as it announces.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.and_then(|length| length.trim().parse::<usize>().ok()).is_some_and(|length| answer.len() >= end + 4 + length)
}

impl Drop for Chromium {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        drop(std::fs::remove_dir_all(&self.profile));
    }
}
