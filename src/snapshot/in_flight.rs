//! One thread for one file.

use std::collections::HashSet;

use parking_lot::{Condvar, Mutex};

/// The databases open right now, by device and inode: closing a descriptor of a file drops all locks that this process
/// holds on it, so no two threads may work on one file, whatever names led them there.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    open: Mutex<HashSet<(u64, u64)>>,
    closed: Condvar,
}

/// One of them; let go when dropped.
pub(super) struct Entered<'a> {
    all: &'a InFlight,
    file: (u64, u64),
}

impl InFlight {
    /// Waits until nobody else works on `file`.
    pub(super) fn enter(&self, file: (u64, u64)) -> Entered<'_> {
        let mut open = self.open.lock();
        while !open.insert(file) {
            self.closed.wait(&mut open);
        }
        Entered { all: self, file }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.all.open.lock().remove(&self.file);
        self.all.closed.notify_all();
    }
}
