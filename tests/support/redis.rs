//! Redis servers of one's own: on free ports, without persistence, killed when they are dropped (in a panic too).
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "each test uses its part, and may fail"
)]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Whether `./test.sh` has made sure that a server is installed. Tests that need one return at once where it has not.
pub fn wanted() -> bool {
    std::env::var_os("TOLLGATE_TEST_REDIS").is_some()
}

/// How a client reaches a server of this process.
#[derive(Clone, Debug, Default)]
struct Door {
    password: Option<String>,
    /// The certificate authority's certificate, where the server speaks TLS only.
    ca: Option<PathBuf>,
}

/// One `redis-server`.
pub struct RedisServer {
    child: Mutex<Option<Child>>,
    folder: PathBuf,
    port: u16,
    args: Vec<String>,
    door: Door,
}

impl RedisServer {
    /// A server with nothing set but its port.
    ///
    /// # Panics
    /// Where no server is installed: run `./test.sh`, which installs one.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server started with these arguments, such as `--maxmemory 2mb`.
    pub fn start_with(args: &[&str]) -> Self {
        Self::absent_with(args).running()
    }

    /// A port at which nothing listens until [`restart`](Self::restart).
    pub fn absent() -> Self {
        Self::absent_with(&[])
    }

    /// A server whose default user has this password.
    pub fn with_password(password: &str) -> Self {
        let mut server = Self::absent_with(&["--requirepass", password]);
        server.door.password = Some(password.to_owned());
        server.running()
    }

    /// A server that speaks TLS only, its certificate (for `localhost` and `127.0.0.1`) signed by [`ca`](Self::ca).
    pub fn start_tls() -> Self {
        let mut server = Self::absent_with(&[]);
        let ca = certificates(&server.folder);
        let path = |name: &str| server.folder.join(name).display().to_string();
        server.args = [
            ["--tls-port", &server.port.to_string()],
            ["--port", "0"],
            ["--tls-cert-file", &path("server.crt")],
            ["--tls-key-file", &path("server.key")],
            ["--tls-ca-cert-file", &path("ca.crt")],
            ["--tls-auth-clients", "no"],
        ]
        .concat()
        .iter()
        .map(|word| (*word).to_owned())
        .collect();
        server.door.ca = Some(ca);
        server.running()
    }

    /// A replica of another server, refusing writes with READONLY.
    pub fn replica_of(primary: &Self) -> Self {
        let server = Self::start_with(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
        server.wait_until("the replica is in step", || server.cli(&["INFO", "replication"]).contains("link_status:up"));
        server
    }

    fn absent_with(args: &[&str]) -> Self {
        let (folder, port) = (folder("redis"), free_port());
        let args = args.iter().map(|word| (*word).to_owned()).collect();
        Self { child: Mutex::new(None), folder, port, args, door: Door::default() }
    }

    fn running(self) -> Self {
        self.restart();
        self
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// `redis://…`, or `rediss://…` for a server that speaks TLS; with the password, where one is set.
    pub fn url(&self) -> String {
        let scheme = if self.door.ca.is_some() { "rediss" } else { "redis" };
        let password = self.door.password.as_ref().map_or(String::new(), |password| format!(":{password}@"));
        format!("{scheme}://{password}127.0.0.1:{}", self.port)
    }

    /// The certificate of the authority that signed the server's own, in PEM.
    pub fn ca(&self) -> &Path {
        self.door.ca.as_deref().expect("a server that speaks TLS")
    }

    /// Hangs the server: its connections stay open, and nothing answers (SIGSTOP).
    pub fn stop(&self) {
        self.signal("-STOP");
    }

    /// Lets a hung server go on (SIGCONT).
    pub fn cont(&self) {
        self.signal("-CONT");
    }

    /// Kills the server (SIGKILL) and waits until it is gone.
    pub fn kill(&self) {
        if let Some(mut child) = self.slot().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the server, on the same port and empty, and waits until it answers.
    pub fn restart(&self) {
        self.spawn();
        self.wait_until("the server answers", || {
            if let Ok(Some(status)) = self.slot().as_mut().expect("started").try_wait() {
                panic!("redis-server on port {} ended with {status}", self.port);
            }
            TcpStream::connect(("127.0.0.1", self.port)).is_ok() && self.cli(&["PING"]).trim() == "PONG"
        });
    }

    /// Starts the server without waiting for it.
    pub fn spawn(&self) {
        self.kill();
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.args(["--loglevel", "warning", "--logfile", &self.folder.join("log").display().to_string()]);
        command.arg("--dir").arg(&self.folder).args(&self.args);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        *self.slot() = Some(child.expect("redis-server is installed; ./test.sh does it"));
    }

    /// What `redis-cli` prints for a command; errors come as text too.
    pub fn cli(&self, command: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &self.port.to_string(), "--no-auth-warning"]);
        if let Some(password) = &self.door.password {
            cli.args(["-a", password]);
        }
        if let Some(ca) = &self.door.ca {
            cli.arg("--tls").arg("--cacert").arg(ca);
        }
        let output = cli.args(command).output().expect("redis-cli is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Every key the server holds.
    pub fn keys(&self) -> Vec<String> {
        self.cli(&["--scan"]).lines().map(str::to_owned).collect()
    }

    /// A number that `INFO` tells, such as `total_commands_processed`.
    pub fn info(&self, name: &str) -> u64 {
        let info = self.cli(&["INFO", "all"]);
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("INFO tells {name}")).trim().parse().expect("a number")
    }

    /// How often a command was called, such as `get`.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.cli(&["INFO", "commandstats"]);
        let told = format!("cmdstat_{command}:calls=");
        let calls = stats.lines().find_map(|line| line.strip_prefix(&told)?.split(',').next()?.parse().ok());
        calls.unwrap_or(0)
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn signal(&self, signal: &str) {
        let number = self.slot().as_ref().expect("a running server").id();
        run(Command::new("kill").args([signal, &number.to_string()]));
    }

    fn wait_until(&self, what: &str, done: impl Fn() -> bool) {
        wait_until(&format!("{what} (port {})", self.port), done);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Three servers that share the slots, without replicas.
pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub fn start() -> Self {
        // A lost node takes its own slots down, not the others'.
        let partial = ["--cluster-require-full-coverage", "no", "--cluster-node-timeout", "1000"];
        let node = |_| RedisServer::start_with(&[&["--cluster-enabled", "yes"][..], &partial].concat());
        let cluster = Self { nodes: (0..3).map(node).collect() };
        let addresses: Vec<String> = cluster.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(&addresses).args(["--cluster-replicas", "0", "--cluster-yes"]);
        run(&mut create);
        for node in &cluster.nodes {
            node.wait_until("the cluster is whole", || node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
        }
        cluster
    }

    /// `redis+cluster://host:port,host:port,…`: all nodes as seeds.
    pub fn url(&self) -> String {
        let seeds: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", seeds.join(","))
    }

    /// The node that serves the slot of this key.
    pub fn owner(&self, key: &str) -> usize {
        let slot: u32 = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key]).trim().parse().expect("a slot");
        let serves = |node: &RedisServer| {
            let nodes = node.cli(&["CLUSTER", "NODES"]);
            let own = nodes.lines().find(|line| line.contains("myself")).expect("itself").to_owned();
            own.split(' ').skip(8).any(|range| {
                let (from, to) = range.split_once('-').unwrap_or((range, range));
                let bounds = (from.parse::<u32>(), to.parse::<u32>());
                matches!(bounds, (Ok(from), Ok(to)) if (from..=to).contains(&slot))
            })
        };
        self.nodes.iter().position(serves).expect("somebody serves every slot")
    }

    /// Moves the slot of this key to the next node, with what lies in it.
    pub fn move_slot(&self, key: &str) {
        let slot = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key]).trim().to_owned();
        let from = self.owner(key);
        let (source, target) = (&self.nodes[from], &self.nodes[(from + 1) % self.nodes.len()]);
        let id = |node: &RedisServer| node.cli(&["CLUSTER", "MYID"]).trim().to_owned();
        let (source_id, target_id) = (id(source), id(target));
        target.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
        source.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
        loop {
            let keys = source.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
            if keys.is_empty() {
                break;
            }
            let port = target.port.to_string();
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "REPLACE", "KEYS"];
            migrate.extend(keys);
            source.cli(&migrate);
        }
        for node in [target, source].into_iter().chain(&self.nodes) {
            node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
        }
    }
}

/// A primary, a replica, and a sentinel that watches them by the name `mymaster`.
pub struct RedisSentinel {
    pub primary: RedisServer,
    pub replica: RedisServer,
    pub sentinel: RedisServer,
}

impl RedisSentinel {
    pub fn start() -> Self {
        Self::watching(RedisServer::start(), None)
    }

    /// A primary and a sentinel that ask for these passwords.
    pub fn with_passwords(primary: &str, sentinel: &str) -> Self {
        Self::watching(RedisServer::with_password(primary), Some((primary, sentinel)))
    }

    fn watching(primary: RedisServer, passwords: Option<(&str, &str)>) -> Self {
        let replicaof = format!("127.0.0.1 {}", primary.port);
        let replica = match passwords {
            None => RedisServer::replica_of(&primary),
            Some((password, _)) => {
                let args = ["--replicaof", &replicaof, "--masterauth", password, "--requirepass", password];
                let mut replica = RedisServer::absent_with(&args);
                replica.door.password = Some(password.to_owned());
                replica.running()
            }
        };
        let mut sentinel = RedisServer::absent();
        sentinel.door.password = passwords.map(|(_, sentinel)| sentinel.to_owned());
        let file = sentinel.folder.join("sentinel.conf");
        let watch = format!(
            "sentinel monitor mymaster 127.0.0.1 {} 1\nsentinel down-after-milliseconds mymaster 300\n\
             sentinel failover-timeout mymaster 2000\nsentinel parallel-syncs mymaster 1\n\
             port {}\nbind 127.0.0.1\ndir {}\nlogfile {}/log\n",
            primary.port,
            sentinel.port,
            sentinel.folder.display(),
            sentinel.folder.display()
        );
        let guarded = passwords
            .map(|(primary, sentinel)| format!("sentinel auth-pass mymaster {primary}\nrequirepass {sentinel}\n"));
        std::fs::write(&file, watch + &guarded.unwrap_or_default()).expect("a file");
        let mut command = Command::new("redis-server");
        let child = command.arg(&file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        *sentinel.slot() = Some(child.expect("redis-server is installed"));
        sentinel.wait_until("the sentinel knows the replica", || {
            sentinel.cli(&["SENTINEL", "REPLICAS", "mymaster"]).contains(&replica.port.to_string())
        });
        Self { primary, replica, sentinel }
    }

    /// `redis+sentinel://host:port/mymaster`.
    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/mymaster", self.sentinel.port)
    }

    /// The port of the primary, as the sentinel sees it.
    pub fn primary_port(&self) -> u16 {
        let address = self.sentinel.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"]);
        address.lines().nth(1).and_then(|port| port.trim().parse().ok()).expect("an address")
    }

    /// Kills the primary and waits until the replica has taken its place.
    pub fn fail_over(&self) {
        self.primary.kill();
        let port = self.replica.port;
        wait_until("the replica is primary", || {
            self.primary_port() == port && self.replica.cli(&["ROLE"]).starts_with("master")
        });
    }
}

/// A port nobody listens on, low enough that the cluster's bus has one too.
pub fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        if port < 55_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

/// Polls until `done`, for at most 30 s.
pub fn wait_until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within 30 s");
}

fn folder(what: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("tollgate-{what}-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

/// An authority of its own, and a server certificate signed by it; returns the authority's certificate.
pub fn certificates(folder: &Path) -> PathBuf {
    let openssl = |words: &str| run(Command::new("openssl").current_dir(folder).args(words.split(' ')));
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
    std::fs::write(folder.join("names"), names).expect("a file");
    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tollgate-test-ca -keyout ca.key -out ca.crt");
    openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr");
    openssl("x509 -req -days 2 -CAcreateserial -CA ca.crt -CAkey ca.key -extfile names -in server.csr -out server.crt");
    folder.join("ca.crt")
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program runs");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}
