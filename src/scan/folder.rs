//! What a folder holds that matters to a pattern: its subfolders, its files, and which sidecars these have.

use std::ffi::{CStr, OsStr};
use std::hash::{BuildHasher, RandomState};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, RawDir, statat};
use rustix::io::Errno;

use super::look::Looker;

/// Bytes of a listing that the system is asked for at once: some 800 names.
const LISTING_BYTES: usize = 32 << 10;

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Where it begins.
    start: usize,
    length: u16,
    /// It is a symlink.
    pub(super) link: bool,
    /// Of a file: the pattern wants it.
    wanted: bool,
    /// Of a file: its `-wal` was told.
    pub(super) wal: bool,
    /// Of a file: its `-journal` was told.
    pub(super) journal: bool,
}

/// Names in one block of memory, however many they are.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    pub(super) entries: Vec<Entry>,
}

impl Names {
    fn push(&mut self, name: &[u8], link: bool, wanted: bool) {
        let (start, length) = (self.bytes.len(), u16::try_from(name.len()).expect("no file system has longer names"));
        self.bytes.extend_from_slice(name);
        self.entries.push(Entry { start, length, link, wanted, wal: false, journal: false });
    }

    pub(super) fn name(&self, entry: Entry) -> &[u8] {
        &self.bytes[entry.start..entry.start + usize::from(entry.length)]
    }

    /// The same entries in a block of their own.
    pub(super) fn copy(&self, entries: &[Entry]) -> Self {
        let mut copy = Self::default();
        entries.iter().for_each(|&entry| copy.push(self.name(entry), entry.link, entry.wanted));
        copy
    }

    /// How much there is, for [`shrink`](Self::shrink).
    pub(super) fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), entries: self.entries.len() }
    }

    /// Drops all that came after `mark`.
    pub(super) fn shrink(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.entries.truncate(mark.entries);
    }
}

/// A point in [`Names`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    bytes: usize,
    pub(super) entries: usize,
}

/// What a listing told besides names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// Whether the folder could be read to its end; if not, sidecars not listed may exist all the same.
    pub(super) complete: bool,
    /// The inode of the folder itself, as its entry `.` tells it.
    pub(super) inode: Option<u64>,
}

/// Lists one folder after another.
pub(super) struct Lister {
    buffer: Vec<MaybeUninit<u8>>,
    /// Files of the folder listed last.
    pub(super) files: Names,
    sidecars: Vec<Sidecar>,
    /// Names are chosen by strangers.
    hasher: RandomState,
}

/// A file in a folder that is called like a sidecar.
#[derive(Debug)]
struct Sidecar {
    /// Of the name of the file that it would belong to.
    stem_hash: u64,
    /// Of that name, in bytes.
    stem_length: usize,
    /// Its own index among the files.
    at: usize,
    /// Whether the file that it would belong to is in the folder as well.
    has_main: bool,
}

impl Lister {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![MaybeUninit::uninit(); LISTING_BYTES],
            files: Names::default(),
            sidecars: Vec::new(),
            hasher: RandomState::new(),
        }
    }

    /// Reads the folder at `looker`'s path, open as `dir`, to its end. Keeps its files, and adds to `folders` the subfolders below which
    /// something can match.
    pub(super) fn list(
        &mut self,
        dir: BorrowedFd<'_>,
        looker: &Looker<'_>,
        positions: &[usize],
        folders: &mut Names,
    ) -> Told {
        let walk = looker.walk;
        let last = walk.tail().len() - 1;
        let wants_files = positions.last() == Some(&last);
        let wants_folders = positions.iter().any(|&p| p < last);
        self.files.shrink(Mark { bytes: 0, entries: 0 });
        let mut told = Told { complete: true, inode: None };
        let mut entries = RawDir::new(dir, &mut self.buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                // The folder was removed.
                Err(Errno::NOENT) => break,
                Err(e) => {
                    walk.totals.fail(looker.path().to_path_buf(), e);
                    told.complete = false;
                    break;
                }
            };
            let name = entry.file_name().to_bytes();
            if name == b"." {
                told.inode = Some(entry.ino());
            }
            if name == b"." || name == b".." || crate::fs::is_restoring(name) {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => ask_kind(dir, entry.file_name(), looker, &mut told),
                kind => kind,
            };
            let link = kind == FileType::Symlink;
            if wants_folders && (link || kind == FileType::Directory) && walk.leads_on(positions, name, link) {
                folders.push(name, link, false);
            }
            if wants_files && (link || kind == FileType::RegularFile) {
                self.files.push(name, link, walk.file_matches(positions, name));
            }
        }
        told
    }

    /// Of all files listed keeps those that match and are nobody's sidecars, and notes at each which sidecars it has.
    pub(super) fn keep_wanted(&mut self) {
        self.sidecars.clear();
        for (at, &entry) in self.files.entries.iter().enumerate() {
            if let Some((stem, _)) = split_sidecar(self.files.name(entry)) {
                let stem_hash = self.hasher.hash_one(stem);
                self.sidecars.push(Sidecar { stem_hash, stem_length: stem.len(), at, has_main: false });
            }
        }
        if !self.sidecars.is_empty() {
            self.pair();
        }
        self.files.entries.retain(|entry| entry.wanted);
    }

    /// Brings sidecars and the files that they belong to together.
    fn pair(&mut self) {
        let Self { files: Names { bytes, entries }, sidecars, hasher, .. } = self;
        sidecars.sort_unstable_by_key(|sidecar| sidecar.stem_hash);
        // What is not wanted itself may still have sidecars that would be.
        let all = sidecars.iter().any(|sidecar| entries[sidecar.at].wanted);
        for at in 0..entries.len() {
            if !all && !entries[at].wanted {
                continue;
            }
            let name = &bytes[entries[at].start..][..usize::from(entries[at].length)];
            let hash = hasher.hash_one(name);
            let first = sidecars.partition_point(|sidecar| sidecar.stem_hash < hash);
            for sidecar in sidecars[first..].iter_mut().take_while(|sidecar| sidecar.stem_hash == hash) {
                let its = entries[sidecar.at];
                let (stem, suffix) = bytes[its.start..][..usize::from(its.length)].split_at(sidecar.stem_length);
                if stem == name {
                    sidecar.has_main = true;
                    entries[at].wal |= suffix == b"-wal";
                    entries[at].journal |= suffix == b"-journal";
                }
            }
        }
        for sidecar in sidecars.iter().filter(|sidecar| sidecar.has_main) {
            entries[sidecar.at].wanted = false;
        }
    }
}

/// Some file systems do not tell the kind of an entry when they list it.
fn ask_kind(dir: BorrowedFd<'_>, name: &CStr, looker: &Looker<'_>, told: &mut Told) -> FileType {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(e) => {
            looker.walk.fail_unless_gone(&looker.path().join(OsStr::from_bytes(name.to_bytes())), e);
            // It may be a sidecar.
            told.complete = false;
            FileType::Unknown
        }
    }
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
