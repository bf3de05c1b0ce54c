//! The walk for one pattern: what all threads of it share, and what follows from patterns and paths alone.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::errno::Errno;

use super::{Scanner, Totals, Visitor};
use crate::pattern::Segment;

/// Parts of a walk that wait for a free thread, at the most; each holds a folder open.
const WAITING_MAX: usize = 16;

/// The walk for one pattern.
pub(super) struct Walk<'w> {
    pub(super) scanner: Scanner<'w>,
    /// Of the pattern.
    pub(super) index: usize,
    /// Real paths of the roots of all patterns.
    roots: &'w [Option<PathBuf>],
    stop: &'w AtomicBool,
    pub(super) visitor: &'w dyn Visitor,
    skips_some: bool,
    pub(super) totals: &'w Totals,
    /// How many parts of it no thread has taken up yet.
    waiting: AtomicUsize,
    /// How many of them there should be, so that no thread is without work.
    waiting_wanted: usize,
}

/// What a folder's path does not tell of it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The real path, if a symlink below the root led here.
    pub(super) real: Option<PathBuf>,
    /// Whether its last name may be a symlink, which is then followed.
    pub(super) link: bool,
}

impl<'w> Walk<'w> {
    pub(super) fn new(
        scanner: Scanner<'w>,
        index: usize,
        roots: &'w [Option<PathBuf>],
        stop: &'w AtomicBool,
        visitor: &'w dyn Visitor,
        totals: &'w Totals,
    ) -> Self {
        let threads = rayon::current_num_threads();
        // A single thread has nobody to share with.
        let waiting_wanted = if threads == 1 { 0 } else { threads.min(WAITING_MAX) };
        let (skips_some, waiting) = (visitor.skips_some(), AtomicUsize::new(0));
        Self { scanner, index, roots, stop, visitor, skips_some, totals, waiting, waiting_wanted }
    }

    /// Of the pattern, below its root.
    pub(super) fn tail(&self) -> &'w [Segment] {
        self.scanner.patterns[self.index].tail()
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the visitor need not be told of the file at `path`.
    pub(super) fn skips(&self, path: &Path) -> bool {
        self.skips_some && self.visitor.skips(path)
    }

    /// Whether threads may soon have nothing to do.
    pub(super) fn wants_parts(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < self.waiting_wanted
    }

    /// A part of the walk waits for a thread.
    pub(super) fn part_waits(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// A thread has taken it up.
    pub(super) fn part_begins(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a failure, unless it only says that the thing is gone, or became something else.
    pub(super) fn fail_unless_gone(&self, path: &Path, error: impl Into<io::Error>) {
        let error = error.into();
        let gone = [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP];
        if !error.raw_os_error().is_some_and(|code| gone.contains(&Errno::from_raw(code))) {
            self.totals.fail(path.to_path_buf(), error);
        }
    }

    /// The segment behind that at `position`, if an entry called `name` there leads on to it; the same one for `**`, which goes
    /// on, but never through a symlink.
    fn reached(&self, position: usize, name: &[u8], link: bool) -> Option<usize> {
        let tail = self.tail();
        match &tail[position] {
            Segment::Recursive => (!link).then_some(position),
            segment => (position + 1 < tail.len() && segment.matches(name)).then_some(position + 1),
        }
    }

    /// Whether anything can match below an entry called `name`, if it is a folder.
    pub(super) fn leads_on(&self, positions: &[usize], name: &[u8], link: bool) -> bool {
        positions.iter().any(|&position| self.reached(position, name, link).is_some())
    }

    /// Puts into `next` the positions that hold below an entry called `name`: ascending, each once.
    pub(super) fn below(&self, positions: &[usize], name: &[u8], link: bool, next: &mut Vec<usize>) {
        next.clear();
        for &position in positions {
            if let Some(reached) = self.reached(position, name, link) {
                add_position(next, self.tail(), reached);
            }
        }
        next.sort_unstable();
        next.dedup();
    }

    /// Whether a file called `name` matches here.
    pub(super) fn file_matches(&self, positions: &[usize], name: &[u8]) -> bool {
        let last = self.tail().len() - 1;
        positions.last() == Some(&last) && self.tail()[last].matches(name)
    }

    pub(super) fn excluded(&self, path: &Path, name: &[u8]) -> bool {
        !self.scanner.excludes.is_empty() && self.scanner.excludes.is_excluded(path, name)
    }

    /// Notes that `place` was reached by `name`, the last of `path`. False if that leads into a folder of our own or to nothing.
    pub(super) fn step(&self, path: &Path, place: &mut Place, name: &[u8], link: bool) -> bool {
        place.link = link;
        if let Some(real) = &mut place.real {
            real.push(std::ffi::OsStr::from_bytes(name));
        }
        if link {
            match path.canonicalize() {
                Ok(real) if self.scanner.own.covers(&real) => return false,
                Ok(real) => place.real = Some(real),
                Err(e) => {
                    self.fail_unless_gone(path, e);
                    return false;
                }
            }
        }
        true
    }

    /// Whether some pattern's walk meets the real path `real` without any symlink below that pattern's root.
    pub(super) fn found_directly(&self, real: &Path) -> bool {
        let patterns = self.scanner.patterns.iter().zip(self.roots);
        patterns.filter_map(|(pattern, root)| Some((pattern, root.as_deref()?))).any(|(pattern, root)| {
            let Ok(rest) = real.strip_prefix(root) else { return false };
            pattern.matches_below_root(rest) && !self.excluded_below(pattern.root(), rest)
        })
    }

    /// Whether `rest` below `root`, or a folder on the way to it, is excluded.
    fn excluded_below(&self, root: &Path, rest: &Path) -> bool {
        let mut path = root.to_path_buf();
        rest.iter().any(|name| {
            path.push(name);
            self.excluded(&path, name.as_bytes())
        })
    }
}

/// Adds a position, and what lies behind it where it is `**`, which may stand for no folder at all.
pub(super) fn add_position(positions: &mut Vec<usize>, tail: &[Segment], position: usize) {
    positions.push(position);
    if tail[position] == Segment::Recursive {
        positions.push(position + 1);
    }
}
