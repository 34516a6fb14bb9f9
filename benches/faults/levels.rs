//! The same for PostgreSQL, alone and behind pgbouncer, and for memcached.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};
use tollgate::store::memcached::Memcached as Servers;

use super::gate::Gate;
use super::memcached::Memcached;
use super::pgbouncer::PgBouncer;
use super::postgres::Postgres;
use super::{Kind, back, load_while, tell};

/// Where nothing answers.
const PROMISE: &str = "p99 0.1, max D; back 1000";

/// Servers of a level.
enum World {
    Postgres(Postgres),
    Pooler(Postgres, Mutex<PgBouncer>),
    Memcached(Mutex<Memcached>),
}

struct Row {
    name: &'static str,
    world: fn() -> World,
    hurt: fn(&World),
    heal: fn(&World),
}

impl World {
    /// A server with a role that needs a password.
    fn postgres() -> Self {
        let server = Postgres::start();
        server.sql("CREATE ROLE app LOGIN SUPERUSER PASSWORD 'right'");
        server.guard("app");
        Self::Postgres(server)
    }

    fn pooler() -> Self {
        let server = Postgres::start();
        let pooler = PgBouncer::start(&server);
        Self::Pooler(server, Mutex::new(pooler))
    }

    fn memcached() -> Self {
        Self::Memcached(Mutex::new(Memcached::start()))
    }

    fn server(&self) -> &Postgres {
        match self {
            Self::Postgres(server) | Self::Pooler(server, _) => server,
            Self::Memcached(_) => panic!("it has no PostgreSQL"),
        }
    }

    fn with_memcached(&self, call: impl FnOnce(&mut Memcached)) {
        if let Self::Memcached(server) = self {
            call(&mut server.lock().expect("not poisoned"));
        }
    }

    fn with_pooler(&self, call: impl FnOnce(&mut PgBouncer)) {
        if let Self::Pooler(_, pooler) = self {
            call(&mut pooler.lock().expect("not poisoned"));
        }
    }

    fn node(&self) -> Gate {
        let rules = Rules::new().otherwise(Rule::ttl(Duration::from_secs(60)).same_for_everyone());
        let builder = Tollgate::builder().cache(rules);
        Gate::build(match self {
            Self::Postgres(server) => {
                let url = format!("postgres://app:right@127.0.0.1:{}/postgres", server.port());
                builder.postgres(url.as_str())
            }
            Self::Pooler(_, pooler) => builder.postgres(pooler.lock().expect("not poisoned").url().as_str()),
            Self::Memcached(server) => {
                let address = server.lock().expect("not poisoned").address();
                builder.memcached(Servers::new([address]).secret("the same on every node"))
            }
        })
    }
}

fn rows() -> Vec<Row> {
    let postgres = |name, hurt, heal| Row { name, world: World::postgres, hurt, heal };
    let pooler = |name, hurt, heal| Row { name, world: World::pooler, hurt, heal };
    let memcached = |name, hurt, heal| Row { name, world: World::memcached, hurt, heal };
    vec![
        postgres("PostgreSQL: nothing fails", |_| {}, |_| {}),
        postgres("PostgreSQL: killed, restarted", |w| w.server().kill(), |w| w.server().restart()),
        postgres("PostgreSQL: hangs (SIGSTOP)", |w| w.server().stop(), |w| w.server().cont()),
        postgres("PostgreSQL: restarts at once", |w| (w.server().kill(), w.server().restart()).1, |_| {}),
        postgres(
            "PostgreSQL: wrong password",
            |w| {
                let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'";
                w.server().sql("ALTER ROLE app PASSWORD 'other'");
                w.server().sql(cut);
            },
            |w| drop(w.server().sql("ALTER ROLE app PASSWORD 'right'")),
        ),
        postgres("PostgreSQL: read-only", |w| read_only(w.server(), true), |w| read_only(w.server(), false)),
        postgres(
            "PostgreSQL: full disk",
            |w| w.server().fail_writes(),
            |w| (w.server().kill(), w.server().restart()).1,
        ),
        pooler("pgbouncer: nothing fails", |_| {}, |_| {}),
        pooler(
            "pgbouncer: killed, restarted",
            |w| w.with_pooler(PgBouncer::kill),
            |w| w.with_pooler(PgBouncer::restart),
        ),
        pooler("pgbouncer: its server hangs", |w| w.server().stop(), |w| w.server().cont()),
        memcached("memcached: nothing fails", |_| {}, |_| {}),
        memcached(
            "memcached: killed, restarted",
            |w| w.with_memcached(Memcached::kill),
            |w| w.with_memcached(Memcached::restart),
        ),
        memcached(
            "memcached: hangs (SIGSTOP)",
            |w| w.with_memcached(|server| server.signal("-STOP")),
            |w| w.with_memcached(|server| server.signal("-CONT")),
        ),
    ]
}

fn read_only(server: &Postgres, on: bool) {
    server.sql(&format!("ALTER SYSTEM SET default_transaction_read_only = {on}"));
    server.sql("SELECT pg_reload_conf()");
}

/// Prints the rows whose names contain `only`.
pub(super) async fn run_all(only: &str) {
    for row in rows().iter().filter(|row| row.name.contains(only)) {
        run(row).await;
    }
}

async fn run(row: &Row) {
    let number = Arc::new(AtomicUsize::new(0));
    let world = Arc::new((row.world)());
    let node = world.node();
    back(&node, Kind::Cache, &number).await;
    let (hurt, broken) = (row.hurt, world.clone());
    let took = load_while(&node, &number, move || hurt(&broken)).await;
    let (heal, healed) = (row.heal, world.clone());
    tokio::task::spawn_blocking(move || heal(&healed)).await.expect("healed");
    let recovery = back(&node, Kind::Cache, &number).await;
    let promise = match row.name {
        name if name.ends_with("nothing fails") => "-",
        // Reads go on.
        name if name.ends_with("read-only") => "max one call; back 1000",
        _ => PROMISE,
    };
    tell(row.name, Kind::Cache, &took, recovery, promise);
    drop(node);
    tokio::task::spawn_blocking(move || drop(world)).await.expect("ended");
}
