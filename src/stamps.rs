//! What the file system says about a database: the stamps that tell whether it changed.
//!
//! Owns the definition of a stamp and how stamps are taken by path; compares nothing (that is
//! [`detect`](crate::detect)). Which fields count, and why the others do not:
//!
//! | file | counts | does not count |
//! |---|---|---|
//! | main | device, inode, size, mtime, ctime | |
//! | `-wal` | inode, size, mtime | ctime: as root every SQLite open chowns the file, so reads move it |
//! | `-journal` | size, mtime | |
//! | `-shm` | nothing | memory-mapped: moves without commits and does not move with them |

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::clock::Nanos;

/// Stamps of the main file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MainStamp {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Nanos,
    /// Status change time.
    pub ctime: Nanos,
}

/// Stamps of the `-wal` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalStamp {
    /// Inode number.
    pub ino: u64,
    /// Size in bytes; never 0, for an empty `-wal` counts as absent.
    pub size: u64,
    /// Modification time.
    pub mtime: Nanos,
}

/// Stamps of the `-journal` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalStamp {
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Nanos,
}

/// Everything that tells one state of a database's files from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamps {
    /// The main file.
    pub main: MainStamp,
    /// The write-ahead log, if there is one with content.
    pub wal: Option<WalStamp>,
    /// The rollback journal, if there is one.
    pub journal: Option<JournalStamp>,
}

/// What one stat call told about one file: the raw material of [`Stamps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileStat {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Nanos,
    /// Status change time.
    pub ctime: Nanos,
    /// Number of names (hard links).
    pub nlink: u64,
    /// File type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl FileStat {
    /// Whether this is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.mode & 0o170_000 == 0o100_000
    }

    /// Whether this is a symlink.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.mode & 0o170_000 == 0o120_000
    }
}

impl From<&std::fs::Metadata> for FileStat {
    fn from(m: &std::fs::Metadata) -> Self {
        Self {
            dev: m.dev(),
            ino: m.ino(),
            size: m.size(),
            mtime: nanos(m.mtime(), m.mtime_nsec()),
            ctime: nanos(m.ctime(), m.ctime_nsec()),
            nlink: m.nlink(),
            mode: m.mode(),
            uid: m.uid(),
            gid: m.gid(),
        }
    }
}

/// Seconds and nanoseconds as one number; a time outside ±292 years is clamped.
#[must_use]
pub fn nanos(seconds: i64, nanoseconds: i64) -> Nanos {
    seconds.saturating_mul(crate::clock::SECOND).saturating_add(nanoseconds)
}

impl Stamps {
    /// Puts the stats of the three files together. An empty `-wal` counts as absent: a reader leaves
    /// one behind, and counting it would make every read look like a change.
    #[must_use]
    pub fn new(main: &FileStat, wal: Option<&FileStat>, journal: Option<&FileStat>) -> Self {
        Self {
            main: MainStamp { dev: main.dev, ino: main.ino, size: main.size, mtime: main.mtime, ctime: main.ctime },
            wal: wal.filter(|w| w.size > 0).map(|w| WalStamp { ino: w.ino, size: w.size, mtime: w.mtime }),
            journal: journal.map(|j| JournalStamp { size: j.size, mtime: j.mtime }),
        }
    }

    /// Takes the stamps of `main` and its sidecars now, by path. Also returns the stat of the main file.
    ///
    /// # Errors
    /// The stat of the main file failed, or that of a sidecar for another reason than absence: only
    /// `ENOENT` means absent.
    pub fn take(main: &Path) -> io::Result<(Self, FileStat)> {
        let stat = FileStat::from(&std::fs::metadata(main)?);
        let wal = stat_if_there(&sidecar(main, "-wal"))?;
        let journal = stat_if_there(&sidecar(main, "-journal"))?;
        Ok((Self::new(&stat, wal.as_ref(), journal.as_ref()), stat))
    }

    /// All times in these stamps.
    pub fn times(&self) -> impl Iterator<Item = Nanos> {
        let sidecars = [self.wal.map(|w| w.mtime), self.journal.map(|j| j.mtime)];
        [self.main.mtime, self.main.ctime].into_iter().chain(sidecars.into_iter().flatten())
    }
}

/// Stats `path`; absent is `None`.
///
/// # Errors
/// Any failure other than `ENOENT`.
pub fn stat_if_there(path: &Path) -> io::Result<Option<FileStat>> {
    match std::fs::metadata(path) {
        Ok(m) => Ok(Some(FileStat::from(&m))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The path of a sidecar: `main` with `suffix` (`-wal`, `-shm`, `-journal`) appended to its name.
#[must_use]
pub fn sidecar(main: &Path, suffix: &str) -> PathBuf {
    let mut name: Vec<u8> = main.as_os_str().to_owned().into_vec();
    name.extend_from_slice(suffix.as_bytes());
    PathBuf::from(OsString::from_vec(name))
}
