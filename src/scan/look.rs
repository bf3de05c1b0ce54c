//! Looking at files: their stamps, relative to the folder they lie in.
//!
//! Where a call of the system returns into a function that was entered before it, processors that guard their return predictions
//! take as long again for the next call (AMD, 300 of 940 ns). So all of a file's calls are made within one loop, inlined, by
//! `rustix`, which makes them without the C library.

use std::ffi::{CStr, OsStr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, CWD, Stat, statat};
use rustix::io::Errno;

use super::batch::Batch;
use super::folder::{Entry, Names};
use super::walk::{Place, Walk};
use crate::stamps::{FileStat, Stamps, nanos};

/// The longest path that the system takes, its NUL included.
const PATH_MAX: usize = 4096;

/// After so many files and folders the visitor is told that the scan moves on.
const STEP: u32 = 16;

/// A folder that is open, and how many bytes at the beginning of a path lead to it, the slash included. What is behind them is
/// asked for relative to the folder, which spares the system the way there.
#[derive(Clone, Copy)]
pub(super) struct Base<'d> {
    pub(super) dir: BorrowedFd<'d>,
    pub(super) from: usize,
}

impl Base<'_> {
    /// No folder is open: paths are taken as a whole.
    pub(super) const NONE: Self = Base { dir: CWD, from: 0 };
}

/// A folder whose files are looked at.
#[derive(Clone, Copy)]
pub(super) struct Listed<'d> {
    pub(super) dir: &'d OwnedFd,
    /// Bytes of its path, with a slash at its end.
    pub(super) prefix: usize,
    pub(super) place: &'d Place,
    /// Whether it could be listed to its end; if not, sidecars that were not listed may exist all the same.
    pub(super) complete: bool,
}

/// Looks at what lies at one path after another.
pub(super) struct Looker<'w> {
    pub(super) walk: &'w Walk<'w>,
    /// Absolute, of what is looked at.
    pub(super) path: Vec<u8>,
    pub(super) folders: u64,
    /// Found, and not told yet.
    batch: Batch,
    files: u64,
    stat_calls: u64,
    steps: u32,
}

/// The last files are told, and what was counted goes to the totals.
impl Drop for Looker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.tell();
        let totals = self.walk.totals;
        totals.folders.fetch_add(self.folders, Ordering::Relaxed);
        totals.files.fetch_add(self.files, Ordering::Relaxed);
        totals.stat_calls.fetch_add(self.stat_calls, Ordering::Relaxed);
    }
}

impl<'w> Looker<'w> {
    pub(super) fn new(walk: &'w Walk<'w>, path: &[u8]) -> Self {
        let mut batch = Batch::new(walk.index);
        batch.begin(walk.visitor.now());
        Self { walk, path: path.to_vec(), folders: 0, batch, files: 0, stat_calls: 0, steps: 0 }
    }

    /// Tells what was found, and begins anew.
    fn tell(&mut self) {
        if !self.batch.is_empty() {
            self.files += self.batch.len() as u64;
            self.walk.visitor.found(&self.batch);
        }
        self.batch.begin(self.walk.visitor.now());
    }

    pub(super) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// Appends the slash behind which names of entries go.
    pub(super) fn open_path(&mut self) {
        if self.path.last() != Some(&b'/') {
            self.path.push(b'/');
        }
    }

    /// Calls the system for what lies at the path. Relative to a folder it would take paths longer than any program can give as
    /// a whole, SQLite included.
    #[inline(always)]
    pub(super) fn call<T>(
        &mut self,
        base: Base<'_>,
        call: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.path.push(0);
        let done = match CStr::from_bytes_with_nul(&self.path[base.from..]) {
            Ok(relative) if self.path.len() <= PATH_MAX => call(base.dir, relative),
            Ok(_) => Err(Errno::NAMETOOLONG),
            Err(_) => Err(Errno::INVAL),
        };
        self.path.pop();
        done
    }

    #[inline(always)]
    pub(super) fn stat(&mut self, base: Base<'_>, flags: AtFlags) -> Result<FileStat, Errno> {
        self.call(base, |dir, path| statat(dir, path, flags)).map(|stat| file_stat(&stat))
    }

    /// Says now and then that the scan moves on.
    pub(super) fn step(&mut self) {
        if self.steps.is_multiple_of(STEP) {
            self.walk.visitor.gets_on();
        }
        self.steps = self.steps.wrapping_add(1);
    }

    /// Takes the stamps of some files of a folder and reports them.
    pub(super) fn files(&mut self, folder: Listed<'_>, files: &Names, range: Range<usize>) {
        for &entry in &files.entries[range.start..range.end.min(files.entries.len())] {
            if self.walk.stopped() {
                return;
            }
            self.file(folder, entry, files.name(entry));
        }
    }

    #[inline(always)]
    fn file(&mut self, folder: Listed<'_>, entry: Entry, name: &[u8]) {
        self.step();
        self.path.truncate(folder.prefix);
        self.path.extend_from_slice(name);
        if self.walk.excluded(self.path(), name) {
            return;
        }
        if let Some(real) = &folder.place.real
            && self.walk.found_directly(&real.join(OsStr::from_bytes(name)))
        {
            return;
        }
        if entry.link {
            return self.linked_file();
        }
        if self.walk.skips(self.path()) {
            return;
        }
        self.stat_calls += 1;
        let base = Base { dir: folder.dir.as_fd(), from: folder.prefix };
        match self.stat(base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let listed = |listed| listed || !folder.complete;
                self.regular_file(base, &stat, listed(entry.wal), listed(entry.journal));
            }
            Err(Errno::NOENT) => {}
            Err(e) => self.walk.totals.fail(self.path().to_path_buf(), e),
        }
    }

    /// Reports the file at the path, if it is one and not ours, with the sidecars that there may be.
    #[inline(always)]
    fn regular_file(&mut self, base: Base<'_>, stat: &FileStat, may_have_wal: bool, may_have_journal: bool) {
        if !stat.is_file() || self.walk.scanner.own.holds(stat.dev, stat.ino) {
            return;
        }
        let wal = if may_have_wal { self.sidecar(base, b"-wal") } else { Ok(None) };
        let taken = wal.and_then(|wal| {
            let journal = if may_have_journal { self.sidecar(base, b"-journal")? } else { None };
            Ok(Stamps::new(stat, wal.as_ref(), journal.as_ref()))
        });
        match taken {
            Ok(stamps) => {
                self.batch.push(&self.path, stamps, *stat, false);
                if self.batch.is_full() {
                    self.tell();
                }
            }
            Err(e) => self.walk.totals.fail(self.path().to_path_buf(), e),
        }
    }

    /// The stat of a sidecar of the file at the path; absent is `None`.
    #[inline(always)]
    fn sidecar(&mut self, base: Base<'_>, suffix: &[u8]) -> Result<Option<FileStat>, Errno> {
        let length = self.path.len();
        self.path.extend_from_slice(suffix);
        let looked = self.stat(base, AtFlags::empty());
        self.path.truncate(length);
        self.stat_calls += 1;
        match looked {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reports the file that the symlink at the path leads to, unless it is found under its real path anyway.
    fn linked_file(&mut self) {
        self.stat_calls += 3;
        let walk = self.walk;
        let real = match self.path().canonicalize() {
            Ok(real) => real,
            Err(e) => return walk.fail_unless_gone(self.path(), e),
        };
        if walk.scanner.own.covers(&real) || walk.found_directly(&real) {
            return;
        }
        match Stamps::take(&real) {
            Ok((_, stat)) if !stat.is_file() || walk.scanner.own.holds(stat.dev, stat.ino) => {}
            Ok((stamps, stat)) => {
                self.batch.push(real.as_os_str().as_bytes(), stamps, stat, true);
                if self.batch.is_full() {
                    self.tell();
                }
            }
            Err(e) => walk.fail_unless_gone(&real, e),
        }
    }

    /// Reports the file at the path, which a pattern names without any wildcard at its end: its folder, which `place` is, is
    /// never listed, for three stats cost less than that.
    pub(super) fn single_file(&mut self, base: Base<'_>, place: &Place) {
        self.step();
        self.stat_calls += 1;
        let stat = match self.stat(base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(e) => return self.walk.fail_unless_gone(self.path(), e),
        };
        let real = place.real.as_ref().zip(self.path().file_name()).map(|(folder, name)| folder.join(name));
        if real.is_some_and(|real| self.walk.found_directly(&real)) {
            return;
        }
        if stat.is_symlink() {
            self.linked_file();
        } else if !self.walk.scanner.own.covers(self.path()) {
            self.regular_file(base, &stat, true, true);
        }
    }
}

/// The widths of these fields differ between platforms.
#[allow(clippy::unnecessary_cast, reason = "needed where the field is another")]
pub(super) fn file_stat(stat: &Stat) -> FileStat {
    FileStat {
        dev: stat.st_dev as u64,
        ino: stat.st_ino as u64,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: nanos(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime: nanos(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        nlink: stat.st_nlink as u64,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
    }
}
