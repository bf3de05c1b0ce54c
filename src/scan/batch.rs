//! Files found, several at a time: who judges them does so faster for many at once than for one between two calls of the system.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Found;
use crate::clock::Nanos;
use crate::stamps::{FileStat, Stamps};

/// How many files a batch holds at the most.
pub const BATCH_MAX: usize = 64;

/// Files found by one thread, one after another.
#[derive(Debug)]
pub struct Batch {
    pattern: usize,
    /// Of all files, one behind the other.
    paths: Vec<u8>,
    files: Vec<File>,
    /// Not after the first was looked at.
    began: Nanos,
}

#[derive(Debug)]
struct File {
    /// Where its path ends; it begins where that of the file before ends.
    path_end: usize,
    stamps: Stamps,
    stat: FileStat,
    symlink: bool,
}

impl Batch {
    pub(super) fn new(pattern: usize) -> Self {
        Self { pattern, paths: Vec::new(), files: Vec::with_capacity(BATCH_MAX), began: 0 }
    }

    /// Ready for files that are looked at from now on.
    pub(super) fn begin(&mut self, now: Nanos) {
        self.paths.clear();
        self.files.clear();
        self.began = now;
    }

    pub(super) fn push(&mut self, path: &[u8], stamps: Stamps, stat: FileStat, symlink: bool) {
        self.paths.extend_from_slice(path);
        self.files.push(File { path_end: self.paths.len(), stamps, stat, symlink });
    }

    pub(super) fn is_full(&self) -> bool {
        self.files.len() >= BATCH_MAX
    }

    /// How many files there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files in the order in which they were met.
    pub fn iter(&self) -> impl Iterator<Item = Found<'_>> {
        let mut begin = 0;
        self.files.iter().map(move |file| {
            let path =
                Path::new(OsStr::from_bytes(&self.paths[std::mem::replace(&mut begin, file.path_end)..file.path_end]));
            let (stamps, stat, symlink) = (&file.stamps, &file.stat, file.symlink);
            Found { path, stamps, stamped_at: self.began, stat, pattern: self.pattern, symlink }
        })
    }
}
