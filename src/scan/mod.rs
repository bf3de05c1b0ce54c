//! The scan: patterns → databases found and errors, each with its path.
//!
//! Owns the walk and the stamps it takes on the way. It opens folders, never a file, and remembers nothing
//! between runs, so a crash here leaves nothing. Whether a file found is a database, and whether it changed,
//! is for others to say.
//!
//! This is the hot loop: 100,000 databases every 30 s. A folder is listed once, files are looked at
//! relative to its descriptor, and a sidecar only if it was listed: an absent one costs nothing.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::Metadata;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstat, fstatat};
use parking_lot::Mutex;
use rayon::Scope;

mod own;

pub use own::OwnFiles;

use crate::pattern::{Excludes, Pattern, Segment};
use crate::stamps::{FileStat, Stamps, nanos, sidecar, stat_if_there};

/// How many errors a report keeps; the others are only counted. A folder without `x` permission gives one
/// for each of its files.
const ERRORS_MAX: usize = 1000;

/// How many files are looked at in one go by one thread: about half a millisecond of work.
const FILES_PER_CHUNK: usize = 512;

/// How many subfolders one task takes at most.
const FOLDERS_PER_CHUNK: usize = 64;

/// A file that matches a pattern, and its stamps.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Absolute path; of a symlink, the real path of the file it leads to, for there its sidecars lie.
    pub path: &'a Path,
    /// Of the file and its sidecars: complete, or the file is reported as an error instead.
    pub stamps: Stamps,
    /// Of the file itself.
    pub stat: &'a FileStat,
    /// Index of the pattern that found it.
    pub pattern: usize,
    /// Whether the name that matched is a symlink to this file. Two such links give the same path twice.
    pub symlink: bool,
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
    /// Files reported to the visitor.
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

    /// Walks the patterns one after another, each on all threads of the current rayon pool, and calls
    /// `visit` on several of them at once for each regular file that matches; a file that two patterns match
    /// is visited for both, the first pattern first. Ends early, with what it has, once `stop` is set.
    ///
    /// What vanishes during the walk was not there. A symlinked file that a pattern finds under its real
    /// path as well is skipped here, and so is all that a symlinked folder leads to of that kind. Dangling
    /// links and what is neither file nor folder are ignored.
    pub fn run(&self, stop: &AtomicBool, visit: &(dyn Fn(Found<'_>) + Sync)) -> ScanReport {
        let totals = Totals::default();
        let mut missing_roots = Vec::new();
        let roots: Vec<Option<PathBuf>> =
            self.patterns.iter().map(|pattern| real_root(pattern.root(), &totals, &mut missing_roots)).collect();
        for (index, root) in roots.iter().enumerate() {
            let Some(root) = root.as_ref().filter(|root| !self.own.covers(root)) else { continue };
            let walk = Walk { scanner: *self, index, roots: &roots, stop, visit, totals: &totals };
            let start = Place { path: self.patterns[index].root().to_path_buf(), real: None, link: true };
            log::debug!("scanning {} (really {})", start.path.display(), root.display());
            let mut positions = Vec::new();
            add_position(&mut positions, walk.tail(), 0);
            rayon::scope(|scope| walk.enter(scope, start, positions));
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

/// The walk for one pattern. Each folder is a task of its own on the heap: however deep the folders, the
/// stack stays flat, and a folder's descriptor is open only while its files are looked at.
struct Walk<'w> {
    scanner: Scanner<'w>,
    /// Of the pattern.
    index: usize,
    /// Real paths of the roots of all patterns.
    roots: &'w [Option<PathBuf>],
    stop: &'w AtomicBool,
    visit: &'w (dyn Fn(Found<'_>) + Sync),
    totals: &'w Totals,
}

/// A folder to enter.
struct Place {
    /// As the pattern names it.
    path: PathBuf,
    /// The real path, if a symlink below the root led here.
    real: Option<PathBuf>,
    /// Whether its last name may be a symlink, which is then followed.
    link: bool,
}

/// What a folder holds that matters to the pattern.
struct Listing {
    place: Place,
    /// Which segments of the pattern's tail its entries may match; ascending, each once.
    positions: Vec<usize>,
    /// Every name, each ended by a NUL.
    names: Vec<u8>,
    files: Vec<Entry>,
    folders: Vec<Entry>,
    /// Whether the folder could be read to its end; if not, sidecars not listed may exist all the same.
    complete: bool,
}

#[derive(Clone, Copy)]
struct Entry {
    /// Where in `names` the name begins.
    start: usize,
    /// Without the NUL.
    length: usize,
    link: bool,
    /// Where in `names` the name of its `-wal` begins, if that was listed.
    wal: Option<usize>,
    /// The same for its `-journal`.
    journal: Option<usize>,
}

impl Listing {
    fn name(&self, entry: Entry) -> &[u8] {
        &self.names[entry.start..entry.start + entry.length]
    }

    fn c_name(&self, entry: Entry) -> Result<&CStr, Errno> {
        self.c_name_at(entry.start)
    }

    fn c_name_at(&self, start: usize) -> Result<&CStr, Errno> {
        CStr::from_bytes_until_nul(&self.names[start..]).map_err(|_| Errno::EINVAL)
    }

    fn path(&self, entry: Entry) -> PathBuf {
        self.place.path.join(OsStr::from_bytes(self.name(entry)))
    }
}

impl Walk<'_> {
    fn tail(&self) -> &[Segment] {
        self.scanner.patterns[self.index].tail()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Counts a failure, unless it only says that the thing is gone, or became something else.
    fn fail_unless_gone(&self, path: &Path, error: impl Into<io::Error>) {
        let error = error.into();
        let gone = [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP];
        if !error.raw_os_error().is_some_and(|code| gone.contains(&Errno::from_raw(code))) {
            self.totals.fail(path.to_path_buf(), error);
        }
    }

    /// The positions that hold below an entry called `name`, if it is a folder; none if nothing can match
    /// there. `**` goes on, but never through a symlink.
    fn below(&self, positions: &[usize], name: &[u8], link: bool) -> Vec<usize> {
        let tail = self.tail();
        let mut next = Vec::new();
        for &position in positions {
            let reached = match &tail[position] {
                Segment::Recursive if link => continue,
                Segment::Recursive => position,
                segment if position + 1 < tail.len() && segment.matches(name) => position + 1,
                _ => continue,
            };
            add_position(&mut next, tail, reached);
        }
        next.sort_unstable();
        next.dedup();
        next
    }

    /// Whether a file called `name` matches here.
    fn file_matches(&self, positions: &[usize], name: &[u8]) -> bool {
        let last = self.tail().len() - 1;
        positions.last() == Some(&last) && self.tail()[last].matches(name)
    }

    /// Goes into a folder: along literal segments without listing, then into the one that must be listed.
    fn enter<'s>(&'s self, scope: &Scope<'s>, mut place: Place, mut positions: Vec<usize>) {
        let tail = self.tail();
        while let [position] = positions[..]
            && let Segment::Literal(name) = &tail[position]
        {
            place.path.push(OsStr::from_bytes(name));
            if self.excluded(&place.path, name) {
                return;
            }
            let metadata = match place.path.symlink_metadata() {
                Ok(metadata) => metadata,
                Err(e) => return self.fail_unless_gone(&place.path, e),
            };
            if position + 1 == tail.len() {
                return self.single_file(&place, &metadata);
            }
            if !self.step(&mut place, name, metadata.is_symlink()) {
                return;
            }
            positions.clear();
            add_position(&mut positions, tail, position + 1);
        }
        if self.stopped() {
            return;
        }
        self.list(scope, place, positions);
    }

    /// Notes that `place`, whose path already ends in `name`, was reached by it. False if that leads into a
    /// folder of our own or to nothing.
    fn step(&self, place: &mut Place, name: &[u8], link: bool) -> bool {
        place.link = link;
        if let Some(real) = &mut place.real {
            real.push(OsStr::from_bytes(name));
        }
        if link {
            match place.path.canonicalize() {
                Ok(real) if self.scanner.own.covers(&real) => return false,
                Ok(real) => place.real = Some(real),
                Err(e) => {
                    self.fail_unless_gone(&place.path, e);
                    return false;
                }
            }
        }
        true
    }

    /// Lists a folder, then looks at its files and spawns its subfolders.
    fn list<'s>(&'s self, scope: &Scope<'s>, place: Place, positions: Vec<usize>) {
        let mut flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        flags.set(OFlag::O_NOFOLLOW, !place.link);
        let opened = Dir::open(&place.path, flags, Mode::empty()).and_then(|dir| Ok((fstat(&dir)?, dir)));
        let (stat, mut dir) = match opened {
            Ok(opened) => opened,
            Err(e) => return self.fail_unless_gone(&place.path, e),
        };
        let stat = file_stat(&stat);
        if self.scanner.own.holds(stat.dev, stat.ino) || self.scanner.own.covers(&place.path) {
            return;
        }
        self.totals.folders.fetch_add(1, Ordering::Relaxed);
        let listing = self.read_entries(&mut dir, place, positions);
        let files = listing.files.len();
        if files <= FILES_PER_CHUNK && listing.folders.is_empty() {
            return self.files(dir.as_fd(), &listing, 0..files);
        }
        let listing = Arc::new(listing);
        self.spawn_folders(scope, &listing);
        self.spawn_files(scope, &dir, &listing);
    }

    fn spawn_folders<'s>(&'s self, scope: &Scope<'s>, listing: &Arc<Listing>) {
        let folders = listing.folders.len();
        let chunk = (folders / (rayon::current_num_threads() * 8)).clamp(1, FOLDERS_PER_CHUNK);
        for start in (0..folders).step_by(chunk) {
            let listing = Arc::clone(listing);
            scope.spawn(move |scope| {
                for &entry in &listing.folders[start..folders.min(start + chunk)] {
                    self.folder(scope, &listing, entry);
                }
            });
        }
    }

    /// Looks at the files here, or, if they are many, wherever a thread is free.
    fn spawn_files<'s>(&'s self, scope: &Scope<'s>, dir: &Dir, listing: &Arc<Listing>) {
        let files = listing.files.len();
        if files <= FILES_PER_CHUNK {
            return self.files(dir.as_fd(), listing, 0..files);
        }
        let fd = match dir.as_fd().try_clone_to_owned() {
            Ok(fd) => Arc::new(fd),
            Err(e) => return self.totals.fail(listing.place.path.clone(), e),
        };
        for start in (0..files).step_by(FILES_PER_CHUNK) {
            let (fd, listing) = (Arc::clone(&fd), Arc::clone(listing));
            scope.spawn(move |_| self.files(fd.as_fd(), &listing, start..files.min(start + FILES_PER_CHUNK)));
        }
    }

    /// Enters one subfolder of a listing.
    fn folder<'s>(&'s self, scope: &Scope<'s>, listing: &Listing, entry: Entry) {
        if self.stopped() {
            return;
        }
        let name = listing.name(entry);
        let path = listing.path(entry);
        if self.excluded(&path, name) {
            return;
        }
        if entry.link {
            match path.metadata() {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return,
                Err(e) => return self.fail_unless_gone(&path, e),
            }
        }
        let mut place = Place { path, real: listing.place.real.clone(), link: entry.link };
        if self.step(&mut place, name, entry.link) {
            self.enter(scope, place, self.below(&listing.positions, name, entry.link));
        }
    }

    fn excluded(&self, path: &Path, name: &[u8]) -> bool {
        !self.scanner.excludes.is_empty() && self.scanner.excludes.is_excluded(path, name)
    }

    /// Reads the folder to its end and keeps what can match.
    fn read_entries(&self, dir: &mut Dir, place: Place, positions: Vec<usize>) -> Listing {
        let last = self.tail().len() - 1;
        let wants_files = positions.last() == Some(&last);
        let wants_folders = positions.iter().any(|&p| p < last);
        let mut all: Vec<Entry> = Vec::new();
        let mut listing =
            Listing { place, positions, names: Vec::new(), files: Vec::new(), folders: Vec::new(), complete: true };
        let mut unknown = Vec::new();
        for entry in dir.iter() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    self.totals.fail(listing.place.path.clone(), e);
                    listing.complete = false;
                    break;
                }
            };
            let name = entry.file_name();
            let kind = entry.file_type();
            let bytes = name.to_bytes();
            if bytes == b"." || bytes == b".." || crate::fs::is_restoring(bytes) {
                continue;
            }
            let start = listing.names.len();
            let kept =
                Entry { start, length: bytes.len(), link: kind == Some(Type::Symlink), wal: None, journal: None };
            match kind {
                Some(Type::Directory) if !wants_folders => continue,
                Some(Type::Directory) => {}
                Some(Type::File | Type::Symlink) if wants_files => all.push(kept),
                Some(Type::Symlink) => {}
                // Some file systems do not tell the kind.
                None => unknown.push(kept),
                Some(_) => continue,
            }
            if wants_folders && matches!(kind, Some(Type::Directory | Type::Symlink)) {
                if !self.below(&listing.positions, bytes, kept.link).is_empty() {
                    listing.folders.push(kept);
                } else if !(kept.link && wants_files) {
                    continue;
                }
            }
            listing.names.extend_from_slice(name.to_bytes_with_nul());
        }
        for entry in unknown {
            self.resolve_unknown(dir.as_fd(), entry, &mut listing, wants_files.then_some(&mut all));
        }
        self.keep_files(&mut listing, all);
        listing
    }

    fn resolve_unknown(
        &self,
        dir: BorrowedFd<'_>,
        mut entry: Entry,
        listing: &mut Listing,
        all: Option<&mut Vec<Entry>>,
    ) {
        let mode = match listing.c_name(entry).and_then(|name| fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)) {
            Ok(stat) => stat.st_mode & 0o170_000,
            Err(e) => return self.fail_unless_gone(&listing.path(entry), e),
        };
        entry.link = mode == 0o120_000;
        if (mode == 0o040_000 || entry.link)
            && !self.below(&listing.positions, listing.name(entry), entry.link).is_empty()
        {
            listing.folders.push(entry);
        }
        if let Some(all) = all.filter(|_| mode == 0o100_000 || entry.link) {
            all.push(entry);
        }
    }

    /// Of all files in the folder keeps those that match and are nobody's sidecars, and notes at each which
    /// sidecars it has.
    fn keep_files(&self, listing: &mut Listing, all: Vec<Entry>) {
        let mut sidecars: HashMap<&[u8], Sidecars> = HashMap::new();
        for &entry in &all {
            if let Some((stem, suffix)) = split_sidecar(listing.name(entry)) {
                let seen = sidecars.entry(stem).or_default();
                match suffix {
                    b"-wal" => seen.wal = Some(entry.start),
                    b"-journal" => seen.journal = Some(entry.start),
                    _ => {}
                }
            }
        }
        if !sidecars.is_empty() {
            for &entry in &all {
                if let Some(seen) = sidecars.get_mut(listing.name(entry)) {
                    seen.has_main = true;
                }
            }
        }
        let mut files = Vec::with_capacity(all.len());
        for entry in all {
            let name = listing.name(entry);
            if !self.file_matches(&listing.positions, name) {
                continue;
            }
            let mut kept = entry;
            if !sidecars.is_empty() {
                if split_sidecar(name).is_some_and(|(stem, _)| sidecars.get(stem).is_some_and(|s| s.has_main)) {
                    continue;
                }
                if let Some(seen) = sidecars.get(name) {
                    (kept.wal, kept.journal) = (seen.wal, seen.journal);
                }
            }
            files.push(kept);
        }
        listing.files = files;
    }

    /// Takes the stamps of some files of a folder and reports them.
    fn files(&self, dir: BorrowedFd<'_>, listing: &Listing, range: Range<usize>) {
        let mut path = listing.place.path.as_os_str().as_bytes().to_vec();
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        let folder_length = path.len();
        let (mut visited, mut stat_calls) = (0, 0);
        for &entry in &listing.files[range] {
            if self.stopped() {
                break;
            }
            path.truncate(folder_length);
            path.extend_from_slice(listing.name(entry));
            let full = Path::new(OsStr::from_bytes(&path));
            if self.excluded(full, listing.name(entry)) {
                continue;
            }
            if let Some(folder) = &listing.place.real
                && self.found_directly(&folder.join(OsStr::from_bytes(listing.name(entry))))
            {
                continue;
            }
            let seen = if entry.link { None } else { self.look(dir, listing, entry, full, &mut stat_calls) };
            if let Some((stamps, stat)) = seen {
                visited += 1;
                (self.visit)(Found { path: full, stamps, stat: &stat, pattern: self.index, symlink: false });
            } else if entry.link {
                visited += self.linked_file(full, &mut stat_calls);
            }
        }
        self.totals.files.fetch_add(visited, Ordering::Relaxed);
        self.totals.stat_calls.fetch_add(stat_calls, Ordering::Relaxed);
    }

    /// Stamps of one listed file; `None` if it is gone, not a file, our own, or could not be looked at.
    fn look(
        &self,
        dir: BorrowedFd<'_>,
        listing: &Listing,
        entry: Entry,
        path: &Path,
        stat_calls: &mut u64,
    ) -> Option<(Stamps, FileStat)> {
        *stat_calls += 1;
        let looked = listing.c_name(entry).and_then(|name| fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW));
        let stat = match looked {
            Ok(stat) => file_stat(&stat),
            Err(Errno::ENOENT) => return None,
            Err(e) => {
                self.totals.fail(path.to_path_buf(), e);
                return None;
            }
        };
        if !stat.is_file() || self.scanner.own.holds(stat.dev, stat.ino) {
            return None;
        }
        let mut sidecar_stat = |listed: Option<usize>, suffix: &str| -> Result<Option<FileStat>, Errno> {
            let looked = match listed {
                Some(start) => fstatat(dir, listing.c_name_at(start)?, AtFlags::empty()),
                None if listing.complete => return Ok(None),
                None => fstatat(dir, &sidecar(path, suffix), AtFlags::empty()),
            };
            *stat_calls += 1;
            match looked {
                Ok(stat) => Ok(Some(file_stat(&stat))),
                Err(Errno::ENOENT) => Ok(None),
                Err(e) => Err(e),
            }
        };
        let taken = sidecar_stat(entry.wal, "-wal").and_then(|wal| Ok((wal, sidecar_stat(entry.journal, "-journal")?)));
        match taken {
            Ok((wal, journal)) => Some((Stamps::new(&stat, wal.as_ref(), journal.as_ref()), stat)),
            Err(e) => {
                self.totals.fail(path.to_path_buf(), e);
                None
            }
        }
    }

    /// Reports the file that the symlink at `path` leads to, unless it is found under its real path anyway.
    /// Returns how many files that were.
    fn linked_file(&self, path: &Path, stat_calls: &mut u64) -> u64 {
        *stat_calls += 3;
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(e) => {
                self.fail_unless_gone(path, e);
                return 0;
            }
        };
        if self.scanner.own.covers(&real) || self.found_directly(&real) {
            return 0;
        }
        match Stamps::take(&real) {
            Ok((_, stat)) if !stat.is_file() || self.scanner.own.holds(stat.dev, stat.ino) => 0,
            Ok((stamps, stat)) => {
                (self.visit)(Found { path: &real, stamps, stat: &stat, pattern: self.index, symlink: true });
                1
            }
            Err(e) => {
                self.fail_unless_gone(&real, e);
                0
            }
        }
    }

    /// Reports the file that a pattern names without any wildcard at its end; its folder is never listed.
    fn single_file(&self, place: &Place, metadata: &Metadata) {
        let mut stat_calls = 1;
        let real = place.real.as_ref().zip(place.path.file_name()).map(|(folder, name)| folder.join(name));
        let visited = if real.is_some_and(|real| self.found_directly(&real)) {
            0
        } else if metadata.is_symlink() {
            self.linked_file(&place.path, &mut stat_calls)
        } else {
            stat_calls += 2;
            self.named_file(&place.path, metadata)
        };
        self.totals.files.fetch_add(visited, Ordering::Relaxed);
        self.totals.stat_calls.fetch_add(stat_calls, Ordering::Relaxed);
    }

    fn named_file(&self, path: &Path, metadata: &Metadata) -> u64 {
        let stat = FileStat::from(metadata);
        if !stat.is_file() || self.scanner.own.holds(stat.dev, stat.ino) || self.scanner.own.covers(path) {
            return 0;
        }
        let wal = stat_if_there(&sidecar(path, "-wal"));
        match wal.and_then(|wal| Ok((wal, stat_if_there(&sidecar(path, "-journal"))?))) {
            Ok((wal, journal)) => {
                let stamps = Stamps::new(&stat, wal.as_ref(), journal.as_ref());
                (self.visit)(Found { path, stamps, stat: &stat, pattern: self.index, symlink: false });
                1
            }
            Err(e) => {
                self.totals.fail(path.to_path_buf(), e);
                0
            }
        }
    }

    /// Whether some pattern's walk meets the real path `real` without any symlink below that pattern's root.
    fn found_directly(&self, real: &Path) -> bool {
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

#[derive(Default)]
struct Sidecars {
    wal: Option<usize>,
    journal: Option<usize>,
    /// Whether the file they would belong to is in the folder as well.
    has_main: bool,
}

/// The name of the database a sidecar would belong to, and the suffix.
fn split_sidecar(name: &[u8]) -> Option<(&[u8], &[u8])> {
    // Nearly no name gets past this line.
    if !matches!(name.last(), Some(b'l' | b'm')) {
        return None;
    }
    let suffix: &[u8] = [b"-wal".as_slice(), b"-shm", b"-journal"].into_iter().find(|suffix| name.ends_with(suffix))?;
    let stem = &name[..name.len() - suffix.len()];
    (!stem.is_empty()).then_some((stem, suffix))
}

/// Adds a position, and what lies behind it where it is `**`, which may stand for no folder at all.
fn add_position(positions: &mut Vec<usize>, tail: &[Segment], position: usize) {
    positions.push(position);
    if tail[position] == Segment::Recursive {
        positions.push(position + 1);
    }
}

/// The widths of these fields differ between platforms.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "needed where the field is narrower")]
fn file_stat(stat: &nix::sys::stat::FileStat) -> FileStat {
    FileStat {
        dev: stat.st_dev as u64,
        ino: stat.st_ino as u64,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: nanos(i64::from(stat.st_mtime), i64::from(stat.st_mtime_nsec)),
        ctime: nanos(i64::from(stat.st_ctime), i64::from(stat.st_ctime_nsec)),
        nlink: stat.st_nlink as u64,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
    }
}

#[cfg(test)]
mod tests;
