//! A memcached of one's own: on a free port, ended when it is dropped.
#![allow(dead_code, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running server.
pub(crate) struct Memcached {
    server: Option<Child>,
    port: u16,
    megabytes: u32,
}

impl Memcached {
    /// # Panics
    /// Where no server is installed: run `./test.sh`, which installs one.
    pub(crate) fn start() -> Self {
        Self::with_memory(64)
    }

    pub(crate) fn with_memory(megabytes: u32) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let mut server = Self { server: None, port, megabytes };
        server.restart();
        server
    }

    /// Starts the server again, empty, on its port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let mut command = Command::new("memcached");
        command.args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody"]);
        command.args(["-p", &self.port.to_string(), "-m", &self.megabytes.to_string()]);
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.server = Some(started.expect("memcached is installed: ./test.sh does that"));
        for _ in 0..400 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("memcached does not answer");
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("it runs");
            server.wait().expect("it ends");
        }
    }

    /// Stops the process, or lets it go on.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.server.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether tests with servers are asked for.
pub(crate) fn wanted() -> bool {
    std::env::var_os("TOLLGATE_TEST_MEMCACHED").is_some()
}
