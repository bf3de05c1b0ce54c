//! A folder with many files: whichever thread is free looks at some of them.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::Scope;

use super::folder::Names;
use super::look::{Listed, Looker};
use super::walk::Place;

/// How many files are looked at in one go by one thread: about half a millisecond of work.
pub(super) const FILES_PER_CHUNK: usize = 512;

/// The folder, and how far its files are taken.
pub(super) struct ManyFiles {
    dir: OwnedFd,
    /// Of the folder, with a slash at its end.
    path: Vec<u8>,
    place: Place,
    complete: bool,
    files: Names,
    /// The first file that no thread has taken.
    next: AtomicUsize,
}

impl ManyFiles {
    pub(super) fn new(dir: OwnedFd, path: Vec<u8>, place: Place, complete: bool, files: Names) -> Self {
        Self { dir, path, place, complete, files, next: AtomicUsize::new(0) }
    }

    /// Looks at files that no other thread has taken, and has others do the same while they have nothing else to do.
    pub(super) fn look<'w>(self: &Arc<Self>, looker: &mut Looker<'w>, scope: &Scope<'w>) {
        let walk = looker.walk;
        let folder = Listed { dir: &self.dir, prefix: self.path.len(), place: &self.place, complete: self.complete };
        loop {
            let from = self.next.fetch_add(FILES_PER_CHUNK, Ordering::Relaxed);
            let to = from + FILES_PER_CHUNK;
            if from >= self.files.entries.len() || walk.stopped() {
                return;
            }
            if to < self.files.entries.len() && walk.wants_parts() {
                walk.part_waits();
                let shared = Arc::clone(self);
                scope.spawn(move |scope| {
                    walk.part_begins();
                    shared.look(&mut Looker::new(walk, &shared.path), scope);
                });
            }
            looker.files(folder, &self.files, from..to);
        }
    }
}
