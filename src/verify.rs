//! Whether what is stored could be restored: snapshots are fetched, decoded with every hash, and looked at by SQLite.
//!
//! Looks, and changes three things only: a marker object beside each snapshot that is bad for good; requests in a state
//! beside which it runs; temporary files. What is found wrong is fetched once more before it is called so. What an
//! interrupted run has found is told, and not marked.

mod image;
mod ledger;
mod mark;
mod report;
mod sample;

use std::path::PathBuf;
use std::time::Instant;

use parking_lot::Mutex;

pub use ledger::Finding;
pub use report::{Counts, VerifyReport};
pub use sample::{NotAShare, Share};

use crate::access::{Access, Body, FetchError};
use crate::catalogue::{Catalogue, Database, Snapshot};
use crate::cycle::Observer;
use crate::error::{Error, Failure, Result};
use crate::layout::snapshot_key;
use crate::names::Names;
use crate::object::ObjectError;
use crate::record::chain;
use crate::state::Beside;
use crate::timestamp::Timestamp;
use image::{Content, Room, Unread};
use ledger::{Class, Ledger, Task, Tasks};

/// Word of a snapshot that is not there.
const MISSING: &str = "missing";
/// Word of an object that belongs under another key.
const WRONG_KEY: &str = "wrong-key";
/// Word of a snapshot that an earlier run marked and this one finds good. The marker stays: what marked it may be back.
const MARKED_BUT_GOOD: &str = "marked-but-good";

/// How many of the snapshots are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All, those marked as bad too.
    All,
    /// A share of them, without those marked as bad; at least one, if there is one.
    Sample(Share),
}

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Which databases.
    pub names: Names,
    /// How many of their snapshots.
    pub extent: Extent,
    /// What chooses them; `None` for a random one, which the report names.
    pub seed: Option<u64>,
    /// Whether bad snapshots get a marker.
    pub mark: bool,
    /// Where the state lies that is to be compared with what is listed; its store must be the one looked at.
    pub state_dir: Option<PathBuf>,
}

/// Looks at what is stored, as far as `options` says. `now` goes into markers.
///
/// # Errors
/// [`Error::Store`] if it cannot be listed: what cannot be fetched is in the report. [`Error::Usage`] or [`Error::State`] if
/// there is no usable state where one was named, [`Error::Io`] if there is no room for temporary files,
/// [`Error::Interrupted`] if a stop was asked for before anything was fetched.
pub fn verify(
    access: &Access,
    options: &VerifyOptions,
    now: Timestamp,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    let (started, requests) = (Instant::now(), access.store.requests.total());
    let seed = options.seed.unwrap_or_else(random);
    let ledger = Ledger::new()?;
    // Before the listing: what is stored meanwhile is then listed at most, and not missed.
    let beside = options.state_dir.as_ref().map(|dir| Beside::expect(dir, access.store.identity())).transpose()?;
    if let Some(beside) = &beside {
        ledger.together(|| {
            beside.each_believed(|b| if options.names.matches(&b.name) { ledger.believe(&b) } else { Ok(()) })
        })?;
    }
    let catalogue = access.catalogue(&options.names)?;
    let mut counts = Counts { seed, ..choose(&ledger, &catalogue, options.extent, seed, beside.is_some())? };
    drop(catalogue);
    observer.planned(ledger.chosen()?);
    let run = Run::new(access, ledger, observer, counts);
    run.turns()?;
    observer.finished();
    let store_failure = run.store_failure.into_inner();
    let ledger = run.ledger.into_inner();
    counts = run.counts.into_inner();
    let interrupted = access.control.stop_signal();
    if let Some(beside) = beside.filter(|_| interrupted.is_none()) {
        counts.requested = Some(request(&ledger, &beside, &mut counts.missing)?);
    }
    if options.mark && interrupted.is_none() {
        counts.unmarked = mark::mark(access, &ledger, now)?;
    }
    counts.requests = access.store.requests.total() - requests;
    let mut report = VerifyReport::new(counts, ledger)?;
    let judged_none = report.counts.checked + report.counts.missing == 0;
    report.store_down = access.down().or_else(|| store_failure.clone().filter(|_| judged_none));
    report.store_failure = store_failure;
    report.interrupted = interrupted;
    report.set_elapsed(started.elapsed());
    Ok(report)
}

/// Differs from run to run.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Notes what is to be looked at, and what of the believed is listed; counts what there is.
fn choose(ledger: &Ledger, catalogue: &Catalogue, extent: Extent, seed: u64, compare: bool) -> Result<Counts> {
    let mut counts = Counts::default();
    // If chance chooses none, the one that stands first is chosen.
    let mut first: Option<(u64, String, Snapshot)> = None;
    let mut any = false;
    ledger.together(|| {
        catalogue.each(|database: Database| {
            counts.databases += u64::from(!database.snapshots.is_empty());
            counts.snapshots += database.snapshots.len() as u64;
            if compare {
                ledger.compare(&database)?;
            }
            for snapshot in &database.snapshots {
                let rank = sample::rank(seed, &snapshot.location.key);
                let chosen = match extent {
                    Extent::All => true,
                    Extent::Sample(_) if snapshot.is_bad => {
                        counts.marked += 1;
                        continue;
                    }
                    Extent::Sample(share) => share.holds(rank),
                };
                if chosen {
                    any = true;
                    ledger.choose(&database.name, snapshot)?;
                } else if !any && first.as_ref().is_none_or(|(least, ..)| rank < *least) {
                    first = Some((rank, database.name.clone(), snapshot.clone()));
                }
            }
            Ok::<(), Error>(())
        })?;
        match first.filter(|_| !any) {
            Some((_, name, snapshot)) => ledger.choose(&name, &snapshot),
            None => Ok(()),
        }
    })?;
    Ok(counts)
}

/// What came of looking at one snapshot.
#[derive(Debug)]
enum Verdict {
    Good,
    /// Good as far as can be told.
    GoodBut(&'static str, String),
    Bad(&'static str, String),
    /// Good, but of a store that had another prefix: every object of a copy looks like that, so none is marked for it.
    Moved(String),
    Missing,
    /// Not looked at, for reasons of its own.
    Unchecked(&'static str, String),
    /// Not looked at, for the store failed.
    StoreFailed(Failure),
    Untried,
}

impl Verdict {
    /// Whether another answer of the store may give another verdict: a transfer may break, and something in between may
    /// answer in the store's place. What passed every hash, or was read from a description that did, arrived as it is.
    fn may_be_the_transfer(&self) -> bool {
        match self {
            Self::Bad(word, _) => !matches!(*word, WRONG_KEY | "corrupt"),
            Self::Unchecked(word, _) => *word == "unreadable",
            Self::StoreFailed(_) => true,
            _ => false,
        }
    }
}

impl From<ObjectError> for Verdict {
    fn from(error: ObjectError) -> Self {
        let (word, detail) = (error.word(), chain(&error));
        if error.is_damage() { Self::Bad(word, detail) } else { Self::Unchecked(word, detail) }
    }
}

/// What to say of a good object at `key`, below the store's prefix, that names another.
fn wrong_key(key: &str, expected: String, found: String) -> Verdict {
    let prefix = found.strip_suffix(key).and_then(|rest| rest.strip_suffix('/').or(rest.is_empty().then_some(rest)));
    let hint = prefix.map(|prefix| format!("; if this store is a copy of another, give --moved-from '{prefix}'"));
    let error = ObjectError::WrongKey { expected, found };
    match hint {
        Some(hint) => Verdict::Moved(error.to_string() + &hint),
        None => error.into(),
    }
}

/// What the threads of a run share.
struct Run<'a> {
    access: &'a Access,
    observer: &'a dyn Observer,
    room: Room,
    ledger: Mutex<Ledger>,
    counts: Mutex<Counts>,
    store_failure: Mutex<Option<Failure>>,
    /// What ends the run.
    failure: Mutex<Option<Error>>,
}

impl<'a> Run<'a> {
    fn new(access: &'a Access, ledger: Ledger, observer: &'a dyn Observer, counts: Counts) -> Self {
        Self {
            access,
            observer,
            room: Room::new(image::temp_folder()),
            ledger: Mutex::new(ledger),
            counts: Mutex::new(counts),
            store_failure: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    /// Looks at all that is chosen, and once more at what is not as it should be.
    fn turns(&self) -> Result<()> {
        for is_last in [false, true] {
            let tasks = Tasks::new(&self.ledger, is_last, &self.failure);
            self.access.for_each_object(tasks, |task, body| {
                let verdict = self.judge(&task, body);
                if let Err(e) = self.settle(&task, verdict, is_last) {
                    self.failure.lock().get_or_insert(e);
                }
            });
            if let Some(e) = self.failure.lock().take() {
                return Err(e);
            }
        }
        Ok(())
    }

    fn judge(&self, task: &Task, body: Result<Body, FetchError>) -> Verdict {
        let body = match body {
            Ok(body) => body,
            Err(FetchError::Missing) => return Verdict::Missing,
            Err(FetchError::Object(e)) => return e.into(),
            Err(FetchError::Store(failure)) => return Verdict::StoreFailed(failure),
            Err(FetchError::Untried) => return Verdict::Untried,
        };
        self.counts.lock().bytes += task.wanted.size;
        match self.room.look(self.access, &task.wanted.location, body) {
            Ok(Content::Good) => Verdict::Good,
            Ok(Content::Corrupt(found)) => {
                Verdict::Bad("corrupt", format!("stored as it was, and it was corrupt: {found}"))
            }
            Ok(Content::NotCheckable(why)) => {
                Verdict::GoodBut("not-checkable", format!("every hash is right, but SQLite cannot check it: {why}"))
            }
            Err(Unread::Object(ObjectError::WrongKey { expected, found })) => {
                wrong_key(&task.wanted.location.key, expected, found)
            }
            Err(Unread::Object(e)) => e.into(),
            Err(Unread::Sqlite(e)) => Verdict::Unchecked("unreadable", format!("SQLite: {e}")),
            Err(Unread::Stopped) => Verdict::Untried,
        }
    }

    /// Counts a verdict, or leaves it to the next turn.
    fn settle(&self, task: &Task, verdict: Verdict, is_last: bool) -> Result<()> {
        let ledger = self.ledger.lock();
        if !is_last && verdict.may_be_the_transfer() {
            log::debug!("{} is fetched once more: {verdict:?}", task.wanted.location.key);
            return ledger.once_more(task);
        }
        let wants_marker = !task.marked && !matches!(verdict, Verdict::Moved(_));
        let find = |class, word: &str, detail: String| {
            let (name, time, key) = (task.name.clone(), task.time, task.wanted.location.key.clone());
            ledger.find(class, &Finding { name, time, word: word.to_owned(), detail, key }, wants_marker)
        };
        let marked_but = |what: &str| format!("an earlier run marked it as bad, and {what}");
        let mut counts = self.counts.lock();
        match verdict {
            Verdict::Good | Verdict::GoodBut(..) => {
                counts.checked += 1;
                counts.good += 1;
                if task.marked {
                    find(
                        Class::Note,
                        MARKED_BUT_GOOD,
                        marked_but("now it is good: delete the marker if that was the store"),
                    )?;
                }
                if let Verdict::GoodBut(word, detail) = verdict {
                    find(Class::Note, word, detail)?;
                }
            }
            Verdict::Bad(word, detail) => {
                counts.checked += 1;
                counts.bad += 1;
                find(Class::Bad, word, detail)?;
            }
            Verdict::Moved(detail) => {
                counts.checked += 1;
                counts.bad += 1;
                find(Class::Bad, WRONG_KEY, detail)?;
            }
            Verdict::Missing => {
                counts.missing += 1;
                find(Class::Missing, MISSING, "it was listed, but there is no object".into())?;
            }
            Verdict::Unchecked(word, detail) => {
                counts.unchecked += 1;
                find(Class::Unchecked, word, detail)?;
            }
            Verdict::StoreFailed(failure) => {
                counts.unchecked += 1;
                *self.store_failure.lock() = Some(failure);
            }
            Verdict::Untried => counts.unchecked += 1,
        }
        self.observer.done(task.wanted.size);
        Ok(())
    }
}

/// Asks a state for the databases whose newest snapshot, by its own account, is missing or bad; adds the missing ones that
/// nobody has told of to the findings. Returns how many it asked for.
fn request(ledger: &Ledger, beside: &Beside, missing: &mut u64) -> Result<u64> {
    let (mut last, mut requested) = (None, 0);
    loop {
        let doubts = ledger.doubts_after(last)?;
        let Some(end) = doubts.last() else { return Ok(requested) };
        last = Some(end.id);
        let mut ids = Vec::new();
        for doubt in doubts {
            // A loop may have stored a newer one since, and a rule let this one go.
            if beside.key_ms(doubt.id)? != Some(doubt.ms) {
                continue;
            }
            ids.push(doubt.id);
            if let Some(time) = Timestamp::from_ms(doubt.ms).filter(|_| !doubt.listed) {
                let (word, key) = (MISSING.to_owned(), snapshot_key(&doubt.name, time));
                let detail = "the state believes it stored, but it is not listed".to_owned();
                ledger.find(Class::Missing, &Finding { name: doubt.name, time, word, detail, key }, false)?;
                *missing += 1;
            }
        }
        requested += ids.len() as u64;
        beside.request(&ids)?;
    }
}
