//! Why a restored database was not put in its place: a fixed word for counting, a line for a person.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use crate::fs::shown;

/// The target exists and nothing allows replacing it.
pub(super) const TARGET_EXISTS: &str = "target-exists";
/// An application has the target open, or another restore is at it.
pub(super) const IN_USE: &str = "in-use";
/// The path leads, or could lead, out of the folder to restore into.
pub(super) const UNSAFE_PATH: &str = "unsafe-path";
/// Something other than a file is where the file belongs, or a file where a folder belongs.
pub(super) const NOT_A_FILE: &str = "not-a-file";
/// A `-wal`, `-journal` or `-shm` lies beside it, or it would be taken for one.
pub(super) const SIDECAR: &str = "sidecar";
/// The file system or the quota is full.
pub(super) const NO_SPACE: &str = "no-space";
/// The system does not let us write there.
pub(super) const UNWRITABLE: &str = "unwritable";
/// Two databases for one target in one run.
pub(super) const CLASH: &str = "clash";
/// The disk failed.
pub(super) const IO_ERROR: &str = "io-error";

/// A database that was not put in its place, and why. What was there is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word}: {detail}")]
pub struct Refusal {
    /// The class, for counting: `target-exists`, `in-use`, `unsafe-path`, `not-a-file`, `sidecar`, `no-space`,
    /// `unwritable`, `clash` or `io-error`.
    pub word: &'static str,
    /// What was seen, where, and what would be right; one line.
    pub detail: String,
}

impl Refusal {
    pub(super) fn new(word: &'static str, detail: impl Into<String>) -> Self {
        Self { word, detail: detail.into() }
    }

    /// What `error` means when it comes from an attempt to `attempt` (a verb, such as `write`) at `path`.
    pub(super) fn of(attempt: &str, path: &Path, error: &io::Error) -> Self {
        let path = shown(path);
        let errno = error.raw_os_error().map(Errno::from_raw);
        let (word, hint) = match errno {
            Some(Errno::ENOSPC) => (NO_SPACE, "make room on its file system"),
            Some(Errno::EDQUOT) => (NO_SPACE, "this user's quota is used up"),
            Some(Errno::EROFS) => (UNWRITABLE, "its file system is mounted read-only: restore elsewhere with --into"),
            Some(Errno::EACCES | Errno::EPERM) => {
                (UNWRITABLE, "run it as a user who may write there, or restore elsewhere with --into")
            }
            Some(Errno::EBUSY) => (UNWRITABLE, "it is a mount point by itself: mount its folder instead"),
            Some(Errno::EFBIG) => (UNWRITABLE, "the file system or `ulimit -f` does not take files of this size"),
            Some(Errno::EMFILE | Errno::ENFILE) => (UNWRITABLE, "raise `ulimit -n`"),
            Some(Errno::ENAMETOOLONG) => (UNWRITABLE, "the file system does not take names of this length"),
            Some(Errno::EILSEQ | Errno::EINVAL) => (UNWRITABLE, "the file system does not take this name"),
            Some(Errno::EISDIR) => (NOT_A_FILE, "it is a folder"),
            Some(Errno::ENOTDIR) => (NOT_A_FILE, "a part of the path is a file where a folder is needed"),
            Some(Errno::EIO) => (IO_ERROR, "the disk, or what stands for it, failed"),
            _ => (UNWRITABLE, ""),
        };
        let separator = if hint.is_empty() { "" } else { ": " };
        Self::new(word, format!("cannot {attempt} {path}: {error}{separator}{hint}"))
    }
}
