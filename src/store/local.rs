//! Folder and memory as stores: a thin layer over object_store's that counts operations and, for a folder, notices that
//! it is no longer the folder we opened, keeps it private, makes objects that are not synced one by one in a shorter way
//! ([`unnamed`](super::unnamed)), lists it by a [`walk`] of our own, and does without hard links where there are none.
//!
//! A crash leaves at most a file `KEY#1` beside the key that was being written, where the shorter way is not possible. Listings do
//! not show it.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

use super::requests::{Answer, Requests, Verb};
use super::unnamed::Unnamed;
use super::walk;

/// Extension of [`PutOptions`]: the calling thread may be blocked by a put.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here;

/// The folder is gone, or another one lies under its name, as after an unmount.
#[derive(Debug, thiserror::Error)]
#[error("the folder {} {what}", root.display())]
pub(super) struct FolderGone {
    root: PathBuf,
    what: String,
}

/// A folder as it was when it was opened.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
    device: u64,
    inode: u64,
    fsync: bool,
    /// Held open: `syncfs` tells of the writes that failed since its descriptor was opened, and of no others.
    dir: Arc<std::fs::File>,
    unnamed: Arc<Unnamed>,
    passed_over: Arc<AtomicU64>,
}

impl Folder {
    /// Opens `root`, which must exist.
    pub(super) fn open(root: &FsPath, fsync: bool) -> io::Result<Self> {
        let dir = Arc::new(std::fs::File::open(root)?);
        let meta = dir.metadata()?;
        Ok(Self {
            root: root.to_owned(),
            device: meta.dev(),
            inode: meta.ino(),
            fsync,
            dir,
            unnamed: Arc::default(),
            passed_over: Arc::default(),
        })
    }

    pub(super) fn root(&self) -> &FsPath {
        &self.root
    }

    /// Counts something that no listing can show, for it can be no object.
    pub(super) fn note_passed_over(&self) {
        self.passed_over.fetch_add(1, Ordering::Relaxed);
    }

    /// How often listings came upon such a thing.
    pub(super) fn passed_over(&self) -> u64 {
        self.passed_over.load(Ordering::Relaxed)
    }

    /// object_store would silently make a vanished folder anew: behind an unmounted mount point, on the wrong disk.
    pub(super) fn check(&self) -> Result<()> {
        let what = match std::fs::metadata(&self.root) {
            Ok(meta) if (meta.dev(), meta.ino()) == (self.device, self.inode) => return Ok(()),
            Ok(_) => "is not the one that was opened (unmounted, mounted over or replaced)".to_owned(),
            Err(e) => format!("cannot be looked at: {e}"),
        };
        let gone = FolderGone { root: self.root.clone(), what };
        Err(Error::Generic { store: "folder", source: Box::new(gone) })
    }

    /// Makes everything written to it durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        // What was put may lie in another folder by now: syncing this one would say nothing about it.
        self.check().map_err(io::Error::other)?;
        Ok(nix::unistd::syncfs(&self.dir)?)
    }

    /// Whether a put only changes what the system holds in memory.
    pub(super) fn puts_at_once(&self) -> bool {
        !self.fsync
    }

    /// Whether [`Folder::make`] is worth trying.
    fn may_make(&self) -> bool {
        self.puts_at_once() && self.unnamed.is_possible()
    }

    /// Makes the object `key` where there is none. False if it is to be made another way.
    fn make(&self, key: &Path, payload: &PutPayload) -> Result<bool> {
        self.check()?;
        let parts: Vec<&[u8]> = payload.iter().map(|part| &part[..]).collect();
        let made = self.unnamed.make(&self.root.join(key.as_ref()), &parts);
        made.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Error::AlreadyExists { path: key.to_string(), source: Box::new(e) },
            _ => Error::Generic { store: "folder", source: Box::new(e) },
        })
    }

    /// Makes the directories that `key` needs, for the owner alone; object_store would leave that to the umask.
    fn prepare(&self, key: &Path) -> Result<()> {
        self.check()?;
        let parent = self.root.join(key.as_ref());
        let Some(parent) = parent.parent() else { return Ok(()) };
        crate::fs::make_private(parent, self.fsync)
            .map_err(|source| Error::Generic { store: "folder", source: Box::new(source) })
    }
}

/// object_store's folder or memory store, counted.
#[derive(Debug)]
pub(super) struct Local {
    inner: Arc<dyn ObjectStore>,
    requests: Arc<Requests>,
    folder: Option<Folder>,
    /// The file system has shown that it has no hard links, which create-only puts are made of.
    without_links: AtomicBool,
}

impl Local {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, requests: Arc<Requests>, folder: Option<Folder>) -> Self {
        Self { inner, requests, folder, without_links: AtomicBool::new(false) }
    }

    fn count<T>(&self, verb: Verb, result: Result<T>) -> Result<T> {
        self.requests.add(verb, Answer::of_result(&result));
        result
    }

    fn check(&self) -> Result<()> {
        self.folder.as_ref().map_or(Ok(()), Folder::check)
    }

    /// [`Folder::prepare`] off the runtime's threads, for the disk may be slow.
    async fn prepare(&self, key: &Path) -> Result<()> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let key = key.clone();
        tokio::task::spawn_blocking(move || folder.prepare(&key)).await?
    }

    async fn put(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode == PutMode::Create && self.make(key, &payload, &options).await? {
            return Ok(PutResult { e_tag: None, version: None, extensions: Extensions::default() });
        }
        self.prepare(key).await?;
        if options.mode != PutMode::Create || self.folder.is_none() {
            return self.inner.put_opts(key, payload, options).await;
        }
        if !self.without_links.load(Ordering::Relaxed) {
            match self.inner.put_opts(key, payload.clone(), options.clone()).await {
                Err(e) if has_no_links(&e) => self.without_links.store(true, Ordering::Relaxed),
                other => return other,
            }
        }
        self.put_without_links(key, payload, options).await
    }

    /// [`Folder::make`], on this thread where that was asked for.
    async fn make(&self, key: &Path, payload: &PutPayload, options: &PutOptions) -> Result<bool> {
        let Some(folder) = self.folder.as_ref().filter(|folder| folder.may_make()) else { return Ok(false) };
        if options.extensions.get::<Here>().is_some() {
            return folder.make(key, payload);
        }
        let (folder, key, payload) = (folder.clone(), key.clone(), payload.clone());
        tokio::task::spawn_blocking(move || folder.make(&key, &payload)).await?
    }

    /// On FAT and some network file systems: look, then rename into place. Two writers of one key could pass the look
    /// together; our keys are unique, so only a put repeated by the same process can meet itself, and that one waits.
    async fn put_without_links(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.inner.head(key).await {
            Ok(_) => Err(Error::AlreadyExists { path: key.to_string(), source: "the file is there already".into() }),
            Err(Error::NotFound { .. }) => {
                self.inner.put_opts(key, payload, PutOptions { mode: PutMode::Overwrite, ..options }).await
            }
            Err(e) => Err(e),
        }
    }
}

fn has_no_links(error: &Error) -> bool {
    const EPERM: i32 = nix::errno::Errno::EPERM as i32;
    const ENOSYS: i32 = nix::errno::Errno::ENOSYS as i32;
    const EOPNOTSUPP: i32 = nix::errno::Errno::EOPNOTSUPP as i32;
    let code = super::failure::chain(error).find_map(|e| e.downcast_ref::<io::Error>()?.raw_os_error());
    matches!(code, Some(EPERM | ENOSYS | EOPNOTSUPP))
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Local {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let result = self.put(key, payload, options).await;
        self.count(Verb::Put, result)
    }

    async fn put_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let result = match self.prepare(key).await {
            Ok(()) => self.inner.put_multipart_opts(key, options).await,
            Err(e) => Err(e),
        };
        let inner = self.count(Verb::Post, result)?;
        Ok(Box::new(CountedUpload { inner, requests: Arc::clone(&self.requests) }))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let verb = if options.head { Verb::Head } else { Verb::Get };
        let result = match self.check() {
            Ok(()) => self.inner.get_opts(key, options).await,
            Err(e) => Err(e),
        };
        self.count(verb, result)
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if let Err(e) = self.check() {
            return stream::once(async { Err(e) }).boxed();
        }
        let requests = Arc::clone(&self.requests);
        let deleted = self.inner.delete_stream(keys);
        deleted.inspect(move |result| requests.add(Verb::Delete, Answer::of_result(result))).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match (self.count(Verb::List, self.check()), &self.folder) {
            (Ok(()), Some(folder)) => walk::list(folder.clone(), prefix, None),
            (Ok(()), None) => self.inner.list(prefix),
            (Err(e), _) => stream::once(async { Err(e) }).boxed(),
        }
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        match (self.count(Verb::List, self.check()), &self.folder) {
            (Ok(()), Some(folder)) => walk::list(folder.clone(), prefix, Some(offset)),
            (Ok(()), None) => self.inner.list_with_offset(prefix, offset),
            (Err(e), _) => stream::once(async { Err(e) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let result = match self.check() {
            Ok(()) => self.inner.list_with_delimiter(prefix).await,
            Err(e) => Err(e),
        };
        self.count(Verb::List, result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let result = self.inner.copy_opts(from, to, options).await;
        self.count(Verb::Put, result)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let result = self.inner.rename_opts(from, to, options).await;
        self.count(Verb::Put, result)
    }
}

/// A multipart upload whose parts and end are counted.
#[derive(Debug)]
struct CountedUpload {
    inner: Box<dyn MultipartUpload>,
    requests: Arc<Requests>,
}

#[async_trait]
impl MultipartUpload for CountedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let requests = Arc::clone(&self.requests);
        let part = self.inner.put_part(data);
        part.inspect(move |result| requests.add(Verb::Put, Answer::of_result(result))).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await;
        self.requests.add(Verb::Post, Answer::of_result(&result));
        result
    }

    async fn abort(&mut self) -> Result<()> {
        let result = self.inner.abort().await;
        self.requests.add(Verb::Delete, Answer::of_result(&result));
        result
    }
}
