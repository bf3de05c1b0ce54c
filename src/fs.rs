//! The file system, where doing it right takes more than one call.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use nix::sys::statfs::Statfs;

use crate::error::{Error, Result};

/// How the names of files begin that a restore has under way. No scan finds them, no restored database may be called so.
pub(crate) const RESTORING: &[u8] = b".litesnap-restore-";
/// The same for the sidecars of a database that is being replaced.
pub(crate) const ASIDE: &[u8] = b".litesnap-aside-";

/// Whether a file of this name is part of a restore under way.
pub(crate) fn is_restoring(name: &[u8]) -> bool {
    name.starts_with(RESTORING) || name.starts_with(ASIDE)
}

/// Renames `from` to `to` in the same directory and returns after the directory is synced.
///
/// # Errors
/// As the system says.
pub fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "this is the one home of rename: the directory sync follows")]
    std::fs::rename(from, to)?;
    match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Renames `from` to `to`, both names in the open folder `dir`; without `replace` only if there is no `to` yet. Returns before
/// that is durable.
///
/// # Errors
/// As the system says; `AlreadyExists` without `replace`.
pub(crate) fn rename_within(dir: &File, from: &OsStr, to: &OsStr, replace: bool) -> io::Result<()> {
    if !replace {
        match rename_if_free(dir, from, to) {
            // Some file systems cannot do that in one step (NFS, FAT): looked at first, then.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {}
            other => return Ok(other?),
        }
        match fstatat(dir, to, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => {}
            Ok(_) => return Err(Errno::EEXIST.into()),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(nix::fcntl::renameat(dir, from, dir, to)?)
}

#[cfg(target_env = "gnu")]
fn rename_if_free(dir: &File, from: &OsStr, to: &OsStr) -> nix::Result<()> {
    nix::fcntl::renameat2(dir, from, dir, to, nix::fcntl::RenameFlags::RENAME_NOREPLACE)
}

#[cfg(not(target_env = "gnu"))]
fn rename_if_free(_: &File, _: &OsStr, _: &OsStr) -> nix::Result<()> {
    Err(Errno::ENOSYS)
}

/// Makes `dir` and its parents, for this user only (0700).
///
/// # Errors
/// [`Error::Io`] naming the directory.
pub fn create_private_dir(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| Error::Io {
        attempt: "create the directory",
        path: dir.to_path_buf(),
        source,
    })
}

/// Makes `dir` and its missing parents with mode 0700; with `fsync`, their entries are durable on return.
pub(crate) fn make_private(dir: &Path, fsync: bool) -> io::Result<()> {
    let made = match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = dir.parent() {
                make_private(parent, fsync)?;
            }
            std::fs::DirBuilder::new().mode(0o700).create(dir)
        }
        other => other,
    };
    match made {
        Ok(()) if fsync => dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()),
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// `path` for a line of text: names may hold line ends, with which somebody could write lines of his own into a log.
#[must_use]
pub fn shown(path: &Path) -> impl std::fmt::Display {
    let text = path.to_string_lossy();
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    if text.contains(char::is_control) { text.chars().map(escape).collect() } else { text.into_owned() }
}

/// Free space for this user below `dir`, in bytes.
///
/// # Errors
/// As the system says.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(dir)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// What is different about a file system, for those who read databases on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peculiar {
    /// Its name.
    pub name: &'static str,
    /// Locks and shared memory cannot be trusted on it.
    pub is_network: bool,
}

/// Whether `path` lies on a network or user-space file system, or on one with coarse times; `None` for an ordinary
/// local one. Magic numbers: statfs(2).
#[must_use]
pub fn peculiar_file_system(path: &Path) -> Option<Peculiar> {
    peculiar(&nix::sys::statfs::statfs(path).ok()?)
}

/// [`peculiar_file_system`] of an open file.
pub(crate) fn peculiar_behind(file: &File) -> io::Result<Option<Peculiar>> {
    Ok(peculiar(&nix::sys::statfs::fstatfs(file)?))
}

fn peculiar(stat: &Statfs) -> Option<Peculiar> {
    const NETWORK: [(i128, &str); 9] = [
        (0x6969, "NFS"),
        (0x517B, "SMB"),
        (0xFF53_4D42, "CIFS"),
        (0xFE53_4D42, "SMB2"),
        (0x6573_5546, "FUSE"),
        (0x0102_1997, "9P"),
        (0x00C3_6400, "Ceph"),
        (0x5346_414F, "AFS"),
        (0x0BD0_0BD0, "Lustre"),
    ];
    // Times in steps of two seconds.
    const COARSE: [(i128, &str); 2] = [(0x4D44, "FAT"), (0x2011_BAB0, "exFAT")];
    // Its type differs from platform to platform.
    let magic = i128::from(stat.filesystem_type().0);
    let find = |table: &[(i128, &'static str)], is_network| {
        table.iter().find(|(known, _)| *known == magic).map(|(_, name)| Peculiar { name, is_network })
    };
    find(&NETWORK, true).or_else(|| find(&COARSE, false))
}

/// `path` with `cwd` in front if it is relative, and `.` and `..` taken out by name.
#[must_use]
pub fn absolute(path: &Path, cwd: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in cwd.join(path).components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}
