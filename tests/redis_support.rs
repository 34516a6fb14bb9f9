//! The servers and the proxy that other tests lean on do what they say.

#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and measures real time")]

#[path = "support/fault_proxy.rs"]
mod fault_proxy;
#[path = "support/redis.rs"]
mod redis;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fault_proxy::{Fault, FaultProxy};
use redis::{RedisCluster, RedisSentinel, RedisServer, wanted};

/// What comes back for a command in the inline form, until so many bytes or the end.
fn ask(stream: &mut TcpStream, command: &str, most: usize) -> Vec<u8> {
    let mut answer = Vec::new();
    // A connection that was reset takes nothing any more.
    if stream.write_all(format!("{command}\r\n").as_bytes()).is_err() {
        return answer;
    }
    let mut byte = [0];
    while answer.len() < most {
        match stream.read(&mut byte) {
            Ok(1) => answer.push(byte[0]),
            _ => break,
        }
    }
    answer
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
    stream
}

#[test]
fn a_server_hangs_goes_on_dies_and_comes_back() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    server.stop();
    assert_eq!(ask(&mut connect(server.port()), "PING", 7), b"", "hung");
    server.cont();
    assert_eq!(ask(&mut connect(server.port()), "PING", 7), b"+PONG\r\n");
    server.cli(&["SET", "a", "1"]);
    server.kill();
    assert!(TcpStream::connect(("127.0.0.1", server.port())).is_err());
    server.restart();
    assert_eq!(server.cli(&["DBSIZE"]).trim(), "0", "nothing was kept");
}

#[test]
fn tls_passwords_and_replicas() {
    if !wanted() {
        return;
    }
    let tls = RedisServer::start_tls();
    assert!(tls.url().starts_with("rediss://") && tls.ca().exists());
    let guarded = RedisServer::with_password("secret");
    assert!(ask(&mut connect(guarded.port()), "GET a", 7).starts_with(b"-NOAUTH"));
    let replica = RedisServer::replica_of(&RedisServer::start());
    assert!(replica.cli(&["SET", "a", "1"]).starts_with("READONLY"));
}

#[test]
fn a_cluster_moves_a_slot_and_a_sentinel_fails_over() {
    if !wanted() {
        return;
    }
    let cluster = RedisCluster::start();
    let before = cluster.owner("a");
    cluster.nodes[before].cli(&["SET", "a", "1"]);
    cluster.move_slot("a");
    let after = cluster.owner("a");
    assert_ne!(before, after);
    assert_eq!(cluster.nodes[after].cli(&["GET", "a"]).trim(), "1");
    let sentinel = RedisSentinel::start();
    sentinel.fail_over();
    assert_eq!(sentinel.primary_port(), sentinel.replica.port());
}

#[test]
fn the_proxy_does_to_replies_what_it_says() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::before(server.port());
    let mut stream = connect(proxy.port());
    assert_eq!(ask(&mut stream, "PING", 7), b"+PONG\r\n");
    proxy.set(Fault::Flip);
    let flipped = ask(&mut stream, "PING", 7);
    assert_eq!(flipped.iter().zip(b"+PONG\r\n").filter(|(a, b)| a != b).count(), 1);
    proxy.set(Fault::Swap);
    assert_eq!(ask(&mut stream, "PING\r\nECHO a", 14), b"$1\r\na\r\n+PONG\r\n");
    proxy.set(Fault::Slow { one_in: 1, by: Duration::from_millis(100) });
    let since = Instant::now();
    assert_eq!(ask(&mut stream, "PING", 7), b"+PONG\r\n");
    assert!(since.elapsed() >= Duration::from_millis(90));
    proxy.set(Fault::Drip { pause: Duration::from_millis(5) });
    assert_eq!(ask(&mut stream, "PING", 7), b"+PONG\r\n");
    proxy.set(Fault::Partition);
    assert_eq!(ask(&mut stream, "PING", 7), b"");
    proxy.heal();
    assert_eq!(ask(&mut stream, "PING", 14), b"+PONG\r\n+PONG\r\n");
    proxy.set(Fault::Half);
    assert_eq!(ask(&mut stream, "PING", 7), b"+PO");
    proxy.set(Fault::Reset);
    let mut refused = connect(proxy.port());
    assert_eq!(ask(&mut refused, "PING", 7), b"");
    proxy.set(Fault::DropMessages);
    let mut subscriber = connect(proxy.port());
    assert!(ask(&mut subscriber, "SUBSCRIBE c", 30).starts_with(b"*3\r\n$9\r\nsubscribe"));
    server.cli(&["PUBLISH", "c", "m"]);
    let mut rest = Vec::new();
    let _ = subscriber.read_to_end(&mut rest);
    assert_eq!(rest, b"", "the message was lost");
    assert_eq!(proxy.connections(), 3);
}
