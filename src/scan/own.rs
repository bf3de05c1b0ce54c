//! Our own folders and files, which no scan finds.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders and files of our own, which no pattern finds: state, temporary copies, the folder store.
#[derive(Debug, Clone, Default)]
pub struct OwnFiles {
    paths: Vec<PathBuf>,
    /// Device and inode of the same, for a mount or a link shows them under other paths.
    identities: Vec<(u64, u64)>,
    /// Whether some of them lie where a listing need not tell the inode that a stat tells.
    hidden: bool,
}

impl OwnFiles {
    /// Excludes these folders and all below them. They should exist by now: one that does not is known by
    /// its path alone.
    #[must_use]
    pub fn new(dirs: &[PathBuf]) -> Self {
        Self::default().with_files(dirs)
    }

    /// Excludes these files, too.
    #[must_use]
    pub fn with_files(mut self, files: &[PathBuf]) -> Self {
        for path in files {
            self.paths
                .push(path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.clone()));
            if let Ok(metadata) = path.metadata() {
                self.identities.push((metadata.dev(), metadata.ino()));
                self.hidden |= metadata.is_dir() && !lists_inodes(path);
            }
        }
        self
    }

    pub(super) fn holds(&self, dev: u64, ino: u64) -> bool {
        self.identities.contains(&(dev, ino))
    }

    /// Whether a folder may be ours, going by what its listing tells of its entry `.`: only then it must be asked for its device
    /// and inode, which nearly all folders are spared.
    pub(super) fn may_hold(&self, inode: Option<u64>) -> bool {
        self.hidden || inode.is_none_or(|inode| self.identities.iter().any(|&(_, ino)| ino == inode))
    }

    /// Whether `path` is one of ours or lies in one. By bytes, as comparing by components is slow.
    pub(super) fn covers(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        self.paths.iter().any(|own| {
            let rest = path.strip_prefix(own.as_os_str().as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        })
    }
}

/// Whether `path` lies on a file system where a folder's entry `.` is always listed, with the folder's own inode. Others may
/// leave it out, or make numbers up, such as overlays and user-space file systems do. Magic numbers: statfs(2).
fn lists_inodes(path: &Path) -> bool {
    const EXT: i128 = 0xEF53;
    const XFS: i128 = 0x5846_5342;
    const BTRFS: i128 = 0x9123_683E;
    const TMPFS: i128 = 0x0102_1994;
    let stat = nix::sys::statfs::statfs(path);
    stat.is_ok_and(|stat| [EXT, XFS, BTRFS, TMPFS].contains(&i128::from(stat.filesystem_type().0)))
}
