//! What object_store leaves in a folder when it is killed in the middle of a put: a file `KEY#N`, N a number, beside the
//! key that was being written. Listings do not show it, so nothing else would ever remove it.

use std::fs::{self, ReadDir};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Store;
use crate::timestamp::Timestamp;

/// What to look for.
pub(crate) struct Leftovers<'a> {
    /// Key prefixes to look below; one empty one for everywhere.
    pub(crate) below: &'a [String],
    /// Only those written to last before this.
    pub(crate) before: Option<Timestamp>,
    /// Whether an object under this key would be ours, and is meant.
    pub(crate) is_meant: &'a dyn Fn(&str) -> bool,
    /// Asked after each file; ends the walk when true.
    pub(crate) is_stopped: &'a dyn Fn() -> bool,
    /// Only count.
    pub(crate) dry_run: bool,
}

impl Store {
    /// Removes leftovers and returns how many there were; none unless the store is a folder. Directories stay. Links to
    /// directories are not followed.
    ///
    /// # Errors
    /// The first directory that cannot be read or file that cannot be removed; what was removed before stays removed.
    pub(crate) fn remove_leftovers(&self, wanted: &Leftovers<'_>) -> io::Result<u64> {
        let Some(folder) = &self.folder else { return Ok(0) };
        folder.check().map_err(io::Error::other)?;
        let mut found = 0;
        for head in wanted.below {
            walk(folder.root(), &folder.root().join(head), wanted, &mut found)?;
        }
        Ok(found)
    }

    /// Removes the directory that held the objects of one database, if it is a folder's and empty. Its name would tell of
    /// the database. A put into it at the same moment makes it again.
    pub(crate) fn remove_empty_dir(&self, prefix: &str) {
        if let Some(folder) = self.folder.as_ref().filter(|folder| folder.check().is_ok()) {
            fs::remove_dir(folder.root().join(prefix)).ok();
        }
    }
}

fn walk(root: &Path, top: &Path, wanted: &Leftovers<'_>, found: &mut u64) -> io::Result<()> {
    // Open directories, one per level: memory and descriptors grow with the depth alone.
    let mut open: Vec<ReadDir> = read_dir(top)?.into_iter().collect();
    while let Some(dir) = open.last_mut() {
        let Some(entry) = dir.next() else {
            open.pop();
            continue;
        };
        if (wanted.is_stopped)() {
            return Ok(());
        }
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            open.extend(read_dir(&path)?);
        } else if is_leftover(root, &path, wanted)? {
            if !wanted.dry_run {
                fs::remove_file(&path).or_else(unless_gone)?;
            }
            *found += 1;
        }
    }
    Ok(())
}

/// `None` for one that is not there any more, or never was, or is a file.
fn read_dir(dir: &Path) -> io::Result<Option<ReadDir>> {
    match fs::read_dir(dir) {
        Ok(open) => Ok(Some(open)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

fn unless_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn is_leftover(root: &Path, path: &Path, wanted: &Leftovers<'_>) -> io::Result<bool> {
    let key = path.strip_prefix(root).ok().and_then(Path::to_str);
    let Some((key, number)) = key.and_then(|key| key.rsplit_once('#')) else { return Ok(false) };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) || !(wanted.is_meant)(key) {
        return Ok(false);
    }
    let Some(before) = wanted.before else { return Ok(true) };
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.is_file() && meta.mtime() < before.as_ms() / 1000),
        Err(e) => unless_gone(e).map(|()| false),
    }
}
