//! Carrying a plan out: what is there already is looked at first, the rest is fetched and placed, many at once.

use std::collections::BTreeSet;
use std::io::BufWriter;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::check::check_file;
use super::outcomes::Outcomes;
use super::place::{Found, Pending, Permissions, Placed, Placer, Refusal, Root};
use super::plan::{Counts, Item, Items, Plan};
use super::report::{HOSTS_MAX, RestoreReport};
use super::{RestoreOptions, Target};
use crate::access::{Access, Body, FetchError};
use crate::cycle::Observer;
use crate::error::{Error, Result};
use crate::object::{Description, ObjectError};
use crate::scratch;
use crate::store::RequestCounts;

/// Databases that are there already are compared in groups of this many.
const COMPARED_AT_ONCE: usize = 256;
/// Buffer between the decoder and a file: databases up to this size are written in one call.
const WRITE_AT_ONCE: usize = 256 << 10;

/// What was done so far; shared with the thread that places files.
#[derive(Debug)]
struct Tally {
    outcomes: Outcomes,
    restored: AtomicU64,
    unchanged: AtomicU64,
    skipped: AtomicU64,
    untried: AtomicU64,
    bytes: AtomicU64,
    owner_lost: AtomicU64,
    hosts: Mutex<BTreeSet<String>>,
    /// The temporary database failed, or something else that ends the whole.
    fatal: Mutex<Option<Error>>,
}

impl Tally {
    fn or_fatal(&self, noted: Result<()>) {
        if let Err(e) = noted {
            self.fatal.lock().get_or_insert(e);
        }
    }

    fn refused(&self, name: &str, refusal: &Refusal) {
        self.or_fatal(self.outcomes.failed(name, refusal.word, &refusal.detail));
    }

    fn saw_host(&self, host: &str) {
        let mut hosts = self.hosts.lock();
        if hosts.len() < HOSTS_MAX && !hosts.contains(host) {
            hosts.insert(host.to_owned());
        }
    }
}

/// Databases that nothing is to be done about any more.
const SETTLED: &str = "CREATE TABLE settled(name TEXT PRIMARY KEY) WITHOUT ROWID";

/// What of a plan is to be done: all but what is there already, or may not be touched.
#[derive(Debug)]
pub struct ToDo<'a> {
    plan: &'a Plan,
    settled: &'a rusqlite::Connection,
}

impl ToDo<'_> {
    /// What the whole plan comes to.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.plan.counts()
    }

    /// Calls `visit` with each database that is to be restored, by name.
    ///
    /// # Errors
    /// [`Error::Io`] if the temporary database fails.
    pub fn each(&self, visit: impl FnMut(Item)) -> Result<()> {
        let mut remaining = self.remaining();
        remaining.by_ref().for_each(visit);
        remaining.end()
    }

    fn remaining(&self) -> Remaining<'_> {
        Remaining { items: self.plan.items(), settled: self.settled, failed: None }
    }
}

/// The items that are to be restored. A failure of the temporary database ends them, and is told by [`Remaining::end`].
struct Remaining<'a> {
    items: Items<'a>,
    settled: &'a rusqlite::Connection,
    failed: Option<rusqlite::Error>,
}

impl Remaining<'_> {
    fn end(self) -> Result<()> {
        self.failed.map_or(Ok(()), |e| Err(scratch::failed(e)))?;
        self.items.end()
    }

    fn is_settled(&self, name: &str) -> rusqlite::Result<bool> {
        self.settled.prepare_cached("SELECT 1 FROM settled WHERE name=?1")?.exists([name])
    }
}

impl Iterator for Remaining<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            let item = self.items.next()?;
            match self.is_settled(&item.name) {
                Ok(true) => {}
                Ok(false) => return Some(item),
                Err(e) => {
                    self.failed = Some(e);
                    return None;
                }
            }
        }
    }
}

/// Restores what `options` ask for; in a dry run, only finds out what that would be. `planned` is shown what is to be done
/// before anything is.
///
/// # Errors
/// Nothing was done: the store cannot be listed, nothing is there to be restored ([`Error::Nothing`]), or more than one database for
/// one file. What became of single databases is in the report.
pub fn restore(
    access: &Access,
    options: &RestoreOptions,
    observer: &Arc<dyn Observer>,
    planned: impl FnOnce(&ToDo<'_>) -> Result<()>,
) -> Result<RestoreReport> {
    let started = Instant::now();
    let before = access.store.requests.snapshot();
    let catalogue = access.catalogue(&options.names)?;
    let outcomes = Outcomes::new()?;
    let plan = Plan::make(access, &catalogue, options, &outcomes)?;
    drop(catalogue);
    refuse_nothing(access, options, &plan, &outcomes)?;
    plan.name_globs_without(options, &outcomes)?;
    let run = Run::new(access, options, outcomes, observer)?;
    let settled = scratch::open(SETTLED)?;
    run.compare_existing(&plan, &settled)?;
    let to_do = ToDo { plan: &plan, settled: &settled };
    planned(&to_do)?;
    if !options.dry_run {
        run.carry_out(&to_do)?;
    }
    let settled: i64 =
        settled.query_row("SELECT count(*) FROM settled", [], |row| row.get(0)).map_err(scratch::failed)?;
    run.report(&plan, settled.cast_unsigned(), &before, started)
}

/// Nothing to restore is an error that says why.
pub(super) fn refuse_nothing(
    access: &Access,
    options: &RestoreOptions,
    plan: &Plan,
    outcomes: &Outcomes,
) -> Result<()> {
    let counts = plan.counts();
    if matches!(options.target, Target::File(_)) && counts.databases > 1 {
        return Err(too_many(counts.databases));
    }
    if counts.databases > 0 || outcomes.failed_count() > 0 {
        return Ok(());
    }
    let store = &access.store.name;
    let wanted = match options.names.texts() {
        [] => format!("in {store}"),
        globs => format!("of {} in {store}", globs.join(", ")),
    };
    let what = match (counts.earliest_later, counts.last_deleted) {
        (Some(earliest), _) => format!(
            "no snapshot {wanted} is as old as that: the earliest is of {}; give --at {0} or later",
            earliest.to_rfc3339()
        ),
        (None, Some(gone)) => format!(
            "what there is {wanted} was gone from its host by {}: --include-deleted restores it all the same, --at an earlier time what was there then",
            gone.to_rfc3339()
        ),
        (None, None) => format!("there is no snapshot {wanted}: `litesnap list` shows what there is"),
    };
    let is_empty = counts.earliest_later.is_none() && counts.last_deleted.is_none();
    Err(Error::Nothing { what, is_empty })
}

pub(super) fn too_many(n: u64) -> Error {
    Error::Usage(format!(
        "-o takes exactly one database, and {n} are meant: name one with --match, such as --match /srv/app/acme.db, or give --into DIR"
    ))
}

struct Run<'a> {
    access: &'a Access,
    options: &'a RestoreOptions,
    placer: Placer,
    tally: Arc<Tally>,
    observer: &'a Arc<dyn Observer>,
}

impl<'a> Run<'a> {
    fn new(
        access: &'a Access,
        options: &'a RestoreOptions,
        outcomes: Outcomes,
        observer: &'a Arc<dyn Observer>,
    ) -> Result<Self> {
        let root = match &options.target {
            Target::Into(dir) => Root::Below(dir.clone()),
            Target::InPlace => Root::InPlace,
            Target::File(file) => Root::File(file.clone()),
        };
        let permissions = Permissions { force: options.force };
        let tally = Tally {
            outcomes,
            restored: AtomicU64::new(0),
            unchanged: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            untried: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            owner_lost: AtomicU64::new(0),
            hosts: Mutex::default(),
            fatal: Mutex::default(),
        };
        Ok(Self { access, options, placer: Placer::open(root, permissions)?, tally: Arc::new(tally), observer })
    }

    fn carry_out(&self, to_do: &ToDo<'_>) -> Result<()> {
        let mut remaining = to_do.remaining();
        let next = std::iter::from_fn(|| remaining.next()).take_while(|_| self.tally.fatal.lock().is_none());
        let tasks = next.map(|item| {
            let wanted = item.wanted.clone();
            (item, wanted)
        });
        self.access.for_each_object(tasks, |item, body| self.restore_one(&item, body));
        self.placer.flush();
        self.observer.finished();
        remaining.end()?;
        self.tally.fatal.lock().take().map_or(Ok(()), Err)
    }

    /// Settles every database whose target is there already: identical, to be left, refused; and those that cannot be
    /// placed. Their names go into `settled`. What is to be replaced is left to be fetched.
    fn compare_existing(&self, plan: &Plan, settled: &rusqlite::Connection) -> Result<()> {
        self.observer.planned(plan.counts().databases);
        settled.execute_batch("BEGIN").map_err(scratch::failed)?;
        let settle = |item: &Item| -> Result<()> {
            self.observer.done(0);
            settled
                .prepare_cached("INSERT OR IGNORE INTO settled VALUES(?1)")
                .and_then(|mut insert| insert.execute([&item.name]))
                .map(drop)
                .map_err(scratch::failed)
        };
        let mut items = plan.items();
        loop {
            let mut group = Vec::new();
            let mut any = false;
            for item in items.by_ref().take(COMPARED_AT_ONCE) {
                any = true;
                match self.look(&item) {
                    Ok(Found::Nothing) => {}
                    Ok(Found::Existing(_)) if self.options.skip_existing => {
                        self.tally.skipped.fetch_add(1, Ordering::Relaxed);
                        settle(&item)?;
                    }
                    Ok(Found::Existing(_)) => group.push(item),
                    Err(refusal) => {
                        self.tally.refused(&item.name, &refusal);
                        settle(&item)?;
                    }
                }
            }
            if !any {
                break;
            }
            for item in self.compare(group) {
                settle(&item)?;
            }
        }
        items.end()?;
        settled.execute_batch("COMMIT").map_err(scratch::failed)
    }

    /// What is at the target. A dry run also finds out whether something could be put there.
    fn look(&self, item: &Item) -> Result<Found, Refusal> {
        if self.options.target == Target::InPlace && super::lies_in_store(&item.target, &self.access.store) {
            let detail = format!("{} lies in the store: restore it with --into", item.target.display());
            return Err(Refusal { word: "unsafe-path", detail });
        }
        match self.placer.look(&item.target)? {
            Found::Nothing if self.options.dry_run => self.placer.permit(&item.target),
            found => Ok(found),
        }
    }

    /// Compares what is there with what is to be restored; returns the databases that are settled thereby.
    fn compare(&self, group: Vec<Item>) -> Vec<Item> {
        let mut described = Vec::with_capacity(group.len());
        let tasks = group.into_iter().map(|item| {
            let wanted = item.wanted.clone();
            (item, wanted)
        });
        let never: Result<(), std::convert::Infallible> = self.access.describe_each(tasks, |item, description| {
            described.push((item, description));
            Ok(())
        });
        let Ok(()) = never;
        described.into_par_iter().filter_map(|(item, description)| self.judge(item, description)).collect()
    }

    /// The item, if nothing is to be done about it any more.
    fn judge(&self, item: Item, description: Result<Description, FetchError>) -> Option<Item> {
        let description = match description {
            Ok(description) => description,
            // Not touched, whatever --force says: what would replace it cannot be had.
            Err(e) => {
                self.not_fetched(&item, &e);
                return Some(item);
            }
        };
        let settled = match self.placer.is_identical(&item.target, &description) {
            Ok(true) if self.options.dry_run => Ok(true),
            Ok(true) => self.placer.keep(&item.target).map(|()| true),
            Ok(false) => self.placer.permit(&item.target).map(|_| false),
            Err(e) => Err(Refusal { word: "unreadable", detail: format!("what is there cannot be read: {e}") }),
        };
        match settled {
            Ok(true) => {
                self.tally.unchanged.fetch_add(1, Ordering::Relaxed);
                self.tally.saw_host(&description.host);
                Some(item)
            }
            Ok(false) => None,
            Err(refusal) => {
                self.tally.refused(&item.name, &refusal);
                Some(item)
            }
        }
    }

    fn not_fetched(&self, item: &Item, error: &FetchError) {
        if matches!(error, FetchError::Untried) {
            self.tally.untried.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.tally.or_fatal(self.tally.outcomes.fetch_failed(&item.name, error));
    }

    /// Brings one database from its object to its place.
    fn restore_one(&self, item: &Item, body: Result<Body, FetchError>) {
        let body = match body {
            Ok(body) => body,
            Err(e) => {
                self.not_fetched(item, &e);
                return self.observer.done(0);
            }
        };
        match self.write(item, body) {
            Ok(()) => {}
            // A large one that a stop cut off.
            Err(Unrestored::Stopped) => {
                self.not_fetched(item, &FetchError::Untried);
                self.observer.done(0);
            }
            Err(Unrestored::Refused(refusal)) => {
                self.tally.refused(&item.name, &refusal);
                self.observer.done(0);
            }
        }
    }

    fn write(&self, item: &Item, body: Body) -> Result<(), Unrestored> {
        let mut file = BufWriter::with_capacity(WRITE_AT_ONCE, self.placer.begin(&item.target)?);
        let decoded = self.access.decode(&item.wanted.location, body, &mut file);
        let unwritten = |e: &std::io::Error, file: &BufWriter<Pending>| file.get_ref().refusal(e);
        let description = match decoded {
            Ok(description) => description,
            Err(ObjectError::Write(e)) => return Err(unwritten(&e, &file).into()),
            Err(ObjectError::Read(_)) if self.access.control.is_stopped() => return Err(Unrestored::Stopped),
            Err(e) => return Err(not_decoded(item, &e).into()),
        };
        let pending = file.into_inner().map_err(|e| {
            let (error, file) = e.into_parts();
            unwritten(&error, &file)
        })?;
        check_file(pending.file().as_fd(), self.options.check)
            .map_err(|found| Refusal { word: "corrupt", detail: format!("SQLite finds it corrupt: {found}") })?;
        self.tally.saw_host(&description.host);
        let (tally, observer, name) = (Arc::clone(&self.tally), Arc::clone(self.observer), item.name.clone());
        let bytes = description.raw_size;
        self.placer.finish(pending, &description, move |placed| {
            match placed {
                Ok(Placed { owner_kept }) => {
                    tally.restored.fetch_add(1, Ordering::Relaxed);
                    tally.bytes.fetch_add(bytes, Ordering::Relaxed);
                    tally.owner_lost.fetch_add(u64::from(!owner_kept), Ordering::Relaxed);
                }
                Err(refusal) => tally.refused(&name, &refusal),
            }
            observer.done(bytes);
        });
        Ok(())
    }

    fn report(self, plan: &Plan, settled: u64, before: &RequestCounts, started: Instant) -> Result<RestoreReport> {
        let Self { access, placer, tally, .. } = self;
        drop(placer);
        let tally = Arc::into_inner(tally).expect("whoever places files is done with them");
        let nothing_came = tally.restored.load(Ordering::Relaxed) + tally.unchanged.load(Ordering::Relaxed) == 0;
        let store_down = access.down().or_else(|| access.last_failure().filter(|_| nothing_came));
        Ok(RestoreReport {
            plan: plan.counts(),
            to_do: plan.counts().databases.saturating_sub(settled),
            restored: tally.restored.into_inner(),
            unchanged: tally.unchanged.into_inner(),
            skipped: tally.skipped.into_inner(),
            untried: tally.untried.into_inner(),
            bytes: tally.bytes.into_inner(),
            owner_lost: tally.owner_lost.into_inner(),
            hosts: tally.hosts.into_inner(),
            outcomes: tally.outcomes,
            requests: access.store.requests.snapshot().since(before),
            elapsed: started.elapsed(),
            store_down,
            interrupted: access.control.stop_signal(),
        })
    }
}

/// Why one database was not restored.
enum Unrestored {
    Refused(Refusal),
    Stopped,
}

impl From<Refusal> for Unrestored {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn not_decoded(item: &Item, error: &ObjectError) -> Refusal {
    let hint = match error {
        ObjectError::WrongKey { .. } => {
            "if this store is a copy of another, give --moved-from with the prefix it had there"
        }
        ObjectError::UnsupportedVersion(_) | ObjectError::Read(_) | ObjectError::Write(_) => {
            "what was there is as it was"
        }
        _ => "--at an earlier time restores an older snapshot",
    };
    Refusal {
        word: error.word(),
        detail: format!("{} ({}); {hint}", crate::record::chain(error), item.wanted.location.key),
    }
}
