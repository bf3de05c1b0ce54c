//! Durability for many at once: finished files are collected, synced with one `syncfs`, then renamed, and reported when the
//! next `syncfs` has made that durable. Few files, and those on file systems where `syncfs` need not reach the disk, are
//! synced one by one.
//!
//! A crash leaves each target old or new: a file is renamed only when it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;

use super::aside::Aside;
use super::folder::Folder;
use super::pending::Pending;
use super::queue::Queue;
use super::refusal::Refusal;
use super::target::Spot;
use super::{Found, Permissions, Placed};
use crate::fs::shown;

/// Up to this many files are synced one by one: `syncfs` also waits for what others write.
const FEW: usize = 8;

/// What is called when a file is durable under its name, or refused.
pub(super) type Done = Box<dyn FnOnce(Result<Placed, Refusal>) + Send>;

/// A file system that files are put on.
#[derive(Debug)]
pub(super) struct FileSystem {
    pub(super) device: u64,
    /// Open since before the first write: `syncfs` tells of the writes that failed since then, and of no others.
    pub(super) handle: File,
    /// Each file is synced by itself, for `syncfs` cannot be relied on here.
    pub(super) one_by_one: bool,
}

/// A finished file on its way to its name.
pub(super) struct Handed {
    pub(super) pending: Pending,
    pub(super) placed: Placed,
    pub(super) done: Done,
}

impl Handed {
    /// File descriptors that it holds.
    pub(super) fn descriptors(&self) -> usize {
        2 + self.pending.spot.folder.made.len()
    }

    fn refuse(self, refusal: Refusal) {
        // First the temporary file, so that nothing is left when the refusal is told.
        drop(self.pending);
        (self.done)(Err(refusal));
    }
}

/// A file under its name, of which that is not durable yet.
struct Renamed {
    filesystem: Arc<FileSystem>,
    spot: Arc<Spot>,
    aside: Option<Aside>,
    placed: Placed,
    done: Done,
}

/// Works off the queue until it is closed and empty.
pub(super) fn run(queue: &Queue, permissions: Permissions) {
    // Those that the next `syncfs` of their file system makes durable under their names.
    let mut renamed: BTreeMap<u64, Vec<Renamed>> = BTreeMap::new();
    while let Some(round) = queue.next(!renamed.is_empty()) {
        let mut groups: BTreeMap<u64, Vec<Handed>> = renamed.keys().map(|device| (*device, Vec::new())).collect();
        for item in round.items {
            groups.entry(item.pending.filesystem.device).or_default().push(item);
        }
        for (device, items) in groups {
            let earlier = renamed.remove(&device).unwrap_or_default();
            let count = items.len() + earlier.len();
            let rest = work_on(items, earlier, permissions, round.is_last);
            queue.settled(count - rest.len());
            if !rest.is_empty() {
                renamed.insert(device, rest);
            }
        }
    }
}

/// Puts finished files of one file system under their names. Returns those of which that is not durable yet: none, if
/// `is_last` or if they were synced one by one.
fn work_on(items: Vec<Handed>, earlier: Vec<Renamed>, permissions: Permissions, is_last: bool) -> Vec<Renamed> {
    let (items, is_all_synced) = sync_contents(items);
    let mut rest = earlier;
    if is_all_synced {
        report(std::mem::take(&mut rest), &Ok(()));
    }
    rest.extend(rename_all(items, permissions));
    if is_all_synced && !is_last {
        return rest;
    }
    let synced = sync_folders(rest.iter().map(|item| (&*item.filesystem, &item.spot.folder)));
    report(rest, &synced);
    Vec::new()
}

/// Makes the contents durable and refuses those of which that fails. True if that made everything on the file system
/// durable.
fn sync_contents(items: Vec<Handed>) -> (Vec<Handed>, bool) {
    let Some(filesystem) = items.first().map(|item| Arc::clone(&item.pending.filesystem)) else {
        return (items, false);
    };
    if !filesystem.one_by_one && items.len() > FEW {
        match nix::unistd::syncfs(&filesystem.handle) {
            Ok(()) => return (items, true),
            // It tells of everybody's failed writes: each file is asked about its own.
            Err(e) => log::warn!("syncfs failed ({e}): syncing {} restored files one by one", items.len()),
        }
    }
    let mut synced = Vec::with_capacity(items.len());
    for item in items {
        match item.pending.file.sync_all() {
            Ok(()) => synced.push(item),
            Err(e) => {
                let refusal = Refusal::of("sync", &item.pending.path(), &e);
                item.refuse(refusal);
            }
        }
    }
    (synced, false)
}

/// Sets sidecars aside, then renames; refuses what may not be replaced, or fails.
fn rename_all(items: Vec<Handed>, permissions: Permissions) -> Vec<Renamed> {
    let mut ready = Vec::with_capacity(items.len());
    for item in items {
        match clear_the_way(&item.pending, permissions) {
            Ok(aside) => ready.push((item, aside)),
            Err(refusal) => item.refuse(refusal),
        }
    }
    let moved = ready.iter().filter(|(_, aside)| aside.is_some());
    let synced = sync_folders(moved.map(|(item, _)| (&*item.pending.filesystem, &item.pending.spot.folder)));
    let mut renamed = Vec::with_capacity(ready.len());
    for (mut item, aside) in ready {
        let result = match (&synced, &aside) {
            (Err(refusal), Some(_)) => Err(refusal.clone()),
            _ => item.pending.publish(permissions.force),
        };
        match result {
            Ok(()) => {
                let Handed { pending, placed, done } = item;
                let (filesystem, spot) = pending.into_placed();
                renamed.push(Renamed { filesystem, spot, aside, placed, done });
            }
            Err(refusal) => undo(item, aside, refusal),
        }
    }
    renamed
}

/// Looks at the target again, for much time has passed, and sets aside what lies beside it.
fn clear_the_way(pending: &Pending, permissions: Permissions) -> Result<Option<Aside>, Refusal> {
    let spot = &pending.spot;
    if let Found::Existing(_) = spot.permit(permissions)?
        && let Some(holder) = spot.holder()
    {
        log::warn!("{} is open in {holder}: it is replaced under it, as --force asks for", shown(&spot.path()));
    }
    let aside = Aside::set(spot)?;
    Ok((!aside.is_empty()).then_some(aside))
}

fn undo(item: Handed, aside: Option<Aside>, refusal: Refusal) {
    let given_back = aside.map_or(Ok(()), |aside| aside.give_back(&item.pending.spot));
    let Err(e) = given_back else { return item.refuse(refusal) };
    let path = item.pending.spot.path();
    log::error!("cannot give {} its sidecars back: {e}; the next restore of it will try again", shown(&path));
    item.pending.abandon();
    (item.done)(Err(refusal));
}

/// Makes names in these folders durable.
fn sync_folders<'a>(folders: impl Iterator<Item = (&'a FileSystem, &'a Folder)> + Clone) -> Result<(), Refusal> {
    let Some((filesystem, first)) = folders.clone().next() else { return Ok(()) };
    if !filesystem.one_by_one && folders.clone().nth(FEW).is_some() {
        return nix::unistd::syncfs(&filesystem.handle).map_err(|e| Refusal::of("sync", &first.path, &e.into()));
    }
    let mut seen = BTreeSet::new();
    for (_, folder) in folders {
        // From the top: a folder that was made is an entry of the one above it.
        for made in &folder.made {
            sync_folder(made).map_err(|e| Refusal::of("sync the folder", &folder.path, &e))?;
        }
        if seen.insert(folder.id) {
            sync_folder(&folder.dir).map_err(|e| Refusal::of("sync the folder", &folder.path, &e))?;
        }
    }
    Ok(())
}

fn sync_folder(dir: &File) -> io::Result<()> {
    match nix::unistd::fsync(dir) {
        // Some network file systems have no such thing.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

/// Tells that they are durable under their names, or that this cannot be said.
fn report(group: Vec<Renamed>, synced: &Result<(), Refusal>) {
    for Renamed { spot, aside, placed, done, .. } in group {
        if let (Ok(()), Some(aside)) = (synced, aside) {
            aside.remove(&spot);
        }
        let in_place = |refusal: &Refusal| {
            let detail =
                format!("{} is in place, but a power failure may undo that: {}", shown(&spot.path()), refusal.detail);
            Refusal { word: refusal.word, detail }
        };
        done(synced.as_ref().map(|()| placed).map_err(in_place));
    }
}
