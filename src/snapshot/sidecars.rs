//! Leaving the directory as found: the `-wal` and `-shm` that a read-only SQLite connection leaves behind.
//!
//! A read-only connection makes them where they are missing and can never remove them; a read-write one that closes
//! last removes them but checkpoints the application's content. So they are unlinked here, under every lock an
//! exclusive writer would take, and only if empty. Before each read the intent is written to a small file in the
//! state directory: what a killed process left is removed at the next start.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::locks;
use crate::stamps::{FileStat, sidecar, stat_if_there};

/// Which sidecars were there before we opened a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) wal: Option<FileStat>,
    pub(super) shm: bool,
}

impl Before {
    /// Looks now.
    pub(super) fn look(main: &Path) -> io::Result<Self> {
        Ok(Self { wal: stat_if_there(&sidecar(main, "-wal"))?, shm: stat_if_there(&sidecar(main, "-shm"))?.is_some() })
    }
}

/// What became of the sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cleaned {
    /// The directory is as it was found.
    AsFound,
    /// Something we may have made had to stay: in use, holding content, or not ours to remove.
    Left,
}

/// Removes what reading `main` left beside it, and nothing else. No connection of this process may be open on it.
pub(super) fn clean(main: &Path, wal_was_there: bool, shm_was_there: bool) -> io::Result<Cleaned> {
    if wal_was_there && shm_was_there {
        return Ok(Cleaned::AsFound);
    }
    let (wal_path, shm_path) = (sidecar(main, "-wal"), sidecar(main, "-shm"));
    let wal_is_new = !wal_was_there && stat_if_there(&wal_path)?.is_some();
    let shm_is_new = !shm_was_there && stat_if_there(&shm_path)?.is_some();
    if !wal_is_new && !shm_is_new {
        return Ok(Cleaned::AsFound);
    }
    let file = match OpenOptions::new().read(true).write(true).open(main) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Cleaned::AsFound),
        Err(e) => return Err(e),
    };
    if locks::anyone(&file)?.is_some() || !locks::exclude_everybody(&file)? {
        return Ok(Cleaned::Left);
    }
    // From here on nobody has the database open: looked at again, for the application may have come and gone.
    let wal = stat_if_there(&wal_path)?;
    if !wal_was_there && wal.is_some_and(|w| w.size > 0) {
        return Ok(Cleaned::Left);
    }
    if !wal_was_there && wal.is_some() {
        unlink(&wal_path)?;
    }
    if !shm_was_there {
        unlink(&shm_path)?;
    }
    Ok(Cleaned::AsFound)
}

fn unlink(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The files that hold intents: one for each read under way, reused. Not synced: they are for a killed process; after
/// a power loss what an empty `-wal` left behind costs nothing.
#[derive(Debug)]
pub(super) struct Intents {
    dir: PathBuf,
    idle: Mutex<Vec<File>>,
    made: std::sync::atomic::AtomicU32,
    /// What could not be removed although nobody uses it, because a call failed: the main file, whether its `-wal` and its
    /// `-shm` were there before, and the file that holds the intent meanwhile.
    postponed: Mutex<Vec<(PathBuf, bool, bool, File)>>,
}

/// A noted intent; taken back by [`Intent::done`]. Dropped without that, it stays for the next start.
#[derive(Debug)]
pub(super) struct Intent<'a> {
    intents: &'a Intents,
    file: File,
}

/// Clean-ups to be tried again in the next cycle.
const POSTPONED_MAX: usize = 64;
const WAL_WAS_THERE: u8 = 1;
const SHM_WAS_THERE: u8 = 2;
const MARK: u8 = b'I';

impl Intents {
    /// Uses `dir`, which only the holder of the state's lock touches; cleans up after what ended there before.
    /// Returns the databases whose leftovers could not be removed.
    pub(super) fn recover(dir: &Path) -> io::Result<(Self, Vec<PathBuf>)> {
        let mut left = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension() != Some(OsStr::new("intent")) {
                continue;
            }
            if let Some((main, wal, shm)) = parse(&std::fs::read(&path)?) {
                log::info!("db={} removing what an earlier, killed process left beside it", main.display());
                if !matches!(clean(&main, wal, shm), Ok(Cleaned::AsFound)) {
                    left.push(main);
                }
            }
            unlink(&path)?;
        }
        Ok((Self { dir: dir.to_path_buf(), idle: Mutex::default(), made: 0.into(), postponed: Mutex::default() }, left))
    }

    /// Removes what could not be removed before; not while anything is being read. What fails again is kept for the next
    /// time, and the intents of it for the next start.
    pub(super) fn retry(&self) {
        let postponed = std::mem::take(&mut *self.postponed.lock());
        for (main, wal, shm, file) in postponed {
            match clean(&main, wal, shm).and_then(|_| file.write_all_at(&[0], 0)) {
                Ok(()) => self.idle.lock().push(file),
                Err(_) => self.postponed.lock().push((main, wal, shm, file)),
            }
        }
    }

    /// Notes that `main` is about to be opened, with which sidecars there.
    pub(super) fn note(&self, main: &Path, before: Before) -> io::Result<Intent<'_>> {
        let pooled = self.idle.lock().pop();
        let file = match pooled {
            Some(file) => file,
            None => {
                let n = self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let path = self.dir.join(format!("{n}.intent"));
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?
            }
        };
        file.write_all_at(&record(main, before.wal.is_some(), before.shm), 0)?;
        Ok(Intent { intents: self, file })
    }
}

impl Intent<'_> {
    /// The directory is as found: takes the intent back.
    pub(super) fn done(self) -> io::Result<()> {
        self.file.write_all_at(&[0], 0)?;
        self.intents.idle.lock().push(self.file);
        Ok(())
    }

    /// Something may have been left beside `main`, for a call failed: the intent stays until that is gone.
    pub(super) fn postpone(self, main: &Path, before: Before) {
        let left = (main.to_path_buf(), before.wal.is_some(), before.shm, self.file);
        let mut postponed = self.intents.postponed.lock();
        // Each holds a descriptor. Beyond that the next start does it.
        if postponed.len() < POSTPONED_MAX {
            postponed.push(left);
        }
    }
}

/// What an intent to open `main` is noted as.
pub(crate) fn record(main: &Path, wal_was_there: bool, shm_was_there: bool) -> Vec<u8> {
    let bytes = main.as_os_str().as_bytes();
    let mut record = Vec::with_capacity(bytes.len() + 6);
    let flags = (u8::from(wal_was_there) * WAL_WAS_THERE) | (u8::from(shm_was_there) * SHM_WAS_THERE);
    record.extend_from_slice(&[MARK, flags]);
    record.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
    record.extend_from_slice(bytes);
    record
}

/// The inverse of [`record`], whatever follows it in the file.
pub(crate) fn parse(record: &[u8]) -> Option<(PathBuf, bool, bool)> {
    let (&[mark, flags, a, b, c, d], rest) = record.split_first_chunk::<6>()?;
    let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    let path = rest.get(..len)?;
    (mark == MARK && path.first() == Some(&b'/')).then(|| {
        let main = PathBuf::from(OsString::from_vec(path.to_vec()));
        (main, flags & WAL_WAS_THERE != 0, flags & SHM_WAS_THERE != 0)
    })
}
