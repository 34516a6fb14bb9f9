//! Programs end well: SIGINT and SIGTERM let requests in flight finish, and no client holds them.
//!
//! Each program runs in a process of its own, which gets the signal.
#![cfg(unix)]
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and measures real time")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::{Router, routing::get};

#[path = "support/gateway.rs"]
mod support;

use support::example::flags::Flags;
use support::example::shutdown;

const PROGRAM: &str = "TOLLGATE_TEST_PROGRAM";
const GRACE: Duration = Duration::from_millis(1_500);

/// A program on a free port.
struct Program {
    child: Child,
    address: String,
}

impl Program {
    fn start(program: &str) -> Self {
        let this = std::env::current_exe().expect("this program");
        let mut child = Command::new(this)
            .args(["--exact", "the_program", "--nocapture"])
            .env(PROGRAM, program)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = lines.find_map(|line| line.ok().filter(|line| line.starts_with("http://"))).expect("an address");
        std::thread::spawn(move || lines.for_each(drop));
        let address = line.trim_start_matches("http://").split(' ').next().expect("an address").to_owned();
        Self { child, address }
    }

    fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream.write_all(request.as_bytes()).expect("written");
        stream
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill");
        assert!(sent.success());
    }

    /// Waits for its end; says how long that took.
    fn ended(mut self) -> Duration {
        let since = Instant::now();
        while self.child.try_wait().expect("a status").is_none() {
            assert!(since.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(self.child.wait().expect("a status").success());
        since.elapsed()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

const ASK: &str = "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";

fn answered(mut stream: TcpStream) -> bool {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).contains("slowly")
}

#[test]
fn requests_in_flight_are_answered_after_either_signal() {
    for program in ["axum", "gateway"] {
        for signal in ["-TERM", "-INT"] {
            let program = Program::start(program);
            let asked = program.connect(ASK);
            std::thread::sleep(Duration::from_millis(150));
            program.signal(signal);
            assert!(answered(asked), "{signal}");
            assert!(program.ended() < GRACE, "nothing holds it");
        }
    }
}

#[test]
fn half_a_head_does_not_hold_a_program() {
    for program in ["axum", "gateway"] {
        let program = Program::start(program);
        let half = program.connect("GET /slow HTTP/1.1\r\nhost: a");
        let idle = TcpStream::connect(&program.address).expect("a connection");
        std::thread::sleep(Duration::from_millis(150));
        program.signal("-INT");
        assert!(program.ended() < GRACE + Duration::from_secs(5));
        drop((half, idle));
    }
}

/// A slow service: an axum server, or the gateway in front of one.
#[tokio::test(flavor = "multi_thread")]
async fn the_program() {
    let Ok(program) = std::env::var(PROGRAM) else { return };
    let slow = get(async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        "slowly"
    });
    let app = Router::new().route("/slow", slow);
    let (listener, address) = support::listener().await;
    if program == "axum" {
        println!("\nhttp://{address}");
        let server = axum::serve(listener, app).with_graceful_shutdown(shutdown::signal());
        shutdown::within(GRACE, server).await.unwrap_or(Ok(())).expect("served");
        return;
    }
    tokio::spawn(async move { axum::serve(listener, app).await });
    let line = format!("--listen 127.0.0.1:0 --upstream http://{address} --grace {}", GRACE.as_secs_f64());
    let flags = Flags::parse(line.split(' ').map(str::to_owned)).expect("correct flags").expect("no help");
    println!();
    support::example::start(flags).await.expect("served");
}
