//! A pgbouncer in transaction mode in front of a test's PostgreSQL.
#![allow(dead_code, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::postgres::{Postgres, as_its_user, free_port, is_root};

/// A running pooler, ended when it is dropped.
pub(crate) struct PgBouncer {
    pooler: Option<Child>,
    folder: PathBuf,
    port: u16,
}

impl PgBouncer {
    /// # Panics
    /// Where pgbouncer is not installed: run `./test.sh`, which installs it.
    pub(crate) fn start(server: &Postgres) -> Self {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("tollgate-pgbouncer-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let shown = folder.display();
        std::fs::write(folder.join("users"), "\"postgres\" \"\"\n").expect("its users");
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {shown}/users\npool_mode = transaction\n\
             max_client_conn = 200\ndefault_pool_size = 4\npidfile = {shown}/pid\n",
            server.port(),
        );
        std::fs::write(folder.join("settings"), settings).expect("its settings");
        if is_root() {
            let owner = Command::new("chown").args(["-R", "postgres"]).arg(&folder).status();
            assert!(owner.expect("chown").success());
        }
        let mut started = Self { pooler: None, folder, port };
        started.restart();
        started
    }

    /// Starts it on its port, and waits until it listens.
    pub(crate) fn restart(&mut self) {
        let program = ["/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer", "/usr/bin/pgbouncer"];
        let program = program.into_iter().find(|program| std::path::Path::new(program).exists());
        let program = program.expect("pgbouncer is installed; ./test.sh does it");
        let file = self.folder.join("settings");
        let mut command = as_its_user(&[program, "-q", file.to_str().expect("a path")]);
        self.pooler = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the pooler starts"));
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("pgbouncer did not start within 5 s");
    }

    /// Kills it, with its connections.
    pub(crate) fn kill(&mut self) {
        self.end("-KILL");
        let _ = std::fs::remove_file(self.folder.join("pid"));
    }

    fn end(&mut self, signal: &str) {
        if let Ok(number) = std::fs::read_to_string(self.folder.join("pid")) {
            let _ = Command::new("kill").args([signal, number.trim()]).stderr(Stdio::null()).status();
        }
        if let Some(mut pooler) = self.pooler.take() {
            let _ = pooler.wait();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.end("-TERM");
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
