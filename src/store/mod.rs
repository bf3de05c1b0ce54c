//! A URL and options become a ready store.
//!
//! Owns how stores are named, reached, waited for, counted and understood when they fail. What lies where in a store is
//! the layout's business, not this module's. The seam is object_store's own trait: tests inject faults by wrapping
//! [`Store::inner`].
//!
//! Nothing here holds a secret: credentials go from the environment into object_store.

mod address;
mod credentials;
mod failure;
mod http;
mod leftovers;
mod local;
mod query;
mod remote;
mod requests;
#[cfg(test)]
mod tests;
mod unnamed;
mod walk;

use std::fmt;
use std::io;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectStore, PutMode, PutOptions};

pub use credentials::credentials_hint;
pub use failure::classify;
pub(crate) use failure::{answered_status, is_broken_off};
pub(crate) use leftovers::Leftovers;
pub use query::Env;
pub use requests::{Answer, RequestCounts, Requests, Verb};

use crate::error::{Error, Result};
use address::{Address, Cloud};

/// How a store is wanted. What the URL's query says wins over the field; the field wins over the environment.
#[derive(Clone)]
pub struct StoreOptions {
    /// `s3://bucket/prefix`, `gs://…`, `az://…`, `file:///folder`, a plain path, or `memory://`.
    pub url: String,
    /// Base URL of an S3-compatible service, without the bucket.
    pub endpoint: Option<String>,
    /// S3 region; else `AWS_REGION`, `AWS_DEFAULT_REGION`, `us-east-1` (`auto` for R2).
    pub region: Option<String>,
    /// The bucket goes into the path even at AWS. Behind a custom endpoint it does anyway.
    pub path_style: bool,
    /// Allows `http://` endpoints.
    pub allow_http: bool,
    /// Storage class of the objects put: `STANDARD_IA`, `GLACIER_IR`…
    pub storage_class: Option<String>,
    /// Encrypt with this KMS key (S3).
    pub sse_kms_key_id: Option<String>,
    /// Folder only: each object is durable when its put returns. Otherwise [`Store::sync`] makes all of them so.
    pub fsync_each: bool,
    /// The longest silence within a request: from its first byte to the answer's first, and between reads of the answer.
    pub request_timeout: Duration,
    /// How long failing requests are tried again.
    pub patience: Patience,
}

/// How long one failing request is tried again before the database waits for the next cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// A store that answers nothing at all is given up after this long, plus at most one connect timeout of 5 s. Counted
    /// for the store, not per request: while it is silent, each further request is tried once.
    pub silent: Duration,
    /// A store that answers 429 or 5xx is asked again, with back-off, for this long.
    pub busy: Duration,
}

impl Default for Patience {
    /// 10 s and 30 s: within the default cycle of 30 s, or one more.
    fn default() -> Self {
        Self { silent: Duration::from_secs(10), busy: Duration::from_secs(30) }
    }
}

impl StoreOptions {
    /// Options for `url` with every default.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            endpoint: None,
            region: None,
            path_style: false,
            allow_http: false,
            storage_class: None,
            sse_kms_key_id: None,
            fsync_each: false,
            request_timeout: Duration::from_secs(60),
            patience: Patience::default(),
        }
    }
}

/// Not derived: somebody may have put a password into the URL or the endpoint.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("url", &failure::scrub(&self.url))
            .field("endpoint", &self.endpoint.as_deref().map(failure::scrub))
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .field("allow_http", &self.allow_http)
            .field("storage_class", &self.storage_class)
            .field("fsync_each", &self.fsync_each)
            .field("request_timeout", &self.request_timeout)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// What a store is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder, at its canonical path.
    Folder {
        /// The folder.
        root: PathBuf,
    },
    /// S3 or compatible.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// Memory of this process.
    Memory,
}

/// Longest name of a file on nearly all file systems, in bytes.
const FILE_NAME_LEN_MAX: usize = 255;

impl Kind {
    /// Most bytes of one segment of a key.
    #[must_use]
    pub fn name_len_max(&self) -> usize {
        if matches!(self, Self::Folder { .. }) { FILE_NAME_LEN_MAX } else { usize::MAX }
    }
}

/// A store, ready. Cheap to clone; clones share connections and counts.
#[derive(Clone)]
pub struct Store {
    /// For logs: `s3://bucket/prefix (endpoint https://…)`. No secrets.
    pub name: String,
    /// The store itself. Keys given to it begin with the prefix: make them with [`Store::path`].
    pub inner: Arc<dyn ObjectStore>,
    /// What every key begins with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// What it is made of.
    pub kind: Kind,
    /// To be given with every put: the storage class, if one is wanted.
    pub put_attributes: Attributes,
    /// Counts of requests made so far.
    pub requests: Arc<Requests>,
    /// The same store, deleting one object a request: for those that cannot delete many.
    pub(crate) singly: Option<Arc<dyn ObjectStore>>,
    identity: String,
    folder: Option<local::Folder>,
}

/// A store by its names, not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// For people.
    pub name: String,
    /// For state.
    pub identity: String,
    /// What every key begins with.
    pub prefix: String,
    /// The folder, if it is one.
    pub folder: Option<PathBuf>,
}

impl Described {
    /// As [`Kind::name_len_max`].
    #[must_use]
    pub fn name_len_max(&self) -> usize {
        if self.folder.is_some() { FILE_NAME_LEN_MAX } else { usize::MAX }
    }
}

/// Not derived: object_store's own output holds client options, proxies and their passwords among them.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store that `options` and `env` describe. A folder is made if it is missing (mode 0700); over the
    /// network nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Usage`] for what cannot be meant, [`Error::Store`] for a folder that cannot be made or opened.
    pub fn open(options: &StoreOptions, env: &Env) -> Result<Self> {
        Self::open_at(address::resolve(options, env)?, options, env)
    }

    /// The same, but a folder must be there: for whoever looks for what is stored.
    ///
    /// # Errors
    /// [`Error::Usage`] for what cannot be meant, [`Error::Store`] for a folder that is not there or cannot be opened.
    pub fn open_existing(options: &StoreOptions, env: &Env) -> Result<Self> {
        let address = address::resolve(options, env)?;
        if let Address::Folder(root) = &address
            && !root.is_dir()
        {
            let root = root.display();
            return Err(Error::Store {
                what: format!("there is no folder {root}: --store names where the snapshots lie"),
            });
        }
        Self::open_at(address, options, env)
    }

    fn open_at(address: Address, options: &StoreOptions, env: &Env) -> Result<Self> {
        let requests = Arc::new(Requests::default());
        let (mut folder, mut singly) = (None, None);
        let (address, inner, kind) = match address {
            Address::Folder(root) => {
                let (opened, inner) = open_folder(&root, options.fsync_each, &requests)?;
                let root = opened.root().to_owned();
                folder = Some(opened);
                (Address::Folder(root.clone()), inner, Kind::Folder { root })
            }
            Address::Memory { prefix } => {
                let inner = local::Local::new(Arc::new(InMemory::new()), Arc::clone(&requests), None);
                (Address::Memory { prefix }, Arc::new(inner) as Arc<dyn ObjectStore>, Kind::Memory)
            }
            Address::Bucket(bucket) => {
                let inner;
                (inner, singly) = remote::build(&bucket, options, env, &requests)?;
                let kind = match bucket.cloud {
                    Cloud::S3 => Kind::S3,
                    Cloud::Gcs => Kind::Gcs,
                    Cloud::Azure => Kind::Azure,
                };
                (Address::Bucket(bucket), inner, kind)
            }
        };
        let mut put_attributes = Attributes::new();
        let mut prefix = String::new();
        match &address {
            Address::Bucket(bucket) => {
                prefix.clone_from(&bucket.prefix);
                if let Some(class) = &bucket.storage_class {
                    put_attributes.insert(Attribute::StorageClass, class.clone().into());
                }
            }
            Address::Memory { prefix: given } => prefix.clone_from(given),
            Address::Folder(_) => {}
        }
        let (name, identity) = (address.name(), address.identity());
        Ok(Self { name, inner, prefix, kind, put_attributes, requests, singly, identity, folder })
    }

    /// Name, identity and prefix of the store that `options` and `env` describe, without opening or making it.
    ///
    /// # Errors
    /// [`Error::Usage`] for what cannot be meant.
    pub fn describe(options: &StoreOptions, env: &Env) -> Result<Described> {
        let address = match address::resolve(options, env)? {
            // As in `open`: a folder is known by its canonical path, once there is one.
            Address::Folder(root) => Address::Folder(root.canonicalize().unwrap_or(root)),
            other => other,
        };
        let prefix = match &address {
            Address::Bucket(bucket) => bucket.prefix.clone(),
            Address::Memory { prefix } => prefix.clone(),
            Address::Folder(_) => String::new(),
        };
        let folder = if let Address::Folder(root) = &address { Some(root.clone()) } else { None };
        Ok(Described { name: address.name(), identity: address.identity(), prefix, folder })
    }

    /// What makes it this store and no other, for state to compare: scheme, endpoint, account, bucket, prefix. No secrets.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The full path of `key`, which is relative to the prefix. Nothing is encoded: what a store would change must have
    /// been encoded before.
    ///
    /// # Errors
    /// `key` has an empty, `.` or `..` segment, or a slash at an end.
    pub fn path(&self, key: &str) -> object_store::Result<Path> {
        let full = if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) };
        let path = Path::parse(&full)?;
        if path.as_ref() != full || key.is_empty() {
            return Err(object_store::path::Error::EmptySegment { path: full }.into());
        }
        Ok(path)
    }

    /// The key of `path` below the prefix; `None` if it lies elsewhere.
    #[must_use]
    pub fn key<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let rest = path.as_ref().strip_prefix(&self.prefix)?;
        if self.prefix.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }

    /// The prefix as a path, for listing everything; `None` when it is empty.
    #[must_use]
    pub fn root(&self) -> Option<Path> {
        Path::parse(&self.prefix).ok().filter(|path| !path.is_root())
    }

    /// How often listings of a folder came upon something that can be no object, so far.
    pub(crate) fn passed_over(&self) -> u64 {
        self.folder.as_ref().map_or(0, local::Folder::passed_over)
    }

    /// Options of a create-only put. The one refusal that means "already there" is `Error::AlreadyExists`: after a lost
    /// answer it can be our own object.
    #[must_use]
    pub fn create(&self) -> PutOptions {
        PutOptions { mode: PutMode::Create, attributes: self.put_attributes.clone(), ..PutOptions::default() }
    }

    /// Whether a put is a few system calls that wait for no answer: a folder of this machine, not synced for each object.
    #[must_use]
    pub fn puts_at_once(&self) -> bool {
        self.folder.as_ref().is_some_and(local::Folder::puts_at_once)
    }

    /// [`Store::create`] for a thread that may be blocked: where a store [puts at once](Self::puts_at_once), it does so on that
    /// thread instead of handing it to another.
    #[must_use]
    pub fn create_here(&self) -> PutOptions {
        let mut options = self.create();
        if self.puts_at_once() {
            options.extensions.insert(local::Here);
        }
        options
    }

    /// Makes every put that has returned durable: `syncfs` on a folder; over the network they are already.
    ///
    /// # Errors
    /// The folder is not the one it was, or the disk failed to write: then none of the puts since the last call may be
    /// recorded as stored.
    pub fn sync(&self) -> io::Result<()> {
        self.folder.as_ref().map_or(Ok(()), local::Folder::sync)
    }
}

fn open_folder(root: &FsPath, fsync: bool, requests: &Arc<Requests>) -> Result<(local::Folder, Arc<dyn ObjectStore>)> {
    let shown = root.display().to_string();
    let failed = |attempt| {
        let what = format!("cannot {attempt} {shown}");
        move |e: io::Error| Error::Store { what: format!("{what}: {e}; --store names another, such as /backups") }
    };
    crate::fs::make_private(root, true).map_err(failed("create the folder"))?;
    // The canonical path, so that the identity does not depend on the way through symlinks.
    let root = root.canonicalize().map_err(failed("open the folder"))?;
    // On FUSE and its like a `syncfs` need not reach the disk.
    let fsync = fsync || crate::fs::peculiar_file_system(&root).is_some_and(|fs| fs.is_network);
    let folder = local::Folder::open(&root, fsync).map_err(failed("open the folder"))?;
    let files = LocalFileSystem::new_with_prefix(&root)
        .map_err(|e| Error::Usage(format!("cannot use the folder {}: {}", root.display(), classify(&e).detail)))?
        .with_fsync(fsync);
    let inner = local::Local::new(Arc::new(files), Arc::clone(requests), Some(folder.clone()));
    Ok((folder, Arc::new(inner)))
}
