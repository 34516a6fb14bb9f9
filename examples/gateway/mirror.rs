//! Copies of large stored blocks in a file in memory or in a folder, from which the kernel sends without copying.
//!
//! A block that the cache sends again is written to the file. From then on the stream that is given its bytes finds
//! their position and has them sent from there (`sendfile`).
//!
//! | risk | prevention |
//! |---|---|
//! | an address is reused for other bytes | each block in the file is referenced from here: its memory is not released |
//! | bytes change while the kernel sends them | no position in the file is written twice; the pages of a removed block are punched out, but not while it is passed to the kernel, and pages in transit live until they have arrived |
//! | the file grows | it is bounded: blocks that are not referenced elsewhere, or not sent recently, are removed |
//! | the kernel rejects the call | the bytes are sent like any others |

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, fallocate, memfd_create, open, sendfile};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Smallest mirrored block: copying less is faster. Longer than HTTP/2's default frames.
const LARGE: usize = 32 * 1024;
/// Bytes per call, by measurement: 64 KiB took a tenth more of the processor, 32 KiB a quarter more.
const AT_ONCE: usize = 56 * 1024;
/// Alignment of blocks, so that they can be punched out.
const PAGE: u64 = 4096;
/// Number of remembered blocks that were sent once.
const SENT: usize = 1024;
/// Offers to a full mirror per attempt to make room, because an attempt is expensive, and so is a block that is soon
/// removed.
const PATIENCE: usize = 64;

/// File without a name, and the blocks in it.
pub(crate) struct Mirror {
    file: File,
    blocks: RwLock<Blocks>,
    room: Mutex<Room>,
    /// Addresses and lengths of sent blocks, by address; a later one replaces an earlier one.
    sent: Box<[AtomicUsize]>,
}

/// Blocks by the address of their first byte.
type Blocks = BTreeMap<usize, Block>;

struct Block {
    bytes: Bytes,
    /// Position in the file.
    at: u64,
    /// Whether it was sent since room was last made.
    used: AtomicBool,
}

struct Room {
    /// End of the file.
    end: u64,
    /// Remaining capacity in bytes.
    left: u64,
    /// Number of blocks that did not fit.
    refused: usize,
}

impl Mirror {
    /// Creates a mirror of at most `most` bytes, in memory or in a folder; `None` if the kernel has no files in
    /// memory.
    ///
    /// # Errors
    /// Returns an error if no file without a name can be created in the folder.
    pub(crate) fn of(most: u64, folder: Option<&Path>) -> io::Result<Option<Self>> {
        let file = match folder {
            Some(folder) => {
                let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
                open(folder, flags, Mode::RUSR | Mode::WUSR)?.into()
            }
            None => match memfd_create("tollgate", MemfdFlags::CLOEXEC) {
                Ok(file) => file.into(),
                Err(_) => return Ok(None),
            },
        };
        let sent = (0..SENT).map(|_| AtomicUsize::new(0)).collect();
        let room = Mutex::new(Room { end: 0, left: most, refused: 0 });
        Ok(Some(Self { file, blocks: RwLock::default(), room, sent }))
    }

    /// Returns whether a body of that size can contain a mirrored block.
    pub(crate) const fn is_for(bytes: u64) -> bool {
        bytes >= LARGE as u64
    }

    /// Mirrors a stored block that is about to be sent, if it was sent before.
    pub(crate) fn offer(&self, block: &Bytes) {
        if block.len() >= LARGE && !self.has(block) && self.sent_before(block) {
            // A block that does not fit is sent like any other.
            let _ = self.take_in(block);
        }
    }

    /// Returns whether these bytes are in the file.
    pub(crate) fn has(&self, bytes: &[u8]) -> bool {
        bytes.len() >= LARGE && place(&self.blocks(), bytes).is_some()
    }

    /// Sends these bytes, or a prefix, from the file; `None` if they are no longer there, or cannot be sent that way.
    pub(crate) fn poll_send(&self, bytes: &[u8], to: &TcpStream, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        while ready!(to.poll_write_ready(cx)).is_ok() {
            // No pages are punched out until the kernel has them.
            let blocks = self.blocks();
            let Some(mut at) = place(&blocks, bytes) else { break };
            let count = bytes.len().min(AT_ONCE);
            let sent = to.try_io(Interest::WRITABLE, || Ok(sendfile(to, &self.file, Some(&mut at), count)?));
            match sent {
                Ok(sent) if sent > 0 => return Poll::Ready(Some(sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // If the connection failed, the next write reports it.
                _ => break,
            }
        }
        Poll::Ready(None)
    }

    fn blocks(&self) -> RwLockReadGuard<'_, Blocks> {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent_before(&self, block: &Bytes) -> bool {
        let address = block.as_ptr().addr();
        let mark = address ^ block.len();
        // Large blocks have round addresses, whose low bits carry little information.
        let place = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        self.sent[place as usize % SENT].swap(mark, Ordering::Relaxed) == mark
    }

    /// One thread at a time; senders are not blocked.
    fn take_in(&self, block: &Bytes) -> io::Result<()> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let size = pages(block);
        if room.left < size {
            room.refused += 1;
            if room.refused.is_multiple_of(PATIENCE) {
                room.left += self.make_room();
            }
        }
        if room.left < size || self.has(block) {
            return Ok(());
        }
        let at = room.end;
        room.end += size;
        if let Err(error) = self.file.write_all_at(block, at) {
            room.left -= if self.cut_out(at, size) { 0 } else { size };
            return Err(error);
        }
        room.left -= size;
        let block = Block { bytes: block.clone(), at, used: AtomicBool::new(true) };
        self.blocks.write().unwrap_or_else(PoisonError::into_inner).insert(block.bytes.as_ptr().addr(), block);
        Ok(())
    }

    /// Removes blocks that are not referenced elsewhere, or not sent since the last call. Returns the freed bytes.
    fn make_room(&self) -> u64 {
        let mut freed = 0;
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        blocks.retain(|_, block| {
            let kept = std::mem::take(block.used.get_mut()) && !block.bytes.is_unique();
            if !kept {
                let size = pages(&block.bytes);
                freed += if self.cut_out(block.at, size) { size } else { 0 };
            }
            kept
        });
        freed
    }

    /// Punches a hole; returns whether the file shrank. File systems without support keep the bytes, which then still
    /// count.
    fn cut_out(&self, at: u64, size: u64) -> bool {
        fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, size).is_ok()
    }
}

/// Returns the position of these bytes, which may be part of a block.
fn place(blocks: &Blocks, bytes: &[u8]) -> Option<u64> {
    let address = bytes.as_ptr().addr();
    let (first, block) = blocks.range(..=address).next_back()?;
    let skipped = address - first;
    let at = (skipped + bytes.len() <= block.bytes.len()).then_some(block.at + skipped as u64);
    if at.is_some() && !block.used.load(Ordering::Relaxed) {
        block.used.store(true, Ordering::Relaxed);
    }
    at
}

/// Returns the size of a block in whole pages.
fn pages(block: &Bytes) -> u64 {
    (block.len() as u64).next_multiple_of(PAGE)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    fn block(of: u8) -> Bytes {
        Bytes::from(vec![of; LARGE + 1])
    }

    /// Sends a block twice, which mirrors it.
    fn offer(mirror: &Mirror, block: &Bytes) {
        mirror.offer(block);
        mirror.offer(block);
    }

    fn lies_in(mirror: &Mirror, bytes: &[u8]) -> bool {
        let Some(at) = place(&mirror.blocks(), bytes) else { return false };
        let mut read = vec![0; bytes.len()];
        mirror.file.read_exact_at(&mut read, at).expect("in the file");
        assert_eq!(read, bytes);
        true
    }

    #[test]
    fn a_block_is_taken_in_when_it_is_sent_again() {
        let mirror = Mirror::of(1 << 20, None).expect("a file").expect("in memory");
        let (block, short) = (
            Bytes::from((0..LARGE as u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()),
            Bytes::from(vec![1; LARGE - 1]),
        );
        mirror.offer(&block);
        assert!(!mirror.has(&block), "sent once");
        mirror.offer(&block);
        assert!(lies_in(&mirror, &block) && lies_in(&mirror, &block[5..]) && lies_in(&mirror, &block[5..LARGE + 5]));
        offer(&mirror, &short);
        assert!(!mirror.has(&short) && !mirror.has(&block[block.len() - 9..]), "short");
        assert!(!mirror.has(&Bytes::copy_from_slice(&block)), "the same bytes elsewhere");
    }

    /// Offers blocks until the mirror has tried to make room once more.
    fn offer_until_looked(mirror: &Mirror, block: &Bytes) {
        let refused = || mirror.room.lock().expect("unpoisoned").refused / PATIENCE;
        let before = refused();
        while refused() == before && !mirror.has(block) {
            mirror.offer(block);
        }
    }

    #[test]
    fn unreferenced_and_unsent_blocks_make_room() {
        let size = pages(&block(0));
        let mirror = Mirror::of(2 * size, None).expect("a file").expect("in memory");
        let (first, second, third, fourth) = (block(1), block(2), block(3), block(4));
        for block in [&first, &second, &third] {
            offer(&mirror, block);
        }
        assert!(lies_in(&mirror, &first) && lies_in(&mirror, &second) && !lies_in(&mirror, &third));
        drop(first);
        offer_until_looked(&mirror, &third);
        assert!(lies_in(&mirror, &third) && lies_in(&mirror, &second), "the first is not referenced");
        offer_until_looked(&mirror, &fourth);
        assert!(!lies_in(&mirror, &fourth) && mirror.has(&second), "both have been sent since");
        offer_until_looked(&mirror, &fourth);
        assert!(lies_in(&mirror, &fourth) && mirror.has(&second) && !mirror.has(&third), "the third was not sent");
        let taken = std::os::unix::fs::MetadataExt::blocks(&mirror.file.metadata().expect("a file")) * 512;
        assert_eq!(taken, 2 * size, "removed blocks are punched out");
    }

    #[tokio::test]
    async fn a_rejected_call_falls_back() {
        let mut mirror = Mirror::of(1 << 20, None).expect("a file").expect("in memory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (block, other) = (block(1), block(2));
        offer(&mirror, &block);
        // Writable only: neither readable nor punchable.
        mirror.file = File::options().write(true).open("/dev/null").expect("a file");
        assert_eq!(poll_fn(|cx| mirror.poll_send(&block, &stream, cx)).await, None);
        assert_eq!(poll_fn(|cx| mirror.poll_send(&other, &stream, cx)).await, None, "never mirrored");
        drop(block);
        assert_eq!((mirror.make_room(), mirror.blocks().len()), (0, 0), "blocks that stay count");
    }

    #[tokio::test]
    async fn bytes_on_their_way_stay_what_they_were() {
        let mirror = Mirror::of(pages(&block(0)), None).expect("a file").expect("in memory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut reader, (writer, _)) = (stream.expect("connected"), accepted.expect("accepted"));
        let old = block(1);
        offer(&mirror, &old);
        let sent = poll_fn(|cx| mirror.poll_send(&old, &writer, cx)).await.expect("taken in");
        drop(old);
        let new = block(2);
        offer_until_looked(&mirror, &new);
        assert!(lies_in(&mirror, &new));
        drop(writer);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.expect("read");
        assert_eq!(read, vec![1; sent]);
    }
}
