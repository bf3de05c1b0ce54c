//! A restored file on its way: a temporary file in the folder of its target, locked until it has the target's name.
//!
//! Its name follows from the target's, so that a second restore of the same target meets the lock, and the next run after a
//! kill finds what was left. That is removed and made anew, never written into: only then is nobody else's descriptor
//! or name on what will hold somebody's data.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, fchmod, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use twox_hash::XxHash3_64;

use super::batch::FileSystem;
use super::made::Made;
use super::refusal::{IN_USE, IO_ERROR, Refusal, UNSAFE_PATH, UNWRITABLE};
use super::target::Spot;
use super::{Placed, aside};
use crate::clock::SECOND;
use crate::fs::{RESTORING, shown};
use crate::object::Description;

/// How often the name is taken anew when others remove it between two steps.
const ATTEMPTS_MAX: usize = 100;

/// A file that is being restored. Dropping it removes it.
#[derive(Debug)]
pub struct Pending {
    pub(super) file: File,
    pub(super) spot: Arc<Spot>,
    temp: OsString,
    pub(super) filesystem: Arc<FileSystem>,
    /// It still has its temporary name, and is to lose it when dropped.
    is_temporary: bool,
}

impl Pending {
    /// Takes the temporary name of `spot` after having cleaned up behind a killed run.
    pub(super) fn begin(spot: Spot, filesystem: Arc<FileSystem>) -> Result<Self, Refusal> {
        let temp = temp_name(&spot.name);
        for _ in 0..ATTEMPTS_MAX {
            let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            match openat(&spot.folder.dir, temp.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(file) => {
                    let file = File::from(file);
                    if lock(&file, &spot, &temp)? {
                        return Ok(Self { file, spot: Arc::new(spot), temp, filesystem, is_temporary: true });
                    }
                }
                Err(Errno::EEXIST) => {
                    remove_leftover(&spot, &temp)?;
                }
                Err(e) => return Err(Refusal::of("make a temporary file in", &spot.folder.path, &e.into())),
            }
        }
        Err(in_use(&spot))
    }

    /// Forgets what was written: for another attempt at the same database.
    ///
    /// # Errors
    /// As the system says.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }

    /// The file as written so far, also for reading.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the temporary file lies. To look into it with SQLite, open it `mode=ro` and `immutable=1`, and close it again
    /// before this is handed on.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.spot.folder.path.join(&self.temp)
    }

    /// What a failed write or read of this file means.
    #[must_use]
    pub fn refusal(&self, error: &io::Error) -> Refusal {
        Refusal::of("write the temporary file", &self.path(), error)
    }

    /// Gives the file, and the folders that were made for it, owner, mode and time.
    pub(super) fn describe(&self, description: &Description, made: &Made) -> Result<Placed, Refusal> {
        let failed = |e: io::Error| Refusal::of("set owner, mode and time of", &self.path(), &e);
        let size = self.file.metadata().map_err(failed)?.len();
        if size != description.raw_size {
            let what = format!("{size} bytes were written where its description says {}", description.raw_size);
            return Err(Refusal::new(IO_ERROR, format!("{}: {what}", shown(&self.path()))));
        }
        let folder = &self.spot.folder;
        made.describe(folder, description)
            .map_err(|e| Refusal::of("set owner and mode of folders made on the way to", &folder.path, &e))?;
        // Before the mode, for it takes bits away from it.
        let is_owned = own(&self.file, description).map_err(failed)?;
        // Never more than permission bits: the bytes are foreign, and set-user-id is for programs.
        let is_chmoded = chmod(&self.file, description.mode & 0o777).map_err(failed)?;
        tolerated(futimens(&self.file, &TimeSpec::UTIME_OMIT, &time_spec(description.mtime_ns))).map_err(failed)?;
        Ok(Placed { owner_kept: is_owned && is_chmoded })
    }

    /// Gives it the target's name; on failure it stays temporary. Not durable yet.
    pub(super) fn publish(&mut self, replace: bool) -> Result<(), Refusal> {
        let dir = &self.spot.folder.dir;
        if !is_named(&self.file, &self.spot, &self.temp)? {
            let what = format!("{} was removed or replaced while it was written", shown(&self.path()));
            return Err(Refusal::new(UNWRITABLE, what));
        }
        match crate::fs::rename_within(dir, &self.temp, &self.spot.name, replace) {
            Ok(()) => {
                self.is_temporary = false;
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let what = format!("{} was made by somebody else meanwhile", shown(&self.spot.path()));
                Err(Refusal::new(super::refusal::TARGET_EXISTS, what))
            }
            Err(e) => Err(Refusal::of("rename the restored file to", &self.spot.path(), &e)),
        }
    }

    /// What is needed of it once it has the target's name: the descriptor of the file, and so its lock, is given up.
    pub(super) fn into_placed(self) -> (Arc<FileSystem>, Arc<Spot>) {
        (Arc::clone(&self.filesystem), Arc::clone(&self.spot))
    }

    /// Leaves the temporary file where it is, for the next run to see that something is unfinished here.
    pub(super) fn abandon(mut self) {
        self.is_temporary = false;
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // While the lock is held nobody but a stranger takes the name away.
        if !self.is_temporary || !matches!(is_named(&self.file, &self.spot, &self.temp), Ok(true)) {
            return;
        }
        if let Err(e) = unlinkat(&self.spot.folder.dir, self.temp.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            log::warn!("cannot remove the temporary file {}: {e}", shown(&self.path()));
        }
    }
}

/// Cleans up behind a killed run, if there was one and nobody is at it: what it set aside is given back or removed.
pub(super) fn recover(spot: &Spot) -> Result<(), Refusal> {
    let temp = temp_name(&spot.name);
    let is_left = spot.stat(&temp)?.is_some();
    if is_left {
        return remove_leftover(spot, &temp);
    }
    if aside::is_any(spot)? {
        aside::remove_all(spot).map_err(|e| Refusal::of("remove old sidecars of", &spot.path(), &e))?;
    }
    Ok(())
}

/// Removes the temporary file of a killed run.
///
/// # Errors
/// `in-use` if its run is alive, `unsafe-path` if it is not what a killed run leaves.
fn remove_leftover(spot: &Spot, temp: &OsStr) -> Result<(), Refusal> {
    let path = spot.folder.path.join(temp);
    let failed = |e: io::Error| Refusal::of("remove the old temporary file", &path, &e);
    let is_ours = |mode: u32, links: u64| mode & libc::S_IFMT == libc::S_IFREG && links == 1;
    let not_ours = || {
        let what = "is not what a killed restore leaves (a link, or no file): somebody else made it; remove it";
        Refusal::new(UNSAFE_PATH, format!("{} {what}", shown(&path)))
    };
    let Some(stat) = spot.stat(temp)? else { return Ok(()) };
    #[allow(clippy::useless_conversion, reason = "the number of links has another type on other platforms")]
    if !is_ours(stat.st_mode, u64::from(stat.st_nlink)) {
        return Err(not_ours());
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(&spot.folder.dir, temp, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Ok(()),
        Err(e) => return Err(failed(e.into())),
    };
    let meta = file.metadata().map_err(failed)?;
    if !is_ours(meta.mode(), meta.nlink()) {
        return Err(not_ours());
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(spot)),
        Err(TryLockError::Error(e)) => {
            let what =
                format!("cannot tell whether another restore is at it ({e}): if none is, remove {}", shown(&path));
            return Err(Refusal::new(IN_USE, what));
        }
    }
    if !is_named(&file, spot, temp)? {
        return Ok(());
    }
    // In this order: the temporary file is what tells that the old database is still in its place.
    aside::give_back_all(spot).map_err(|e| Refusal::of("put back the sidecars of", &spot.path(), &e))?;
    unlinkat(&spot.folder.dir, temp, UnlinkatFlags::NoRemoveDir).map_err(|e| failed(e.into()))
}

/// Locks the new temporary file. False if it has lost its name to another restore that took it for a leftover.
fn lock(file: &File, spot: &Spot, temp: &OsStr) -> Result<bool, Refusal> {
    match file.try_lock() {
        Ok(()) => is_named(file, spot, temp),
        Err(TryLockError::WouldBlock) => Err(in_use(spot)),
        // A file system without locks: the name alone keeps others away.
        Err(TryLockError::Error(_)) => Ok(true),
    }
}

fn in_use(spot: &Spot) -> Refusal {
    Refusal::new(IN_USE, format!("another restore is at {}: wait for its end", shown(&spot.path())))
}

/// Whether `temp` is the name of the open `file`.
fn is_named(file: &File, spot: &Spot, temp: &OsStr) -> Result<bool, Refusal> {
    let meta = file.metadata().map_err(|e| Refusal::of("look at", &spot.folder.path.join(temp), &e))?;
    Ok(spot.stat(temp)?.is_some_and(|stat| (stat.st_dev, stat.st_ino) == (meta.dev(), meta.ino())))
}

/// Gives `file` the described owner and group, or at least the group. False if that is not permitted.
pub(super) fn own(file: &File, description: &Description) -> io::Result<bool> {
    let (uid, gid) = (Uid::from_raw(description.uid), Gid::from_raw(description.gid));
    if tolerated(fchown(file, Some(uid), Some(gid)))? {
        return Ok(true);
    }
    tolerated(fchown(file, None, Some(gid)))?;
    Ok(false)
}

pub(super) fn chmod(file: &File, mode: u32) -> io::Result<bool> {
    tolerated(fchmod(file, Mode::from_bits_truncate(mode)))
}

/// False for what only root may do, and for what the file system (FAT) or a user namespace does not have.
fn tolerated(result: nix::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::EPERM | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn time_spec(nanos: i64) -> TimeSpec {
    TimeSpec::new(nanos.div_euclid(SECOND), nanos.rem_euclid(SECOND))
}

fn temp_name(target: &OsStr) -> OsString {
    let mut name = RESTORING.to_vec();
    name.extend_from_slice(name_hash(target).as_bytes());
    OsString::from_vec(name)
}

/// 16 hex digits that stand for a target's name within its folder.
pub(super) fn name_hash(target: &OsStr) -> String {
    format!("{:016x}", XxHash3_64::oneshot(target.as_bytes()))
}
