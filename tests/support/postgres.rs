//! A PostgreSQL of one's own: in a temporary folder, on a free port, ended when it is dropped.
#![allow(dead_code, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Whether tests shall start servers; they fail where none is installed.
pub(crate) fn wanted() -> bool {
    std::env::var_os("TOLLGATE_TEST_POSTGRES").is_some()
}

/// A running server; the superuser `postgres` needs no password on its socket and port.
pub(crate) struct Postgres {
    server: Mutex<Option<Child>>,
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
            run(Command::new("chown").arg("postgres").arg(&folder), Path::new("/"));
        }
        let data = folder.join("data");
        let text = |path: &Path| path.to_str().expect("a path").to_owned();
        run(
            &mut as_its_user(&[
                &text(&bin.join("initdb")),
                "--no-sync",
                "--username=postgres",
                "--auth=trust",
                &format!("--pgdata={}", text(&data)),
            ]),
            Path::new("/"),
        );
        let started = Self { server: Mutex::default(), folder, port };
        started.restart();
        started
    }

    /// Starts the server, on the same port and with what it has on disk, and waits until it answers.
    pub(crate) fn restart(&self) {
        let folder = self.folder.to_str().expect("a path");
        let program = programs().join("postgres");
        let port = self.port.to_string();
        let words = [
            program.to_str().expect("a path"),
            "-D",
            &format!("{folder}/data"),
            "-p",
            &port,
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
            "-k",
            folder,
        ];
        let mut command = as_its_user(&words);
        let server = command.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        *self.server.lock().expect("not poisoned") = Some(server.expect("the server starts"));
        self.wait();
    }

    /// Kills every process of the server at once (SIGKILL), as a loss of power that spares the disk.
    pub(crate) fn kill(&self) {
        self.signal("-KILL");
        if let Some(mut server) = self.server.lock().expect("not poisoned").take() {
            let _ = server.wait();
        }
    }

    /// Hangs the server: its connections stay open, and nothing answers (SIGSTOP).
    pub(crate) fn stop(&self) {
        self.signal("-STOP");
    }

    /// Lets a hung server go on (SIGCONT).
    pub(crate) fn cont(&self) {
        self.signal("-CONT");
        // `runuser` stops with what it runs.
        if let Some(server) = &*self.server.lock().expect("not poisoned") {
            let _ = Command::new("kill").args(["-CONT", &server.id().to_string()]).stderr(Stdio::null()).status();
        }
    }

    /// Lets every write of the server fail from now on, as on a full or broken disk: no file may have a byte more.
    pub(crate) fn fail_writes(&self) {
        let all = self.processes();
        let limited = |process: &str| {
            let mut prlimit = as_its_user(&["prlimit", "--fsize=0:unlimited", "--pid", process]);
            prlimit.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        assert!(limited(&all[0]), "prlimit is installed");
        // The others end as soon as one cannot write.
        for process in &all[1..] {
            let _ = limited(process);
        }
    }

    fn signal(&self, signal: &str) {
        let _ = Command::new("kill").arg(signal).args(self.processes()).stderr(Stdio::null()).status();
    }

    /// The first process first: it would start others.
    fn processes(&self) -> Vec<String> {
        let Some(postmaster) = self.postmaster() else { return Vec::new() };
        let children = Command::new("pgrep").args(["-P", &postmaster]).output().expect("pgrep").stdout;
        let children = String::from_utf8(children).expect("numbers");
        std::iter::once(postmaster).chain(children.lines().map(str::to_owned)).collect()
    }

    /// The first line of its file is the server's own number; `runuser` would not pass a signal on.
    fn postmaster(&self) -> Option<String> {
        let number = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        number.lines().next().map(str::to_owned)
    }

    /// Runs statements as the superuser, and returns what they print.
    pub(crate) fn sql(&self, statements: &str) -> String {
        let mut psql = Command::new(programs().join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", &self.url(), "-c", statements]);
        let output = psql.output().expect("psql runs");
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Asks this role for its password from now on.
    pub(crate) fn guard(&self, role: &str) {
        let file = self.folder.join("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&file).expect("its rules");
        std::fs::write(&file, format!("host all {role} 127.0.0.1/32 scram-sha-256\n{rules}")).expect("its rules");
        self.sql("SELECT pg_reload_conf()");
    }

    /// Lets the server speak TLS too; returns the certificate of an authority of its own.
    pub(crate) fn speak_tls(&self) -> String {
        let data = self.folder.join("data");
        let openssl = |words: &str| run(Command::new("openssl").args(words.split(' ')), &data);
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
        std::fs::write(data.join("names"), names).expect("a file");
        openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tollgate-test-ca -keyout ca.key -out ca.crt");
        openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr");
        openssl(
            "x509 -req -days 2 -CAcreateserial -CA ca.crt -CAkey ca.key -extfile names -in server.csr -out server.crt",
        );
        run(Command::new("chmod").args(["600", "server.key"]), &data);
        if is_root() {
            run(Command::new("chown").args(["postgres", "server.key", "server.crt"]), &data);
        }
        self.sql("ALTER SYSTEM SET ssl = on");
        self.sql("SELECT pg_reload_conf()");
        for _ in 0..200 {
            if self.sql("SHOW ssl") == "on" {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::read_to_string(data.join("ca.crt")).expect("a certificate")
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The URL for this role; `role` may carry a password after a colon.
    pub(crate) fn url_of(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/postgres", self.port)
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
        self.cont();
        if let Some(number) = self.postmaster() {
            let _ = Command::new("kill").args(["-INT", &number]).stderr(Stdio::null()).status();
        }
        if let Some(mut server) = self.server.lock().expect("not poisoned").take() {
            let _ = server.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
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

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

pub(crate) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id");
    id.stdout.trim_ascii() == b"0"
}

pub(crate) fn as_its_user(words: &[&str]) -> Command {
    let mut command = Command::new(if is_root() { "runuser" } else { words[0] });
    if is_root() {
        command.args(["-u", "postgres", "--"]).args(words);
    } else {
        command.args(&words[1..]);
    }
    command
}

fn run(command: &mut Command, folder: &Path) {
    let output = command.current_dir(folder).output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
