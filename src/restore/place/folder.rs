//! Folders of targets, found from descriptor to descriptor, so that nobody can swap a part of a path between a look at it and
//! its use.
//!
//! A folder that is missing is made with mode 01700, a mode that nobody gives a folder otherwise, and gets owner and mode
//! (see `made`) with the first database that is put into it: never more rights than that database gives, but for passing
//! through to others below it. A run that is killed in between leaves the mark, by which the next one knows the folder as
//! one that still needs its owner.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};
use nix::unistd::Uid;

use super::made::Made;
use super::refusal::{NOT_A_FILE, Refusal, UNSAFE_PATH};
use crate::fs::shown;

/// Mode of a folder of ours that has no owner yet.
const UNOWNED: libc::mode_t = 0o1700;

/// Whether symbolic links may be part of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// They are the layout of the host, or what its user wrote.
    Follow,
    /// They could lead out of the folder to restore into.
    Refuse,
}

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    /// Open for reading, so that it can be synced.
    pub(super) dir: File,
    /// How it is called in messages; never used to find anything.
    pub(super) path: PathBuf,
    /// Device and inode.
    pub(super) id: (u64, u64),
    /// The folders on the way here that have no owner yet, or were made by this run and let nobody pass, from the top, with
    /// the one above the first of them in front.
    pub(super) made: Vec<File>,
}

/// Opens the folder that `parts` lead to from `base`. With `make`, makes what is missing; without it,
/// `None` then.
pub(super) fn walk(
    base: &File,
    base_path: &Path,
    parts: &[&OsStr],
    links: Links,
    make: Option<&Made>,
) -> Result<Option<Folder>, Refusal> {
    let mut path = base_path.to_path_buf();
    let mut here = reopen(base).map_err(|e| Refusal::of("open the folder", &path, &e))?;
    let mut made = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let above_path = path.clone();
        path.push(part);
        let next = match enter(&here, part, links) {
            Err(Errno::ENOENT) if make.is_none() => return Ok(None),
            Err(Errno::ENOENT) => make_unowned(&here, part)
                .map_err(|e| Refusal::of("make a folder in", &above_path, &e.into()))
                .and_then(|()| enter(&here, part, links).map_err(|e| not_entered(&here, part, &path, e)))?,
            other => other.map_err(|e| not_entered(&here, part, &path, e))?,
        };
        let failed = |e: io::Error| Refusal::of("look at the folder", &path, &e);
        let stat = fstat(&next).map_err(|e| failed(e.into()))?;
        // Nobody has to pass through the last one.
        let passed = make.filter(|_| at + 1 < parts.len());
        let is_closed = |run: &Made| run.is_closed((stat.st_dev, stat.st_ino), stat.st_mode);
        if is_unowned(&stat) || passed.map_or(Ok(false), is_closed).map_err(failed)? {
            if made.is_empty() {
                made.push(reopen(&here).map_err(failed)?);
            }
            made.push(reopen(&next).map_err(failed)?);
        }
        here = File::from(next);
    }
    let failed = |e: io::Error| Refusal::of("open the folder", &path, &e);
    let dir = reopen(&here).map_err(failed)?;
    let meta = dir.metadata().map_err(failed)?;
    Ok(Some(Folder { dir, id: (meta.dev(), meta.ino()), path, made }))
}

/// One step down. By `O_PATH`, as it needs no right to list the folders on the way.
fn enter(here: &File, part: &OsStr, links: Links) -> nix::Result<OwnedFd> {
    let nofollow = if links == Links::Refuse { OFlag::O_NOFOLLOW } else { OFlag::empty() };
    openat(here, part, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | nofollow, Mode::empty())
}

/// The same folder, open for reading.
fn reopen(folder: impl AsFd) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(folder, ".", flags, Mode::empty())?.into())
}

fn make_unowned(here: &File, part: &OsStr) -> nix::Result<()> {
    match mkdirat(here, part, Mode::from_bits_truncate(UNOWNED)) {
        // Another thread was first.
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}

fn is_unowned(stat: &FileStat) -> bool {
    stat.st_mode & 0o7777 == UNOWNED && Uid::from_raw(stat.st_uid) == Uid::effective()
}

/// Whether the open folder `dir` still has no owner: another database's may have come first.
pub(super) fn still_unowned(dir: &File) -> bool {
    fstat(dir).is_ok_and(|stat| is_unowned(&stat))
}

/// Why a part of a path is not a folder one can enter.
fn not_entered(here: &File, part: &OsStr, path: &Path, error: Errno) -> Refusal {
    let kind = fstatat(here, part, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| stat.st_mode & libc::S_IFMT);
    match (error, kind) {
        (Errno::ELOOP | Errno::ENOTDIR, Ok(libc::S_IFLNK)) => Refusal::new(
            UNSAFE_PATH,
            format!("{} is a symbolic link, and below the folder to restore into none is followed", shown(path)),
        ),
        (Errno::ENOTDIR, _) => {
            Refusal::new(NOT_A_FILE, format!("{} is a file where a folder is needed: move it away", shown(path)))
        }
        _ => Refusal::of("enter the folder", path, &error.into()),
    }
}

/// The folder names and the file name of a relative path.
///
/// # Errors
/// `unsafe-path` if a part is empty, `.` or `..`, has a NUL, or the last one is a name of our own.
pub(super) fn parts_of(path: &OsStr) -> Result<(Vec<&OsStr>, OsString), Refusal> {
    let unsafe_path = |what: &str| Refusal::new(UNSAFE_PATH, format!("the path '{}' {what}", shown(Path::new(path))));
    let mut parts = Vec::new();
    for part in path.as_bytes().split(|b| *b == b'/') {
        match part {
            b"" => return Err(unsafe_path("has an empty part or begins with a slash")),
            b"." | b".." => return Err(unsafe_path("has a part that is '.' or '..'")),
            part if part.contains(&0) => return Err(unsafe_path("has a NUL in it")),
            part => parts.push(OsStr::from_bytes(part)),
        }
    }
    let name = parts.pop().expect("split yields at least one part");
    if crate::fs::is_restoring(name.as_bytes()) {
        return Err(unsafe_path("ends in a name that litesnap keeps for its own temporary files"));
    }
    Ok((parts, name.to_owned()))
}
