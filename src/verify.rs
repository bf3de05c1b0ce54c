//! Whether what is stored could be restored: snapshots are fetched, decoded with every hash, and looked at by SQLite.
//!
//! Looks, and changes three things only: a marker object beside each snapshot that is bad for good; requests in a state
//! beside which it runs; temporary files. What is found wrong is fetched once more before it is called so. What an
//! interrupted run has found is told, and not marked.

mod image;
mod ledger;
mod mark;
mod meanwhile;
mod report;
mod sample;
mod turns;

use std::path::PathBuf;
use std::time::Instant;

pub use ledger::Finding;
pub use report::{Counts, VerifyReport};
pub use sample::{NotAShare, Share};

use crate::access::Access;
use crate::catalogue::{Catalogue, Database, Snapshot};
use crate::cycle::Observer;
use crate::error::{Error, Result};
use crate::layout::snapshot_key;
use crate::names::Names;
use crate::state::Beside;
use crate::timestamp::Timestamp;
use ledger::{Class, Ledger};
use turns::Run;

/// Word of a snapshot that is not there.
const MISSING: &str = "missing";
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
        believe(&ledger, beside, &options.names)?;
    }
    let catalogue = access.catalogue(&options.names)?;
    let counts = Counts { seed, ..choose(&ledger, &catalogue, options.extent, seed, beside.is_some())? };
    let unmatched = catalogue.unmatched(&options.names)?.into_iter().map(str::to_owned).collect();
    drop(catalogue);

    observer.planned(ledger.chosen()?);
    let run = Run::new(access, ledger, observer, counts);
    let done = run.turns();
    observer.finished();
    done?;
    let (ledger, mut counts, store_failure) = run.into_parts();
    let judged_none = counts.checked + counts.missing == 0;
    if !access.control.is_stopped() {
        counts.removed_meanwhile = meanwhile::removed(access, &options.names, &ledger, beside.as_ref())?;
        counts.missing -= counts.removed_meanwhile;
        counts.requested = beside.map(|beside| request(&ledger, &beside, &mut counts.missing)).transpose()?;
        if options.mark {
            spare_a_store_elsewhere(&ledger, counts.checked)?;
            (counts.marked, counts.unmarked) = mark::mark(access, &ledger, now)?;
        }
    }
    counts.requests = access.store.requests.total() - requests;
    counts.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let store_down = access.down().or_else(|| store_failure.clone().filter(|_| judged_none));
    // A stop that came while marking counts, too.
    let report = VerifyReport::new(counts, ledger, store_failure, store_down, access.control.stop_signal())?;
    Ok(VerifyReport { unmatched, ..report })
}

/// If most of what was `checked` is under keys that are not its own, it is the store that is not where it is said to be:
/// then none of it gets a marker for that.
fn spare_a_store_elsewhere(ledger: &Ledger, checked: u64) -> Result<()> {
    let wrong = ledger.findings_of(turns::WRONG_KEY)?;
    if wrong <= 2 || wrong * 2 <= checked {
        return Ok(());
    }
    log::warn!(
        "{wrong} of {checked} snapshots are of a store that began elsewhere, or were moved; none is marked as bad for that: \
         give the --store they were written to, or --moved-from"
    );
    ledger.unwant_markers(turns::WRONG_KEY)
}

/// Notes what the state believes stored, as far as it is meant.
fn believe(ledger: &Ledger, beside: &Beside, names: &Names) -> Result<()> {
    ledger.together(|| beside.each_believed(|b| if names.matches(&b.name) { ledger.believe(&b) } else { Ok(()) }))
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
                        counts.known_bad += 1;
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
