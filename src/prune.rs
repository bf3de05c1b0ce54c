//! Removing snapshots by rules, and everything of one database by its name.
//!
//! First everything is listed and decided, into a plan on disk; then exactly that plan is carried out, in batches and at a
//! bounded rate. A listing that fails in any part ends with nothing deleted. Only keys that [`layout`] makes for a
//! database found there are ever deleted; the newest snapshot of a database, and the newest that is not known to be bad,
//! never, except where a database was long gone and that was asked for, or by its name.
//!
//! Ended at any moment, what is left is a store that the next run goes on with: a snapshot goes before the marker that says
//! it is bad, and before the tombstone that says its database was gone, so that nothing bad ever looks good and nothing
//! gone looks alive.
//!
//! Must not trust this host's clock alone: see [`PruneOptions::trust_clock`].

mod plan;
mod remove;
mod report;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::access::Access;
use crate::catalogue::{Catalogue, Database};
use crate::error::{Error, Failure, Reason, Result};
use crate::layout::{self, KeyKind};
use crate::names::Names;
use crate::retention::{Rules, Verdict};
use crate::state::Beside;
use crate::store::Leftovers;
use crate::timestamp::Timestamp;
use plan::{Plan, judge};
use remove::Remover;

pub use report::{Holdings, PruneReport, PurgeReport};

/// A tool that deletes should not be what makes a store slow: by default, this many objects a second.
pub const DELETE_RATE_DEFAULT: u32 = 1000;

const DAY_MS: i64 = 86_400_000;

/// What to prune, and how.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// The databases meant.
    pub names: Names,
    /// What to keep of each; empty to keep every snapshot.
    pub rules: Rules,
    /// A database that has been gone from its host for this long loses everything.
    pub deleted_after: Option<Duration>,
    /// Ages are counted from now, but from no later than the store's own time of its newest object: a host clock that runs
    /// ahead would else erase what is young; and a tombstone or heartbeat is no older than the store's own time of it. True to go by the
    /// host's clock and the times in keys alone, in a store in which nothing is new, or that is a copy.
    pub trust_clock: bool,
    /// Whose old heartbeats go, too: those older than a month but for the newest.
    pub heartbeats: Heartbeats,
    /// Only decide.
    pub dry_run: bool,
    /// Objects deleted a second, at most; at least 1.
    pub delete_rate: u32,
}

/// Whose heartbeats are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Heartbeats {
    /// Nobody's.
    #[default]
    None,
    /// Every host's; only where every database is meant.
    All,
    /// This host's.
    Of(String),
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            names: Names::all(),
            rules: Rules::default(),
            deleted_after: None,
            trust_clock: false,
            heartbeats: Heartbeats::default(),
            dry_run: false,
            delete_rate: DELETE_RATE_DEFAULT,
        }
    }
}

/// What was decided about one object.
#[derive(Debug, Clone, Copy)]
pub struct Decided<'a> {
    /// Key prefix of its database.
    pub name: &'a str,
    /// The time in its key.
    pub time: Timestamp,
    /// What it is. Tombstones and markers are only told of when they are removed.
    pub kind: KeyKind,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Its database loses everything.
    pub is_erased: bool,
}

/// Told what is decided and done while it is.
pub trait Observer: Send + Sync + std::fmt::Debug {
    /// One object was decided about; in the order of names, then kinds, then times.
    fn decided(&self, _decided: &Decided<'_>) {}
    /// So many objects will be deleted.
    fn planned(&self, _objects: u64) {}
    /// So many more were dealt with.
    fn done(&self, _objects: u64) {}
}

impl Observer for crate::cycle::Silent {}

/// Removes what the rules let go. Returns after the deletes are confirmed; what failed is in the report, and so is a stop.
///
/// # Errors
/// [`Error::Usage`] if nothing is to be removed by any rule; [`Error::Store`] if not everything could be listed,
/// [`Error::Interrupted`] if a stop came before that, [`Error::Io`] without room for temporary files: with any of
/// them, nothing was deleted.
pub fn prune(access: &Access, options: &PruneOptions, now: Timestamp, observer: &dyn Observer) -> Result<PruneReport> {
    if options.rules.is_empty() && options.deleted_after.is_none() {
        return Err(Error::Usage("no rule says what to keep: give for example --keep standard".into()));
    }
    let (begun, requests) = (Instant::now(), access.store.requests.total());
    let catalogue = access.catalogue(&options.names)?;
    let time = count_from(&catalogue, options, now);
    let mut report = PruneReport { dry_run: options.dry_run, ..PruneReport::default() };
    report.foreign = catalogue.totals().foreign;
    report.counted_from = (now.as_ms() - time.as_ms() > DAY_MS).then_some(time);
    let mut plan = decide_all(access, &catalogue, options, (now, time), &mut report, observer)?;
    let seen = catalogue.totals().heartbeats;
    for (prefix, time) in expired_heartbeats(access, options, seen, time)? {
        plan.add_heartbeat(&prefix, time)?;
    }
    report.unmatched = catalogue.unmatched(&options.names)?.into_iter().map(str::to_owned).collect();
    drop(catalogue);
    if options.dry_run {
        plan.add_to(&mut report)?;
    } else {
        Remover::new(access, options.delete_rate, observer).carry_out(&plan, &mut report)?;
    }
    let is_meant = |key: &str| is_meant(&options.names, key);
    let before = Timestamp::from_ms(time.as_ms() - DAY_MS);
    // Without any object nothing tells how old a file is but the clock.
    if before.is_some() && report.databases > 0 {
        remove_leftovers(access, &options.names, before, options.dry_run, &is_meant, &mut report);
    }
    report.interrupted = access.control.stop_signal();
    report.requests = access.store.requests.total() - requests;
    report.elapsed = begun.elapsed();
    Ok(report)
}

/// The heartbeats that go; of all hosts' ones a listing of everything has `seen` so many.
fn expired_heartbeats(
    access: &Access,
    options: &PruneOptions,
    seen: u64,
    time: Timestamp,
) -> Result<Vec<(String, Timestamp)>> {
    match &options.heartbeats {
        Heartbeats::None => Ok(Vec::new()),
        Heartbeats::All if seen == 0 => Ok(Vec::new()),
        Heartbeats::All => crate::heartbeats::find::expired(access, None, time, options.trust_clock),
        Heartbeats::Of(host) => crate::heartbeats::find::expired(access, Some(host), time, options.trust_clock),
    }
}

/// The time from which ages are counted.
fn count_from(catalogue: &Catalogue, options: &PruneOptions, now: Timestamp) -> Timestamp {
    let seen = catalogue.newest_written().filter(|_| !options.trust_clock);
    seen.map_or(now, |seen| now.min(seen))
}

/// Whether the key prefix is one that a template makes; another one's objects are foreign even if their names look like ours.
fn is_ours(prefix: &str) -> bool {
    layout::is_made(prefix)
}

fn is_meant(names: &Names, key: &str) -> bool {
    layout::parse_key(key).is_some_and(|parsed| is_ours(parsed.prefix) && names.matches(parsed.prefix))
}

fn decide_all(
    access: &Access,
    catalogue: &Catalogue,
    options: &PruneOptions,
    (now, time): (Timestamp, Timestamp),
    report: &mut PruneReport,
    observer: &dyn Observer,
) -> Result<Plan> {
    let mut plan = Plan::empty()?;
    catalogue.each(|mut database: Database| {
        if let Some(signal) = access.control.stop_signal() {
            return Err(Error::Interrupted { signal });
        }
        let objects = database.snapshots.len() + database.tombstones.len() + database.stray_markers.len();
        if !is_ours(&database.name) {
            report.foreign += objects as u64;
            return Ok(());
        }
        let told_gone = database.told_gone.take();
        let by_clock = plan::is_erased(&database, options.deleted_after, now);
        database.told_gone = told_gone.filter(|_| !options.trust_clock);
        let fate = judge(&database, &options.rules, options.deleted_after, time);
        report.databases += 1;
        report.snapshots += database.snapshots.len() as u64;
        report.kept += fate.verdicts.iter().filter(|v| **v != Verdict::Remove).count() as u64;
        let newest = plan::newest_event(&database);
        report.ahead += u64::from(newest.is_some_and(|t| t.as_ms() - now.as_ms() > DAY_MS));
        report.waiting += u64::from(by_clock && !fate.is_erased);
        plan::tell(&database, &fate, observer);
        plan.add(&database, &fate)
    })?;
    Ok(plan)
}

fn remove_leftovers(
    access: &Access,
    names: &Names,
    before: Option<Timestamp>,
    dry_run: bool,
    is_meant: &dyn Fn(&str) -> bool,
    report: &mut PruneReport,
) {
    let everywhere = [String::new()];
    let is_stopped = || access.control.is_stopped();
    let below = names.heads().unwrap_or(&everywhere);
    let wanted = Leftovers { below, before, is_meant, is_stopped: &is_stopped, dry_run };
    match access.store.remove_leftovers(&wanted) {
        Ok(found) => report.leftovers += found,
        Err(e) => {
            let detail = format!("what unfinished uploads left there cannot be removed: {e}");
            report.failures.add(Path::new(&access.store.name), Failure::new(Reason::StoreError, detail));
        }
    }
}

/// Removes everything of the database called `name`, its last copy too, if `is_confirmed`; else only tells what there is.
///
/// `name` is the database's name with or without a leading slash, or its key prefix as it is in the store. A state that
/// believes the database stored is asked, once nothing more will be removed, to have it stored again: the loop would else
/// wait for its content to change. Ended before that, another purge asks, though it finds nothing to remove.
///
/// # Errors
/// As for [`prune`]; [`Error::State`] if the state cannot be asked. That there is no such database is none: see
/// [`Holdings::is_empty`].
pub fn purge(
    access: &Access,
    name: &str,
    is_confirmed: bool,
    state: Option<&Beside>,
    observer: &dyn Observer,
) -> Result<PurgeReport> {
    let (begun, requests) = (Instant::now(), access.store.requests.total());
    let readings = Names::readings(name)?;
    let (mut names, mut found) = (&readings[0], everything_of(access, &readings[0])?);
    for reading in &readings[1..] {
        if found.0.is_empty() {
            (names, found) = (reading, everything_of(access, reading)?);
        }
    }
    let (holdings, plan, prefixes) = found;
    let mut report = PruneReport { databases: u64::from(!holdings.is_empty()), ..PruneReport::default() };
    report.snapshots = holdings.snapshots;
    if is_confirmed && !holdings.is_empty() {
        // Whoever erases has decided: as fast as the store takes it.
        Remover::new(access, u32::MAX, observer).carry_out(&plan, &mut report)?;
        remove_leftovers(access, names, None, false, &|key| is_meant(names, key), &mut report);
        prefixes.iter().for_each(|prefix| access.store.remove_empty_dir(prefix));
        report.interrupted = access.control.stop_signal();
        let is_done = report.failed() == 0 && report.untried == 0 && report.interrupted.is_none();
        report.databases_removed = u64::from(is_done);
    }
    let meant = if holdings.is_empty() { readings.as_slice() } else { std::slice::from_ref(names) };
    let requested = state.filter(|_| is_confirmed).map(|state| request(state, meant)).transpose()?;
    report.requests = access.store.requests.total() - requests;
    report.elapsed = begun.elapsed();
    Ok(PurgeReport { holdings, is_confirmed, removal: report, requested })
}

/// Asks the state to have stored again what the first of `readings` that means anything to it means; returns how many
/// databases those are.
fn request(state: &Beside, readings: &[Names]) -> Result<u64> {
    for names in readings {
        let mut ids = Vec::new();
        state.each_believed(|believed| {
            ids.extend(names.matches(&believed.name).then_some(believed.id));
            Ok(())
        })?;
        if !ids.is_empty() {
            state.request(&ids)?;
            return Ok(ids.len() as u64);
        }
    }
    Ok(0)
}

fn everything_of(access: &Access, names: &Names) -> Result<(Holdings, Plan, Vec<String>)> {
    let catalogue = access.catalogue(names)?;
    let (mut holdings, mut plan, mut prefixes) = (Holdings::default(), Plan::empty()?, Vec::new());
    catalogue.each(|database: Database| {
        if is_ours(&database.name) {
            holdings.add(&database);
            plan.add(&database, &plan::everything(&database))?;
            prefixes.push(database.name);
        }
        Ok::<(), Error>(())
    })?;
    let mut leftovers = PruneReport::default();
    remove_leftovers(access, names, None, true, &|key| is_meant(names, key), &mut leftovers);
    holdings.leftovers = leftovers.leftovers;
    if prefixes.is_empty() && holdings.leftovers > 0 {
        prefixes.extend(names.heads().into_iter().flatten().cloned());
    }
    Ok((holdings, plan, prefixes))
}
