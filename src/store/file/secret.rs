//! The secret of the names, in a file of its own that all processes of a directory share.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::disk;
use crate::base::random::random;

const SECRET: &str = "secret";

/// Returns the secret; stores `proposed` if there is none, or if it is damaged.
pub(super) fn agree(directory: &Path, proposed: &str) -> io::Result<String> {
    let path = directory.join(SECRET);
    match fs::read(&path) {
        Ok(found) => match decode(&found) {
            Some(secret) => return Ok(secret),
            // Under another secret nothing is found: as good as an empty directory.
            None => disk::delete(&path)?,
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let temporary = directory.join(format!("{SECRET}.{:016x}", random()));
    let file = disk::create(&temporary)?;
    disk::write_all_at(&file, &encode(proposed), 0)?;
    file.sync_all()?;
    // Of two processes that draw one at the same time, the first wins.
    let linked = fs::hard_link(&temporary, &path);
    match linked {
        Ok(()) => disk::delete(&temporary)?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => disk::delete(&temporary)?,
        // A file system without links.
        Err(_) => fs::rename(&temporary, &path)?,
    }
    disk::sync_directory(directory)?;
    decode(&fs::read(&path)?).ok_or_else(|| io::Error::other("the secret is damaged; delete the directory"))
}

fn encode(secret: &str) -> Vec<u8> {
    [secret.as_bytes(), &crc32fast::hash(secret.as_bytes()).to_be_bytes()].concat()
}

fn decode(bytes: &[u8]) -> Option<String> {
    let (secret, checksum) = bytes.split_last_chunk::<4>()?;
    (*checksum == crc32fast::hash(secret).to_be_bytes()).then(|| String::from_utf8(secret.to_vec()).ok())?
}
