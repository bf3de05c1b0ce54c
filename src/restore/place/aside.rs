//! Sidecars of a database that is being replaced: set aside before the new file takes its name, removed after that is durable.
//!
//! A stale `-wal` or `-journal` would be applied to the new file at its next open, so it must be gone before the rename; the
//! old file without its `-wal` lacks commits, so it must not be lost before it either. Set aside under a name that SQLite does
//! not know, it is neither. What a crash leaves tells which of the two it was: the temporary file beside it means that the
//! old database is still in its place, and its sidecars are given back to it; without one they are rubbish.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::refusal::Refusal;
use super::target::{SUFFIXES, Spot};
use crate::fs::rename_within;

/// The sidecars of one target, set aside.
#[derive(Debug)]
pub(super) struct Aside(Vec<SetAside>);

#[derive(Debug)]
struct SetAside {
    name: OsString,
    aside: OsString,
    inode: u64,
}

impl Aside {
    /// Sets the sidecars of `spot` aside; all of them or, on failure, none. Not durable yet.
    pub(super) fn set(spot: &Spot) -> Result<Self, Refusal> {
        let mut set = Self(Vec::new());
        for name in spot.sidecars()? {
            let moved = set.add(spot, &name);
            if let Err(e) = moved {
                let refusal = Refusal::of("set aside", &spot.folder.path.join(&name), &e);
                set.give_back(spot).map_err(|e| Refusal::of("put back the sidecars of", &spot.path(), &e))?;
                return Err(refusal);
            }
        }
        Ok(set)
    }

    fn add(&mut self, spot: &Spot, name: &OsStr) -> io::Result<()> {
        let suffix = SUFFIXES.into_iter().find(|suffix| spot.beside(suffix) == name).unwrap_or_default();
        let aside = aside_name(spot, suffix);
        let inode = fstatat(&spot.folder.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_ino;
        rename_within(&spot.folder.dir, name, &aside, true)?;
        self.0.push(SetAside { name: name.to_owned(), aside, inode });
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Undoes it: the old database has stayed.
    pub(super) fn give_back(self, spot: &Spot) -> io::Result<()> {
        for SetAside { name, aside, .. } in self.0 {
            give_back(spot, &aside, &name)?;
        }
        Ok(())
    }

    /// Removes them: the new database is durable under its name. Only what was set aside here: another restore may have
    /// begun since.
    pub(super) fn remove(self, spot: &Spot) {
        for SetAside { aside, inode, .. } in self.0 {
            let stat = fstatat(&spot.folder.dir, aside.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
            let removed = match stat {
                Ok(stat) if stat.st_ino == inode => unlink(spot, &aside),
                _ => Ok(()),
            };
            if let Err(e) = removed {
                log::warn!("cannot remove {}: {e}", spot.folder.path.join(&aside).display());
            }
        }
    }
}

/// Whether sidecars of `spot` are set aside, now or since a crash.
pub(super) fn is_any(spot: &Spot) -> Result<bool, Refusal> {
    for suffix in SUFFIXES {
        if spot.stat(&aside_name(spot, suffix))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// After a crash before the rename: gives the old database back what is its own. The caller holds the target's lock.
pub(super) fn give_back_all(spot: &Spot) -> io::Result<()> {
    SUFFIXES.into_iter().try_for_each(|suffix| give_back(spot, &aside_name(spot, suffix), &spot.beside(suffix)))
}

/// After a crash behind the rename: removes what belonged to a database that is no more. The caller holds the target's lock.
pub(super) fn remove_all(spot: &Spot) -> io::Result<()> {
    SUFFIXES.into_iter().try_for_each(|suffix| unlink(spot, &aside_name(spot, suffix)))
}

fn give_back(spot: &Spot, aside: &OsStr, name: &OsStr) -> io::Result<()> {
    match rename_within(&spot.folder.dir, aside, name, false) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // An application has opened the database since: to what it made there, the old one does not fit.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => unlink(spot, aside),
        other => other,
    }
}

fn unlink(spot: &Spot, name: &OsStr) -> io::Result<()> {
    match unlinkat(&spot.folder.dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        other => Ok(other?),
    }
}

fn aside_name(spot: &Spot, suffix: &str) -> OsString {
    let mut name = crate::fs::ASIDE.to_vec();
    name.extend_from_slice(super::pending::name_hash(&spot.name).as_bytes());
    name.extend_from_slice(suffix.as_bytes());
    OsString::from_vec(name)
}
