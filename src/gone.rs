//! What is known but was not seen: out of the patterns, hidden by something unreadable, or gone from the host.

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::clock::SECOND;
use crate::cycle::{Cycle, len};
use crate::scan::ScanReport;
use crate::state::{Change, Flags};

impl Cycle {
    /// Settles what is known but was not seen: out of the patterns, below something unreadable, or gone. Returns how
    /// many were accepted as gone.
    pub(crate) fn sweep(&self, scan_no: u16, scan: &ScanReport) -> u64 {
        let table = &self.engine.watch.table;
        let (mut unseen, mut known) = (Vec::new(), 0);
        table.each(|slot| {
            // Files that are no databases, and databases never stored, say nothing about a fleet that disappears.
            known += u64::from(slot.stored_s != 0);
            if slot.scan != scan_no || slot.flags.has(Flags::MISSING) {
                slot.flags = slot.flags.with(Flags::MISSING, true);
                unseen.push(slot.id);
            }
        });
        let same_patterns = self.engine.same_patterns.load(Ordering::Relaxed);
        let (mut gone, mut hidden) = (Vec::new(), 0_u64);
        for id in unseen {
            match self.engine.watch.db.row(id) {
                Ok(Some(row)) if self.is_hidden(&row.path, scan) => hidden += 1,
                Ok(Some(row)) if row.key_ms.is_none() => {
                    table.remove(id);
                    self.record(Change::Forgotten { id });
                }
                // Under the patterns under which it was seen it is not seen: reached through a link, its own path may
                // match none of them.
                Ok(Some(row)) if same_patterns || self.engine.watch.is_wanted(&row.path) => gone.push(id),
                Ok(_) => table.remove(id),
                Err(e) => return self.sweep_failed(&e),
            }
        }
        self.engine.same_patterns.store(true, Ordering::Relaxed);
        if hidden > 0 {
            self.error(format!("{hidden} known databases could not be seen: {}", hiding(scan)));
        }
        self.accept_gone(gone, known)
    }

    fn sweep_failed(&self, error: &crate::error::Error) -> u64 {
        self.error(crate::record::chain(error));
        0
    }

    fn is_hidden(&self, path: &Path, scan: &ScanReport) -> bool {
        scan.errors_dropped > 0
            || scan.missing_roots.iter().any(|root| path.starts_with(root))
            || scan.errors.iter().any(|e| path.starts_with(&e.path))
    }

    /// A volume that is not mounted looks like a fleet deleted: accepted only below a limit, or when told.
    fn accept_gone(&self, gone: Vec<u64>, known: u64) -> u64 {
        let n = len(gone.len());
        let limit = self.engine.watch.config.max_gone.unwrap_or_else(|| crate::config::gone_max(known));
        if n > limit {
            self.error(format!(
                "{n} of {known} known databases are gone: nothing is concluded from that; if they were deleted on purpose, give --max-gone {n} once"
            ));
            return 0;
        }
        let at_s = self.engine.watch.clock.now() / SECOND;
        for id in gone {
            self.record(Change::Gone { id, at_s });
        }
        n
    }
}

fn hiding(scan: &ScanReport) -> String {
    match (scan.missing_roots.first(), scan.errors.first()) {
        (Some(root), _) => format!("the folder {} is missing", root.display()),
        (None, Some(e)) => format!("cannot read {}: {}", e.path.display(), e.source),
        (None, None) => "some folders cannot be read".into(),
    }
}
