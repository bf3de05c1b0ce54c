//! One cycle: scan, detect, snapshot, compress, upload, record.
//!
//! A cycle scans in waves: each takes up at most [`WAVE_MAX`] changed databases and finishes them before the next scan
//! of the same cycle, so that memory stays bounded when everything changed. What fails is left as it is, which makes
//! the next cycle take it up again.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rayon::prelude::*;

use crate::backlog::Wait;
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::content::ContentHash;
use crate::detect::{Pace, Why};
use crate::engine::Engine;
use crate::error::{Failure, Reason, Result};
use crate::fs::shown;
use crate::gone::Burials;
use crate::header::JournalMode;
use crate::layout;
use crate::object::{Description, FORMAT_VERSION, FrameHash, LITESNAP_VERSION, encode_frame};
use crate::record::{Doubt, Fact, FactSender, Tally, chain};
use crate::report::{CycleReport, Failures, Phases, Unprotected};
use crate::scan::ScanReport;
use crate::snapshot::{Image, Snapshot};
use crate::stamps::Stamps;
use crate::state::{Change, Flags, Row, Rows, id_of};
use crate::timestamp::{Timestamp, next_timestamp};
use crate::upload::{Body, Job, Outcome, queue};
use crate::watch::{Candidate, Pass, WAVE_MAX, Wave};

/// Jobs between the snapshots and the uploads; their bytes are bounded by the budget.
const JOBS_MAX: usize = 64;
/// Log lines about single databases in one cycle.
const LINES_MAX: u32 = 20;
/// A key's time this far ahead of the clock is an alarm.
const BUMP_ALARM_MS: i64 = 86_400_000;

/// Told what a cycle does while it does it; for progress bars.
pub trait Observer: Send + Sync + std::fmt::Debug {
    /// `databases` more are taken up.
    fn planned(&self, _databases: u64) {}
    /// One is done, with this many bytes stored.
    fn done(&self, _bytes: u64) {}
    /// The cycle is over.
    fn finished(&self) {}
}

/// Tells nobody.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;
impl Observer for Silent {}

/// What the uploads of one cycle share with its scan and snapshots.
#[derive(Debug)]
pub(crate) struct Cycle {
    pub(crate) engine: Arc<Engine>,
    pub(crate) facts: FactSender,
    pub(crate) tally: Arc<Tally>,
    observer: Arc<dyn Observer>,
    failures: Mutex<Failures>,
    /// New failures that are the store's, if it turns out to be down, and else those of these databases.
    withheld: Mutex<Vec<Unprotected>>,
    errors: Mutex<Vec<String>>,
    store_failure: Mutex<Option<Failure>>,
    /// Answers of a store that is up.
    uploads_ok: AtomicU64,
    pub(crate) burials: Burials,
    /// Number of its first scan.
    first_scan: AtomicU16,
    changed: AtomicU64,
    untried: AtomicU64,
    /// Of the changed ones, those that came to an end of whatever kind.
    settled: AtomicU64,
    /// Slots are marked as taken up.
    took_up: AtomicBool,
    /// A stop came before the scan was over: what it did not reach is not even counted.
    pub(crate) cut_short: AtomicBool,
    lines: AtomicU32,
    /// Keys that had to be more than a day ahead of the clock.
    bumped: AtomicU32,
    pace: Pace,
    phases: Mutex<Phases>,
}

impl Cycle {
    pub(crate) fn new(
        engine: Arc<Engine>,
        facts: FactSender,
        observer: Arc<dyn Observer>,
        ignore_cooldown: bool,
    ) -> Arc<Self> {
        let mut pace = engine.watch.config.pace;
        if ignore_cooldown {
            pace.cooldown_s = 0;
        }
        Arc::new(Self {
            engine,
            facts,
            tally: Arc::default(),
            observer,
            failures: Mutex::default(),
            withheld: Mutex::default(),
            errors: Mutex::default(),
            store_failure: Mutex::default(),
            uploads_ok: AtomicU64::new(0),
            burials: Burials::default(),
            first_scan: AtomicU16::new(0),
            changed: AtomicU64::new(0),
            untried: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            took_up: AtomicBool::new(false),
            cut_short: AtomicBool::new(false),
            lines: AtomicU32::new(0),
            bumped: AtomicU32::new(0),
            pace,
            phases: Mutex::default(),
        })
    }

    /// Runs the whole cycle. `scan_no` is the number of its first scan; returns that of the last.
    pub(crate) fn run(self: &Arc<Self>, scan_no: &mut u16, report: &mut CycleReport) {
        let engine = &self.engine;
        engine.reader.begin_cycle();
        engine.uploader.forget_refusals();
        let requested = self.requested();
        let mut burying = None;
        let mut further = false;
        loop {
            *scan_no = scan_no.checked_add(1).unwrap_or(1);
            let mut wave = self.scan(*scan_no, further, WAVE_MAX, &requested);
            self.cut_short.fetch_or(engine.watch.control.is_stopped(), Ordering::Relaxed);
            if !further {
                report.held = wave.held;
                self.first_scan.store(*scan_no, Ordering::Relaxed);
                let gone = self.note_scan(&mut wave, report, *scan_no);
                // Beside the snapshots: neither waits for the other.
                burying = (!gone.is_empty()).then(|| engine.runtime.spawn(Arc::clone(self).bury(gone, *scan_no)));
            }
            self.took_up.fetch_or(!wave.candidates.is_empty() || !wave.clashing.is_empty(), Ordering::Relaxed);
            for (candidate, failure) in wave.clashing {
                self.refuse(&candidate, failure);
            }
            // What failed last time comes last, so that databases that the store will not have keep no other waiting.
            let failed = |c: &mut Candidate| engine.watch.table.get(c.id).is_some_and(|slot| slot.failures > 0);
            let again = wave.candidates.extract_if(.., failed).collect();
            let began = Instant::now();
            self.process(wave.candidates);
            self.process(again);
            self.phases.lock().work += began.elapsed();
            if !wave.more || self.stops() {
                self.untried.fetch_add(u64::from(wave.more), Ordering::Relaxed);
                self.tell_left(wave.more, scan_no, &requested);
                break;
            }
            further = true;
        }
        if let Some(burying) = burying {
            engine.runtime.block_on(burying).expect("what one tombstone brings to light stays in its own task");
        }
        if self.took_up.load(Ordering::Relaxed) {
            engine.watch.table.each(|slot| slot.flags = slot.flags.with(Flags::TAKEN, false));
        }
        self.observer.finished();
    }

    fn scan(&self, scan_no: u16, further: bool, room: usize, requested: &HashSet<u64>) -> Wave {
        let began = Instant::now();
        let waits = |id, path: &Path, wait| self.note_wait(id, path, wait);
        let pass = Pass { further, room, waits: &waits };
        let wave = self.engine.watch.scan(scan_no, pass, self.pace, requested);
        self.phases.lock().scan += began.elapsed();
        wave
    }

    /// A cycle that the store ends before its scan is over counts and notes what it did not reach.
    fn tell_left(&self, more: bool, scan_no: &mut u16, requested: &HashSet<u64>) {
        if !more || self.engine.watch.control.is_stopped() {
            return;
        }
        *scan_no = scan_no.checked_add(1).unwrap_or(1);
        let left = self.scan(*scan_no, true, 0, requested).left;
        self.untried.fetch_add(left.saturating_sub(1), Ordering::Relaxed);
    }

    /// Writes down that a database waits, unless that is written already.
    fn note_wait(&self, id: u64, path: &Path, wait: Wait) {
        if let Some(since_s) = self.engine.watch.table.backlog.to_note(id, wait) {
            self.record(Change::Waiting { id, path: path.to_path_buf(), since_s, wait });
        }
    }

    /// The databases on the request list. What is not known any more is taken off it; the others stay until a snapshot is
    /// recorded.
    fn requested(&self) -> HashSet<u64> {
        let db = &self.engine.watch.db;
        let listed = || -> crate::error::Result<HashSet<u64>> {
            let mut requested = db.requests()?;
            let unknown: Vec<u64> = requested.extract_if(|id| self.engine.watch.table.get(*id).is_none()).collect();
            if !unknown.is_empty() {
                db.drop_requests(unknown)?;
            }
            Ok(requested)
        };
        listed().unwrap_or_else(|e| {
            self.error(chain(&e));
            HashSet::new()
        })
    }

    /// Puts the counts of a cycle whose facts are all recorded into `report`. `scan_no` is the number of its last scan.
    pub(crate) fn summarise(&self, scan_no: u16, report: &mut CycleReport) {
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let first_scan = self.first_scan.load(Ordering::Relaxed);
        self.engine.watch.table.each(|slot| {
            let seen = slot.scan != 0 && slot.scan.wrapping_sub(first_scan) <= scan_no.wrapping_sub(first_scan);
            let there = seen && !slot.flags.has(Flags::NOT_A_DATABASE);
            report.databases += u64::from(there);
        });
        report.changed = count(&self.changed);
        report.untried = count(&self.untried);
        report.read_bytes = count(&self.tally.read_bytes);
        report.uploads_failed = count(&self.tally.uploads_failed);
        report.phases = Phases { record: report.phases.record, ..*self.phases.lock() };
        report.unrecorded = count(&self.tally.unrecorded);
        report.reads = self.engine.reader.reads();
        report.stored = count(&self.tally.stored);
        report.unchanged_content = count(&self.tally.unchanged_content);
        report.bytes = count(&self.tally.bytes);
        report.gone = count(&self.tally.gone);
        report.failures = std::mem::take(&mut *self.failures.lock());
        report.failures.sort();
        report.errors = std::mem::take(&mut *self.errors.lock());
        let unnamed = self.bumped.load(Ordering::Relaxed).saturating_sub(LINES_MAX);
        if unnamed > 0 {
            report.errors.push(format!("{unnamed} more databases have keys ahead of this clock"));
        }
        if count(&self.tally.unrecorded) > 0 {
            let why = self.tally.error.lock().clone().unwrap_or_default();
            report.errors.push(format!(
                "{} could not be recorded and will be stored again: {why}",
                count(&self.tally.unrecorded)
            ));
        }
        let lost = report.changed.saturating_sub(count(&self.settled) + report.untried);
        if lost > 0 {
            report.errors.push(format!("{lost} databases were lost sight of, a defect of litesnap; please report it"));
        }
        let gave_up = self.store_is_down();
        let all_refused = count(&self.uploads_ok) == 0;
        if gave_up || all_refused {
            report.store_down = self.store_failure.lock().take();
        }
        if report.store_down.is_none() {
            self.name_withheld();
        }
        self.end_burials(report);
        let unfinished = report.untried > 0 || self.cut_short.load(Ordering::Relaxed);
        report.interrupted = if unfinished { self.engine.watch.control.stop_signal() } else { None };
    }

    /// While others are stored, a database that the store would not have is named like any other that failed.
    fn name_withheld(&self) {
        for Unprotected { path, failure } in self.withheld.lock().drain(..) {
            if self.may_log() {
                log::error!("db={} {failure}", shown(&path));
            }
        }
    }

    pub(crate) fn note_answer(&self, failure: Option<&Failure>) {
        match failure {
            Some(failure) if failure.reason.concerns_store() => *self.store_failure.lock() = Some(failure.clone()),
            _ => drop(self.uploads_ok.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn stops(&self) -> bool {
        self.engine.watch.control.is_stopped() || self.store_is_down()
    }

    fn store_is_down(&self) -> bool {
        self.engine.uploader.is_down()
    }

    /// Notes what a first scan met; returns the databases accepted as gone.
    fn note_scan(&self, wave: &mut Wave, report: &mut CycleReport, scan_no: u16) -> Vec<u64> {
        for error in &wave.report.errors {
            let failure = crate::snapshot::io_failure("look at it", &error.source);
            let is_new = self.engine.watch.first_time(id_of(&error.path, self.engine.watch.db.seed()));
            self.report_failure(&error.path, failure, is_new);
        }
        for (path, failure) in std::mem::take(&mut wave.failures) {
            self.note_refused(&path, &failure);
            self.report_failure(&path, failure, false);
        }
        report.unseen = unseen(&wave.report);
        report.missing_roots.clone_from(&wave.report.missing_roots);
        report.matched.clone_from(&wave.matched);
        if self.engine.watch.control.is_stopped() { Vec::new() } else { self.sweep(scan_no, &wave.report) }
    }

    /// Writes down what a scan alone could tell, unless that is written already.
    fn note_refused(&self, path: &Path, failure: &Failure) {
        let (id, backlog) = (id_of(path, self.engine.watch.db.seed()), &self.engine.watch.table.backlog);
        if !failure.reason.is_failure() {
            return;
        }
        let at_s = self.engine.watch.clock.now() / SECOND;
        backlog.add(id, u32::try_from(at_s).unwrap_or(u32::MAX));
        // Once it is no longer refused, it is looked at again: that ends its wait.
        if !failure.reason.is_settled() {
            self.engine.watch.table.update(id, |slot| slot.flags = slot.flags.with(Flags::FAILED, true));
        }
        if let Some(since_s) = backlog.to_note(id, Wait::Failed) {
            let (path, error) = (path.to_path_buf(), failure.to_string());
            let since_s = Some(since_s);
            self.record(Change::Failed {
                id,
                path,
                prefix: None,
                stamps: None,
                error,
                at_s,
                since_s,
                maybe_stored: false,
            });
        }
    }

    fn process(self: &Arc<Self>, candidates: Vec<Candidate>) {
        if candidates.is_empty() {
            return;
        }
        let engine = &self.engine;
        self.changed.fetch_add(len(candidates.len()), Ordering::Relaxed);
        self.observer.planned(len(candidates.len()));
        let (jobs, inbox) = queue::queue(JOBS_MAX);
        let cycle = Arc::clone(self);
        let ended = move |job, outcome| Arc::clone(&cycle).ended(job, outcome);
        let uploading = engine.runtime.spawn(Arc::clone(&engine.uploader).run(inbox, ended));
        let rows = Rows::new(&engine.watch.db, candidates.iter().map(|candidate| candidate.id));
        engine.watch.pool.install(|| {
            candidates.into_par_iter().enumerate().for_each_with(jobs, |jobs, (n, candidate)| {
                if self.stops() {
                    return self.leave(&candidate);
                }
                // A defect that one database brings to light must not stop the others.
                let protect = std::panic::AssertUnwindSafe(|| self.protect(&candidate, rows.take(n), jobs));
                if std::panic::catch_unwind(protect).is_err() {
                    let failure =
                        Failure::new(Reason::CopyFailed, "a defect of litesnap came to light; please report it");
                    self.failed_to_read(&candidate, None, failure);
                }
            });
        });
        engine.runtime.block_on(uploading).expect("the uploads of a cycle do not panic");
    }

    /// Brings one database from "changed" to a job for the uploads, a recorded "same as before", or a failure.
    fn protect(self: &Arc<Self>, candidate: &Candidate, row: Result<Option<Row>>, jobs: &queue::Sender<Job>) {
        let row = match row {
            Ok(row) => row.filter(|row| row.path == *candidate.path),
            Err(e) => {
                let failure = Failure::new(Reason::CopyFailed, chain(&e));
                return self.failed_to_read(candidate, None, failure);
            }
        };
        if let Some(same) = back_again(candidate, row.as_ref(), self.engine.watch.slack) {
            return self.record_same(candidate, same);
        }
        let snapshot = match self.take(candidate, row.as_ref()) {
            Ok(snapshot) => snapshot,
            Err(_) if self.engine.watch.control.is_stopped() => return self.leave(candidate),
            Err(failure) => return self.failed_to_read(candidate, row.as_ref(), failure),
        };
        self.tally.read_bytes.fetch_add(snapshot.raw_size(), Ordering::Relaxed);
        if !candidate.refresh && is_stored(candidate, row.as_ref(), &snapshot, &self.engine.doubt) {
            let (stamps, stamped_at) = (snapshot.stamps, snapshot.stamped_at);
            let stored_s = row.map_or(0, |row| row.stored_s);
            return self.record_same(candidate, Change::Same { id: candidate.id, stamps, stamped_at, stored_s });
        }
        match self.job(candidate, row.as_ref(), snapshot) {
            Ok(job) => self.hand_over(job, jobs),
            Err(failure) => self.failed_to_read(candidate, row.as_ref(), failure),
        }
    }

    /// Stores `job` on this thread where that is the shorter way, else leaves it to the uploads.
    fn hand_over(self: &Arc<Self>, mut job: Job, jobs: &queue::Sender<Job>) {
        let engine = &self.engine;
        if !engine.uploader.takes_here(&job) {
            return jobs.send(job).expect("the uploads take jobs until their sender is gone");
        }
        engine.runtime.block_on(async {
            let outcome = engine.uploader.put_here(&mut job).await;
            Arc::clone(self).ended(job, outcome).await;
        });
    }

    fn take(&self, candidate: &Candidate, row: Option<&Row>) -> Result<Snapshot, Failure> {
        let path = candidate.read_path.as_deref().unwrap_or(&candidate.path);
        let row_if_same_will_do = row.filter(|_| !candidate.refresh);
        let known =
            row_if_same_will_do.and_then(|row| stored_content(candidate, row, candidate.stamps, &self.engine.doubt));
        let snapshot = self.engine.reader.take(path, known)?;
        if matches!(snapshot.image, Image::Known) && !is_stored(candidate, row, &snapshot, &self.engine.doubt) {
            // A doubt has come up since.
            return self.engine.reader.take(path, None);
        }
        Ok(snapshot)
    }

    fn leave(&self, candidate: &Candidate) {
        self.untried.fetch_add(1, Ordering::Relaxed);
        self.note_wait(candidate.id, &candidate.path, Wait::Untried);
    }

    fn record_same(&self, candidate: &Candidate, change: Change) {
        self.engine.watch.control.gets_on();
        self.settled.fetch_add(1, Ordering::Relaxed);
        self.tell_recovery(candidate.id, &candidate.path);
        self.observer.done(0);
        let fact = Fact { change, prefix: candidate.prefix.clone(), tally: Arc::clone(&self.tally) };
        self.facts.record_blocking(fact);
    }

    fn job(&self, candidate: &Candidate, row: Option<&Row>, snapshot: Snapshot) -> Result<Job, Failure> {
        let engine = &self.engine;
        let prefix = engine.watch.prefix_of(candidate)?;
        check_key(&engine.store.prefix, &prefix, engine.store.kind.name_len_max())?;
        let key_time = self.key_time(&candidate.path, snapshot.stamped_at / MILLISECOND, row.and_then(Row::last_ms))?;
        let taken_at = Timestamp::from_ms(snapshot.stamped_at / MILLISECOND).unwrap_or(key_time);
        let mut description = describe(engine, &candidate.path, &snapshot, taken_at);
        let Snapshot { image, content_hash, stamps, stamped_at, mut permit, .. } = snapshot;
        let body = match image {
            Image::Memory(raw) => {
                let frame = encode_frame(&raw);
                description.frame_size = len(frame.bytes.len());
                description.frame_hash = frame.hash;
                permit.shrink_to(description.frame_size + 4096);
                Body::Frame(frame.bytes.into())
            }
            Image::Compressed(copy) => {
                description.frame_size = copy.frame().size;
                description.frame_hash = copy.frame().hash;
                // It waits on disk: its parts take memory of their own.
                permit.shrink_to(0);
                Body::Copy(copy)
            }
            Image::Known => return Err(Failure::new(Reason::CopyFailed, "its content is stored already")),
        };
        Ok(Job {
            id: candidate.id,
            path: candidate.path.to_path_buf(),
            prefix,
            row_prefix: candidate.prefix.clone(),
            key_time,
            stamps,
            stamped_at,
            content_hash,
            description,
            body,
            permit,
        })
    }

    /// The time in the key: that of the read, but always above the last one of this database.
    fn key_time(&self, path: &Path, now_ms: i64, last_ms: Option<i64>) -> Result<Timestamp, Failure> {
        // A last key that cannot be, as damage leaves it, must not keep a database from being stored.
        let next = next_timestamp(now_ms, last_ms).or_else(|| next_timestamp(now_ms, None));
        let (time, bump_ms) =
            next.ok_or_else(|| Failure::new(Reason::CopyFailed, "this clock is past the year 9999: no key is left"))?;
        if bump_ms > BUMP_ALARM_MS && self.bumped.fetch_add(1, Ordering::Relaxed) < LINES_MAX {
            self.error(format!(
                "db={} its last snapshot was stored under a time {} days ahead of this clock; keys stay above it: check the clock",
                shown(path),
                bump_ms / BUMP_ALARM_MS
            ));
        }
        Ok(time)
    }

    async fn ended(self: Arc<Self>, job: Job, outcome: Outcome) {
        match outcome {
            Outcome::Stored(bytes) => {
                self.engine.watch.control.stored();
                self.note_answer(None);
                self.settled.fetch_add(1, Ordering::Relaxed);
                self.tell_recovery(job.id, &job.path);
                self.observer.done(bytes);
                let now_s = self.engine.watch.clock.now() / SECOND;
                let stored_s = u32::try_from(now_s).unwrap_or(u32::MAX);
                if self.engine.watch.table.get(job.id).is_some_and(|slot| slot.stored_s != 0) {
                    self.engine.first_hour.stored_again(job.id, now_s);
                }
                let change = Change::Stored {
                    id: job.id,
                    path: job.path,
                    prefix: job.row_prefix.clone(),
                    stamps: job.stamps,
                    stamped_at: job.stamped_at,
                    content_hash: job.content_hash,
                    key_ms: job.key_time.as_ms(),
                    stored_s,
                    bytes,
                };
                let fact = Fact { change, prefix: job.row_prefix, tally: Arc::clone(&self.tally) };
                self.facts.record(fact).await;
            }
            Outcome::Failed(failure) => {
                self.tally.uploads_failed.fetch_add(1, Ordering::Relaxed);
                self.note_answer(Some(&failure));
                let fact = self.failed(job.id, &job.path, job.row_prefix, failure, None);
                self.facts.record(fact).await;
            }
            Outcome::Untried => {
                // It may have been on its way.
                self.engine.doubt.raise();
                self.untried.fetch_add(1, Ordering::Relaxed);
                let backlog = &self.engine.watch.table.backlog;
                if let Some(since_s) = backlog.to_note(job.id, Wait::Untried) {
                    let change = Change::Waiting { id: job.id, path: job.path, since_s, wait: Wait::Untried };
                    let tally = Arc::clone(&self.tally);
                    self.facts.record(Fact { change, prefix: None, tally }).await;
                }
            }
        }
    }

    fn refuse(&self, candidate: &Candidate, failure: Failure) {
        self.changed.fetch_add(1, Ordering::Relaxed);
        let fact = self.failed(candidate.id, &candidate.path, candidate.prefix.clone(), failure, None);
        self.facts.record_blocking(fact);
    }

    fn failed_to_read(&self, candidate: &Candidate, row: Option<&Row>, failure: Failure) {
        let settled = failure.reason.is_settled();
        let stamps = settled.then_some((candidate.stamps, candidate.stamped_at));
        let never_stored = row.is_none_or(|r| r.key_ms.is_none());
        if settled && candidate.by_magic && never_stored && !crate::snapshot::has_magic(&candidate.path) {
            return self.ignore(candidate, row.is_some());
        }
        let fact = self.failed(candidate.id, &candidate.path, candidate.prefix.clone(), failure, stamps);
        self.facts.record_blocking(fact);
    }

    /// A file below a folder pattern without an SQLite header is no database: remembered in memory only, and not looked
    /// into again until its stamps move.
    fn ignore(&self, candidate: &Candidate, has_row: bool) {
        self.changed.fetch_sub(1, Ordering::Relaxed);
        self.observer.done(0);
        let has_row = has_row || self.engine.watch.table.backlog.is_noted(candidate.id);
        self.engine.watch.table.backlog.remove(candidate.id);
        let fingerprint = self.engine.watch.fingerprint(&candidate.stamps, candidate.prefix.as_deref());
        let racy = crate::detect::is_racy(&candidate.stamps, candidate.stamped_at, self.engine.watch.slack);
        self.engine.watch.table.update(candidate.id, |slot| {
            slot.fingerprint = fingerprint;
            slot.failures = 0;
            slot.flags = slot.flags.with(Flags::UNKNOWN, false).with(Flags::FAILED, false).with(Flags::RACY, racy);
            slot.flags = slot.flags.with(Flags::NOT_A_DATABASE, true).with(Flags::IGNORED, true);
        });
        if has_row {
            self.record(Change::Forgotten { id: candidate.id });
        }
    }

    pub(crate) fn record(&self, change: Change) {
        self.facts.record_blocking(Fact { change, prefix: None, tally: Arc::clone(&self.tally) });
    }

    fn failed(
        &self,
        id: u64,
        path: &Path,
        prefix: Option<String>,
        failure: Failure,
        stamps: Option<(Stamps, Nanos)>,
    ) -> Fact {
        self.observer.done(0);
        self.settled.fetch_add(1, Ordering::Relaxed);
        let mut before = 0;
        self.engine.watch.table.update(id, |slot| {
            before = slot.failures;
            slot.failures = slot.failures.saturating_add(1);
            // Where the same stamps would fail the same way, the record of them says so instead.
            slot.flags = slot.flags.with(Flags::FAILED, stamps.is_none()).with(Flags::UNKNOWN, slot.stored_s == 0);
        });
        let at_s = self.engine.watch.clock.now() / SECOND;
        let since_s = failure.reason.is_failure().then(|| self.waits_since(id, at_s));
        let change = Change::Failed {
            id,
            path: path.to_path_buf(),
            prefix: prefix.clone(),
            stamps,
            error: failure.to_string(),
            at_s,
            since_s,
            maybe_stored: failure.reason.may_have_stored(),
        };
        self.report_failure(path, failure, before == 0);
        Fact { change, prefix, tally: Arc::clone(&self.tally) }
    }

    /// Since when a database that failed waits; from now on written down as failed.
    fn waits_since(&self, id: u64, now_s: i64) -> u32 {
        let backlog = &self.engine.watch.table.backlog;
        let now_s = u32::try_from(now_s).unwrap_or(u32::MAX);
        backlog.add(id, now_s);
        backlog.to_note(id, Wait::Failed).or_else(|| backlog.since(id)).unwrap_or(now_s)
    }

    /// Counts and names a failure; logs it if it is new.
    fn report_failure(&self, path: &Path, failure: Failure, is_new: bool) {
        let worth_a_line = is_new && failure.reason.is_failure();
        let mut withheld = self.withheld.lock();
        if worth_a_line && failure.reason.concerns_store() {
            if withheld.len() <= LINES_MAX as usize {
                withheld.push(Unprotected { path: path.to_path_buf(), failure: failure.clone() });
            }
        } else if worth_a_line && self.may_log() {
            log::error!("db={} {failure}", shown(path));
        } else {
            log::debug!("db={} {failure}", shown(path));
        }
        drop(withheld);
        self.failures.lock().add(path, failure);
    }

    fn tell_recovery(&self, id: u64, path: &Path) {
        let failures = self.engine.watch.table.get(id).map_or(0, |slot| slot.failures);
        if failures > 0 && self.may_log() {
            log::info!("db={} recovered after {failures} failures", shown(path));
        }
    }

    fn may_log(&self) -> bool {
        let line = self.lines.fetch_add(1, Ordering::Relaxed);
        if line == LINES_MAX {
            log::warn!(
                "further databases of this cycle are not named here; the table databases in {} has them",
                self.engine.watch.db.path().display()
            );
        }
        line < LINES_MAX
    }

    pub(crate) fn error(&self, what: String) {
        self.errors.lock().push(what);
    }
}

/// What a scan could not look at: nobody knows which databases lie there.
fn unseen(scan: &ScanReport) -> Option<String> {
    let first = scan.errors.first()?;
    let n = len(scan.errors.len()) + scan.errors_dropped;
    Some(format!("{n} folders or files could not be looked at, such as {}: {}", shown(&first.path), first.source))
}

/// A database that was gone, or forgotten by a restart, and lies there with the very stamps of its last snapshot. Not one
/// that the store says is gone: only a snapshot takes that back.
fn back_again(candidate: &Candidate, row: Option<&Row>, slack: Nanos) -> Option<Change> {
    let row = row?;
    let stamps = row.stamps.filter(|stamps| *stamps == candidate.stamps)?;
    let trusted = !crate::detect::is_racy(&stamps, row.stamped_at, slack) && row.error.is_none();
    let stored = row.key_ms.is_some() && row.prefix == candidate.prefix && !row.is_buried() && !candidate.refresh;
    (candidate.why == Some(Why::New) && trusted && stored && row.gone_s.is_some()).then_some(Change::Same {
        id: candidate.id,
        stamps,
        stamped_at: row.stamped_at,
        stored_s: row.stored_s,
    })
}

/// Refuses a key prefix that leaves no store room for the rest of the key, or has a segment of more than
/// `name_len_max` bytes.
pub(crate) fn check_key(store_prefix: &str, prefix: &str, name_len_max: usize) -> Result<(), Failure> {
    let what = if !layout::fits(store_prefix, prefix) {
        format!("its key would be longer than {} bytes", layout::KEY_LEN_MAX)
    } else if prefix.split('/').any(|segment| segment.len() > name_len_max) {
        format!("a name in its key would be longer than the {name_len_max} bytes of a file's name")
    } else {
        return Ok(());
    };
    Err(Failure::new(Reason::KeyTooLong, what + "; a shorter --key-template helps"))
}

/// Whether what was read is what the store's newest snapshot of it holds.
fn is_stored(candidate: &Candidate, row: Option<&Row>, snapshot: &Snapshot, doubt: &Doubt) -> bool {
    let stored = row.and_then(|row| stored_content(candidate, row, snapshot.stamps, doubt));
    stored == Some(snapshot.content_hash)
}

/// The content of the store's newest snapshot of a database that has these stamps now. `None` where equal content alone would not
/// tell that: of an upload that failed, or was not recorded, the store may have a newer one.
fn stored_content(candidate: &Candidate, row: &Row, stamps: Stamps, doubt: &Doubt) -> Option<ContentHash> {
    // What has the very stamps that were recorded did not change in between.
    let may_be_newer = !doubt.is_beyond(row.stored_s) && row.stamps != Some(stamps);
    let is_under_its_key = row.key_ms.is_some() && row.prefix == candidate.prefix && !row.is_buried();
    row.content_hash.filter(|_| is_under_its_key && !may_be_newer)
}

fn describe(engine: &Engine, path: &Path, snapshot: &Snapshot, taken_at: Timestamp) -> Description {
    Description {
        format: FORMAT_VERSION,
        key: String::new(),
        host: engine.watch.config.host.clone(),
        path: path.to_path_buf(),
        taken_at,
        page_size: snapshot.page_size,
        page_count: snapshot.page_count,
        raw_size: snapshot.raw_size(),
        content_hash: snapshot.content_hash,
        frame_size: 0,
        frame_hash: FrameHash([0; 16]),
        journal_mode: if snapshot.wal_mode { JournalMode::Wal } else { JournalMode::Rollback },
        uid: snapshot.stat.uid,
        gid: snapshot.stat.gid,
        mode: snapshot.stat.mode & 0o7777,
        mtime_ns: snapshot.stat.mtime,
        schema_version: snapshot.schema_version,
        sqlite_version: snapshot.sqlite_version,
        litesnap: LITESNAP_VERSION.to_owned(),
    }
}

pub(crate) fn len(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
