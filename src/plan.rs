//! `--dry-run`: what a cycle would take up, told from stamps alone.
//!
//! Looks through the same [`Watch`] as a cycle. Opens no database, makes no request, writes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::{Clock, MILLISECOND};
use crate::config::Config;
use crate::cycle::check_key;
use crate::detect::Why;
use crate::engine::{identity, load, own_files, pool, state_path};
use crate::error::{Failure, Reason, Result};
use crate::layout::{below, snapshot_key};
use crate::report::CycleReport;
use crate::state::{Flags, StateDb};
use crate::store::{Described, Env, Store};
use crate::timestamp::next_timestamp;
use crate::watch::{Candidate, Pass, WAVE_MAX, Watch, slack};

/// What a `--dry-run` finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The database.
    pub path: PathBuf,
    /// The key it would get, with the time of this run; or why it gets none.
    pub key: std::result::Result<String, String>,
    /// Why it would be read.
    pub why: &'static str,
}

/// Tells what a cycle would take up, from stamps alone: opens no database, makes no request, writes nothing.
///
/// # Errors
/// As [`Replicator::open`](crate::replicate::Replicator::open), but the state may be in use.
pub fn dry_run(config: Config, env: &Env, clock: Arc<dyn Clock>, mut tell: impl FnMut(Planned)) -> Result<CycleReport> {
    config.check()?;
    let address = Store::describe(&config.store, env)?;
    let identity = identity(&config, &address.identity);
    let path = state_path(&config.state_dir, &identity.store);
    let db = StateDb::open_for_reading(&path, &identity)?;
    let own = own_files(&config, address.folder.as_deref())?;
    let (pace, now_ms) = (config.pace, clock.now() / MILLISECOND);
    let table = load(&db, slack(&config))?;
    let requested = db.requests()?;
    let watch = Watch::new(config, own, Arc::new(table), Arc::new(db), clock, Arc::default(), pool()?);
    let mut report = CycleReport { cycle: 1, ..CycleReport::default() };
    let mut further = false;
    for scan_no in 1..=u16::MAX {
        let pass = Pass { further, room: WAVE_MAX, waits: &|_, _, _| () };
        let mut wave = watch.scan(scan_no, pass, pace, &requested);
        if !further {
            report.held = wave.held;
            report.matched = wave.matched;
            for error in wave.report.errors {
                wave.failures.push((error.path, crate::snapshot::io_failure("look at it", &error.source)));
            }
        }
        let mut refused = wave.failures;
        refused.extend(wave.clashing.into_iter().map(|(candidate, failure)| (candidate.path.into(), failure)));
        wave.candidates.sort_by(|a, b| a.path.cmp(&b.path));
        for candidate in wave.candidates {
            let path = candidate.path.to_path_buf();
            match key_of(&watch, &address, &candidate, now_ms) {
                Ok(key) => tell(Planned { path, key: Ok(key), why: why(&candidate) }),
                Err(failure) => {
                    refused.push((path, failure));
                    continue;
                }
            }
            report.changed += 1;
        }
        refused.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, failure) in refused {
            report.failures.add(&path, failure.clone());
            tell(Planned { path, key: Err(failure.to_string()), why: failure.reason.word() });
        }
        if !wave.more {
            break;
        }
        further = true;
    }
    for path in watch.held().1 {
        tell(Planned { path, key: Err("held back by its cooldown".into()), why: "cooldown" });
    }
    watch.table.each(|slot| {
        report.databases += u64::from(slot.scan != 0 && !slot.flags.has(Flags::NOT_A_DATABASE));
    });
    Ok(report)
}

fn why(candidate: &Candidate) -> &'static str {
    match candidate.why {
        // Its content would tell; its name and stamps do not.
        Some(Why::New) if candidate.by_magic => "new, if it is an SQLite database",
        Some(why) => why.word(),
        None => "refresh",
    }
}

pub(crate) fn key_of(
    watch: &Watch,
    address: &Described,
    candidate: &Candidate,
    now_ms: i64,
) -> std::result::Result<String, Failure> {
    let prefix = watch.prefix_of(candidate)?;
    check_key(&address.prefix, &prefix, address.name_len_max())?;
    let last = watch.db.row(candidate.id).ok().flatten().and_then(|row| row.last_ms());
    let time = next_timestamp(now_ms, last).or_else(|| next_timestamp(now_ms, None));
    let (time, _) = time.ok_or_else(|| Failure::new(Reason::CopyFailed, "this clock is past the year 9999"))?;
    Ok(below(&address.prefix, &snapshot_key(&prefix, time)).into_owned())
}
