//! How long the gateway waits for a request's head.
//!
//! With a paused clock a wait that nothing else ends is over at once; where it is not over, the test hangs.
#![expect(clippy::disallowed_methods, reason = "the runtime's clock, which is paused")]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

#[path = "../examples/gateway.rs"]
#[allow(dead_code, reason = "an example is a program of its own")]
mod example;

use example::flags::Flags;

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    // Nobody is behind it: an answer is an answer.
    let arguments = ["--upstream", "http://127.0.0.1:9"].map(str::to_owned);
    let flags = Flags::parse(arguments.into_iter()).expect("correct flags").expect("no help");
    let gate = example::gate(&flags).expect("a gate");
    tokio::spawn(async move { example::run(listener, &flags, &gate, std::future::pending()).await });

    let mut client = TcpStream::connect(address).await.expect("a connection");
    let start = Instant::now();
    let mut answer = [0; 1024];
    // Each head has half a minute of its own, from the last answer on.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(20)).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").await.expect("sent");
        let length = client.read(&mut answer).await.expect("an answer");
        assert!(answer[..length].starts_with(b"HTTP/1.1 502"), "{}", String::from_utf8_lossy(&answer[..length]));
    }
    let last = start.elapsed();
    assert!(last >= Duration::from_secs(80));
    client.write_all(b"GET / HTTP/1.1\r\nhost: exam").await.expect("sent");
    let mut rest = Vec::new();
    drop(client.read_to_end(&mut rest).await);
    let waited = start.elapsed().saturating_sub(last);
    assert!((Duration::from_secs(29)..Duration::from_secs(32)).contains(&waited), "closed after {waited:?}");
}
