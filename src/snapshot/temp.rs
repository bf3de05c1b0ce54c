//! Temporary copies of large databases: named as ours, counted before they are made, gone when dropped.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Failure, Reason};
use crate::fs::free_bytes;

/// Left free for everybody else on the file system of the temporary copies.
const KEEP_FREE: u64 = 64 << 20;

/// The directory for temporary copies, and what is promised of its space.
#[derive(Debug)]
pub(super) struct TempSpace {
    dir: PathBuf,
    promised: AtomicU64,
    made: AtomicU64,
}

/// A temporary copy; removed when dropped.
#[derive(Debug)]
pub struct TempCopy {
    path: PathBuf,
    bytes: u64,
    space: Arc<TempSpace>,
}

impl TempSpace {
    /// Uses `dir`, which only the holder of the state's lock touches, and removes what a crash left there.
    pub(super) fn recover(dir: &Path) -> io::Result<Arc<Self>> {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            // By its own name: the directory above may be called anything.
            if entry.file_name().as_bytes().windows(5).any(|part| part == b".copy") {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Arc::new(Self { dir: dir.to_path_buf(), promised: AtomicU64::new(0), made: AtomicU64::new(0) }))
    }

    /// A name for a copy of `bytes`, if there is room for it beside all other copies under way.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<TempCopy, Failure> {
        let free = free_bytes(&self.dir).map_err(|e| {
            Failure::new(Reason::NoSpace, format!("cannot tell the room in {}: {e}", self.dir.display()))
        })?;
        let promised = self.promised.fetch_add(bytes, Ordering::SeqCst);
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let copy = TempCopy { path: self.dir.join(format!("{n}.copy")), bytes, space: Arc::clone(self) };
        let need = promised.saturating_add(bytes).saturating_add(KEEP_FREE);
        if need > free {
            return Err(no_space(&self.dir, bytes, free));
        }
        Ok(copy)
    }
}

/// The failure of having no room for a copy of `bytes` in `dir`.
pub(super) fn no_space(dir: &Path, bytes: u64, free: u64) -> Failure {
    let (need, free) = (bytes.saturating_add(KEEP_FREE) >> 20, free >> 20);
    Failure::new(
        Reason::NoSpace,
        format!("its temporary copy needs {need} MiB in {}, where {free} MiB are free", dir.display()),
    )
}

impl TempCopy {
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes promised for it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn directory(&self) -> &Path {
        &self.space.dir
    }
}

impl Drop for TempCopy {
    fn drop(&mut self) {
        for suffix in ["", "-journal", "-wal"] {
            let path = crate::stamps::sidecar(&self.path, suffix);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    log::warn!("cannot remove the temporary copy {}: {e}", path.display());
                }
                _ => {}
            }
        }
        self.space.promised.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}
