//! A pgbouncer in transaction mode in front of a test's PostgreSQL.
#![allow(dead_code, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::postgres::{Postgres, as_its_user, free_port, is_root};

/// A running pooler, ended when it is dropped.
pub(crate) struct PgBouncer {
    pooler: Child,
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
        let file = folder.join("settings");
        std::fs::write(&file, settings).expect("its settings");
        if is_root() {
            let owner = Command::new("chown").args(["-R", "postgres"]).arg(&folder).status();
            assert!(owner.expect("chown").success());
        }
        let program = ["/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer", "/usr/bin/pgbouncer"];
        let program = program.into_iter().find(|program| std::path::Path::new(program).exists());
        let program = program.expect("pgbouncer is installed; ./test.sh does it");
        let mut command = as_its_user(&[program, "-q", file.to_str().expect("a path")]);
        let pooler = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the pooler starts");
        let started = Self { pooler, folder, port };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return started;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("pgbouncer did not start within 5 s");
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        if let Ok(number) = std::fs::read_to_string(self.folder.join("pid")) {
            let _ = Command::new("kill").args(["-TERM", number.trim()]).stderr(Stdio::null()).status();
        }
        let _ = self.pooler.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
