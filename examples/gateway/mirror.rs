//! Large stored blocks a second time, in a file in memory or in a folder: what lies in a file, the kernel sends without
//! copying it.
//!
//! A block that the cache sends again is written to the file. From then on the stream that is handed its bytes finds where
//! they lie, and has them sent from there (`sendfile`).
//!
//! | danger | why it is none |
//! |---|---|
//! | an address comes to mean other bytes | each block in the file is referred to from here: its memory is not given back |
//! | bytes change while the kernel still sends them | no place in the file is written twice; a block that makes room has its pages cut out, not while it is handed to the kernel, and those that are on their way live until they have arrived |
//! | the file grows | it has a bound: blocks that nobody else refers to, or that were not sent lately, make room |
//! | the kernel refuses | the bytes are sent as any others |

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

/// The shortest block that is worth it: copying less is sooner done. Longer than HTTP/2's frames are by default.
const LARGE: usize = 32 * 1024;
/// How much is sent at once, by measurement: 64 KiB took a tenth more of the processor, 32 KiB a quarter more.
const AT_ONCE: usize = 56 * 1024;
/// Blocks begin at a page each, so that they can be cut out.
const PAGE: u64 = 4096;
/// How many blocks are remembered that were sent once.
const SENT: usize = 1024;
/// Of how many offers to a full mirror one looks for room: looking costs, and so does a block that must soon go again.
const PATIENCE: usize = 64;

/// A file without a name, and which blocks lie in it.
pub(crate) struct Mirror {
    file: File,
    blocks: RwLock<Blocks>,
    room: Mutex<Room>,
    /// Addresses and lengths of blocks that were sent, by address; a later one takes the place of an earlier.
    sent: Box<[AtomicUsize]>,
}

/// By the address of their first byte.
type Blocks = BTreeMap<usize, Block>;

struct Block {
    bytes: Bytes,
    /// Where in the file.
    at: u64,
    /// Since room was last made.
    used: AtomicBool,
}

struct Room {
    /// Where the file ends.
    end: u64,
    /// How many bytes it may still take.
    left: u64,
    /// How many blocks found none.
    refused: usize,
}

impl Mirror {
    /// Of at most that many bytes, in memory or in that folder; none where the kernel has no files in memory.
    ///
    /// # Errors
    /// Where no file without a name can be made in the folder.
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

    /// Whether a body of that many bytes can have a block worth it.
    pub(crate) const fn is_for(bytes: u64) -> bool {
        bytes >= LARGE as u64
    }

    /// Takes in a stored block that is about to be sent, where it is not the first time.
    pub(crate) fn offer(&self, block: &Bytes) {
        if block.len() >= LARGE && !self.has(block) && self.sent_before(block) {
            // Where the file cannot take it, it is sent as any other.
            let _ = self.take_in(block);
        }
    }

    /// Whether these bytes lie in the file.
    pub(crate) fn has(&self, bytes: &[u8]) -> bool {
        bytes.len() >= LARGE && place(&self.blocks(), bytes).is_some()
    }

    /// Sends these bytes, or the first of them, from the file; nothing where they lie there no longer, or cannot be sent so.
    pub(crate) fn poll_send(&self, bytes: &[u8], to: &TcpStream, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        while ready!(to.poll_write_ready(cx)).is_ok() {
            // Until the kernel has the pages, nothing is cut out.
            let blocks = self.blocks();
            let Some(mut at) = place(&blocks, bytes) else { break };
            let count = bytes.len().min(AT_ONCE);
            let sent = to.try_io(Interest::WRITABLE, || Ok(sendfile(to, &self.file, Some(&mut at), count)?));
            match sent {
                Ok(sent) if sent > 0 => return Poll::Ready(Some(sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // If it is the connection that failed, whoever writes to it next will find out.
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
        // Large blocks begin at round addresses: their low bits say little.
        let place = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        self.sent[place as usize % SENT].swap(mark, Ordering::Relaxed) == mark
    }

    /// One thread at a time; those that send go on meanwhile.
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

    /// Lets go of the blocks that nobody else refers to, or that were not sent since this was last asked. How many bytes
    /// that frees.
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

    /// Whether the file takes that much less. Not every file system can: there the bytes stay, and count.
    fn cut_out(&self, at: u64, size: u64) -> bool {
        fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, size).is_ok()
    }
}

/// Where in the file these bytes lie, which may be part of a block.
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

/// What a block takes in the file.
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

    /// Sent twice, which is what takes a block in.
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

    /// Offers these until the mirror has looked for room once more.
    fn offer_until_looked(mirror: &Mirror, block: &Bytes) {
        let refused = || mirror.room.lock().expect("unpoisoned").refused / PATIENCE;
        let before = refused();
        while refused() == before && !mirror.has(block) {
            mirror.offer(block);
        }
    }

    #[test]
    fn blocks_that_nobody_refers_to_or_nobody_sends_make_room() {
        let size = pages(&block(0));
        let mirror = Mirror::of(2 * size, None).expect("a file").expect("in memory");
        let (first, second, third, fourth) = (block(1), block(2), block(3), block(4));
        for block in [&first, &second, &third] {
            offer(&mirror, block);
        }
        assert!(lies_in(&mirror, &first) && lies_in(&mirror, &second) && !lies_in(&mirror, &third));
        drop(first);
        offer_until_looked(&mirror, &third);
        assert!(lies_in(&mirror, &third) && lies_in(&mirror, &second), "nobody refers to the first");
        offer_until_looked(&mirror, &fourth);
        assert!(!lies_in(&mirror, &fourth) && mirror.has(&second), "both have been sent since");
        offer_until_looked(&mirror, &fourth);
        assert!(lies_in(&mirror, &fourth) && mirror.has(&second) && !mirror.has(&third), "the third was not sent");
        let taken = std::os::unix::fs::MetadataExt::blocks(&mirror.file.metadata().expect("a file")) * 512;
        assert_eq!(taken, 2 * size, "what was given up is cut out");
    }

    #[tokio::test]
    async fn what_the_kernel_refuses_is_left_to_others() {
        let mut mirror = Mirror::of(1 << 20, None).expect("a file").expect("in memory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (block, other) = (block(1), block(2));
        offer(&mirror, &block);
        // Neither to be read, nor with pages to be cut out.
        mirror.file = File::options().write(true).open("/dev/null").expect("a file");
        assert_eq!(poll_fn(|cx| mirror.poll_send(&block, &stream, cx)).await, None);
        assert_eq!(poll_fn(|cx| mirror.poll_send(&other, &stream, cx)).await, None, "never taken in");
        drop(block);
        assert_eq!((mirror.make_room(), mirror.blocks().len()), (0, 0), "what is not cut out counts");
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
