//! What is at a target, and whether it may be replaced. Changes nothing.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstatat};

use super::folder::Folder;
use super::refusal::{IN_USE, NOT_A_FILE, Refusal, SIDECAR, TARGET_EXISTS};
use super::{Existing, Found, Permissions};
use crate::fs::shown;
use crate::snapshot::locks::{self, Holder};

/// What SQLite appends to a database's name for the files beside it.
pub(super) const SUFFIXES: [&str; 3] = ["-wal", "-journal", "-shm"];

/// First bytes of every SQLite database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// A target: a name in an open folder.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) folder: Folder,
    pub(super) name: OsString,
}

impl Spot {
    /// For messages.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }

    /// The target's name with `suffix`.
    pub(super) fn beside(&self, suffix: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(suffix);
        name
    }

    /// Looks at `name` in the folder, following nothing.
    pub(super) fn stat(&self, name: &OsStr) -> Result<Option<FileStat>, Refusal> {
        match fstatat(&self.folder.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(Refusal::of("look at", &self.folder.path.join(name), &e.into())),
        }
    }

    /// What is at the target.
    ///
    /// # Errors
    /// `not-a-file` for anything but a file.
    pub(super) fn look(&self) -> Result<Found, Refusal> {
        let Some(stat) = self.stat(&self.name)? else { return Ok(Found::Nothing) };
        let what = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => return Ok(Found::Existing(Existing::of(&stat))),
            libc::S_IFLNK => {
                "a symbolic link, which is neither followed nor replaced: remove it, or name the file it leads to"
            }
            libc::S_IFDIR => "a folder where a file belongs: move it away",
            _ => "a device, pipe or socket where a file belongs",
        };
        Err(Refusal::new(NOT_A_FILE, format!("{} is {what}", shown(&self.path()))))
    }

    /// What is at the target, if `permissions` allow to put a database there.
    ///
    /// # Errors
    /// As [`Spot::look`]; `in-use`, `target-exists`, `sidecar`.
    pub(super) fn permit(&self, permissions: Permissions) -> Result<Found, Refusal> {
        let found = self.look()?;
        let path = self.path();
        let path = shown(&path);
        if matches!(found, Found::Existing(_)) && !permissions.force {
            if let Some(holder) = self.holder() {
                let what = format!("{path} is open in {holder}: stop it first; --force replaces the file under it");
                return Err(Refusal::new(IN_USE, what));
            }
            let what = format!("{path} exists: --force replaces it, --if-db-not-exists leaves it");
            return Err(Refusal::new(TARGET_EXISTS, what));
        }
        self.check_is_no_sidecar()?;
        let sidecars = self.sidecars()?;
        if let (Some(sidecar), false) = (sidecars.first(), permissions.force) {
            let sidecar = self.folder.path.join(sidecar);
            let what = format!(
                "{} is there and would be applied to the restored database: move it away, or --force removes it",
                shown(&sidecar)
            );
            return Err(Refusal::new(SIDECAR, what));
        }
        Ok(found)
    }

    /// Which application, if any, has the target open. One that cannot be asked counts as none.
    pub(super) fn holder(&self) -> Option<Holder> {
        let file = self.open_file(&self.name).ok()?;
        file.metadata().is_ok_and(|meta| meta.is_file()).then(|| locks::anyone(&file).ok().flatten())?
    }

    /// Opens `name` for reading: never through a link, never waiting for the other end of a pipe.
    pub(super) fn open_file(&self, name: &OsStr) -> nix::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        Ok(openat(&self.folder.dir, name, flags, Mode::empty())?.into())
    }

    /// The sidecars beside the target, whether there is a target or not.
    ///
    /// # Errors
    /// `not-a-file`, `sidecar`: it is something that `--force` must not remove either.
    pub(super) fn sidecars(&self) -> Result<Vec<OsString>, Refusal> {
        let mut found = Vec::new();
        for suffix in SUFFIXES {
            let name = self.beside(suffix);
            if name.len() > 255 {
                // Longer than any file system takes: SQLite cannot have made it.
                continue;
            }
            let Some(stat) = self.stat(&name)? else { continue };
            let path = self.folder.path.join(&name);
            if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
                let what = format!("{} is a folder where SQLite keeps a file: move it away", shown(&path));
                return Err(Refusal::new(NOT_A_FILE, what));
            }
            if stat.st_mode & libc::S_IFMT == libc::S_IFREG && self.is_database(&name) {
                let what = format!("{} is a database by itself, but SQLite would take it for a sidecar", shown(&path));
                return Err(Refusal::new(SIDECAR, format!("{what} of {}: move it away", shown(&self.path()))));
            }
            found.push(name);
        }
        Ok(found)
    }

    fn is_database(&self, name: &OsStr) -> bool {
        let mut magic = [0; MAGIC.len()];
        self.open_file(name).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok()) && magic == *MAGIC
    }

    /// Refuses a target that SQLite would take for the sidecar of the file beside it.
    fn check_is_no_sidecar(&self) -> Result<(), Refusal> {
        let name = self.name.as_bytes();
        let stem = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix.as_bytes())).map(OsStr::from_bytes);
        let Some(stem) = stem.filter(|stem| !stem.is_empty()) else { return Ok(()) };
        if self.stat(stem)?.is_none() {
            return Ok(());
        }
        let (path, stem) = (self.path(), self.folder.path.join(stem));
        let what = format!("{} would be taken for a sidecar of {}: restore elsewhere", shown(&path), shown(&stem));
        Err(Refusal::new(SIDECAR, what))
    }
}
