//! Writes responses: short pieces are buffered until the connection's turn ends and written together; blocks in the
//! [`Mirror`] are sent from there.
//!
//! A system call costs as much as a response, and HTTP/2 produces many responses in one turn. Nothing is buffered
//! longer than a turn, nor more than [`MOST`] bytes; an idle connection holds no buffer.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::mirror::Mirror;

/// Largest piece that is buffered rather than written directly.
const SHORT: usize = 4096;
/// Capacity of the buffer.
const MOST: usize = 32 * 1024;

thread_local! {
    /// Buffer shared by all connections of a thread, so that it stays in the processor's cache.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Stream of a connection. Flushed by its [`Turn`].
pub(crate) struct Wire {
    from: OwnedReadHalf,
    outlet: Arc<Mutex<Outlet>>,
}

struct Outlet {
    to: OwnedWriteHalf,
    mirror: Option<Arc<Mirror>>,
    held: Vec<u8>,
    /// Bytes of the buffer that have been sent.
    sent: usize,
}

pin_project! {
    /// Future of a connection, which flushes the buffer when it is pending.
    pub(crate) struct Turn<F> {
        #[pin]
        connection: F,
        outlet: Arc<Mutex<Outlet>>,
        ended: bool,
    }
}

impl Wire {
    /// Creates a stream, and a function that wraps the future that owns it.
    pub(crate) fn new<F>(stream: TcpStream, mirror: Option<Arc<Mirror>>) -> (Self, impl FnOnce(F) -> Turn<F>) {
        let (from, to) = stream.into_split();
        let outlet = Arc::new(Mutex::new(Outlet { to, mirror, held: Vec::new(), sent: 0 }));
        let wire = Self { from, outlet: outlet.clone() };
        (wire, |connection| Turn { connection, outlet, ended: false })
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.from).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.outlet).poll_take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.outlet).poll_take(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Called at the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut outlet = lock(&self.outlet);
        ready!(outlet.poll_send(cx))?;
        Pin::new(&mut outlet.to).poll_shutdown(cx)
    }
}

impl<F: Future> Future for Turn<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        *this.ended = *this.ended || this.connection.poll(cx).is_ready();
        match lock(this.outlet).poll_send(cx) {
            Poll::Ready(Ok(())) if !*this.ended => Poll::Pending,
            // A failed connection only affects its client.
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Outlet {
    fn poll_take(&mut self, cx: &mut Context<'_>, mut pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(mirror) = &self.mirror {
            match pieces.iter().position(|piece| mirror.has(piece)) {
                Some(0) => {
                    let mirror = mirror.clone();
                    ready!(self.poll_send(cx))?;
                    if let Some(sent) = ready!(mirror.poll_send(&pieces[0], self.to.as_ref(), cx)) {
                        return Poll::Ready(Ok(sent));
                    }
                }
                // Bytes before it are sent first.
                Some(n) => pieces = &pieces[..n],
                None => {}
            }
        }
        let size = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if size > SHORT || self.held.len() + size > MOST {
            ready!(self.poll_send(cx))?;
        }
        if size > SHORT {
            return Pin::new(&mut self.to).poll_write_vectored(cx, pieces);
        }
        if self.held.is_empty() {
            self.held = SPARE.take();
        }
        pieces.iter().for_each(|piece| self.held.extend_from_slice(piece));
        Poll::Ready(Ok(size))
    }

    /// Sends the buffer.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.sent < self.held.len() {
            match ready!(Pin::new(&mut self.to).poll_write(cx, &self.held[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.sent = 0;
        self.held.clear();
        SPARE.set(std::mem::take(&mut self.held));
        Poll::Ready(Ok(()))
    }
}

fn lock(outlet: &Mutex<Outlet>) -> MutexGuard<'_, Outlet> {
    outlet.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client, served) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.expect("connected"), served.expect("accepted").0)
    }

    #[tokio::test]
    async fn a_turn_s_answers_go_together_at_its_end() {
        let (mut client, served) = pair().await;
        let (mut wire, turn) = Wire::new(served, None);
        let turn = tokio::spawn(turn(async move {
            for answer in ["one ", "two ", "three"] {
                wire.write_all(answer.as_bytes()).await.expect("held");
                wire.flush().await.expect("at the end of the turn");
                assert_eq!(lock(&wire.outlet).held.last(), answer.as_bytes().last());
            }
            pending::<()>().await;
        }));
        let mut read = [0; 64];
        let count = client.read(&mut read).await.expect("read");
        assert_eq!(&read[..count], b"one two three");
        assert!(!turn.is_finished());
        turn.abort();
    }

    #[tokio::test]
    async fn a_reader_that_is_slow_holds_the_writer_back_and_gets_everything() {
        let (mut client, served) = pair().await;
        let (mut wire, turn) = Wire::new(served, None);
        let outlet = wire.outlet.clone();
        let sizes = || (0..40_u8).cycle().map(|n| usize::from(n) * 150 + 1).zip(0..=u8::MAX).cycle().take(8_000);
        let turn = tokio::spawn(turn(async move {
            for (size, of) in sizes() {
                wire.write_all(&vec![of; size]).await.expect("written");
            }
            wire.shutdown().await.expect("sent");
        }));
        tokio::task::yield_now().await;
        assert!((1..=MOST).contains(&lock(&outlet).held.len()) && !turn.is_finished());
        let (mut read, mut wanted) = (Vec::new(), Vec::new());
        client.read_to_end(&mut read).await.expect("read");
        sizes().for_each(|(size, of)| wanted.resize(wanted.len() + size, of));
        assert_eq!(read.len(), wanted.len());
        assert!(read == wanted, "in order");
        turn.await.expect("ended");
        assert_eq!(lock(&outlet).held.capacity(), 0, "an idle connection holds no buffer");
    }

    #[tokio::test]
    async fn a_client_that_has_gone_ends_the_connection() {
        let (client, served) = pair().await;
        let (mut wire, turn) = Wire::new(served, None);
        drop(client);
        let turn = turn(async move {
            loop {
                let _ = wire.write_all(b"answer").await;
                tokio::task::yield_now().await;
            }
        });
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), turn).await;
        assert!(ended.is_ok(), "the connection ends");
    }
}
