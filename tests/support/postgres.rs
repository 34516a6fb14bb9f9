//! A PostgreSQL of one's own: in a temporary folder, on a free port, ended when it is dropped.
#![allow(dead_code, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running server; the superuser `postgres` needs no password on its socket and port.
pub(crate) struct Postgres {
    server: Child,
    folder: PathBuf,
    port: u16,
}

impl Postgres {
    /// # Panics
    /// Where no server is installed: run `./test.sh`, which installs one.
    pub(crate) fn start() -> Self {
        let (bin, port) = (programs(), free_port());
        let folder = std::env::temp_dir().join(format!("tollgate-postgres-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        if is_root() {
            // The server refuses to run as root: its own user shall own the folder.
            run(Command::new("chown").arg("postgres").arg(&folder));
        }
        let data = folder.join("data");
        let text = |path: &Path| path.to_str().expect("a path").to_owned();
        run(&mut as_its_user(&[
            &text(&bin.join("initdb")),
            "--no-sync",
            "--username=postgres",
            "--auth=trust",
            &format!("--pgdata={}", text(&data)),
        ]));
        let options = format!("-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {}", text(&folder));
        let mut command = as_its_user(
            &[vec![text(&bin.join("postgres")), "-D".to_owned(), text(&data)], words(&options)]
                .concat()
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        );
        let server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the server starts");
        let started = Self { server, folder, port };
        started.wait();
        started
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn wait(&self) {
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() && self.answers() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("PostgreSQL did not start within 30 s");
    }

    fn answers(&self) -> bool {
        let mut ready = Command::new(programs().join("pg_isready"));
        ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        ready.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The first line of its file is the server's own number; `runuser` would not pass a signal on.
        let number = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap_or_default();
        if let Some(number) = number.lines().next() {
            let _ = Command::new("kill").args(["-INT", number]).status();
        }
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Debian keeps the server's programs out of PATH.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).find(|folder| folder.join("initdb").exists())
    };
    found.or_else(on_path).expect("PostgreSQL is installed; ./test.sh does it")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id");
    id.stdout.trim_ascii() == b"0"
}

fn as_its_user(words: &[&str]) -> Command {
    let mut command = Command::new(if is_root() { "runuser" } else { words[0] });
    if is_root() {
        command.args(["-u", "postgres", "--"]).args(words);
    } else {
        command.args(&words[1..]);
    }
    command
}

fn run(command: &mut Command) {
    let output = command.current_dir("/").output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
