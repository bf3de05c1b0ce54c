//! What backing up would mean, told before the first upload: what is there, how long the first run takes, what a month costs.
//!
//! Looks through the same [`Watch`] as a cycle, with a state that knows nothing. Databases are opened as plain files, for
//! reading only: the header of each, and of a sample as much as shows how it compresses. No SQLite, no lock, no request,
//! nothing written.

mod report;
mod sample;

pub use report::{ByPattern, Example, Explanation, FirstRun, Found, Month, MonthCharge};
pub use sample::Sampled;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;

use crate::clock::{Clock, MILLISECOND};
use crate::config::Config;
use crate::cost::float;
use crate::cost::model::{Forecast, Load, ObjectCost, Spread, requests_of};
use crate::cost::prices::{PRICES_OF, PROVIDERS};
use crate::detect::Pace;
use crate::engine::{identity, own_files, pool};
use crate::error::{Failure, Result};
use crate::plan::key_of;
use crate::report::CycleReport;
use crate::state::{StateDb, Table};
use crate::store::{Described, Env, Store};
use crate::watch::{Candidate, Pass, WAVE_MAX, Watch, Wave};
use sample::{Head, Sample, look_at_head};

/// Examples of keys for each pattern.
const EXAMPLES_MAX: usize = 3;
/// Files named that are no database.
const OTHERS_NAMED_MAX: usize = 3;

/// What is assumed, for it cannot be looked up.
#[derive(Debug, Clone, PartialEq)]
pub struct Assumed {
    /// Bytes a second to the store, at least 1.
    pub rate: u64,
    /// From a request to its answer.
    pub round_trip: Duration,
    /// Share of the databases that changes in one interval, 0 to 1.
    pub changed: f64,
    /// Which databases change: a forecast for each.
    pub spreads: Vec<Spread>,
}

/// Looks at everything, and tells what it would take and cost. The report beside it has what a dry run would: which patterns
/// matched, and what cannot be stored.
///
/// # Errors
/// As [`dry_run`](crate::plan::dry_run).
pub fn explain(
    config: &Config,
    assumed: &Assumed,
    env: &Env,
    clock: Arc<dyn Clock>,
) -> Result<(Explanation, CycleReport)> {
    config.check()?;
    let address = Store::describe(&config.store, env)?;
    let identity = identity(config, &address.identity);
    // There is no such file: everything is new.
    let nothing_known = StateDb::open_for_reading(Path::new(""), &identity)?;
    let own = own_files(config, address.folder.as_deref())?;
    let now_ms = clock.now() / MILLISECOND;
    let watch = Watch::new(
        config.clone(),
        own,
        Arc::new(Table::default()),
        Arc::new(nothing_known),
        clock,
        Arc::default(),
        pool()?,
    );
    let mut survey = Survey::new(&watch, &address, now_ms);
    for scan_no in 1..=u16::MAX {
        let wave = {
            let pass = Pass { further: scan_no > 1, room: WAVE_MAX, waits: &|_, _, _| () };
            watch.scan(scan_no, pass, Pace::default(), &Default::default())
        };
        let more = wave.more;
        survey.take(wave, scan_no == 1);
        if !more {
            break;
        }
    }
    let Survey { found, sizes, sample, report, .. } = survey.settled();
    let first_run = (found.databases > 0).then(|| {
        let sampled = watch.pool.install(|| sample.compress(&config.host));
        FirstRun::new(&found, &sizes, sampled, config, assumed)
    });
    let months = first_run.iter().flat_map(|run| months(&found, run, config, assumed)).collect();
    Ok((Explanation { store: address.name, found, first_run, months, prices_of: PRICES_OF }, report))
}

/// What all scans found.
struct Survey<'a> {
    watch: &'a Watch,
    address: &'a Described,
    now_ms: i64,
    found: Found,
    /// Of the main files.
    sizes: Vec<u64>,
    sample: Sample,
    report: CycleReport,
}

/// A candidate, opened.
struct Opened {
    candidate: Candidate,
    head: Head,
    key: std::result::Result<String, Failure>,
}

impl<'a> Survey<'a> {
    fn new(watch: &'a Watch, address: &'a Described, now_ms: i64) -> Self {
        let by_pattern =
            |p: &crate::pattern::Pattern| ByPattern { pattern: p.text().to_owned(), ..ByPattern::default() };
        let patterns = watch.config.patterns.iter().map(by_pattern).collect();
        let found = Found { patterns, ..Found::default() };
        Self {
            watch,
            address,
            now_ms,
            found,
            sizes: Vec::new(),
            sample: Sample::default(),
            report: CycleReport::default(),
        }
    }

    fn take(&mut self, wave: Wave, is_first: bool) {
        if is_first {
            self.report.matched = wave.matched;
            for error in wave.report.errors {
                self.refuse(&error.path, crate::snapshot::io_failure("look at it", &error.source));
            }
        }
        let clashing = wave.clashing.into_iter().map(|(candidate, failure)| (candidate.path.into(), failure));
        wave.failures.into_iter().chain(clashing).for_each(|(path, failure): (PathBuf, _)| self.refuse(&path, failure));
        let (watch, address, now_ms) = (self.watch, self.address, self.now_ms);
        let open = |candidate: Candidate| Opened {
            head: look_at_head(&candidate.path, candidate.stamps.main.size),
            key: key_of(watch, address, &candidate, now_ms),
            candidate,
        };
        let opened: Vec<Opened> = watch.pool.install(|| wave.candidates.into_par_iter().map(open).collect());
        opened.into_iter().for_each(|opened| self.count(opened));
    }

    fn refuse(&mut self, path: &Path, failure: Failure) {
        *self.found.refused.entry(failure.reason.word()).or_default() += 1;
        self.report.failures.add(path, failure);
    }

    fn count(&mut self, opened: Opened) {
        let Opened { candidate, head, key } = opened;
        let found = &mut self.found;
        match (head, key) {
            (Head::Database, Ok(key)) => self.count_database(&candidate, key),
            (Head::Database, Err(failure)) => self.refuse(&candidate.path, failure),
            (Head::Empty, _) => found.empty += u64::from(!candidate.by_magic),
            // Below a folder pattern what is no database is not meant.
            (Head::Other, _) if candidate.by_magic => {}
            (Head::Other, _) => {
                found.not_databases += 1;
                found.not_databases_named.push(candidate.path.to_path_buf());
                found.not_databases_named.sort();
                found.not_databases_named.truncate(OTHERS_NAMED_MAX);
            }
        }
    }

    fn count_database(&mut self, candidate: &Candidate, key: String) {
        let found = &mut self.found;
        let size = candidate.stamps.main.size;
        found.databases += 1;
        found.main_bytes += size;
        found.wal_bytes += candidate.stamps.wal.map_or(0, |wal| wal.size);
        if (size, found.largest.as_deref()) > (found.largest_bytes, Some(&candidate.path)) || found.largest.is_none() {
            (found.largest_bytes, found.largest) = (size, Some(candidate.path.to_path_buf()));
        }
        self.sizes.push(size);
        self.sample.offer(&candidate.path, size, &key);
        let patterns = &self.watch.config.patterns;
        if let Some(at) = patterns.iter().position(|p| p.captures(&candidate.path).is_some()) {
            found.patterns[at].add(&candidate.path, key);
        }
    }

    fn settled(mut self) -> Self {
        self.sizes.sort_unstable();
        let at = |share: f64| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
            let rank = (self.sizes.len() as f64 * share).ceil() as usize;
            self.sizes.get(rank.max(1) - 1).copied().unwrap_or(0)
        };
        (self.found.p50_bytes, self.found.p99_bytes) = (at(0.5), at(0.99));
        self.report.databases = self.found.databases;
        self
    }
}

impl ByPattern {
    fn add(&mut self, path: &Path, key: String) {
        self.databases += 1;
        if self.examples.len() == EXAMPLES_MAX && self.examples.last().is_some_and(|last| *path > *last.path) {
            return;
        }
        self.examples.push(Example { path: path.to_path_buf(), key });
        self.examples.sort();
        self.examples.truncate(EXAMPLES_MAX);
    }
}

impl FirstRun {
    fn new(found: &Found, sizes: &[u64], sample: Sampled, config: &Config, assumed: &Assumed) -> Self {
        let object_bytes = float(found.main_bytes) * sample.ratio;
        let requests = sizes.iter().map(|size| {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an estimate of bytes, not negative"
            )]
            let object = (float(*size) * sample.ratio) as u64;
            requests_of(*size, object, config.memory_limit)
        });
        let requests = requests.sum::<u64>();
        let round_trip_s = assumed.round_trip.as_secs_f64();
        let send_s = object_bytes / float(assumed.rate.max(1));
        let at_once = u64::try_from(config.concurrency).unwrap_or(u64::MAX).max(1);
        let wait_s = float(requests.div_ceil(at_once)) * round_trip_s;
        Self {
            read_bytes: found.main_bytes + found.wal_bytes,
            sample,
            object_bytes,
            requests,
            rate: assumed.rate,
            round_trip_s,
            concurrency: config.concurrency,
            send_s,
            wait_s,
            at_least_s: send_s.max(wait_s),
        }
    }
}

/// A month for each spread. Those that change are taken to be of average size.
fn months(found: &Found, run: &FirstRun, config: &Config, assumed: &Assumed) -> Vec<Month> {
    let databases = float(found.databases);
    let object = ObjectCost { bytes: run.object_bytes / databases, requests: float(run.requests) / databases };
    let load = Load {
        databases: found.databases,
        changed: assumed.changed,
        interval_s: config.interval.as_secs_f64(),
        cooldown_s: f64::from(config.pace.cooldown_s),
        refresh_s: f64::from(config.pace.refresh_s),
    };
    let forecast = |spread: &Spread| Forecast { load, spread: *spread, object };
    assumed.spreads.iter().map(forecast).map(|forecast| month(&forecast, config)).collect()
}

fn month(forecast: &Forecast, config: &Config) -> Month {
    let usage = forecast.usage();
    let (one, twelve) = (forecast.held(&config.upkeep.keep, 1.0), forecast.held(&config.upkeep.keep, 12.0));
    let charge = |provider: &crate::cost::prices::Provider| MonthCharge {
        provider: provider.name,
        requests_usd: provider.requests_usd(&usage),
        storage_usd_1: provider.storage_usd(&one),
        storage_usd_12: provider.storage_usd(&twelve),
    };
    Month {
        spread: forecast.spread,
        changed: forecast.load.changed,
        usage,
        objects: forecast.objects_a_month(),
        held_bytes_1: one.bytes,
        held_bytes_12: twelve.bytes,
        providers: PROVIDERS.iter().map(charge).collect(),
    }
}
