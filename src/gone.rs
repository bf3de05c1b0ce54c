//! What is known but was not seen: out of the patterns, hidden by something unreadable, or gone from the host.
//!
//! What is gone gets a tombstone in the store, and only then is it recorded as gone. A crash between the two leaves a
//! tombstone that no state knows: harmless, for the next cycle writes another one. Deletes nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::task::{JoinError, JoinSet};

use crate::clock::MILLISECOND;
use crate::cycle::{Cycle, len};
use crate::error::{Failure, Reason};
use crate::fs::shown;
use crate::layout::tombstone_key;
use crate::object::{FORMAT_VERSION, LITESNAP_VERSION, Tombstone};
use crate::record::{Fact, chain};
use crate::report::CycleReport;
use crate::scan::ScanReport;
use crate::state::{ACCEPT_GONE, Change, Flags, Row};
use crate::timestamp::{Timestamp, next_timestamp};
use crate::upload::{Outcome, Slot};

/// How much further than the last one each cycle begins with its tombstones; a prime, so that it gets everywhere.
const STRIDE: usize = 61;

impl Cycle {
    /// Settles what is known but was not seen: out of the patterns, below something unreadable, or gone. Returns what is
    /// accepted as gone.
    pub(crate) fn sweep(&self, scan_no: u16, scan: &ScanReport) -> Vec<u64> {
        let table = &self.engine.watch.table;
        let (mut unseen, mut known, mut seen) = (Vec::new(), 0, 0_u64);
        table.each(|slot| {
            // Files that are no databases, and databases never stored, say nothing about a fleet that disappears.
            known += u64::from(slot.stored_s != 0);
            if slot.scan != scan_no || slot.flags.has(Flags::MISSING) {
                slot.flags = slot.flags.with(Flags::MISSING, true);
                unseen.push(slot.id);
            } else {
                seen += u64::from(slot.stored_s != 0 && !slot.flags.has(Flags::NOT_A_DATABASE));
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
                Ok(_) => {
                    // What a cycle left untried has no row but in the backlog.
                    if table.backlog.since(id).is_some() {
                        self.record(Change::Forgotten { id });
                    }
                    table.remove(id);
                }
                Err(e) => return self.sweep_failed(&e),
            }
        }
        self.engine.same_patterns.store(true, Ordering::Relaxed);
        for id in table.backlog.strangers(table) {
            self.record(Change::Forgotten { id });
        }
        if hidden > 0 {
            self.error(format!("{hidden} known databases could not be seen: {}", hiding(scan)));
        }
        self.accept_gone(gone, known, seen)
    }

    fn sweep_failed(&self, error: &crate::error::Error) -> Vec<u64> {
        self.error(chain(error));
        Vec::new()
    }

    fn is_hidden(&self, path: &Path, scan: &ScanReport) -> bool {
        scan.errors_dropped > 0
            || scan.missing_roots.iter().any(|root| path.starts_with(root))
            || scan.errors.iter().any(|e| path.starts_with(&e.path))
    }

    /// A volume that is not mounted looks like a fleet deleted: accepted only below a limit, or when told. What was accepted
    /// in an earlier cycle, and the store could not be told since, does not count again: a store that is down for long
    /// must not make a few deletions a day look like one of many.
    ///
    /// Where none that was ever stored is `seen`, not even one is accepted untold, however few they were: an empty folder is
    /// what a volume that is not mounted leaves. A new file there proves nothing, for it may be no database.
    fn accept_gone(&self, mut gone: Vec<u64>, known: u64, seen: u64) -> Vec<u64> {
        let all = len(gone.len());
        let mut untold = self.engine.untold.lock();
        let before = std::mem::take(&mut *untold);
        let n = len(gone.iter().filter(|id| !before.contains(id)).count());
        let by_rule = if seen == 0 { 0 } else { crate::config::gone_max(known) };
        let limit = self.engine.watch.config.max_gone.unwrap_or(by_rule);
        let accepted = self.accepted();
        if n > limit && all > accepted {
            gone.retain(|id| before.contains(id));
            self.error(format!(
                "{n} of {known} known databases are gone: nothing is concluded from that; if they were deleted on purpose, \
                 `litesnap forget-gone --yes`, or --max-gone {n} for one run, accepts it"
            ));
        }
        untold.extend(&gone);
        gone
    }

    /// How many a person has accepted as gone, by a note in the state. It counts for one sweep, whatever that finds, and
    /// beyond that only while the store does not confirm what followed from it.
    fn accepted(&self) -> u64 {
        match self.engine.watch.db.meta(ACCEPT_GONE) {
            Ok(Some(note)) => {
                let n = note.trim().parse().unwrap_or(0);
                *self.burials.note.lock() = Some(note);
                n
            }
            Ok(None) => 0,
            Err(e) => {
                self.error(chain(&e));
                0
            }
        }
    }

    /// Puts a tombstone for each of `gone`, at most as many at once as there are request slots, and records each when the
    /// store has confirmed it. Ends when all are done, when a stop comes, or when the store takes none.
    pub(crate) async fn bury(self: Arc<Self>, mut gone: Vec<u64>, scan_no: u16) {
        // Each cycle begins elsewhere: those that the store will not have must keep no other waiting for ever.
        let begin = usize::from(scan_no).wrapping_mul(STRIDE) % gone.len().max(1);
        gone.rotate_left(begin);
        let found_ms = self.engine.watch.clock.now() / MILLISECOND;
        let uploader = &self.engine.uploader;
        let mut under_way = JoinSet::new();
        let mut left = gone.into_iter();
        while let Some(id) = left.next() {
            let slot = uploader.slot().await;
            while let Some(ended) = under_way.try_join_next() {
                self.burials.count(ended);
            }
            if self.engine.watch.control.is_stopped() || uploader.takes_no_tombstones() {
                self.burials.missed.fetch_add(1 + len(left.len()), Ordering::Relaxed);
                break;
            }
            let cycle = Arc::clone(&self);
            under_way.spawn(async move { cycle.bury_one(id, found_ms, slot).await });
        }
        while let Some(ended) = under_way.join_next().await {
            self.burials.count(ended);
        }
    }

    /// Tells the store that `id` is gone, then records it; false if that has to be tried again.
    /// Its request slot is held to the end, so that no more wait to be recorded than there are slots.
    async fn bury_one(self: Arc<Self>, id: u64, found_ms: i64, _slot: Slot) -> bool {
        let cycle = Arc::clone(&self);
        let read = tokio::task::spawn_blocking(move || cycle.engine.watch.db.row(id)).await;
        let row = match read.expect("reading a row does not panic") {
            Ok(Some(row)) => row,
            // The next sweep forgets it.
            Ok(None) => return true,
            Err(e) => {
                self.error(chain(&e));
                return false;
            }
        };
        let tombstone_ms = match self.tell_store(&row, found_ms).await {
            Ok(tombstone_ms) => tombstone_ms,
            Err(failure) => {
                failure.map(|failure| self.burials.failure.lock().replace(failure));
                return false;
            }
        };
        self.engine.untold.lock().remove(&id);
        let change = Change::Gone { id, at_s: found_ms / 1000, tombstone_ms };
        self.facts.record(Fact { change, prefix: None, tally: Arc::clone(&self.tally) }).await;
        true
    }

    /// Puts the tombstone of `row`; the time in its key once the store has confirmed it, `None` if none is needed. An error
    /// without a failure was not tried.
    async fn tell_store(&self, row: &Row, found_ms: i64) -> Result<Option<i64>, Option<Failure>> {
        if row.is_buried() {
            return Ok(None);
        }
        let (time, path, object) = match self.tombstone(row, found_ms) {
            Ok(tombstone) => tombstone,
            Err(failure) => {
                // Under a prefix that makes no key no snapshot lies either.
                log::warn!("db={} is gone, without a tombstone: {failure}", shown(&row.path));
                return Ok(None);
            }
        };
        match self.engine.uploader.put_tombstone(&path, object.into()).await {
            Outcome::Stored(_) => {
                self.note_answer(None);
                Ok(Some(time.as_ms()))
            }
            Outcome::Failed(failure) => {
                self.note_answer(Some(&failure));
                Err(Some(failure))
            }
            Outcome::Untried => Err(None),
        }
    }

    /// Time, path and content of the tombstone of `row`: its time is above all that went before.
    fn tombstone(&self, row: &Row, found_ms: i64) -> Result<(Timestamp, object_store::path::Path, Vec<u8>), Failure> {
        let no_key = |what: String| Failure::new(Reason::KeyTooLong, what);
        let engine = &self.engine;
        let prefix = row.prefix.clone().map_or_else(|| engine.watch.render(&row.path, None), Ok)?;
        // A last key that cannot be, as damage leaves it, says nothing.
        let next = next_timestamp(found_ms, row.last_ms()).or_else(|| next_timestamp(found_ms, None));
        let (time, _) = next.ok_or_else(|| no_key("this clock is past the year 9999: no key is left".into()))?;
        let path = engine.store.path(&tombstone_key(&prefix, time)).map_err(|e| no_key(e.to_string()))?;
        let tombstone = Tombstone {
            format: FORMAT_VERSION,
            key: path.to_string(),
            host: engine.watch.config.host.clone(),
            path: row.path.clone(),
            gone_at: Timestamp::from_ms(found_ms).unwrap_or(time),
            litesnap: LITESNAP_VERSION.to_owned(),
        };
        Ok((time, path, tombstone.to_bytes()))
    }

    /// Says how the tombstones fared, once everything is recorded.
    pub(crate) fn end_burials(&self, report: &mut CycleReport) {
        let missed = self.burials.missed.load(Ordering::Relaxed);
        if missed > 0 && self.engine.watch.control.is_stopped() {
            self.cut_short.store(true, Ordering::Relaxed);
        }
        let failure = self.burials.failure.lock().take().filter(|_| report.store_down.is_none());
        if let Some(failure) = failure {
            report.errors.push(format!(
                "{missed} databases are gone, but the store could not be told by a tombstone, which is tried again: {failure}"
            ));
        }
        let is_done = missed == 0 && self.tally.unrecorded.load(Ordering::Relaxed) == 0;
        if let Some(note) = self.burials.note.lock().take().filter(|_| is_done)
            && let Err(e) = self.engine.watch.db.clear_meta(ACCEPT_GONE, &note)
        {
            report.errors.push(chain(&e));
        }
    }
}

/// How the tombstones of a cycle fare.
#[derive(Debug, Default)]
pub(crate) struct Burials {
    /// Databases gone that are to be looked at again.
    missed: AtomicU64,
    /// Why, the last time, if the store was asked.
    failure: Mutex<Option<Failure>>,
    /// What a person left to accept them.
    note: Mutex<Option<String>>,
}

impl Burials {
    fn count(&self, ended: Result<bool, JoinError>) {
        // What panicked was not recorded.
        if !ended.unwrap_or(false) {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn hiding(scan: &ScanReport) -> String {
    match (scan.missing_roots.first(), scan.errors.first()) {
        (Some(root), _) => format!("the folder {} is missing", root.display()),
        (None, Some(e)) => format!("cannot read {}: {}", e.path.display(), e.source),
        (None, None) => "some folders cannot be read".into(),
    }
}
