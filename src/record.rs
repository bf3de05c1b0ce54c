//! Writing down what was confirmed: durable in the store first, then in `state.db`, then in memory.
//!
//! One thread, one batch a second or per 10,000 facts (`inbox`). A crash loses at most the last batch, and then those databases
//! count as changed. If a batch cannot be recorded, none of it is counted as stored.

mod inbox;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, Nanos, SECOND};
use crate::detect::{Fingerprint, is_racy};
use crate::error::{Error, Result};
use crate::state::{Change, Flags, Slot, StateDb, Table, place_of};
use crate::store::Store;
use inbox::{Giver, Taker, inbox};

/// A batch is written at the latest this long after its first fact.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// A batch is written at the latest with this many facts.
const BATCH_LEN: usize = 10_000;

/// What became of the facts of one cycle.
#[derive(Debug, Default)]
pub struct Tally {
    /// Snapshots stored and recorded.
    pub stored: AtomicU64,
    /// Their bytes in the store.
    pub bytes: AtomicU64,
    /// Uploads that failed.
    pub uploads_failed: AtomicU64,
    /// Bytes of the databases read.
    pub read_bytes: AtomicU64,
    /// Databases read whose content was already stored.
    pub unchanged_content: AtomicU64,
    /// Databases recorded as gone.
    pub gone: AtomicU64,
    /// Facts that could not be recorded: those databases count as changed.
    pub unrecorded: AtomicU64,
    /// Why, the first time.
    pub error: Mutex<Option<String>>,
}

/// Since when the store may hold snapshots that the state does not know of: after a process that ended in mid-work, a record
/// that failed, an upload broken off. Content that is equal to the one last recorded before says nothing then: the store may
/// have a newer one, and a file that went back to the old one would never be its newest again.
#[derive(Debug)]
pub struct Doubt {
    /// Records before this time (s since 1970) are doubted; 0 for none.
    before_s: AtomicI64,
    clock: Arc<dyn Clock>,
}

impl Doubt {
    /// What was recorded before `before_s` (s since 1970; 0 for nothing) is doubted.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, before_s: i64) -> Self {
        Self { before_s: AtomicI64::new(before_s), clock }
    }

    /// All that was recorded so far is doubted.
    pub fn raise(&self) {
        self.before_s.fetch_max(self.clock.now() / SECOND + 1, Ordering::Relaxed);
    }

    /// Whether a snapshot recorded at `stored_s` is known to be the newest in the store.
    #[must_use]
    pub fn is_beyond(&self, stored_s: u32) -> bool {
        i64::from(stored_s) >= self.before_s.load(Ordering::Relaxed)
    }

    /// What was recorded before this time is doubted, s since 1970; 0 for nothing.
    #[must_use]
    pub fn before_s(&self) -> i64 {
        self.before_s.load(Ordering::Relaxed)
    }
}

/// One fact, with what the summary counts of it.
#[derive(Debug)]
pub struct Fact {
    /// What goes into `state.db`.
    pub change: Change,
    /// Key prefix hash, as in the fingerprint.
    pub prefix: Option<String>,
    /// The cycle's counters.
    pub tally: Arc<Tally>,
}

/// The handle to the recording thread; the thread ends, all recorded, when this and all ways to it are dropped.
#[derive(Debug)]
pub struct Recorder {
    facts: Option<FactSender>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Starts the thread. `slack` is how long a stamp stays racy.
    ///
    /// # Errors
    /// [`Error::Io`] if the system gives no thread.
    pub fn start(
        store: Arc<Store>,
        db: Arc<StateDb>,
        table: Arc<Table>,
        slack: Nanos,
        doubt: Arc<Doubt>,
    ) -> Result<Self> {
        let (giver, taker) = inbox(BATCH_LEN, BATCH_TIME);
        let worker = Worker { store, db, table, slack, doubt };
        let thread = std::thread::Builder::new()
            .name("record".into())
            .spawn(move || worker.run(&taker))
            .map_err(|source| Error::Io { attempt: "start the thread that records", path: "".into(), source })?;
        Ok(Self { facts: Some(FactSender(Arc::new(giver))), thread: Some(thread) })
    }

    fn facts(&self) -> &FactSender {
        self.facts.as_ref().expect("taken only when dropped")
    }

    /// A way to hand over facts. The thread does not end before all of these are dropped.
    #[must_use]
    pub fn sender(&self) -> FactSender {
        self.facts().clone()
    }

    /// Returns when everything handed over so far is recorded, or has failed to be.
    pub fn flush(&self) {
        self.facts().0.flush().blocking_recv().ok();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.facts = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Hands facts over.
#[derive(Debug, Clone)]
pub struct FactSender(Arc<Giver<Box<Fact>>>);

impl FactSender {
    /// Hands over a fact; waits while a whole batch is ahead of it.
    pub async fn record(&self, fact: Fact) {
        self.0.give(Box::new(fact)).await;
    }

    /// The same, blocking its thread: not for asynchronous code.
    pub fn record_blocking(&self, fact: Fact) {
        self.0.give_blocking(Box::new(fact));
    }
}

struct Worker {
    store: Arc<Store>,
    db: Arc<StateDb>,
    table: Arc<Table>,
    slack: Nanos,
    doubt: Arc<Doubt>,
}

impl Worker {
    fn run(self, inbox: &Taker<Box<Fact>>) {
        loop {
            let batch = inbox.take();
            if !batch.things.is_empty() {
                self.write(&batch.things);
            }
            for flush in batch.flushes {
                flush.send(()).ok();
            }
            if batch.is_last {
                return;
            }
            self.db.settle();
        }
    }

    fn write(&self, batch: &[Box<Fact>]) {
        match self.record(batch) {
            Ok(()) => batch.iter().for_each(|fact| count(fact)),
            Err(why) => {
                // The store may hold what the state does not know of.
                self.doubt.raise();
                log::debug!("what was stored could not be recorded and will be stored again: {why}");
                for fact in batch {
                    if let Change::Waiting { id, .. } | Change::Failed { id, .. } = &fact.change {
                        self.table.backlog.not_noted(*id);
                    }
                    fact.tally.unrecorded.fetch_add(1, Ordering::Relaxed);
                    fact.tally.error.lock().get_or_insert_with(|| why.clone());
                }
            }
        }
    }

    /// The order is the promise: the store's disk, then state.db, then memory.
    fn record(&self, batch: &[Box<Fact>]) -> std::result::Result<(), String> {
        if batch.iter().any(|f| f.change.is_of_an_object()) {
            self.store.sync().map_err(|e| format!("cannot sync {}: {e}", self.store.name))?;
        }
        let changes: Vec<&Change> = batch.iter().map(|f| &f.change).collect();
        self.db.apply(&changes).map_err(|e| chain(&e))?;
        for fact in batch {
            self.remember(fact);
        }
        Ok(())
    }

    fn remember(&self, fact: &Fact) {
        let seed = self.db.seed();
        let place = place_of(fact.prefix.as_deref(), seed);
        let confirmed = |slot: &mut Slot, stamps, stamped_at| {
            slot.fingerprint = Fingerprint::of(stamps, place, seed);
            let racy = is_racy(stamps, stamped_at, self.slack);
            slot.flags = slot.flags.with(Flags::RACY, racy).with(Flags::UNKNOWN, false);
        };
        if let Change::Stored { id, .. } | Change::Same { id, .. } | Change::Failed { id, since_s: None, .. } =
            &fact.change
        {
            self.table.backlog.remove(*id);
        }
        match &fact.change {
            Change::Stored { id, stamps, stamped_at, stored_s, .. } => self.table.update(*id, |slot| {
                confirmed(slot, stamps, *stamped_at);
                slot.stored_s = *stored_s;
                end_of_failure(slot);
            }),
            Change::Same { id, stamps, stamped_at, stored_s } => self.table.update(*id, |slot| {
                confirmed(slot, stamps, *stamped_at);
                slot.stored_s = *stored_s;
                end_of_failure(slot);
            }),
            Change::Failed { id, stamps: Some((stamps, at)), .. } => self.table.update(*id, |slot| {
                confirmed(slot, stamps, *at);
                // The count goes on: a file that stays what it is is not news.
                let failures = slot.failures;
                end_of_failure(slot);
                slot.failures = failures;
                slot.flags = slot.flags.with(Flags::NOT_A_DATABASE, true);
            }),
            Change::Forgotten { id } => self.table.backlog.remove(*id),
            Change::Failed { .. } | Change::Waiting { .. } => {}
            Change::Gone { id, .. } => self.table.remove(*id),
        }
    }
}

fn end_of_failure(slot: &mut Slot) {
    slot.failures = 0;
    slot.flags = slot.flags.with(Flags::FAILED, false).with(Flags::COOLING, false);
    slot.flags = slot.flags.with(Flags::NOT_A_DATABASE, false).with(Flags::IGNORED, false);
}

fn count(fact: &Fact) {
    let tally = &fact.tally;
    match fact.change {
        Change::Stored { bytes, .. } => {
            tally.stored.fetch_add(1, Ordering::Relaxed);
            tally.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Change::Same { .. } => {
            tally.unchanged_content.fetch_add(1, Ordering::Relaxed);
        }
        Change::Gone { .. } => {
            tally.gone.fetch_add(1, Ordering::Relaxed);
        }
        Change::Failed { .. } | Change::Forgotten { .. } | Change::Waiting { .. } => {}
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
