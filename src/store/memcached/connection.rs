//! [`Connection`]: pipelined calls to one server. A reply belongs to the call whose number it carries, or the connection
//! ends.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::select;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::protocol::{self, MetaReply};
use crate::base::lock::Mutex;

/// Calls that wait to be written. Beyond them a call fails: the server does not keep up.
const QUEUE: usize = 1_024;
/// Bytes written at a time.
const BATCH: usize = 64 * 1_024;
/// Time without a byte after which a server that owes replies has hung.
const HUNG: Duration = Duration::from_secs(1);

/// A call that waits for its reply.
type Waiting = (u32, oneshot::Sender<MetaReply>);

/// One connection.
pub(super) struct Connection {
    calls: mpsc::Sender<(Vec<u8>, Waiting)>,
    next: AtomicU32,
}

impl Connection {
    /// Connects, and serves the calls in a task of its own.
    ///
    /// # Errors
    /// If the server cannot be reached, or does not answer.
    pub(super) async fn open(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let (calls, queue) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Mutex::new(VecDeque::new()));
        let written = waiting.clone();
        tokio::spawn(async move {
            // Either end ends both.
            select(pin!(write(writer, queue, written)), pin!(read(reader, waiting.clone()))).await;
            // Their calls fail.
            waiting.lock().clear();
        });
        let connection = Self { calls, next: AtomicU32::new(0) };
        // A server that hangs accepts connections, but does not answer.
        match connection.call(|_| protocol::NO_OP.to_vec()).await {
            Some(MetaReply::Done) => Ok(connection),
            _ => Err(std::io::Error::other("the server does not answer in the meta protocol")),
        }
    }

    /// Sends a request, and waits for its reply; `None` if the connection ended, or does not keep up.
    pub(super) async fn call(&self, request: impl FnOnce(u32) -> Vec<u8>) -> Option<MetaReply> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answered) = oneshot::channel();
        self.calls.try_send((request(number), (number, reply))).ok()?;
        answered.await.ok()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.calls.is_closed()
    }
}

/// Writes requests, several at a time, until the connection ends.
async fn write(
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::Receiver<(Vec<u8>, Waiting)>,
    waiting: Arc<Mutex<VecDeque<Waiting>>>,
) {
    while let Some((mut batch, first)) = queue.recv().await {
        waiting.lock().push_back(first);
        while batch.len() < BATCH
            && let Ok((request, next)) = queue.try_recv()
        {
            batch.extend_from_slice(&request);
            waiting.lock().push_back(next);
        }
        if stream.write_all(&batch).await.is_err() {
            return;
        }
    }
}

/// Reads replies until the connection ends, or a reply is not that of the next call.
async fn read(mut stream: OwnedReadHalf, waiting: Arc<Mutex<VecDeque<Waiting>>>) {
    let mut buffer = BytesMut::with_capacity(16 * 1_024);
    loop {
        match timeout(HUNG, stream.read_buf(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return,
            Err(_) if !waiting.lock().is_empty() => return,
            Ok(Ok(_)) | Err(_) => {}
        }
        loop {
            let (reply, number) = match protocol::parse(&mut buffer) {
                Ok(Some(parsed)) => parsed,
                Ok(None) => break,
                Err(_) => return,
            };
            let Some((expected, call)) = waiting.lock().pop_front() else { return };
            // Errors carry no number.
            if number.is_some_and(|number| number != expected) {
                return;
            }
            // A call that was given up needs no reply.
            let _ = call.send(reply);
        }
    }
}
