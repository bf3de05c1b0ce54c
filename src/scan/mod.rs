//! The scan: patterns → databases found and errors, each with its path.
//!
//! Owns the walk and the stamps it takes on the way. It opens folders, never a file, and remembers nothing
//! between runs, so a crash here leaves nothing. Whether a file found is a database, and whether it changed,
//! is for others to say.
//!
//! This is the hot loop: 100,000 databases every 30 s. A folder is listed once, files are looked at
//! relative to its descriptor, and a sidecar only if it was listed: an absent one costs nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use parking_lot::Mutex;

mod batch;
mod folder;
mod look;
mod many;
mod own;
mod walk;
mod worker;

pub use batch::{BATCH_MAX, Batch};
pub use own::OwnFiles;

use crate::clock::Nanos;
use crate::pattern::{Excludes, Pattern};
use crate::stamps::{FileStat, Stamps};
use walk::Walk;
use worker::Worker;

/// How many errors a report keeps; the others are only counted. A folder without `x` permission gives one
/// for each of its files.
const ERRORS_MAX: usize = 1000;

/// A file that matches a pattern, and its stamps.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Absolute path; of a symlink, the real path of the file it leads to, for there its sidecars lie.
    pub path: &'a Path,
    /// Of the file and its sidecars: complete, or the file is reported as an error instead.
    pub stamps: &'a Stamps,
    /// Not after its stamps were taken.
    pub stamped_at: Nanos,
    /// Of the file itself.
    pub stat: &'a FileStat,
    /// Index of the pattern that found it.
    pub pattern: usize,
    /// Whether the name that matched is a symlink to this file. Two such links give the same path twice.
    pub symlink: bool,
}

/// Who is told what a scan finds, on several of its threads at once.
pub trait Visitor: Sync {
    /// Files that match, in the order in which they were met; at most [`BATCH_MAX`].
    fn found(&self, files: &Batch);

    /// Whether there may be files of which the scan need not tell: then it asks before it looks at one.
    fn skips_some(&self) -> bool {
        false
    }

    /// Whether nothing need be told of the file at `path`, which is not a symlink.
    fn skips(&self, _path: &Path) -> bool {
        false
    }

    /// The time, for [`Found::stamped_at`].
    fn now(&self) -> Nanos {
        Nanos::MIN
    }

    /// The scan moves on: said at least once for every 16 files and folders looked at.
    fn gets_on(&self) {}
}

impl<F: Fn(Found<'_>) + Sync> Visitor for F {
    fn found(&self, files: &Batch) {
        files.iter().for_each(self);
    }
}

/// Something that could not be looked at.
#[derive(Debug)]
pub struct ScanError {
    /// The database or folder concerned.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

/// What a scan came across.
#[derive(Debug, Default)]
pub struct ScanReport {
    /// Sorted by path; each path once. At most 1,000.
    pub errors: Vec<ScanError>,
    /// How many more errors there were.
    pub errors_dropped: u64,
    /// Roots of patterns that do not exist or are not folders, sorted.
    pub missing_roots: Vec<PathBuf>,
    /// Folders listed.
    pub folders: u64,
    /// Files that the visitor was told of.
    pub files: u64,
    /// Stat calls made for files and their sidecars.
    pub stat_calls: u64,
    /// Whether the walk was stopped before it was complete.
    pub stopped: bool,
}

/// Finds what the patterns match.
#[derive(Debug, Clone, Copy)]
pub struct Scanner<'a> {
    patterns: &'a [Pattern],
    excludes: &'a Excludes,
    own: &'a OwnFiles,
}

impl<'a> Scanner<'a> {
    /// Excludes hold for what lies below a pattern's root: the root itself was named on purpose.
    #[must_use]
    pub fn new(patterns: &'a [Pattern], excludes: &'a Excludes, own: &'a OwnFiles) -> Self {
        Self { patterns, excludes, own }
    }

    /// Walks the patterns one after another, each on all threads of the current rayon pool, and tells
    /// `visitor` of each regular file that matches; of a file that two patterns match
    /// for both, the first pattern first. Ends early, with what it has, once `stop` is set.
    ///
    /// What vanishes during the walk was not there. A symlinked file that a pattern finds under its real
    /// path as well is skipped here, and so is all that a symlinked folder leads to of that kind. Dangling
    /// links and what is neither file nor folder are ignored.
    pub fn run(&self, stop: &AtomicBool, visitor: &dyn Visitor) -> ScanReport {
        let totals = Totals::default();
        let mut missing_roots = Vec::new();
        let roots: Vec<Option<PathBuf>> =
            self.patterns.iter().map(|pattern| real_root(pattern.root(), &totals, &mut missing_roots)).collect();
        for (index, root) in roots.iter().enumerate() {
            let Some(root) = root.as_ref().filter(|root| !self.own.covers(root)) else { continue };
            log::debug!("scanning {} (really {})", self.patterns[index].root().display(), root.display());
            let walk = Walk::new(*self, index, &roots, stop, visitor, &totals);
            rayon::scope(|scope| Worker::start(&walk, scope));
        }
        missing_roots.sort();
        missing_roots.dedup();
        totals.into_report(missing_roots, stop.load(Ordering::Relaxed))
    }
}

/// Where a pattern's root really lies; `None` if it cannot be walked.
fn real_root(root: &Path, totals: &Totals, missing: &mut Vec<PathBuf>) -> Option<PathBuf> {
    let real = root.canonicalize().and_then(|real| {
        let metadata = real.metadata()?;
        if metadata.is_dir() { Ok(real) } else { Err(Errno::ENOTDIR.into()) }
    });
    match real {
        Ok(real) => Some(real),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            missing.push(root.to_path_buf());
            None
        }
        Err(e) => {
            totals.fail(root.to_path_buf(), e);
            None
        }
    }
}

/// What all threads of a run add up.
#[derive(Default)]
struct Totals {
    errors: Mutex<Vec<ScanError>>,
    errors_dropped: AtomicU64,
    folders: AtomicU64,
    files: AtomicU64,
    stat_calls: AtomicU64,
}

impl Totals {
    fn fail(&self, path: PathBuf, source: impl Into<io::Error>) {
        let mut errors = self.errors.lock();
        if errors.len() < ERRORS_MAX {
            errors.push(ScanError { path, source: source.into() });
        } else {
            self.errors_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn into_report(self, missing_roots: Vec<PathBuf>, stopped: bool) -> ScanReport {
        let mut errors = self.errors.into_inner();
        errors.sort_by(|a, b| a.path.cmp(&b.path));
        errors.dedup_by(|a, b| a.path == b.path);
        ScanReport {
            errors,
            errors_dropped: self.errors_dropped.into_inner(),
            missing_roots,
            folders: self.folders.into_inner(),
            files: self.files.into_inner(),
            stat_calls: self.stat_calls.into_inner(),
            stopped,
        }
    }
}

#[cfg(test)]
mod tests;
