//! LIST of a folder: a walk of our own, for object_store's fails as a whole on one name that is no key, and passes over a
//! symbolic link to nothing without a word.
//!
//! What cannot be an object of ours is passed over and counted; what can, but cannot be looked at, is an error that names
//! it: a listing is all or nothing. It runs on a blocking thread, ahead of its reader by a bounded number of objects. Open
//! folders, one per level, are all that it holds. It changes nothing.

use std::fs::{self, DirEntry, FileType, Metadata, ReadDir};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use chrono::DateTime;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use nix::errno::Errno;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, Result};
use tokio::sync::mpsc;

use super::local::Folder;
use crate::fs::shown;

/// Objects handed over together.
const CHUNK: usize = 1000;
/// Chunks that may wait for the reader.
const CHUNKS: usize = 2;

/// Something in the folder could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", shown(path))]
pub(super) struct Unlisted {
    path: PathBuf,
    what: String,
    source: io::Error,
}

impl Unlisted {
    fn of(path: PathBuf, source: io::Error) -> Error {
        Self { path, what: source.to_string(), source }.into_error()
    }

    fn dangling(path: PathBuf) -> Error {
        let what = "a symbolic link to nothing: is something not mounted? Else remove it".to_owned();
        Self { path, what, source: Errno::ENOENT.into() }.into_error()
    }

    fn into_error(self) -> Error {
        Error::Generic { store: "folder", source: Box::new(self) }
    }
}

/// The objects below `prefix` whose keys come after `after`, in no order; without an `ETag`.
pub(super) fn list(
    folder: Folder,
    prefix: Option<&Path>,
    after: Option<&Path>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let (top, after) = (prefix.map(ToString::to_string).unwrap_or_default(), after.cloned());
    // Not begun before somebody reads: whoever asks may not be on the runtime yet.
    let begin = async move {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let walk = tokio::task::spawn_blocking(move || {
            let mut walk = Walk { folder, after, found: Vec::new(), open: Vec::new(), sender };
            match walk.below(&top).and_then(|()| walk.folder.check()) {
                Ok(()) => walk.hand_over(Ok(())),
                Err(e) => walk.hand_over(Err(e)),
            };
        });
        stream::unfold((chunks, Some(walk)), |(mut chunks, walk)| async move {
            if let Some(chunk) = chunks.recv().await {
                return Some((chunk, (chunks, walk)));
            }
            // A walk that ended without a word would leave a hole.
            let died = walk?.await.err()?;
            Some((vec![Err(died.into())], (chunks, None)))
        })
    };
    begin.flatten_stream().flat_map(stream::iter).boxed()
}

/// One open folder on the way down.
struct Level {
    entries: ReadDir,
    path: PathBuf,
    /// Its path below the root; empty for the root.
    key: String,
    /// It, or one that it lies in, was reached through a symbolic link.
    is_linked: bool,
}

struct Walk {
    folder: Folder,
    after: Option<Path>,
    found: Vec<Result<ObjectMeta>>,
    open: Vec<Level>,
    sender: mpsc::Sender<Vec<Result<ObjectMeta>>>,
}

impl Walk {
    /// Walks everything below `top`, or until nobody listens any more.
    fn below(&mut self, top: &str) -> Result<()> {
        let path = if top.is_empty() { self.folder.root().to_owned() } else { self.folder.root().join(top) };
        // The way down to a prefix may lead through links already.
        let real = if top.is_empty() { None } else { path.canonicalize().ok().filter(|real| *real != path) };
        if real.as_deref().is_some_and(|real| self.is_inside(real)) {
            self.pass_over(&path, ANOTHER_NAME);
            return Ok(());
        }
        let is_linked = real.is_some();
        if !self.enter(path.clone(), top.to_owned(), is_linked)? {
            self.nothing_at(path)?;
        }
        while let Some(level) = self.open.last_mut() {
            match level.entries.next() {
                Some(Ok(entry)) => self.take(&entry)?,
                Some(Err(e)) => return Err(Unlisted::of(level.path.clone(), e)),
                None => drop(self.open.pop()),
            }
            if self.found.len() >= CHUNK && !self.hand_over(Ok(())) || self.sender.is_closed() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// There may be nothing below a prefix; but a link to nothing on the way there is something else.
    fn nothing_at(&self, top: PathBuf) -> Result<()> {
        let between = top.ancestors().take_while(|path| *path != self.folder.root());
        let there =
            between.map(|path| (path, fs::symlink_metadata(path))).find_map(|(path, meta)| Some((path, meta.ok()?)));
        match there {
            Some((path, meta)) if meta.is_symlink() && is_gone(&fs::metadata(path)) => {
                Err(Unlisted::dangling(path.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Gives what was found, and the end if it was one, to the reader; tells whether there still is one.
    fn hand_over(&mut self, end: Result<()>) -> bool {
        self.found.extend(end.err().map(Err));
        let chunk = std::mem::replace(&mut self.found, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(chunk).is_ok()
    }

    /// Opens a folder, to go on in it; false if it is not there or not one, as after it vanished.
    fn enter(&mut self, path: PathBuf, key: String, is_linked: bool) -> Result<bool> {
        match fs::read_dir(&path) {
            Ok(entries) => self.open.push(Level { entries, path, key, is_linked }),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(false),
            // Nothing is called so.
            Err(e) if e.raw_os_error() == Some(Errno::ENAMETOOLONG as i32) => return Ok(false),
            // The file system's own, in its root, for root alone; in our keys a plus sign is encoded.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && key == "lost+found" => {
                self.pass_over(&path, "not ours")
            }
            Err(e) => return Err(Unlisted::of(path, e)),
        }
        Ok(true)
    }

    fn take(&mut self, entry: &DirEntry) -> Result<()> {
        let Some(level) = self.open.last() else { return Ok(()) };
        let (path, name) = (|| level.path.join(entry.file_name()), entry.file_name());
        let Some(name) = name.to_str().filter(|name| !name.contains(|c: char| c.is_ascii_control())) else {
            self.pass_over(&path(), "its name can be no key");
            return Ok(());
        };
        let key = if level.key.is_empty() { name.to_owned() } else { format!("{}/{name}", level.key) };
        let is_linked = level.is_linked;
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Unlisted::of(path(), e)),
        };
        if kind.is_dir() {
            let path = path();
            return if is_linked { self.enter_once(path, key) } else { self.enter(path, key, false).map(drop) };
        }
        if !is_file_or_link(kind) || is_staging(name) {
            return Ok(());
        }
        if kind.is_symlink() {
            return self.follow(path(), key);
        }
        match entry.metadata() {
            Ok(meta) => self.add(&key, &meta),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Unlisted::of(path(), e)),
        }
        Ok(())
    }

    fn follow(&mut self, path: PathBuf, key: String) -> Result<()> {
        let target = fs::metadata(&path);
        if path.canonicalize().is_ok_and(|real| self.is_inside(&real)) {
            self.pass_over(&path, ANOTHER_NAME);
            return Ok(());
        }
        match &target {
            Ok(meta) if meta.is_dir() => self.enter_once(path, key),
            Ok(meta) => {
                self.add(&key, meta);
                Ok(())
            }
            Err(e) if e.raw_os_error() == Some(Errno::ELOOP as i32) => {
                self.pass_over(&path, "a symbolic link to itself");
                Ok(())
            }
            // It may have vanished itself since it was read of.
            Err(_) if is_gone(&fs::symlink_metadata(&path)) => Ok(()),
            Err(_) if is_gone(&target) => Err(Unlisted::dangling(path)),
            Err(e) => Err(Unlisted::of(path, io::Error::from(e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))),
        }
    }

    /// [`enter`](Self::enter) at or below a symbolic link, unless it is a folder that we are in.
    fn enter_once(&mut self, path: PathBuf, key: String) -> Result<()> {
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let Ok(meta) = fs::metadata(&path) else { return self.enter(path, key, true).map(drop) };
        let is_inside = |level: &Level| fs::metadata(&level.path).is_ok_and(|above| same(&above, &meta));
        if self.open.iter().any(is_inside) {
            self.pass_over(&path, "it leads back to a folder that it lies in");
            return Ok(());
        }
        self.enter(path, key, true).map(drop)
    }

    fn add(&mut self, key: &str, meta: &Metadata) {
        // Something else may lie there by now.
        if !meta.is_file() || self.after.as_ref().is_some_and(|after| key <= after.as_ref()) {
            return;
        }
        let Ok(location) = Path::parse(key) else { return };
        let nanoseconds = u32::try_from(meta.mtime_nsec()).unwrap_or_default();
        let last_modified = DateTime::from_timestamp(meta.mtime(), nanoseconds).unwrap_or_default();
        self.found.push(Ok(ObjectMeta { location, last_modified, size: meta.len(), e_tag: None, version: None }));
    }

    fn is_inside(&self, real: &std::path::Path) -> bool {
        real.starts_with(self.folder.root())
    }

    fn pass_over(&self, path: &std::path::Path, why: &str) {
        log::debug!("{}: passed over: {why}", shown(path));
        self.folder.note_passed_over();
    }
}

/// What a link within the store leads to has a name of its own; under a second one it would look like objects in the
/// wrong place, and what is removed under it would be gone under the first.
const ANOTHER_NAME: &str = "another name for something in this store";

fn is_file_or_link(kind: FileType) -> bool {
    kind.is_file() || kind.is_symlink()
}

fn is_gone(meta: &io::Result<Metadata>) -> bool {
    meta.as_ref().is_err_and(|e| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

/// `NAME#DIGITS`: what object_store is writing, or left behind when it was killed.
fn is_staging(name: &str) -> bool {
    let number = name.split_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}
