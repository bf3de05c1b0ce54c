//! The floor of snapshots. Of databases at rest: each file read and compressed. Of live ones: what SQLite's backup API gives,
//! compressed. And nothing else: no hash, no description, no looks at locks or stamps.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use lz4_flex::frame::{FrameEncoder, FrameInfo};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::unistd::linkat;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

/// How a database is read.
pub(crate) type Way = fn(&Path) -> Result<Vec<u8>>;

/// The file as it is.
pub(crate) fn plain(path: &Path) -> Result<Vec<u8>> {
    Ok(std::fs::read(path)?)
}

/// A copy in memory, of one commit, by a read-only connection that leaves the log alone.
pub(crate) fn backup(path: &Path) -> Result<Vec<u8>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(path, flags)?;
    source.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let mut target = Connection::open_in_memory()?;
    match Backup::new(&source, &mut target)?.step(-1)? {
        StepResult::Done => {}
        other => bail!("the backup ended with {other:?}"),
    }
    Ok(target.serialize(rusqlite::MAIN_DB)?.to_vec())
}

/// Reads and compresses the databases named in `list`, one to a line, with so many threads.
pub(crate) fn read(list: &str, threads: usize, way: Way) -> Result<Value> {
    each(list, threads, way, |_, _| Ok(()))
}

/// The same, and each is kept as a file in a folder of its own below `store`, which the disk has in the end.
pub(crate) fn keep(list: &str, store: &Path, threads: usize) -> Result<Value> {
    std::fs::create_dir_all(store)?;
    let began = Instant::now();
    let mut told = each(list, threads, plain, |path, frame| {
        let names: Vec<_> = path.components().rev().take(2).map(|name| name.as_os_str()).collect();
        let [file, folder] = names[..] else { bail!("{} lies in no folder", path.display()) };
        let own = store.join(folder).join(file);
        let made = std::fs::create_dir(&own);
        if made.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            std::fs::create_dir_all(&own)?;
        }
        let unnamed = File::options().write(true).custom_flags(libc::O_TMPFILE).open(&own)?;
        (&unnamed).write_all(frame)?;
        let name = format!("/proc/self/fd/{}", unnamed.as_raw_fd());
        linkat(AT_FDCWD, name.as_str(), AT_FDCWD, &own.join("snapshot"), AtFlags::AT_SYMLINK_FOLLOW)?;
        Ok(())
    })?;
    nix::unistd::syncfs(File::open(store)?)?;
    told["seconds"] = began.elapsed().as_secs_f64().into();
    Ok(told)
}

fn each(list: &str, threads: usize, way: Way, done: impl Fn(&Path, &[u8]) -> Result<()> + Sync) -> Result<Value> {
    let list = std::fs::read_to_string(list).with_context(|| list.to_owned())?;
    let paths: Vec<PathBuf> = list.lines().map(PathBuf::from).collect();
    let (next, bytes, stored) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let done = &done;
    let work = || -> Result<()> {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            let raw = way(path).with_context(|| path.display().to_string())?;
            let mut encoder = FrameEncoder::with_frame_info(FrameInfo::new(), Vec::new());
            encoder.write_all(&raw)?;
            bytes.fetch_add(raw.len() as u64, Ordering::Relaxed);
            let frame = encoder.finish()?;
            stored.fetch_add(frame.len() as u64, Ordering::Relaxed);
            done(path, &frame).with_context(|| path.display().to_string())?;
        }
        Ok(())
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    let (bytes, stored) = (bytes.into_inner(), stored.into_inner());
    Ok(
        json!({"seconds": began.elapsed().as_secs_f64(), "databases": paths.len(), "bytes": bytes, "compressed": stored}),
    )
}
