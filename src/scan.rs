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
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstat, fstatat};
use parking_lot::Mutex;
use rayon::Scope;

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

    fn holds(&self, dev: u64, ino: u64) -> bool {
        self.identities.contains(&(dev, ino))
    }

    /// Whether `path` is one of ours or lies in one. By bytes, as comparing by components is slow.
    fn covers(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        self.paths.iter().any(|own| {
            let rest = path.strip_prefix(own.as_os_str().as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        })
    }
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
            if bytes == b"." || bytes == b".." {
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
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::sys::stat::mkdirat;

    use super::*;

    /// A folder tree to scan.
    struct Tree {
        dir: tempfile::TempDir,
        root: PathBuf,
    }

    impl Tree {
        /// With these files, each holding its own name.
        fn new(files: &[&str]) -> Self {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let root = dir.path().canonicalize().expect("it exists");
            let tree = Self { dir, root };
            files.iter().for_each(|file| tree.file(file));
            tree
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.join(name)
        }

        fn file(&self, name: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().expect("below the root")).expect("create folders");
            fs::write(path, name).expect("write");
        }

        fn link(&self, name: &str, target: &str) {
            symlink(target, self.path(name)).expect("link");
        }

        fn patterns(&self, patterns: &[&str]) -> Vec<Pattern> {
            let parse = |p: &&str| Pattern::parse_or_directory(OsStr::new(p), &self.root, Path::is_dir).expect("valid");
            patterns.iter().map(parse).collect()
        }

        fn scan(&self, patterns: &[&str]) -> Scan {
            self.scan_without(patterns, &[], &OwnFiles::default())
        }

        fn scan_without(&self, patterns: &[&str], excludes: &[&str], own: &OwnFiles) -> Scan {
            let globs: Vec<String> = excludes.iter().map(ToString::to_string).collect();
            let excludes = Excludes::parse(&globs, &self.root).expect("valid");
            run(&self.root, &Scanner::new(&self.patterns(patterns), &excludes, own))
        }
    }

    /// What a scan found, by path relative to the tree; `@` marks what a symlink led to.
    struct Scan {
        found: Vec<String>,
        stamps: Vec<(PathBuf, Stamps)>,
        report: ScanReport,
    }

    impl Scan {
        #[track_caller]
        fn assert(&self, expected: &[&str]) {
            assert_eq!(self.found, expected);
            assert!(self.report.errors.is_empty(), "{:?}", self.report.errors);
            assert!(self.report.missing_roots.is_empty(), "{:?}", self.report.missing_roots);
            assert_eq!(self.report.files, expected.len() as u64);
        }
    }

    fn run(root: &Path, scanner: &Scanner<'_>) -> Scan {
        let seen = Mutex::new(Vec::new());
        let report = scanner.run(&AtomicBool::new(false), &|found| {
            seen.lock().push((found.pattern, found.path.to_path_buf(), found.symlink, found.stamps));
        });
        let mut seen = seen.into_inner();
        seen.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let name = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        let found = seen.iter().map(|(_, path, link, _)| format!("{}{}", if *link { "@" } else { "" }, name(path)));
        Scan { found: found.collect(), stamps: seen.into_iter().map(|(_, p, _, s)| (p, s)).collect(), report }
    }

    #[test]
    fn classic_layout() {
        let tree = Tree::new(&[
            "data/p1/databases/d/branches/b/tenants/t1.db",
            "data/p1/databases/d/branches/b/tenants/t2.db",
            "data/p1/databases/d/branches/b/tenants/notes.txt",
            "data/p2/databases/d/branches/b/tenants/t1.db",
            "data/p2/elsewhere/d/branches/b/tenants/t1.db",
            "data/p3/databases",
            "data/stray.db",
        ]);
        let scan = tree.scan(&["data/*/databases/*/branches/*/tenants/*.db"]);
        scan.assert(&[
            "data/p1/databases/d/branches/b/tenants/t1.db",
            "data/p1/databases/d/branches/b/tenants/t2.db",
            "data/p2/databases/d/branches/b/tenants/t1.db",
        ]);
        // Neither p1 nor p2 itself is listed, for `databases` needs no search.
        assert_eq!(scan.report.folders, 1 + 2 + 2 + 2);
    }

    #[test]
    fn recursive_and_literal_patterns() {
        let tree =
            Tree::new(&["a.db", "x/b.db", "x/y/c.db", "x/y/d.txt", "x/.hidden/e.db", "p/q/app.db", "r/q/app.db"]);
        tree.scan(&["**/*.db"]).assert(&["a.db", "p/q/app.db", "r/q/app.db", "x/.hidden/e.db", "x/b.db", "x/y/c.db"]);
        tree.scan(&["x/**/y/**/*.db"]).assert(&["x/y/c.db"]);
        tree.scan(&["x/b.db"]).assert(&["x/b.db"]);
        tree.scan(&["x/absent.db"]).assert(&[]);
        let scan = tree.scan(&["*/q/app.db"]);
        scan.assert(&["p/q/app.db", "r/q/app.db"]);
        assert_eq!(scan.report.folders, 1);
        // Both patterns match: both visit it, in the order given.
        tree.scan(&["x/*.db", "x/b.db"]).assert(&["x/b.db", "x/b.db"]);
    }

    #[test]
    fn a_directory_means_every_file_below_but_sidecars() {
        let tree = Tree::new(&["d/a", "d/a-wal", "d/a-shm", "d/x/b.dat", "d/x/b.dat-journal", "d/x/orphan-wal"]);
        assert!(tree.patterns(&["d"])[0].magic_only());
        tree.scan(&["d"]).assert(&["d/a", "d/x/b.dat", "d/x/orphan-wal"]);
    }

    #[test]
    fn a_folder_named_like_a_database_is_none_and_has_no_sidecars() {
        let tree = Tree::new(&["a.db/b.db", "c-wal"]);
        fs::create_dir(tree.path("c")).expect("create");
        tree.scan(&["*.db"]).assert(&[]);
        tree.scan(&["**/*.db"]).assert(&["a.db/b.db"]);
        tree.scan(&["*"]).assert(&["c-wal"]);
    }

    #[test]
    fn what_is_no_regular_file_is_ignored() {
        let tree = Tree::new(&["a.db"]);
        nix::unistd::mkfifo(&tree.path("f.db"), Mode::S_IRWXU).expect("fifo");
        let _socket = std::os::unix::net::UnixListener::bind(tree.path("s.db")).expect("socket");
        tree.scan(&["*.db"]).assert(&["a.db"]);
        tree.scan(&["f.db"]).assert(&[]);
    }

    #[test]
    fn stamps_are_those_taken_by_path() {
        let tree =
            Tree::new(&["d/a.db", "d/a.db-wal", "d/a.db-journal", "d/a.db-shm", "d/b.db", "d/b.db-wal", "d/c.db"]);
        fs::write(tree.path("d/b.db-wal"), "").expect("empty");
        for pattern in ["d/*.db", "d/*", "**/*.db", "*/a.db"] {
            let scan = tree.scan(&[pattern]);
            assert!(!scan.stamps.is_empty());
            for (path, stamps) in scan.stamps {
                assert_eq!(stamps, Stamps::take(&path).expect("it is there").0, "{pattern} {}", path.display());
            }
        }
        let first = tree.scan(&["d/*.db"]).stamps[0].1;
        assert!(first.wal.is_some() && first.journal.is_some());
    }

    #[test]
    fn absent_sidecars_cost_no_stat() {
        let tree = Tree::new(&[]);
        (0..50).for_each(|i| tree.file(&format!("d/{i:02}.db")));
        assert_eq!(tree.scan(&["d/*.db"]).report.stat_calls, 50);
        tree.file("d/07.db-wal");
        tree.file("d/07.db-shm");
        assert_eq!(tree.scan(&["d/*.db"]).report.stat_calls, 51);
        tree.file("d/08.db-journal");
        assert_eq!(tree.scan(&["d/*"]).report.stat_calls, 52);
    }

    #[test]
    fn big_folders_are_looked_at_in_chunks() {
        let tree = Tree::new(&[]);
        (0..FILES_PER_CHUNK * 2 + 7).for_each(|i| tree.file(&format!("d/{i:05}.db")));
        let scan = tree.scan(&["d/*.db"]);
        let expected: Vec<String> = (0..FILES_PER_CHUNK * 2 + 7).map(|i| format!("d/{i:05}.db")).collect();
        scan.assert(&expected.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn symlinked_folders_are_followed_by_name_but_not_by_recursion() {
        let tree = Tree::new(&["data/p1/dbs/a.db", "mnt/p2/dbs/b.db"]);
        tree.link("data/p2", "../mnt/p2");
        tree.link("data/loop", ".");
        tree.link("data/p1/self", "../p1");
        tree.link("data/dangling", "nowhere");
        tree.link("data/round", "round");
        tree.scan(&["data/*/dbs/*.db"]).assert(&["data/p1/dbs/a.db", "data/p2/dbs/b.db"]);
        tree.scan(&["data/**/*.db"]).assert(&["data/p1/dbs/a.db"]);
        // `*` follows the link, `**` behind it does not go round; a.db is found under its real path.
        tree.scan(&["data/**/*/**/*.db"]).assert(&["data/p1/dbs/a.db", "data/p2/dbs/b.db"]);
        tree.scan(&["data/*/dbs/*.db", "mnt/**/*.db"]).assert(&["data/p1/dbs/a.db", "mnt/p2/dbs/b.db"]);
        tree.link("alias", "data");
        tree.scan(&["alias/*/dbs/*.db"]).assert(&["alias/p1/dbs/a.db", "alias/p2/dbs/b.db"]);
        tree.link("data/p1/other", "dbs");
        tree.scan(&["data/p1/other/a.db"]).assert(&["data/p1/other/a.db"]);
    }

    #[test]
    fn symlinked_files_are_found_once_under_their_real_path() {
        let tree = Tree::new(&["real/a.db", "real/a.db-wal", "d/b.db", "cache/c.db"]);
        tree.link("d/a.db", "../real/a.db");
        tree.link("d/again.db", "../real/a.db");
        tree.link("d/b2.db", "b.db");
        tree.link("d/c.db", "../cache/c.db");
        tree.link("d/gone.db", "nowhere.db");
        tree.link("d/round.db", "round.db");
        tree.link("d/folder.db", "../real");
        let scan = tree.scan(&["d/*.db"]);
        scan.assert(&["@cache/c.db", "d/b.db", "@real/a.db", "@real/a.db"]);
        assert!(scan.stamps[2].1.wal.is_some(), "its sidecars lie beside the real file");
        tree.scan(&["d/a.db"]).assert(&["@real/a.db"]);
        // A pattern that finds the target itself makes the links superfluous, unless it is excluded there.
        tree.scan(&["d/*.db", "real/*.db"]).assert(&["@cache/c.db", "d/b.db", "real/a.db"]);
        let scan = tree.scan_without(&["**/*.db"], &["cache"], &OwnFiles::default());
        scan.assert(&["@cache/c.db", "d/b.db", "real/a.db"]);
        // The root is a link itself: the real paths below it are still known as found.
        tree.link("alias", "d");
        tree.scan(&["alias/b*.db"]).assert(&["alias/b.db"]);
    }

    #[test]
    fn excluded_files_and_folders() {
        let tree = Tree::new(&["d/a.db", "d/a.tmp.db", "d/cache/b.db", "d/x/c.db", "d/x/y/e.db", "cache/f.db"]);
        let scan = |patterns: &[&str], excludes: &[&str]| tree.scan_without(patterns, excludes, &OwnFiles::default());
        scan(&["d/**/*.db"], &["cache", "*.tmp.db", "d/x/**"]).assert(&["d/a.db"]);
        scan(&["d/*/*.db"], &["/**/x"]).assert(&["d/cache/b.db"]);
        scan(&["*/cache/*.db"], &["cache"]).assert(&[]);
        // What the pattern names as its root was named on purpose.
        scan(&["cache/*.db"], &["cache"]).assert(&["cache/f.db"]);
    }

    #[test]
    fn own_files_are_never_found() {
        let tree = Tree::new(&["d/a.db", "d/state/state.db", "d/state/tmp/x.db", "store/s.db", "d/lock.db"]);
        tree.link("d/alias", "state/tmp");
        tree.link("d/direct.db", "state/state.db");
        tree.link("d/outside", "../store");
        fs::hard_link(tree.path("d/lock.db"), tree.path("d/hard.db")).expect("hard link");
        let own = OwnFiles::new(&[tree.path("d/state"), tree.path("store")]).with_files(&[tree.path("d/lock.db")]);
        let patterns = ["d/**/*.db", "d/*/*.db", "d/state/tmp/*.db", "d/state/state.db", "d/alias/x.db", "d/lock.db"];
        let scan = tree.scan_without(&patterns, &[], &own);
        scan.assert(&["d/a.db"]);
        tree.scan_without(&["d"], &[], &own).assert(&["d/a.db"]);
        tree.scan_without(&["d/stat?/*.db"], &[], &OwnFiles::new(&[tree.path("d/st")])).assert(&["d/state/state.db"]);
    }

    #[test]
    fn names_need_not_be_utf8() {
        let tree = Tree::new(&[]);
        let path = tree.root.join(OsStr::from_bytes(b"\xff\xfe")).join(OsStr::from_bytes(b"\x80.db"));
        fs::create_dir(path.parent().expect("parent")).expect("create");
        fs::write(&path, "x").expect("write");
        let scan = tree.scan(&["*/*.db"]);
        assert!(scan.report.errors.is_empty());
        assert_eq!(scan.stamps[0].0, path);
    }

    #[test]
    fn missing_roots_are_named_and_end_nothing() {
        let tree = Tree::new(&["d/a.db", "file"]);
        let scan = tree.scan(&["absent/*.db", "file/*.db", "absent/x/**", "absent/*", "d/*.db"]);
        assert_eq!(scan.found, ["d/a.db"]);
        assert_eq!(scan.report.missing_roots, [tree.path("absent"), tree.path("absent/x"), tree.path("file")]);
        assert!(scan.report.errors.is_empty());
    }

    /// As root nothing is forbidden, so the threads that scan give up that right.
    fn unprivileged<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        let nobody = nix::unistd::Uid::from_raw(65_534);
        let give_up = move |_| {
            if nix::unistd::geteuid().is_root() {
                nix::unistd::setfsuid(nobody);
            }
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(give_up).build().expect("a pool");
        pool.install(work)
    }

    #[test]
    fn what_may_not_be_looked_at_is_an_error_and_ends_nothing() {
        let tree = Tree::new(&["d/open/a.db", "d/closed/b.db", "d/list/c.db", "d/list/c.db-wal", "shut/in/e.db"]);
        tree.link("d/open/link.db", "../closed/b.db");
        let mode =
            |name: &str, mode| fs::set_permissions(tree.path(name), fs::Permissions::from_mode(mode)).expect("chmod");
        mode("", 0o755);
        mode("d/closed", 0o000);
        mode("d/list", 0o444);
        mode("shut", 0o000);
        let scan = unprivileged(|| tree.scan(&["d/*/*.db", "shut/in/*.db"]));
        ["d/closed", "d/list", "shut"].iter().for_each(|name| mode(name, 0o755));
        assert_eq!(scan.found, ["d/open/a.db"]);
        let failed: Vec<_> = scan.report.errors.iter().map(|e| (e.path.clone(), e.source.kind())).collect();
        let denied = |name| (tree.path(name), io::ErrorKind::PermissionDenied);
        assert_eq!(failed, [denied("d/closed"), denied("d/list/c.db"), denied("d/open/link.db"), denied("shut/in")]);
        assert!(scan.report.missing_roots.is_empty());
    }

    #[test]
    fn errors_are_bounded() {
        let tree = Tree::new(&[]);
        (0..ERRORS_MAX + 5).for_each(|i| tree.file(&format!("d/{i}.db")));
        fs::set_permissions(tree.path(""), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::set_permissions(tree.path("d"), fs::Permissions::from_mode(0o444)).expect("chmod");
        let report = unprivileged(|| tree.scan(&["d/*.db"])).report;
        fs::set_permissions(tree.path("d"), fs::Permissions::from_mode(0o755)).expect("chmod");
        assert_eq!((report.errors.len(), report.errors_dropped), (ERRORS_MAX, 5));
    }

    #[test]
    fn a_sidecar_that_cannot_be_looked_at_makes_the_database_an_error() {
        let tree = Tree::new(&["d/a.db", "d/b.db"]);
        tree.link("d/a.db-wal", "a.db-wal");
        for pattern in ["d/*.db", "d/a.db"] {
            let scan = tree.scan(&[pattern]);
            assert!(!scan.found.contains(&"d/a.db".to_string()), "{pattern}");
            assert_eq!(scan.report.errors.len(), 1);
            assert_eq!(scan.report.errors[0].path, tree.path("d/a.db"));
            assert_eq!(scan.report.errors[0].source.raw_os_error(), Some(Errno::ELOOP as i32));
        }
        // Dangling, it is absent.
        fs::remove_file(tree.path("d/a.db-wal")).expect("remove");
        tree.link("d/a.db-wal", "nowhere");
        tree.scan(&["d/*.db"]).assert(&["d/a.db", "d/b.db"]);
    }

    #[test]
    fn folders_deeper_than_a_path_can_be_long_are_an_error() {
        let tree = Tree::new(&["a.db"]);
        let name = "n".repeat(250);
        let mut folder = Dir::open(&tree.root, OFlag::O_DIRECTORY, Mode::empty()).expect("open");
        for _ in 0..20 {
            mkdirat(&folder, name.as_str(), Mode::S_IRWXU).expect("mkdir");
            folder = Dir::openat(&folder, name.as_str(), OFlag::O_DIRECTORY, Mode::empty()).expect("open");
        }
        let scan = tree.scan(&["**/*.db"]);
        assert_eq!(scan.found, ["a.db"]);
        assert_eq!(scan.report.errors.len(), 1);
        assert_eq!(scan.report.errors[0].source.raw_os_error(), Some(Errno::ENAMETOOLONG as i32));
        tree.dir.close().expect("remove");
    }

    #[test]
    fn what_vanishes_during_the_walk_was_not_there() {
        let tree = Tree::new(&["d/1/a.db", "d/1/b.db", "d/2/c.db", "e/f.db"]);
        let patterns = tree.patterns(&["e/*.db", "d/*/*.db"]);
        let (excludes, own) = (Excludes::default(), OwnFiles::default());
        let scanner = Scanner::new(&patterns, &excludes, &own);
        let visit = |found: Found<'_>| {
            if found.pattern == 0 {
                fs::remove_dir_all(tree.path("d")).expect("remove");
            }
            assert_eq!(found.path, tree.path("e/f.db"));
        };
        let report = scanner.run(&AtomicBool::new(false), &visit);
        assert!(report.errors.is_empty() && report.missing_roots.is_empty(), "{report:?}");
        assert_eq!(report.files, 1);
    }

    #[test]
    fn a_listed_file_that_is_gone_when_looked_at_was_not_there() {
        let tree = Tree::new(&["d/a.db", "d/a.db-wal", "d/b.db"]);
        let (patterns, excludes, own) = (tree.patterns(&["d/*.db"]), Excludes::default(), OwnFiles::default());
        let (totals, seen, stop) = (Totals::default(), Mutex::new(Vec::new()), AtomicBool::new(false));
        let visit = |found: Found<'_>| seen.lock().push((found.path.to_path_buf(), found.stamps.wal));
        let roots = [Some(tree.path("d"))];
        let scanner = Scanner::new(&patterns, &excludes, &own);
        let walk = Walk { scanner, index: 0, roots: &roots, stop: &stop, visit: &visit, totals: &totals };
        let mut dir = Dir::open(&tree.path("d"), OFlag::O_DIRECTORY, Mode::empty()).expect("open");
        let place = Place { path: tree.path("d"), real: None, link: false };
        let listing = walk.read_entries(&mut dir, place, vec![0]);
        fs::remove_file(tree.path("d/b.db")).expect("remove");
        fs::remove_file(tree.path("d/a.db-wal")).expect("remove");
        walk.files(dir.as_fd(), &listing, 0..listing.files.len());
        assert_eq!(*seen.lock(), [(tree.path("d/a.db"), None)]);
        // Where the listing broke off, a sidecar not listed is asked for.
        tree.file("d/a.db-wal");
        let entry = *listing.files.iter().find(|&&e| listing.name(e) == b"a.db").expect("listed");
        let broken = Listing { files: vec![Entry { wal: None, ..entry }], complete: false, ..listing };
        seen.lock().clear();
        walk.files(dir.as_fd(), &broken, 0..1);
        assert!(seen.lock()[0].1.is_some());
        assert!(totals.into_report(Vec::new(), false).errors.is_empty());
    }

    #[test]
    fn a_listed_folder_that_became_a_symlink_is_not_followed() {
        let tree = Tree::new(&["d/x/a.db", "elsewhere/b.db"]);
        let (patterns, excludes, own) = (tree.patterns(&["d/*/*.db"]), Excludes::default(), OwnFiles::default());
        let (totals, stop) = (Totals::default(), AtomicBool::new(false));
        let visit = |found: Found<'_>| panic!("found {}", found.path.display());
        let roots = [Some(tree.path("d"))];
        let scanner = Scanner::new(&patterns, &excludes, &own);
        let walk = Walk { scanner, index: 0, roots: &roots, stop: &stop, visit: &visit, totals: &totals };
        let mut dir = Dir::open(&tree.path("d"), OFlag::O_DIRECTORY, Mode::empty()).expect("open");
        let place = Place { path: tree.path("d"), real: None, link: false };
        let listing = walk.read_entries(&mut dir, place, vec![0]);
        fs::remove_dir_all(tree.path("d/x")).expect("remove");
        tree.link("d/x", "../elsewhere");
        rayon::scope(|scope| walk.folder(scope, &listing, listing.folders[0]));
        assert!(totals.into_report(Vec::new(), false).errors.is_empty());
    }

    #[test]
    fn stops_when_told() {
        let tree = Tree::new(&["d/a.db", "d/b.db", "e/c.db"]);
        let (patterns, excludes, own) =
            (tree.patterns(&["d/*.db", "e/*.db"]), Excludes::default(), OwnFiles::default());
        let stop = AtomicBool::new(false);
        let visit = |_: Found<'_>| stop.store(true, Ordering::Relaxed);
        let report = Scanner::new(&patterns, &excludes, &own).run(&stop, &visit);
        assert!(report.stopped);
        assert_eq!(report.files, 1);
    }
}
