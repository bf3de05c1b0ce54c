//! How databases were read: counted, for a fast path that is seldom taken is none.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::direct::Doubt;

/// How the databases of one cycle were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    /// Without SQLite.
    pub direct: u64,
    /// Through SQLite.
    pub through_sqlite: u64,
    /// Why not without it, where that was tried.
    pub doubts: BTreeMap<Doubt, u64>,
}

impl Reads {
    /// How often reading without SQLite was tried and given up.
    #[must_use]
    pub fn doubted(&self) -> u64 {
        self.doubts.values().sum()
    }
}

/// Counts from all threads.
#[derive(Debug, Default)]
pub(super) struct Count {
    direct: AtomicU64,
    through_sqlite: AtomicU64,
    doubts: [AtomicU64; Doubt::ALL.len()],
}

impl Count {
    pub(super) fn begin_cycle(&self) {
        for n in [&self.direct, &self.through_sqlite].into_iter().chain(&self.doubts) {
            n.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn direct(&self) {
        self.direct.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn through_sqlite(&self) {
        self.through_sqlite.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn doubt(&self, doubt: Doubt) {
        self.doubts[doubt as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reads(&self) -> Reads {
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let doubts = Doubt::ALL.into_iter().map(|doubt| (doubt, count(&self.doubts[doubt as usize])));
        Reads {
            direct: count(&self.direct),
            through_sqlite: count(&self.through_sqlite),
            doubts: doubts.filter(|(_, n)| *n > 0).collect(),
        }
    }
}
