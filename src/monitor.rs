//! How a running loop fares, for whoever asks: HTTP, the service manager, heartbeats, the state.
//!
//! The loop tells it when a cycle begins and ends; anybody may look at any moment, also in mid-cycle, without making the loop
//! wait: a look takes numbers that are there, and walks no more than the backlog. It opens nothing and asks nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backlog::Ages;
use crate::clock::{Clock, MILLISECOND, SECOND};
use crate::config::Config;
use crate::control::Control;
use crate::object::LITESNAP_VERSION;
use crate::record::Tally;
use crate::report::{CycleReport, Phases};
use crate::snapshot::Reads;
use crate::state::{CycleNote, Holder, LoopNote, Table};
use crate::store::{RequestCounts, Requests, Store};
use crate::upkeep::LastRun;

/// So many intervals without a successful cycle, or progress within one, are too many.
pub const INTERVALS_MAX: u32 = 3;

/// What the loop has done since it began, by kind.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Cycles that ended.
    pub cycles: u64,
    /// Of these, those that did not succeed.
    pub cycles_failed: u64,
    /// Snapshots stored and recorded.
    pub stored: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Uploads that failed.
    pub uploads_failed: u64,
    /// Read, and their content was stored already.
    pub unchanged_content: u64,
    /// Bytes of the databases read.
    pub read_bytes: u64,
    /// How databases were read.
    pub reads: Reads,
    /// Failures by the word of their reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// Time by phase.
    pub phases: Phases,
    /// Time in cycles.
    pub busy: Duration,
}

/// How the loop fares at one moment.
#[derive(Debug, Clone)]
pub struct Vitals {
    /// The host as it goes into keys.
    pub host: String,
    /// The store, for people.
    pub store: String,
    /// Version of litesnap.
    pub version: &'static str,
    /// Now and the start of the process, ms since 1970.
    pub now_ms: i64,
    /// When it began, ms since 1970.
    pub started_ms: i64,
    /// From one cycle to the next.
    pub interval: Duration,
    /// A change that waits for longer is too late.
    pub max_unprotected: Option<Duration>,
    /// Since the start; what a cycle under way has recorded is in it.
    pub totals: Totals,
    /// The last cycle that ended.
    pub last: Option<CycleNote>,
    /// How many failed in it, by the word of their reason.
    pub failing: BTreeMap<&'static str, u64>,
    /// When the cycle under way began, ms since 1970.
    pub running_since_ms: Option<i64>,
    /// When the last successful cycle began, ms since 1970; that of an earlier process counts.
    pub last_success_ms: Option<i64>,
    /// When the last cycle of this process began after which everything was known, ms since 1970: it succeeded, and nothing was
    /// wrong with it as a whole.
    pub known_as_of_ms: Option<i64>,
    /// Changes that are not stored, by how long they wait.
    pub backlog: Ages,
    /// Databases by the age of their last snapshot, at the end of the last cycle.
    pub snapshots: Ages,
    /// Requests to the store since the start.
    pub requests: RequestCounts,
    /// Bytes of memory that the state takes.
    pub state_bytes: usize,
    /// The last run of what is done beside the loop, `prune` and `verify`, as far as it is done.
    pub upkeep: BTreeMap<&'static str, LastRun>,
    /// What is wrong, each one line; nothing if all is well.
    pub complaints: Vec<String>,
    /// A cycle has ended well since the start.
    pub is_ready: bool,
}

impl Vitals {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.complaints.is_empty()
    }

    /// Whether every change that could be stored is stored: the last cycle succeeded, nothing failed in it, and what a cooldown
    /// holds back is not too old. Where no database is found nothing is fresh: a folder that is not mounted looks like that.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        let well = |last: &CycleNote| last.succeeded && last.failed == 0 && last.untried == 0 && last.error.is_none();
        self.last.as_ref().is_some_and(|last| well(last) && last.databases > 0) && self.is_healthy()
    }
}

#[derive(Debug, Default)]
struct Inner {
    totals: Totals,
    last: Option<CycleNote>,
    failing: BTreeMap<&'static str, u64>,
    running: Option<(i64, Instant, Arc<Tally>)>,
    last_success_ms: Option<i64>,
    known_as_of_ms: Option<i64>,
    /// When such a cycle of this process last ended.
    known_at: Option<Instant>,
    /// The end of the last successful cycle of this process.
    success_at: Option<Instant>,
    /// The end of the last cycle of this process.
    ended_at: Option<Instant>,
    snapshots: Ages,
    upkeep: BTreeMap<&'static str, LastRun>,
}

/// Requests so far, and when it was first seen that they were so many.
type Pulse = (u64, Instant);

/// Watches over a loop.
#[derive(Debug)]
pub struct Monitor {
    host: String,
    store: String,
    interval: Duration,
    max_unprotected: Option<Duration>,
    cooldown_s: u32,
    started_ms: i64,
    born: Instant,
    clock: Arc<dyn Clock>,
    control: Arc<Control>,
    table: Arc<Table>,
    requests: Arc<Requests>,
    inner: Mutex<Inner>,
    pulse: Mutex<Pulse>,
}

impl Monitor {
    pub(crate) fn new(
        config: &Config,
        store: &Store,
        table: Arc<Table>,
        clock: Arc<dyn Clock>,
        control: Arc<Control>,
        last_success_ms: Option<i64>,
    ) -> Arc<Self> {
        Arc::new(Self {
            host: config.host.clone(),
            store: store.name.clone(),
            interval: config.interval,
            max_unprotected: config.telling.max_unprotected,
            cooldown_s: config.pace.cooldown_s,
            started_ms: clock.now() / MILLISECOND,
            born: Instant::now(),
            clock,
            control,
            table,
            requests: Arc::clone(&store.requests),
            inner: Mutex::new(Inner { last_success_ms, ..Inner::default() }),
            pulse: Mutex::new((0, Instant::now())),
        })
    }

    /// A cycle begins.
    pub(crate) fn begins(&self, tally: Arc<Tally>) {
        self.inner.lock().running = Some((self.clock.now() / MILLISECOND, Instant::now(), tally));
    }

    /// It is over; `snapshots` are the ages of the last snapshot of each database.
    pub(crate) fn ended(&self, report: &CycleReport, snapshots: Ages) -> CycleNote {
        let mut inner = self.inner.lock();
        let now_ms = self.clock.now() / MILLISECOND;
        let started_ms = inner.running.take().map_or(now_ms, |(began_ms, ..)| began_ms);
        let note = note_of(report, started_ms);
        if note.succeeded {
            inner.last_success_ms = Some(started_ms);
            inner.success_at = Some(Instant::now());
        }
        if note.succeeded && note.error.is_none() {
            inner.known_as_of_ms = Some(started_ms);
            inner.known_at = Some(Instant::now());
        }
        inner.failing = report.failures.by_reason().iter().map(|(reason, n)| (reason.word(), *n)).collect();
        inner.ended_at = Some(Instant::now());
        inner.snapshots = snapshots;
        inner.last = Some(note.clone());
        add(&mut inner.totals, report);
        note
    }

    /// `task` was last done as `last` says.
    pub(crate) fn upkeep_ran(&self, task: &'static str, last: LastRun) {
        self.inner.lock().upkeep.insert(task, last);
    }

    /// How it fares now.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let now = self.clock.now();
        let backlog = self.table.backlog.ages(now / SECOND);
        let inner = self.inner.lock();
        let mut totals = inner.totals.clone();
        if let Some((_, _, tally)) = &inner.running {
            totals.stored += tally.stored.load(Ordering::Relaxed);
            totals.bytes += tally.bytes.load(Ordering::Relaxed);
            totals.unchanged_content += tally.unchanged_content.load(Ordering::Relaxed);
            totals.uploads_failed += tally.uploads_failed.load(Ordering::Relaxed);
            totals.read_bytes += tally.read_bytes.load(Ordering::Relaxed);
        }
        Vitals {
            host: self.host.clone(),
            store: self.store.clone(),
            version: LITESNAP_VERSION,
            now_ms: now / MILLISECOND,
            started_ms: self.started_ms,
            interval: self.interval,
            max_unprotected: self.max_unprotected,
            totals,
            last: inner.last.clone(),
            failing: inner.failing.clone(),
            running_since_ms: inner.running.as_ref().map(|(began_ms, ..)| *began_ms),
            last_success_ms: inner.last_success_ms,
            upkeep: inner.upkeep.clone(),
            known_as_of_ms: inner.known_as_of_ms,
            complaints: self.complaints(&inner, &backlog),
            backlog,
            snapshots: inner.snapshots.clone(),
            requests: self.requests.snapshot(),
            state_bytes: self.table.bytes(),
            is_ready: inner.success_at.is_some(),
        }
    }

    fn complaints(&self, inner: &Inner, backlog: &Ages) -> Vec<String> {
        let mut complaints = Vec::new();
        let silent = self.silent_for(inner);
        if silent > self.interval * INTERVALS_MAX {
            let why = inner.last.as_ref().and_then(|last| last.error.as_deref()).map(|e| format!(": {e}"));
            complaints.push(format!("no cycle has succeeded for {} s{}", silent.as_secs(), why.unwrap_or_default()));
        }
        let oldest = Duration::from_secs(backlog.oldest_s.unsigned_abs());
        if let Some(max) = self.max_unprotected.filter(|max| oldest > *max) {
            let (oldest, max) = (oldest.as_secs(), max.as_secs());
            complaints.push(format!(
                "a change has not been stored for {oldest} s, allowed are {max} s; {} databases have one",
                backlog.count
            ));
        }
        complaints.extend(self.blindness(inner));
        complaints
    }

    /// That it has not been known for too long what changed: cycles succeed, and something keeps them from seeing all there is.
    fn blindness(&self, inner: &Inner) -> Option<String> {
        let max = self.max_unprotected? + self.interval * INTERVALS_MAX;
        let last = inner.last.as_ref().filter(|last| last.succeeded)?;
        let (why, since) = (last.error.as_ref()?, inner.known_at.unwrap_or(self.born).elapsed());
        (since > max).then(|| format!("for {} s it has not been known what changed: {why}", since.as_secs()))
    }

    /// How long nothing has gone well. A long cycle that gets on, as a first run over many databases is one, counts as well; after
    /// one that failed only by what the store took, for reading goes on while the store is down.
    fn silent_for(&self, inner: &Inner) -> Duration {
        let last = inner.success_at.unwrap_or(self.born);
        let failed = inner.last.as_ref().is_some_and(|last| !last.succeeded);
        let progress = inner.running.as_ref().and_then(|(_, began, _)| match failed {
            false => Some(self.control.progress().max(*began)),
            true => Some(self.control.last_stored()).filter(|stored| stored > began),
        });
        last.max(progress.unwrap_or(last)).elapsed()
    }

    /// Whether nothing at all has happened for longer than `patience`, beyond the rest between cycles: no cycle began or ended,
    /// nothing was read or stored, no request was made or answered. A store that is down is no such thing. Requests are noticed
    /// by being asked about, so this must be called more often than every `patience`.
    #[must_use]
    pub fn hangs(&self, patience: Duration) -> bool {
        let requests = self.requests.total();
        let mut pulse = self.pulse.lock();
        if pulse.0 != requests {
            *pulse = (requests, Instant::now());
        }
        let last_request = pulse.1;
        drop(pulse);
        let inner = self.inner.lock();
        let began = inner.running.as_ref().map(|(_, began, _)| *began);
        let rest = if began.is_some() { Duration::ZERO } else { self.interval };
        let signs = [Some(last_request), Some(self.control.progress()), began, inner.ended_at];
        let last = signs.into_iter().flatten().max().unwrap_or(self.born);
        last.elapsed() > patience.saturating_add(rest)
    }

    /// What whoever finds the state's lock held may know.
    pub(crate) fn holder(&self) -> Holder {
        let cycle_since_ms = self.inner.lock().running.as_ref().map(|(began_ms, ..)| *began_ms);
        Holder { note: self.loop_note(), cycle_since_ms }
    }

    /// What the state is to remember of this process.
    pub(crate) fn loop_note(&self) -> LoopNote {
        LoopNote {
            pid: std::process::id(),
            version: LITESNAP_VERSION.to_owned(),
            started_ms: self.started_ms,
            interval_ms: u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX),
            cooldown_s: self.cooldown_s,
            max_unprotected_s: self.max_unprotected.map(|max| max.as_secs()),
            last_success_ms: self.inner.lock().last_success_ms,
        }
    }
}

fn note_of(report: &CycleReport, started_ms: i64) -> CycleNote {
    CycleNote {
        started_ms,
        elapsed_ms: i64::try_from(report.elapsed.as_millis()).unwrap_or(i64::MAX),
        succeeded: report.succeeded(),
        databases: report.databases,
        changed: report.changed,
        stored: report.stored,
        unchanged_content: report.unchanged_content,
        failed: report.failed(),
        held: report.held,
        gone: report.gone,
        untried: report.untried,
        read_bytes: report.read_bytes,
        bytes: report.bytes,
        requests: report.requests,
        error: report.whole_error(),
    }
}

fn add(totals: &mut Totals, report: &CycleReport) {
    totals.cycles += 1;
    totals.cycles_failed += u64::from(!report.succeeded());
    totals.stored += report.stored;
    totals.bytes += report.bytes;
    totals.uploads_failed += report.uploads_failed;
    totals.unchanged_content += report.unchanged_content;
    totals.read_bytes += report.read_bytes;
    totals.reads.direct += report.reads.direct;
    totals.reads.through_sqlite += report.reads.through_sqlite;
    for (doubt, n) in &report.reads.doubts {
        *totals.reads.doubts.entry(*doubt).or_default() += n;
    }
    for (reason, n) in report.failures.by_reason() {
        *totals.failures.entry(reason.word()).or_default() += n;
    }
    totals.phases.scan += report.phases.scan;
    totals.phases.work += report.phases.work;
    totals.phases.record += report.phases.record;
    totals.busy += report.elapsed;
}
