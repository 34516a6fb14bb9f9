//! A TCP proxy in front of a Redis server that does to its replies what networks and dying servers do.
//!
//! It runs on a thread of its own, so that a test's paused clock or busy runtime does not stop it. It reads the
//! protocol's frames, so that a fault hits a reply and not some bytes.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "each test uses its part, and may fail"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to replies, on every connection, until something else is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// One reply in so many comes so much later, and holds up those behind it.
    Slow { one_in: u64, by: Duration },
    /// The connection is closed in place of a reply.
    Cut,
    /// Half of a reply, then the connection is closed.
    Half,
    /// One byte of each reply is another.
    Flip,
    /// Each two neighbouring replies change places.
    Swap,
    /// Another reply in place of each, such as `-LOADING …`.
    Answer(&'static str),
    /// Replies come over a link of so many bytes a millisecond, one a connection.
    Narrow { bytes_per_ms: usize },
    /// Replies come byte by byte.
    Drip { pause: Duration },
    /// Connections are reset, new ones too.
    Reset,
    /// Nothing arrives in either direction, until it is over; new connections are accepted and silent.
    Partition,
    /// Messages of pub/sub are lost; everything else passes.
    DropMessages,
}

/// The proxy; ended when it is dropped.
pub struct FaultProxy {
    port: u16,
    fault: watch::Sender<Fault>,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicU64,
    replies: AtomicU64,
    over: AtomicBool,
}

impl FaultProxy {
    /// Stands in front of this port of this machine.
    pub fn before(target: u16) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (fault, faults) = watch::channel(Fault::None);
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve(listener, target, faults, theirs));
        });
        Self { port, fault, shared, thread: Some(thread) }
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    pub fn heal(&self) {
        self.set(Fault::None);
    }

    /// How many connections were ever accepted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many replies were ever passed on, whole or not.
    pub fn replies(&self) -> u64 {
        self.shared.replies.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes everything that waits for a change.
        self.fault.send_replace(Fault::Reset);
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, target: u16, faults: watch::Receiver<Fault>, shared: Arc<Shared>) {
    listener.set_nonblocking(true).expect("a listener");
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Ok((client, _)) = listener.accept().await {
        if shared.over.load(Ordering::Relaxed) {
            return;
        }
        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(connection(client, target, faults.clone(), shared.clone(), number));
    }
}

async fn connection(
    client: TcpStream,
    target: u16,
    mut faults: watch::Receiver<Fault>,
    shared: Arc<Shared>,
    number: u64,
) {
    client.set_nodelay(true).expect("a socket");
    if *faults.borrow() == Fault::Reset {
        return reset(client);
    }
    faults.wait_for(|fault| *fault != Fault::Partition).await.expect("the proxy lives");
    let Ok(server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], target))).await else {
        return reset(client);
    };
    server.set_nodelay(true).expect("a socket");
    let (from_server, to_server) = server.into_split();
    let (from_client, to_client) = client.into_split();
    let dice = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut replies = Replies { to: to_client, faults: faults.clone(), shared, dice, waiting: None };
    tokio::select! {
        () = requests(from_client, to_server, faults.clone()) => {}
        _ = replies.pass(from_server) => {}
        _ = faults.wait_for(|fault| *fault == Fault::Reset) => {
            let _ = replies.to.as_ref().set_zero_linger();
        }
    }
}

fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut faults: watch::Receiver<Fault>) {
    let mut block = vec![0; 64 * 1024];
    loop {
        let Ok(length) = from.read(&mut block).await else { return };
        if faults.wait_for(|fault| *fault != Fault::Partition).await.is_err() || length == 0 {
            return;
        }
        if to.write_all(&block[..length]).await.is_err() {
            return;
        }
    }
}

/// The replies of one connection on their way to the client.
struct Replies {
    to: OwnedWriteHalf,
    faults: watch::Receiver<Fault>,
    shared: Arc<Shared>,
    dice: u64,
    /// A reply that waits for its successor to go first.
    waiting: Option<Vec<u8>>,
}

impl Replies {
    /// Until either side is done; `None` says so.
    async fn pass(&mut self, mut from: OwnedReadHalf) -> Option<()> {
        let mut read = Vec::new();
        let mut block = vec![0; 64 * 1024];
        loop {
            while let Some(length) = frame(&read) {
                let rest = read.split_off(length);
                self.reply(std::mem::replace(&mut read, rest)).await?;
            }
            let length = from.read(&mut block).await.ok().filter(|length| *length > 0)?;
            read.extend_from_slice(&block[..length]);
        }
    }

    /// Passes one whole reply on, or what the fault leaves of it.
    async fn reply(&mut self, mut reply: Vec<u8>) -> Option<()> {
        let fault = *self.faults.wait_for(|fault| *fault != Fault::Partition).await.ok()?;
        self.shared.replies.fetch_add(1, Ordering::Relaxed);
        match fault {
            Fault::None | Fault::Reset | Fault::Partition => {}
            Fault::Slow { one_in, by } => {
                if self.roll().is_multiple_of(one_in) {
                    // A proxy that is healed meanwhile goes on at once.
                    let mut faults = self.faults.clone();
                    let _ = tokio::time::timeout(by, faults.wait_for(|now| *now != fault)).await;
                }
            }
            Fault::Cut => return None,
            Fault::Half => {
                self.to.write_all(&reply[..reply.len() / 2]).await.ok()?;
                return None;
            }
            Fault::Flip => {
                let at = self.roll() as usize % reply.len();
                reply[at] ^= 1 << (self.roll() % 8);
            }
            Fault::Swap => match self.waiting.take() {
                None => {
                    self.waiting = Some(reply);
                    return Some(());
                }
                Some(first) => reply.extend_from_slice(&first),
            },
            Fault::Drip { pause } => {
                for byte in reply {
                    self.to.write_all(&[byte]).await.ok()?;
                    tokio::time::sleep(pause).await;
                }
                return Some(());
            }
            Fault::Answer(other) => reply = format!("{other}\r\n").into_bytes(),
            Fault::Narrow { bytes_per_ms } => {
                for piece in reply.chunks(bytes_per_ms * 5) {
                    self.to.write_all(piece).await.ok()?;
                    tokio::time::sleep(Duration::from_millis(5 * piece.len() as u64 / (bytes_per_ms as u64 * 5))).await;
                }
                return Some(());
            }
            Fault::DropMessages if is_message(&reply) => return Some(()),
            Fault::DropMessages => {}
        }
        if let Some(first) = self.waiting.take() {
            self.to.write_all(&first).await.ok()?;
        }
        self.to.write_all(&reply).await.ok()
    }

    /// The next number of a small generator (xorshift): the same in every run.
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice >> 16
    }
}

/// How long the first frame is, once it is there whole (RESP2 and RESP3).
fn frame(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let count = || std::str::from_utf8(&bytes[1..end - 2]).ok()?.parse::<i64>().ok();
    match bytes[0] {
        b'$' | b'=' | b'!' => {
            let whole = end + usize::try_from(count()?).map_or(0, |length| length + 2);
            (bytes.len() >= whole).then_some(whole)
        }
        kind @ (b'*' | b'~' | b'>' | b'%' | b'|') => {
            let members = usize::try_from(count()?).unwrap_or(0) * if matches!(kind, b'%' | b'|') { 2 } else { 1 };
            // An attribute stands before the reply it belongs to.
            let members = members + usize::from(kind == b'|');
            let mut at = end;
            for _ in 0..members {
                at += frame(bytes.get(at..)?)?;
            }
            Some(at)
        }
        _ => Some(end),
    }
}

fn is_message(reply: &[u8]) -> bool {
    let head = &reply[..reply.len().min(24)];
    matches!(reply[0], b'*' | b'>') && head.windows(7).any(|word| word == b"message")
}
