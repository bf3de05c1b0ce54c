//! Whether a file already is what would be restored: then it need not be.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use nix::unistd::Uid;

use super::aside;
use super::target::Spot;
use crate::content::ContentHasher;
use crate::object::Description;

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Whether the file at `spot` is the snapshot that `description` tells of, with nothing beside it that would change it.
pub(super) fn is_identical(spot: &Spot, description: &Description) -> io::Result<bool> {
    let refused = |refusal: super::Refusal| io::Error::other(refusal);
    let is_file =
        matches!(spot.look().map_err(refused)?, super::Found::Existing(there) if there.size == description.raw_size);
    if !is_file || has_transactions_beside(spot).map_err(refused)? {
        return Ok(false);
    }
    let file = spot.open_file(&spot.name)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() != description.raw_size || !is_described(&meta, description) {
        return Ok(false);
    }
    let mut hasher = ContentHasher::new(description.page_size, description.page_count);
    let mut chunk = vec![0; CHUNK];
    // A file that grows while it is read is not the one that was asked about.
    let mut rest = file.take(description.raw_size + 1);
    loop {
        match rest.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => hasher.update(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let hash = hasher.finish(description.uid, description.gid, description.mode);
    Ok(hash.is_ok_and(|hash| hash == description.content_hash))
}

/// Whether a `-wal` or `-journal` with content lies there, or something that a killed restore has set aside.
fn has_transactions_beside(spot: &Spot) -> Result<bool, super::Refusal> {
    for suffix in ["-wal", "-journal"] {
        let name = spot.beside(suffix);
        if name.len() <= 255 && spot.stat(&name)?.is_some_and(|stat| stat.st_size > 0) {
            return Ok(true);
        }
    }
    aside::is_any(spot)
}

/// Whether owner and mode are those that restoring would give it. The content hash covers the described ones.
fn is_described(meta: &std::fs::Metadata, description: &Description) -> bool {
    let is_owner = (meta.uid(), meta.gid()) == (description.uid, description.gid);
    // Not being root we could not have given it away: our own is all that can be.
    let could_not_chown = !Uid::effective().is_root() && meta.uid() == Uid::effective().as_raw();
    meta.mode() & 0o7777 == description.mode & 0o777 && (is_owner || could_not_chown)
}
