//! Listing and looking: `openat`, `getdents64`, `statx` relative to the folder, and nothing else.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxFlags, openat, statx};

/// What was met.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) folders: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) sidecars: AtomicU64,
}

/// A folder yet to be listed: its parent, and its name there.
type Folder = (Option<Arc<OwnedFd>>, CString);

/// Lists everything below `root` with `threads` threads, and looks at each file whose name ends in `.db` and at its `-wal` and
/// `-journal` where those are listed.
pub(crate) fn scan(root: &Path, threads: usize) -> Result<Counts> {
    let root = CString::new(root.as_os_str().as_encoded_bytes()).context("a path with a NUL")?;
    let waiting: Mutex<Vec<Folder>> = Mutex::new(vec![(None, root)]);
    // Folders waiting or being listed: at none, all is done.
    let open = AtomicUsize::new(1);
    let counts = Counts::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&waiting, &open, &counts))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok(counts)
}

fn work(waiting: &Mutex<Vec<Folder>>, open: &AtomicUsize, counts: &Counts) -> Result<()> {
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 << 10];
    let mut found = Vec::new();
    while open.load(Ordering::Acquire) > 0 {
        let Some((parent, name)) = waiting.lock().expect("no worker panics").pop() else {
            std::hint::spin_loop();
            continue;
        };
        let listed = list(parent.as_deref(), &name, &mut buffer, &mut found, counts);
        if !found.is_empty() {
            open.fetch_add(found.len(), Ordering::AcqRel);
            waiting.lock().expect("no worker panics").append(&mut found);
        }
        open.fetch_sub(1, Ordering::AcqRel);
        listed.with_context(|| format!("{}", name.to_string_lossy()))?;
    }
    Ok(())
}

fn list(
    parent: Option<&OwnedFd>,
    name: &CStr,
    buffer: &mut [MaybeUninit<u8>],
    found: &mut Vec<Folder>,
    counts: &Counts,
) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let dir = match parent {
        Some(parent) => openat(parent, name, flags, Mode::empty())?,
        None => openat(CWD, name, flags, Mode::empty())?,
    };
    let (mut folders, mut files, mut sidecars) = (Vec::new(), Vec::new(), HashSet::new());
    let mut entries = RawDir::new(&dir, buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        match entry.file_type() {
            FileType::Directory if !matches!(name.to_bytes(), b"." | b"..") => folders.push(name.to_owned()),
            FileType::RegularFile if name.to_bytes().ends_with(b".db") => files.push(name.to_owned()),
            FileType::RegularFile
                if name.to_bytes().ends_with(b".db-wal") || name.to_bytes().ends_with(b".db-journal") =>
            {
                sidecars.insert(name.to_owned());
            }
            _ => {}
        }
    }
    for name in files.iter().chain(&sidecars) {
        std::hint::black_box(statx(&dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?);
    }
    counts.folders.fetch_add(1, Ordering::Relaxed);
    counts.files.fetch_add(files.len() as u64, Ordering::Relaxed);
    counts.sidecars.fetch_add(sidecars.len() as u64, Ordering::Relaxed);
    if !folders.is_empty() {
        let dir = Arc::new(dir);
        found.extend(folders.into_iter().map(|name| (Some(Arc::clone(&dir)), name)));
    }
    Ok(())
}
