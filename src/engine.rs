//! What the threads of a cycle share, and how it is put together: state, own folders, thread pools, runtime.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use crate::clock::Nanos;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::first_hour::FirstHour;
use crate::record::Doubt;
use crate::scan::OwnFiles;
use crate::snapshot::Reader;
use crate::state::{Flags, Identity, Slot, StateDb, Table, place_of};
use crate::store::Store;
use crate::upload::Uploader;
use crate::watch::Watch;

/// Threads for blocking work of the asynchronous side: a folder's files, name look-ups, compression of large copies.
const BLOCKING_THREADS: usize = 8;

/// What the threads of a cycle share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) watch: Watch,
    pub(crate) store: Arc<Store>,
    pub(crate) reader: Reader,
    pub(crate) uploader: Arc<Uploader>,
    pub(crate) runtime: Runtime,
    /// Whether the store may hold more than is recorded.
    pub(crate) doubt: Arc<Doubt>,
    /// What the first hour costs.
    pub(crate) first_hour: FirstHour,
    /// The patterns are those under which everything known was seen.
    pub(crate) same_patterns: AtomicBool,
    /// Databases accepted as gone, of which the store could not be told yet; empty while it can. Lost in a restart, after
    /// which they are judged anew.
    pub(crate) untold: Mutex<HashSet<u64>>,
}

/// The asynchronous side. Ending it does not wait for calls that hang in a dead file system.
#[derive(Debug)]
pub(crate) struct Runtime(Option<tokio::runtime::Runtime>);

impl std::ops::Deref for Runtime {
    type Target = tokio::runtime::Runtime;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("taken only when dropped")
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// One file per store and prefix: a readable part, and a hash that keeps similar ones apart.
pub(crate) fn state_path(dir: &Path, identity: &str) -> PathBuf {
    let mut slug: String = identity
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect::<String>()
        .split('-')
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("-");
    slug.truncate(48);
    let hash = twox_hash::XxHash3_64::oneshot(identity.as_bytes()) >> 32;
    dir.join(format!("{slug}-{hash:08x}.db"))
}

/// What a state belongs to: this store, under this template and host.
pub(crate) fn identity(config: &Config, store: &str) -> Identity {
    Identity { store: store.to_owned(), template: config.template.as_str().to_owned(), host: config.host.clone() }
}

pub(crate) fn load(db: &StateDb, slack: Nanos) -> Result<Table> {
    let table = Table::default();
    db.load(|row| {
        let mut slot = Slot::unknown(row.id, 0);
        let is_buried = row.is_buried();
        slot.stored_s = row.stored_s;
        // One that the store says is gone must be stored again when it is seen, whatever its stamps.
        if let Some(stamps) = row.stamps.filter(|_| !is_buried) {
            let place = place_of(row.prefix.as_deref(), db.seed());
            slot.fingerprint = crate::detect::Fingerprint::of(&stamps, place, db.seed());
            let settled =
                row.error.as_deref().and_then(crate::error::Failure::parse).is_some_and(|f| f.reason.is_settled());
            slot.flags = Flags::NONE
                .with(Flags::RACY, crate::detect::is_racy(&stamps, row.stamped_at, slack))
                .with(Flags::NOT_A_DATABASE, settled)
                .with(Flags::FAILED, row.error.is_some() && !settled);
        }
        slot.failures = u8::from(row.error.is_some());
        table.put(slot);
    })?;
    db.load_backlog(|id, since_s, wait| table.backlog.load(id, since_s, wait))?;
    Ok(table)
}

/// The state, with its temporary copies, and a folder store: never backed up, by path and by inode. A pattern below
/// one of them would match nothing, which nobody can mean.
pub(crate) fn own_files(config: &Config, folder_store: Option<&Path>) -> Result<OwnFiles> {
    let mut dirs = vec![config.state_dir.clone()];
    dirs.extend(folder_store.map(Path::to_path_buf));
    for (dir, pattern) in dirs.iter().flat_map(|dir| config.patterns.iter().map(move |p| (dir, p))) {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if real(pattern.root()).starts_with(real(dir)) {
            return Err(Error::Usage(format!(
                "the pattern {} lies in {}, which is litesnap's own: give --state-dir or --store another folder",
                pattern.text(),
                dir.display()
            )));
        }
    }
    Ok(OwnFiles::new(&dirs))
}

pub(crate) fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("store")
        .enable_all()
        .build()
        .map(|runtime| Runtime(Some(runtime)))
        .map_err(|source| Error::Io { attempt: "start the threads that upload", path: PathBuf::new(), source })
}

/// Two threads for each processor: while one waits for the disk, another has work. So one large database never stops all others.
pub(crate) fn pool() -> Result<rayon::ThreadPool> {
    let threads = 2 * std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("read{n}")).build().map_err(|e| {
        Error::Io { attempt: "start the threads that read", path: PathBuf::new(), source: std::io::Error::other(e) }
    })
}
