//! Puts restored databases into the file system: each target is the old file or the new one, never half of either.
//!
//! Knows paths and descriptions, no stores and no keys. A database comes in as bytes through a [`Pending`], a temporary file
//! in the folder of its target; finished and verified, it gets owner, mode and time, is made durable, and only then takes the
//! target's name. Nothing at the target changes before that.
//!
//! A crash leaves at most, beside a target: the temporary file `.litesnap-restore-*`, the sidecars `.litesnap-aside-*` of a
//! database that was about to be replaced, and folders that have no owner yet. The next restore of the same target
//! cleans up all three.

mod aside;
mod batch;
mod claims;
mod folder;
mod identical;
mod made;
mod pending;
mod queue;
mod refusal;
mod target;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::FileStat;
use parking_lot::Mutex;

use self::batch::{FileSystem, Handed};
use self::claims::Claims;
use self::folder::{Links, parts_of, walk};
use self::made::Made;
pub use self::pending::Pending;
use self::queue::Queue;
pub use self::refusal::Refusal;
use self::refusal::{NOT_A_FILE, UNSAFE_PATH};
use self::target::Spot;
use crate::clock::{Nanos, SECOND};
use crate::error::{Error, Result};
use crate::fs::shown;
use crate::object::Description;

/// What may happen to what is there already.
#[derive(Debug, Clone, Copy, Default)]
pub struct Permissions {
    /// Files are replaced, also those in use, and sidecars removed.
    pub force: bool,
}

/// Where restored databases go.
#[derive(Debug, Clone)]
pub enum Root {
    /// Below this folder, which may be reached through symbolic links; below it none is followed. Made (0700) on first use.
    Below(PathBuf),
    /// To absolute paths: where they came from.
    InPlace,
    /// To exactly this file.
    File(PathBuf),
}

/// What is at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No file. There may be sidecars.
    Nothing,
    /// A file.
    Existing(Existing),
}

/// A file at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Existing {
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Nanos,
}

impl Existing {
    fn of(stat: &FileStat) -> Self {
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: stat.st_mtime.saturating_mul(SECOND).saturating_add(stat.st_mtime_nsec),
        }
    }
}

/// A database that is durable under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Owner, group and mode are the described ones. False where this user may not set them: then the file is ours.
    pub owner_kept: bool,
}

/// File descriptors that are left for everything else.
const DESCRIPTORS_OTHERS: usize = 512;

/// The soft limit of descriptors is raised to this, as far as the hard one allows.
const DESCRIPTORS_MAX: libc::rlim_t = 4_096;

/// Descriptors that a batch may hold however low the limit is.
const DESCRIPTORS_BATCH_MIN: usize = 32;

/// Puts databases into their places, those of one run. Shared by all its threads.
///
/// Dropping it finishes what was handed over.
pub struct Placer {
    root: Root,
    permissions: Permissions,
    /// The folder of [`Root::Below`], once it is open.
    base: Mutex<Option<Arc<File>>>,
    claims: Claims,
    made: Made,
    filesystems: Mutex<HashMap<u64, Arc<FileSystem>>>,
    queue: Arc<Queue>,
    worker: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Placer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Placer").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Placer {
    /// For one run. Raises the process's limit of file descriptors; changes nothing in the file system.
    ///
    /// # Errors
    /// [`Error::Io`]: there is no room for a list of targets, or no thread.
    pub fn open(root: Root, permissions: Permissions) -> Result<Self> {
        let descriptors = allow_descriptors().saturating_sub(DESCRIPTORS_OTHERS) / 3;
        let queue = Arc::new(Queue::new(descriptors.max(DESCRIPTORS_BATCH_MIN)));
        let for_worker = Arc::clone(&queue);
        let work = move || {
            // Whatever ends it, nobody shall wait for it.
            let _abandoned = Abandon(&for_worker);
            batch::run(&for_worker, permissions);
        };
        let worker = std::thread::Builder::new().name("place".into()).spawn(work).map_err(|source| Error::Io {
            attempt: "start a thread for",
            path: "restoring".into(),
            source,
        })?;
        let (base, filesystems) = (Mutex::default(), Mutex::default());
        let lists = Claims::open().and_then(|claims| Ok((claims, Made::open()?)));
        let (claims, made) = match lists {
            Ok(lists) => lists,
            Err(e) => {
                queue.close();
                return Err(e);
            }
        };
        Ok(Self { root, permissions, base, claims, made, filesystems, queue, worker: Some(worker) })
    }

    /// What is at `target`: a relative path for [`Root::Below`], an absolute one for [`Root::InPlace`], ignored for
    /// [`Root::File`]. Changes nothing.
    ///
    /// # Errors
    /// What can never be right: `unsafe-path`, `not-a-file`; `unwritable` where it cannot be looked at.
    pub fn look(&self, target: &Path) -> Result<Found, Refusal> {
        self.locate(target, false)?.map_or(Ok(Found::Nothing), |spot| spot.look())
    }

    /// What is at `target`, if a database may be put there now. Changes nothing; [`Placer::begin`] asks the same.
    ///
    /// # Errors
    /// As [`Placer::look`]; `target-exists`, `in-use`, `sidecar` without the permission to replace.
    pub fn permit(&self, target: &Path) -> Result<Found, Refusal> {
        self.locate(target, false)?.map_or(Ok(Found::Nothing), |spot| spot.permit(self.permissions))
    }

    /// Whether the file at `target` already is the described snapshot: its size, content, owner and mode (as far as this
    /// user could set them), and no transactions beside it. Reads all of it. Changes nothing.
    ///
    /// # Errors
    /// It cannot be read, or is no file.
    pub fn is_identical(&self, target: &Path, description: &Description) -> io::Result<bool> {
        match self.locate(target, false).map_err(io::Error::other)? {
            Some(spot) => identical::is_identical(&spot, description),
            None => Ok(false),
        }
    }

    /// Takes `target` for this run without changing the file there, because it is right as it is: a second database for it
    /// is refused, and what a killed run left beside it is removed.
    ///
    /// # Errors
    /// As [`Placer::look`]; `clash`, `in-use`.
    pub fn keep(&self, target: &Path) -> Result<(), Refusal> {
        let Some(spot) = self.locate(target, false)? else { return Ok(()) };
        self.claims.take(&spot)?;
        pending::recover(&spot)
    }

    /// Begins a restored file: takes `target` for this run, makes missing folders, and a temporary file beside the target.
    /// To be called once for each database; see [`Pending::restart`].
    ///
    /// # Errors
    /// As [`Placer::permit`]; `clash` if a database of this run has taken the target, `in-use` if another run is at it,
    /// `no-space`, `unwritable`.
    pub fn begin(&self, target: &Path) -> Result<Pending, Refusal> {
        let Some(spot) = self.locate(target, true)? else {
            return Err(Refusal::new(refusal::UNWRITABLE, format!("the folder of {} went away", shown(target))));
        };
        self.claims.take(&spot)?;
        pending::recover(&spot)?;
        spot.permit(self.permissions)?;
        let filesystem = self.filesystem(&spot)?;
        Pending::begin(spot, filesystem)
    }

    /// Takes over a file that is complete and verified, gives it owner, mode and time, and calls `done` from another thread
    /// when it is durable under its name, or refused. Waits while too many are on their way. `done` must not come back here.
    pub fn finish(
        &self,
        pending: Pending,
        description: &Description,
        done: impl FnOnce(Result<Placed, Refusal>) + Send + 'static,
    ) {
        match pending.describe(description, &self.made) {
            Ok(placed) => {
                if let Err(handed) = self.queue.push(Handed { pending, placed, done: Box::new(done) }) {
                    let path = handed.pending.spot.path();
                    drop(handed.pending);
                    let what = format!("{}: the thread that makes files durable has ended", shown(&path));
                    (handed.done)(Err(Refusal::new(refusal::IO_ERROR, what)));
                }
            }
            Err(refusal) => {
                drop(pending);
                done(Err(refusal));
            }
        }
    }

    /// Returns when everything handed over so far is durable under its name, or refused.
    pub fn flush(&self) {
        self.queue.flush();
    }

    /// Finds the folder of `target`; with `make`, makes it. `None` if it is missing.
    fn locate(&self, target: &Path, make: bool) -> Result<Option<Spot>, Refusal> {
        let made = make.then_some(&self.made);
        let (folder, name) = match &self.root {
            Root::Below(dir) => {
                let (parts, name) = parts_of(target.as_os_str())?;
                let Some(base) = self.base(dir, make)? else { return Ok(None) };
                (walk(&base, dir, &parts, Links::Refuse, made)?, name)
            }
            Root::InPlace => {
                let Some(relative) = target.as_os_str().as_bytes().strip_prefix(b"/") else {
                    let what = format!("the original path '{}' is not absolute", shown(target));
                    return Err(Refusal::new(UNSAFE_PATH, what));
                };
                let (parts, name) = parts_of(OsStr::from_bytes(relative))?;
                (walk(&open_folder(Path::new("/"))?, Path::new("/"), &parts, Links::Follow, made)?, name)
            }
            Root::File(path) => (walk_to_parent(path, made)?, file_name(path)?),
        };
        Ok(folder.map(|folder| Spot { folder, name }))
    }

    /// The open folder to restore into; with `make`, made if it is missing.
    fn base(&self, dir: &Path, make: bool) -> Result<Option<Arc<File>>, Refusal> {
        let mut base = self.base.lock();
        if let Some(open) = &*base {
            return Ok(Some(Arc::clone(open)));
        }
        if !dir.exists() {
            if !make {
                return Ok(None);
            }
            let made = std::path::absolute(dir).and_then(|dir| crate::fs::make_private(&dir, true));
            made.map_err(|e| Refusal::of("make the folder", dir, &e))?;
        }
        let open = Arc::new(open_folder(dir)?);
        Ok(Some(Arc::clone(base.insert(open))))
    }

    fn filesystem(&self, spot: &Spot) -> Result<Arc<FileSystem>, Refusal> {
        let device = spot.folder.id.0;
        let mut all = self.filesystems.lock();
        if let Some(known) = all.get(&device) {
            return Ok(Arc::clone(known));
        }
        let handle = &spot.folder.dir;
        let handle = handle.try_clone().map_err(|e| Refusal::of("open the folder", &spot.folder.path, &e))?;
        let one_by_one = !matches!(crate::fs::peculiar_behind(&handle), Ok(None));
        let new = Arc::new(FileSystem { device, handle, one_by_one });
        all.insert(device, Arc::clone(&new));
        Ok(new)
    }
}

impl Drop for Placer {
    fn drop(&mut self) {
        self.queue.close();
        if self.worker.take().is_some_and(|worker| worker.join().is_err()) {
            log::error!("the thread that makes restored files durable has failed");
        }
    }
}

/// Tells those who wait for the worker that it has ended.
struct Abandon<'a>(&'a Queue);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Raises the soft limit of file descriptors and returns it.
fn allow_descriptors() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    let wanted = hard.min(DESCRIPTORS_MAX);
    let soft = if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft };
    usize::try_from(soft.min(DESCRIPTORS_MAX)).unwrap_or(0)
}

fn open_folder(dir: &Path) -> Result<File, Refusal> {
    let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
    let open = File::options().read(true).custom_flags(flags).open(dir);
    open.map_err(|e| Refusal::of("open the folder", dir, &e))
}

/// The folder of a file that the user has named: his links and his `..` lead where they lead.
fn walk_to_parent(path: &Path, make: Option<&Made>) -> Result<Option<folder::Folder>, Refusal> {
    let base = if path.is_absolute() { Path::new("/") } else { Path::new(".") };
    let parent = path.parent().unwrap_or(Path::new(""));
    let parts = parent.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    walk(&open_folder(base)?, base, &parts.collect::<Vec<_>>(), Links::Follow, make)
}

fn file_name(path: &Path) -> Result<OsString, Refusal> {
    let name = path.file_name().filter(|_| !path.as_os_str().as_bytes().ends_with(b"/"));
    let name = name.ok_or_else(|| Refusal::new(NOT_A_FILE, format!("'{}' does not name a file", shown(path))))?;
    parts_of(name).map(|(_, name)| name)
}
