//! Temporary copies of large databases: named as ours, counted before they are made, gone when dropped.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::{Failure, Reason};
use crate::fs::free_bytes;

/// Left free for everybody else on the file system of the temporary copies.
const KEEP_FREE: u64 = 64 << 20;

/// The directory for temporary copies, and what is promised of its space.
#[derive(Debug)]
pub(super) struct TempSpace {
    dir: PathBuf,
    /// Number and promised bytes of each copy there is.
    live: Mutex<BTreeMap<u64, u64>>,
    ended: Condvar,
    made: AtomicU64,
}

/// A temporary copy; removed when dropped.
#[derive(Debug)]
pub(super) struct TempCopy {
    path: PathBuf,
    number: u64,
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
        let (live, ended) = (Mutex::default(), Condvar::new());
        Ok(Arc::new(Self { dir: dir.to_path_buf(), live, ended, made: AtomicU64::new(0) }))
    }

    /// Room for a copy of `bytes`, beside all other copies under way; waits for these if need be. Not while anything is
    /// open or locked.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64, stop: &AtomicBool) -> Result<TempCopy, Failure> {
        let mut live = self.live.lock();
        loop {
            let free = free_bytes(&self.dir).map_err(|e| {
                Failure::new(Reason::NoSpace, format!("cannot tell the room in {}: {e}", self.dir.display()))
            })?;
            // What the others have written is no longer free, what they will write is.
            let to_come: u64 = live.iter().map(|(n, bytes)| bytes.saturating_sub(self.written(*n))).sum();
            if to_come.saturating_add(bytes).saturating_add(KEEP_FREE) <= free {
                let number = self.made.fetch_add(1, Ordering::Relaxed);
                live.insert(number, bytes);
                return Ok(TempCopy { path: self.path(number), number, bytes, space: Arc::clone(self) });
            }
            if live.is_empty() || stop.load(Ordering::Relaxed) {
                return Err(no_space(&self.dir, bytes, free));
            }
            self.ended.wait_for(&mut live, Duration::from_millis(200));
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number}.copy"))
    }

    fn written(&self, number: u64) -> u64 {
        std::fs::metadata(self.path(number)).map_or(0, |m| m.len())
    }
}

/// The failure of having no room for a copy of `bytes` in `dir`.
fn no_space(dir: &Path, bytes: u64, free: u64) -> Failure {
    let (need, free) = (bytes.saturating_add(KEEP_FREE) >> 20, free >> 20);
    Failure::new(
        Reason::NoSpace,
        format!("its temporary copy needs {need} MiB in {}, where {free} MiB are free", dir.display()),
    )
}

impl TempCopy {
    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Promises it no more than `bytes` from here on.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        self.bytes = self.bytes.min(bytes);
        self.space.live.lock().insert(self.number, self.bytes);
        self.space.ended.notify_all();
    }

    /// The failure of writing it to a full disk.
    pub(super) fn explain_full(&self) -> Failure {
        no_space(&self.space.dir, self.bytes, free_bytes(&self.space.dir).unwrap_or(0))
    }

    /// Removes what was written into it; the room stays promised.
    pub(super) fn empty(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

impl Drop for TempCopy {
    fn drop(&mut self) {
        remove(&self.path);
        self.space.live.lock().remove(&self.number);
        self.space.ended.notify_all();
    }
}

/// Removes a temporary file, if it is there.
pub(super) fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            log::warn!("cannot remove the temporary copy {}: {e}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_written_counts_once_and_too_much_waits_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let space = TempSpace::recover(dir.path()).unwrap();
        let (go_on, stop) = (AtomicBool::new(false), AtomicBool::new(true));
        let free = free_bytes(dir.path()).unwrap();
        let half = space.reserve(free / 2, &go_on).unwrap();
        let failure = space.reserve(free / 3 * 2, &stop).unwrap_err();
        assert_eq!(failure.reason, Reason::NoSpace);
        assert!(failure.detail.contains(&dir.path().display().to_string()), "{failure}");
        std::thread::scope(|s| {
            let waiting = s.spawn(|| space.reserve(free / 3 * 2, &go_on).map(|copy| copy.bytes));
            std::fs::write(half.path(), b"x").unwrap();
            drop(half);
            assert_eq!(waiting.join().unwrap(), Ok(free / 3 * 2));
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "copies are removed");
        let mut whole = space.reserve(free / 3 * 2, &go_on).unwrap();
        assert_eq!(space.reserve(free / 3 * 2, &stop).unwrap_err().reason, Reason::NoSpace);
        whole.shrink_to(1000);
        whole.shrink_to(free);
        assert_eq!(
            space.reserve(free / 3 * 2, &stop).map(|copy| copy.bytes),
            Ok(free / 3 * 2),
            "the rest is given back"
        );
        drop(whole);
        assert_eq!(space.reserve(u64::MAX, &go_on).unwrap_err().reason, Reason::NoSpace, "nobody to wait for");
    }
}
