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
            }
        }
        self
    }

    pub(super) fn holds(&self, dev: u64, ino: u64) -> bool {
        self.identities.contains(&(dev, ino))
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
