//! How responses go to the kernel: a head and a short body as one block, which costs it less than two; what lies in the
//! [`Mirror`] from there.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::mirror::Mirror;

/// What is copied rather than handed over piece by piece.
const SMALL: usize = 4096;

thread_local! {
    /// Where pieces meet: one for all connections of a thread, so that it stays at hand.
    static BLOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stream that gathers what is short, and copies nothing that is large and known.
pub(crate) struct Sending {
    pub(crate) stream: TcpStream,
    pub(crate) mirror: Option<Arc<Mirror>>,
}

impl AsyncRead for Sending {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Sending {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(mirror) = &self.mirror {
            let known = pieces.iter().enumerate().find_map(|(n, piece)| Some((n, mirror.find(piece)?)));
            match known {
                Some((0, place)) => return mirror.poll_send(place, pieces[0].len(), &self.stream, cx),
                // First what comes before it.
                Some((n, _)) => pieces = &pieces[..n],
                None => {}
            }
        }
        if let [piece] = pieces {
            return Pin::new(&mut self.stream).poll_write(cx, piece);
        }
        if pieces.iter().map(|piece| piece.len()).sum::<usize>() > SMALL {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        }
        BLOCK.with_borrow_mut(|block| {
            block.clear();
            for piece in pieces {
                block.extend_from_slice(piece);
            }
            Pin::new(&mut self.stream).poll_write(cx, block)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
